"""openai-python through the gateway: streams, times out, retries and cancels."""

import sys
import threading
import time
import urllib.request

import openai

BASE = sys.argv[1]
results = []


def client(**options):
    options.setdefault("max_retries", 0)
    return openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", **options)


def gauge(name, model):
    """A sum over the series of the gateway's page that carry this model."""
    page = urllib.request.urlopen(f"{BASE}/metrics", timeout=10).read().decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith(name + "{") and f'"{model}"' in line
    )


def until(condition, what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def demand(model):
    return gauge("llm_d_epp_flow_control_queue_size", model) + gauge("llm_d_epp_request_running", model)


def check(function):
    try:
        function()
        print(f"ok python {function.__name__}")
    except Exception as error:  # every failure is reported by name
        print(f"FAILED python {function.__name__}: {type(error).__name__}: {error}")
    sys.stdout.flush()


MESSAGES = [{"role": "user", "content": "one two three four"}]


@check
def models_are_listed_also_at_zero():
    names = [model.id for model in client().models.list()]
    assert names == ["cold", "never", "one-slot", "warm"], names


@check
def answers_without_streaming_carry_usage():
    answer = client().chat.completions.create(model="warm", messages=MESSAGES, max_tokens=7, extra_body={"ignore_eos": True})
    assert answer.choices[0].message.content, answer
    assert answer.usage.completion_tokens == 7, answer.usage
    assert answer.usage.prompt_tokens == 4, answer.usage


@check
def streams_arrive_token_by_token_with_usage():
    stream = client().chat.completions.create(
        model="warm", messages=MESSAGES, max_tokens=20, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )
    times, usage, finish = [], None, None
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            times.append(time.monotonic())
        if chunk.choices and chunk.choices[0].finish_reason:
            finish = chunk.choices[0].finish_reason
        usage = chunk.usage or usage
    assert len(times) == 20, len(times)
    assert usage.completion_tokens == 20, usage
    assert finish == "length", finish
    assert times[-1] - times[0] > 0.05, "all chunks came at once"


@check
def a_request_to_a_model_at_zero_is_held_and_answered():
    begin = time.monotonic()
    answer = client().completions.create(model="cold", prompt="a b c", max_tokens=3, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 3
    assert time.monotonic() - begin > 0.9, "the model was not at zero"


@check
def a_cancelled_stream_frees_its_slot():
    stream = client().completions.create(model="one-slot", prompt="a b", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert demand("one-slot") == 1
    stream.close()
    until(lambda: demand("one-slot") == 0, "the slot is free")


@check
def a_timeout_takes_the_request_out_of_the_queue():
    try:
        client(timeout=0.7).completions.create(model="never", prompt="a", max_tokens=1)
        raise AssertionError("it was answered")
    except openai.APITimeoutError:
        pass
    until(lambda: demand("never") == 0, "nothing is held")


@check
def overload_is_429_with_retry_after_and_retries_succeed():
    holders = [
        client().completions.create(model="one-slot", prompt="a b", max_tokens=150, stream=True, extra_body={"ignore_eos": True})
    ]
    queued = threading.Thread(
        target=lambda: client().completions.create(model="one-slot", prompt="a", max_tokens=1, extra_body={"ignore_eos": True})
    )
    queued.start()
    until(lambda: gauge("llm_d_epp_flow_control_queue_size", "one-slot") == 1, "one is queued")
    try:
        client().completions.create(model="one-slot", prompt="a", max_tokens=1)
        raise AssertionError("a third request was taken")
    except openai.RateLimitError as error:
        assert error.code == "queue_full", error.code
        assert 1 <= int(error.response.headers["retry-after"]) <= 120
    retried = []
    patient = threading.Thread(
        target=lambda: retried.append(
            client(max_retries=5).completions.create(model="one-slot", prompt="a", max_tokens=2, extra_body={"ignore_eos": True})
        )
    )
    patient.start()
    for holder in holders:
        for _ in holder:
            pass
    patient.join(60)
    queued.join(60)
    assert retried and retried[0].usage.completion_tokens == 2


@check
def unknown_models_and_bad_bodies_are_clear_errors():
    try:
        client().completions.create(model="no-such-model", prompt="a")
        raise AssertionError("it was answered")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.code
        assert "no-such-model" in error.message, error.message
    request = urllib.request.Request(f"{BASE}/v1/completions", data=b'{"prompt": "a"', headers={"content-type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=10)
        raise AssertionError("it was answered")
    except urllib.error.HTTPError as error:
        assert error.code == 400, error.code
