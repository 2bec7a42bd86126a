//! Starts that go wrong: never ready, ports taken; and metrics pages that cannot be read.

use crate::support::{ODD_REPLICA, Up, all_events, chat, error, event_json, file_line, json, loadline};
use loadline_testkit::PATIENCE;
use loadline_testkit::binary::Running;
use std::net::TcpListener;

#[test]
fn a_replica_that_never_becomes_ready_gives_503_after_the_cold_wait() {
    let config = "listen: 127.0.0.1:0
models:
- name: m
  command: [/bin/sh, -c, 'echo still loading; sleep 1000 # {port}']
  startupTimeout: 2s
  coldWait: 3s
  keepalive: {grace: 1s}
  terminationGrace: 1s
";
    let up = Up::start(config, &[]);
    let mut streamed = up.ask(&chat("m", 1, true));
    let (head, body) = up.answer(&chat("m", 1, false));
    assert_eq!(head.status, 503);
    let refused =
        error("no replica of `m` started in time (held 3 s); repeat later", "server_error", "cold_start_timeout");
    assert_eq!(json(&body), refused);
    let seconds: u64 = head.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=120).contains(&seconds), "{seconds}");
    assert_eq!(head.header("x-gw-dropped-reason"), Some("cold_start_timeout"));
    assert_eq!(head.header("x-should-retry"), None, "a repeat is not useless");
    // the stream had its status before, so that the error is its last event
    assert_eq!(streamed.head().expect("a head").status, 200);
    let events = all_events(&mut streamed, &mut vec![]);
    assert_eq!(events.first().map(String::as_str), Some(": loadline holding, no replica is free yet"));
    assert_eq!(event_json(events.last().expect("an event")), refused);
    let said = up.process.line_with("replica was not ready in time", PATIENCE).expect("said");
    assert!(said.contains("raise `startupTimeout` or look at its output replica=m-1 limit=\"2s\""), "{said}");
    assert!(said.contains("last_lines=\"still loading\""), "{said}");
}

#[test]
fn a_taken_listen_address_ends_up_with_code_2_and_one_line() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("bound");
    let folder = crate::support::Folder::new();
    let file = folder.write("loadline.yaml", &format!("listen: {address}\nmodels:\n- {{name: m, engine: {{}}}}\n"));
    let mut up = Running::start(loadline(&["up", "-f"]).arg(file)).expect("started");
    assert_eq!(up.wait(PATIENCE).expect("ended").code(), Some(2));
    up.line_with("error:", PATIENCE).expect("an error");
    let lines: Vec<String> = up.lines().into_iter().filter(|line| !line.starts_with("warning:")).collect();
    assert_eq!(
        lines,
        [format!(
            "error: cannot listen on `{address}`: Address already in use (os error 98); choose another address or end the process that uses it"
        )]
    );
}

#[test]
fn a_replica_whose_port_was_taken_is_started_again_at_once_on_another() {
    let folder = crate::support::Folder::new();
    let (port, taken) = (folder.file("port"), folder.file("taken"));
    // the first start waits until the test has taken its port, and then fails to listen; the second does not look
    let script = format!(
        "if [ ! -e {port} ]; then echo {{port}} > {port}; while [ ! -e {taken} ]; do sleep 0.02; done; fi; exec {loadline} engine --model m --port {{port}}",
        port = port.display(),
        taken = taken.display(),
        loadline = env!("CARGO_BIN_EXE_loadline"),
    );
    let config = format!(
        "listen: 127.0.0.1:0
models:
- name: m
  command: [/bin/sh, -c, '{script}']
  restart: {{initial: 60s}}
"
    );
    let up = Up::start(&config, &[]);
    let mut waiting = up.ask(&chat("m", 2, false));
    let number: u16 = file_line(&port).parse().expect("a port");
    let _other = TcpListener::bind(("127.0.0.1", number)).expect("not taken yet");
    std::fs::write(&taken, "").expect("written");
    let said = up.process.line_with("replica ended on its own", PATIENCE).expect("said");
    let reason = format!("reason=another process took port {number} before it could listen restart_in=\"0s\"");
    assert!(said.contains(&reason), "{said}");
    assert_eq!(waiting.head().expect("a head").status, 200);
    up.process.line_with("replica ready replica=m-2", PATIENCE).expect("the second start");
}

#[test]
fn a_broken_metrics_page_is_named_and_the_requests_are_served() {
    let kinds = [
        ("html", "line 1, byte 0: this is an HTML or XML page, not a metrics page"),
        ("truncated", "not a complete HTTP answer"),
        ("error", "status 500 where 200 was expected"),
    ];
    let mut config = "listen: 127.0.0.1:0\nmodels:\n".to_owned();
    for (kind, _) in kinds {
        config.push_str(&format!("- {{name: {kind}, command: [python3, {ODD_REPLICA}, '{{port}}', {kind}]}}\n"));
    }
    let up = Up::start(&config, &[]);
    for (kind, said) in kinds {
        let (head, body) = up.answer(&chat(kind, 1, false));
        assert_eq!((head.status, &json(&body)["choices"][0]["message"]["content"]), (200, &"a".into()), "{kind}");
        let place = format!("cannot read metrics replica={kind}-1 model={kind} ");
        let line = up.process.line_with(&place, PATIENCE).expect("named in the log");
        assert!(line.contains("/metrics`: ") && line.contains(said), "{line}");
        assert_eq!(up.answer(&chat(kind, 1, false)).0.status, 200, "{kind}, after it was read");
    }
}
