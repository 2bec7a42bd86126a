//! The API over real sockets, on a scaled clock.

use crate::support::{SPEEDUP, completion, get, post, receive, send, settings, start, until};
use loadline_engine::{Dialect, Engine, EngineSettings};
use loadline_net::Clock;
use loadline_sim::engine::{EngineConfig, Startup};
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_chat_stream_has_a_role_chunk_one_chunk_per_token_usage_and_an_end() {
    let engine = start(settings()).await;
    let body = json!({ "model": "tiny-llama", "messages": [{ "role": "user", "content": "one two three" }],
        "max_completion_tokens": 5, "ignore_eos": true, "stream": true, "stream_options": { "include_usage": true } });
    let answer = post(engine.local_addr(), "/v1/chat/completions", body).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/event-stream"), "{}", answer.head);
    let events = answer.events();
    assert_eq!(events.len(), 7);
    assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    for (index, event) in events[1..6].iter().enumerate() {
        assert_eq!(event["choices"][0]["delta"]["content"], " tok");
        let reason = if index == 4 { json!("length") } else { json!(null) };
        assert_eq!(event["choices"][0]["finish_reason"], reason, "chunk {index}");
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
    }
    let usage = &events[6]["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
        (&json!(3), &json!(5), &json!(8))
    );
    assert_eq!(events[6]["choices"], json!([]));
}

#[tokio::test]
async fn whole_answers_have_usage_and_both_apis_agree_on_sizes() {
    let engine = start(settings()).await;
    let address = engine.local_addr();
    let ids: Vec<u32> = (0..300).collect();
    let answer =
        post(address, "/v1/completions", json!({ "prompt": ids, "max_tokens": 4, "ignore_eos": true })).await.json();
    assert_eq!(answer["usage"]["prompt_tokens"], 300);
    assert_eq!(answer["choices"][0]["text"], " tok tok tok tok");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let chat = json!({ "messages": [{ "role": "user", "content": "a b" }], "max_tokens": 2, "ignore_eos": true });
    let answer = post(address, "/v1/chat/completions", chat).await.json();
    assert_eq!(answer["choices"][0]["message"], json!({ "role": "assistant", "content": " tok tok" }));
    let models = get(address, "/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "tiny-llama");
}

#[tokio::test]
async fn several_prompts_give_one_choice_each() {
    let engine = start(settings()).await;
    let address = engine.local_addr();
    let mut body = json!({ "prompt": ["a", "b c", "d e f"], "max_tokens": 4, "ignore_eos": true });
    let answer = post(address, "/v1/completions", body.clone()).await.json();
    let choices = answer["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(" tok tok tok tok")));
    }
    let sums = |usage: &serde_json::Value| (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
    assert_eq!((choices.len(), sums(&answer["usage"])), (3, (json!(6), json!(12))));

    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let events = post(address, "/v1/completions", body).await.events();
    assert_eq!(events.len(), 3 * 4 + 1);
    assert_eq!(sums(&events[12]["usage"]), (json!(6), json!(12)));
    for index in 0..3 {
        let of_it = |event: &&serde_json::Value| event["choices"][0]["index"] == index;
        let reasons: Vec<_> = events[..12].iter().filter(of_it).map(|e| &e["choices"][0]["finish_reason"]).collect();
        assert_eq!(reasons, [&json!(null), &json!(null), &json!(null), &json!("length")]);
    }
    assert_eq!(engine.counters().finished, 6, "each prompt is a request to the engine");

    // one that does not fit refuses all, and nothing of them is left
    let huge = "a ".repeat(200_000);
    let answer = post(address, "/v1/completions", json!({ "prompt": ["a", huge] })).await;
    assert!(answer.status == 400 && answer.body.contains("maximum context length"), "{}", answer.status);
    assert_eq!(engine.gauges().used_blocks, 0);
}

/// What `vllm bench serve` and `sglang.bench_serving --backend vllm` send.
#[tokio::test]
async fn the_requests_of_the_engines_own_benchmarks_are_answered() {
    let engine = start(settings()).await;
    let address = engine.local_addr();
    assert_eq!(get(address, "/v1/models").await.json()["data"][0]["id"], "tiny-llama");
    assert_eq!(get(address, "/health").await.status, 200);
    let prompt = "word ".repeat(3_000);
    for extra in [
        json!({ "temperature": 0.0, "repetition_penalty": 1.0, "logprobs": null, "stream_options": { "include_usage": true } }),
        json!({ "temperature": 0.0, "best_of": 1, "stream_options": { "include_usage": true } }),
        json!({ "temperature": 0.0, "top_p": 1.0, "logprobs": 1, "seed": 7, "user": "x",
            "stream_options": { "include_usage": true, "continuous_usage_stats": false } }),
    ] {
        let mut body =
            json!({ "model": "tiny-llama", "prompt": prompt, "max_tokens": 7, "stream": true, "ignore_eos": true });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let events = post(address, "/v1/completions", body).await.events();
        assert_eq!(events.len(), 8);
        assert!(events[..7].iter().all(|event| event["choices"][0]["text"] == " tok"));
        assert_eq!(events[7]["usage"]["completion_tokens"], 7);
        assert_eq!(events[7]["usage"]["prompt_tokens"], 3_000);
    }
}

#[tokio::test]
async fn without_ignore_eos_lengths_are_drawn_from_the_seed() {
    let lengths = |seed: u64| async move {
        let engine = start(EngineSettings { seed, mean_output_tokens: 20, ..settings() }).await;
        let mut seen = Vec::new();
        for _ in 0..8 {
            let body = json!({ "prompt": "a", "max_tokens": 40, "min_tokens": 3 });
            let answer = post(engine.local_addr(), "/v1/completions", body).await.json();
            let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
            let reason = answer["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
            assert!((3..=40).contains(&tokens));
            assert!(reason == "stop" || tokens == 40);
            seen.push((tokens, reason));
        }
        seen
    };
    let first = lengths(1).await;
    assert_eq!(first, lengths(1).await);
    assert_ne!(first, lengths(2).await);
    assert!(first.iter().any(|(_, reason)| reason == "stop"));
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_at_once() {
    let config = EngineConfig { max_num_seqs: 1, ..settings().config };
    for stream in [true, false] {
        let engine = start(EngineSettings { config: config.clone(), ..settings() }).await;
        let mut body = completion(10, 50_000);
        body["stream"] = json!(stream);
        let gone = send(engine.local_addr(), "POST", "/v1/completions", &body.to_string()).await;
        until(&engine, |engine| engine.gauges().running == 1).await;
        let waiting = send(engine.local_addr(), "POST", "/v1/completions", &completion(10, 3).to_string()).await;
        until(&engine, |engine| engine.gauges().waiting() == 1).await;
        drop(gone);
        assert_eq!(receive(waiting).await.events().len(), 3);
        let counters = engine.counters();
        assert_eq!((counters.cancelled, counters.finished), (1, 1), "stream: {stream}");
        assert_eq!(engine.gauges().used_blocks, 0);
    }
}

#[tokio::test]
async fn little_kv_memory_preempts_and_every_answer_is_complete() {
    let config = EngineConfig { kv_blocks: 41, max_model_len: 600, ..settings().config };
    let engine = start(EngineSettings { config, ..settings() }).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        open.push(send(engine.local_addr(), "POST", "/v1/completions", &completion(64, 200).to_string()).await);
    }
    for stream in open {
        assert_eq!(receive(stream).await.events().len(), 200);
    }
    assert!(engine.counters().preemptions > 0);
    let page = get(engine.local_addr(), "/metrics").await.body;
    let line = page.lines().find(|line| line.starts_with("vllm:num_preemptions_total")).unwrap();
    assert!(!line.ends_with(" 0.0"), "{line}");
}

#[tokio::test]
async fn vllm_refuses_connections_until_ready_and_the_others_answer_503() {
    let startup = Startup { mean: Duration::from_secs(120), jitter: 0.1 };
    for dialect in [Dialect::Vllm, Dialect::Sglang, Dialect::Dynamo] {
        let config = EngineConfig { startup, ..settings().config };
        let starting = EngineSettings { dialect, config, ..settings() };
        let engine = Engine::start(starting, Clock::scaled(SPEEDUP)).unwrap();
        if dialect == Dialect::Vllm {
            assert!(TcpStream::connect(engine.local_addr()).await.is_err());
        } else {
            assert_eq!(get(engine.local_addr(), "/health").await.status, 503);
            assert_eq!(get(engine.local_addr(), "/metrics").await.status, 200);
            let early = post(engine.local_addr(), "/v1/completions", completion(1, 1)).await;
            assert!(early.status == 503 && early.body.contains("starting"), "{}", early.body);
        }
        engine.ready().await.unwrap();
        assert_eq!(get(engine.local_addr(), "/health").await.status, 200);
    }
}

#[tokio::test]
async fn a_taken_port_and_useless_settings_are_errors_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Engine::start(EngineSettings { port, ..settings() }, Clock::real()).unwrap_err().to_string();
    assert!(error.contains(&format!("cannot listen on `127.0.0.1:{port}`")), "{error}");
    // Two engines that start on one port: the second to open it is told.
    let startup = Startup { mean: Duration::from_secs(120), jitter: 0.0 };
    let slow = EngineSettings { config: EngineConfig { startup, ..settings().config }, ..settings() };
    let first = Engine::start(slow.clone(), Clock::scaled(SPEEDUP)).unwrap();
    let port = first.local_addr().port();
    let second = Engine::start(EngineSettings { port, ..slow }, Clock::scaled(SPEEDUP)).unwrap();
    let outcomes = [first.ready().await, second.ready().await];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "{outcomes:?}");

    let config = EngineConfig { max_num_seqs: 0, ..settings().config };
    let error = Engine::start(EngineSettings { config, ..settings() }, Clock::real()).unwrap_err().to_string();
    assert!(error.contains("`max_num_seqs` is `0`"), "{error}");
}

/// The model runs on while a client does not read; all of its tokens are there when it does.
#[tokio::test]
async fn a_slow_client_loses_nothing_and_costs_no_memory() {
    let engine = start(settings()).await;
    let slow = send(engine.local_addr(), "POST", "/v1/completions", &completion(10, 4_000).to_string()).await;
    until(&engine, |engine| engine.counters().finished == 1).await;
    assert_eq!(engine.gauges().used_blocks, 0);
    assert_eq!(receive(slow).await.events().len(), 4_000);
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight_and_cuts_only_after_its_timeout() {
    let engine = start(settings()).await;
    let address = engine.local_addr();
    let open = send(address, "POST", "/v1/completions", &completion(10, 100).to_string()).await;
    until(&engine, |engine| engine.counters().generation_tokens > 0).await;
    assert!(engine.shutdown().await);
    assert_eq!(receive(open).await.events().len(), 100);
    assert!(TcpStream::connect(address).await.is_err());

    let engine = start(EngineSettings { shutdown_timeout: Duration::from_millis(20), ..settings() }).await;
    let open = send(engine.local_addr(), "POST", "/v1/completions", &completion(10, 100_000).to_string()).await;
    until(&engine, |engine| engine.counters().generation_tokens > 0).await;
    assert!(!engine.shutdown().await);
    assert!(!receive(open).await.body.contains("[DONE]"));
}

/// A pool's idle connections, an unused one and half a head do not hold a stop up; a request in flight does.
#[tokio::test]
async fn only_requests_in_flight_are_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let engine = start(settings()).await;
    let address = engine.local_addr();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
    let unused = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /health HTTP/1.1\r\nho").await.unwrap();
    let open = send(address, "POST", "/v1/completions", &completion(10, 8_000).to_string()).await;
    until(&engine, |engine| engine.counters().generation_tokens > 0).await;
    let stopping = tokio::spawn(engine.shutdown());
    let ends = |mut stream: TcpStream| async move {
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 64])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
    };
    ends(idle).await;
    ends(unused).await;
    ends(half).await;
    assert_eq!(receive(open).await.events().len(), 8_000);
    assert!(stopping.await.unwrap());
}

#[tokio::test]
async fn a_stop_is_heard_while_every_connection_is_in_use() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let engine = start(EngineSettings { max_connections: 1, ..settings() }).await;
    let mut only = TcpStream::connect(engine.local_addr()).await.unwrap();
    only.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(only.read(&mut [0; 4096]).await.unwrap() > 0);
    let ended = tokio::time::timeout(Duration::from_secs(10), engine.shutdown()).await;
    assert_eq!(ended, Ok(true));
}

#[tokio::test]
async fn bad_requests_get_errors_in_openai_form() {
    struct Case {
        name: &'static str,
        method: &'static str,
        path: &'static str,
        body: String,
        status: u16,
        part: &'static str,
    }
    let config = EngineConfig { max_model_len: 100, ..settings().config };
    let engine = start(EngineSettings { config, max_body_bytes: 2000, ..settings() }).await;
    let case =
        |name, method, path, body: &str, status, part| Case { name, method, path, body: body.to_owned(), status, part };
    for case in [
        case("too long", "POST", "/v1/completions", &completion(90, 11).to_string(), 400, "maximum context length"),
        case("several answers", "POST", "/v1/completions", r#"{"prompt":"a","n":3}"#, 400, "`n` is 3"),
        case("other model", "POST", "/v1/completions", r#"{"model":"y","prompt":"a"}"#, 404, "does not exist"),
        case("no such path", "GET", "/v2", "", 404, "no `/v2`"),
        case("method", "GET", "/v1/completions", "", 405, "takes POST"),
        case("large", "POST", "/v1/completions", &" ".repeat(2001), 413, "larger than 2000 bytes"),
        case("no JSON", "POST", "/v1/chat/completions", "x", 400, "invalid request body"),
    ] {
        let answer = receive(send(engine.local_addr(), case.method, case.path, &case.body).await).await;
        assert_eq!(answer.status, case.status, "{}: {}", case.name, answer.body);
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(case.part), "{}: {error}", case.name);
        assert_eq!(error["code"], case.status, "{}", case.name);
    }
}
