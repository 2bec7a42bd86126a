// openai-node through the gateway: streams, times out, retries and cancels.
import OpenAI from "openai";

const base = process.argv[2];
const client = (options = {}) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0, ...options });
const messages = [{ role: "user", content: "one two three four" }];

async function gauge(name, model) {
  const page = await (await fetch(`${base}/metrics`)).text();
  return page
    .split("\n")
    .filter((line) => line.startsWith(`${name}{`) && line.includes(`"${model}"`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
const demand = async (model) =>
  (await gauge("llm_d_epp_flow_control_queue_size", model)) + (await gauge("llm_d_epp_request_running", model));

async function until(condition, what, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

let failed = 0;
async function check(name, run) {
  try {
    await run();
    console.log(`ok node ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED node ${name}: ${error.constructor.name}: ${error.message}`);
  }
}
function assert(condition, what) {
  if (!condition) throw new Error(what);
}

await check("answers without streaming carry usage", async () => {
  const answer = await client().chat.completions.create({ model: "warm", messages, max_tokens: 6, ignore_eos: true });
  assert(answer.usage.completion_tokens === 6, JSON.stringify(answer.usage));
});

await check("streams arrive token by token", async () => {
  const stream = await client().chat.completions.create({
    model: "warm", messages, max_tokens: 15, ignore_eos: true, stream: true, stream_options: { include_usage: true },
  });
  let tokens = 0;
  let usage = null;
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content) tokens += 1;
    usage = chunk.usage ?? usage;
  }
  assert(tokens === 15, `${tokens} tokens`);
  assert(usage.completion_tokens === 15, JSON.stringify(usage));
});

await check("a request to a model at zero is held and answered", async () => {
  const answer = await client().completions.create({ model: "cold", prompt: "a b c", max_tokens: 3, ignore_eos: true });
  assert(answer.usage.completion_tokens === 3, JSON.stringify(answer.usage));
});

await check("a cancelled stream frees its slot", async () => {
  const stream = await client().completions.create({ model: "one-slot", prompt: "a", max_tokens: 4000, ignore_eos: true, stream: true });
  for await (const _ of stream) break;
  stream.controller.abort();
  await until(async () => (await demand("one-slot")) === 0, "the slot is free");
});

await check("a timeout takes the request out of the queue", async () => {
  try {
    await client({ timeout: 700 }).completions.create({ model: "never", prompt: "a", max_tokens: 1 });
  } catch (error) {
    assert(error instanceof OpenAI.APIConnectionTimeoutError, error.constructor.name);
    return until(async () => (await demand("never")) === 0, "nothing is held");
  }
  throw new Error("it was answered");
});

await check("overload is 429 and retries succeed", async () => {
  const hold = await client().completions.create({ model: "one-slot", prompt: "a", max_tokens: 150, ignore_eos: true, stream: true });
  const queued = client().completions.create({ model: "one-slot", prompt: "a", max_tokens: 1, ignore_eos: true });
  await until(async () => (await gauge("llm_d_epp_flow_control_queue_size", "one-slot")) === 1, "one is queued");
  const error = await client().completions.create({ model: "one-slot", prompt: "a", max_tokens: 1 }).catch((reason) => reason);
  assert(error instanceof OpenAI.RateLimitError, error.constructor.name);
  assert(error.code === "queue_full", error.code);
  const retried = client({ maxRetries: 5 }).completions.create({ model: "one-slot", prompt: "a", max_tokens: 2, ignore_eos: true });
  for await (const _ of hold);
  assert((await retried).usage.completion_tokens === 2, "the retry was answered");
  await queued;
});

await check("an unknown model is a clear error", async () => {
  const error = await client().completions.create({ model: "no-such-model", prompt: "a" }).catch((reason) => reason);
  assert(error instanceof OpenAI.NotFoundError, error.constructor.name);
  assert(error.code === "model_not_found", error.code);
});

process.exit(failed > 0 ? 1 : 0);
