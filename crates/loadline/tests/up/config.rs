//! Changes of the configuration while a stream runs.

use crate::support::{Up, all_events, chat, first_content, has_content};
use loadline_testkit::PATIENCE;

const FIRST: &str = "listen: 127.0.0.1:0
models:
- {name: m, engine: {startup: 100ms}, minReplicas: 1, maxReplicas: 1}
";
const SECOND: &str = "listen: 127.0.0.1:0
models:
- {name: m, engine: {startup: 100ms}, minReplicas: 2, maxReplicas: 2}
- {name: n, engine: {startup: 100ms}}
";
const WRONG: &str = "listen: 127.0.0.1:0
models:
- name: m
  engine: {startup: 100ms}
  maxReplicsa: 3
";

#[test]
fn a_changed_file_takes_effect_and_a_wrong_one_does_not_while_a_stream_runs() {
    let up = Up::start(FIRST, &[]);
    let (mut stream, mut rest) = (up.ask(&chat("m", 600, true)), vec![]);
    assert_eq!(stream.head().expect("a head").status, 200);
    first_content(&mut stream, &mut rest);
    let file = up.folder.write("loadline.yaml", SECOND);
    up.process.line_with("the changed configuration is in force", PATIENCE).expect("taken");
    let (head, _) = up.answer(&chat("n", 1, false));
    assert_eq!(head.status, 200, "an added model serves");
    up.wait_metric("loadline_replicas_ready{model=\"m\"}", 2.0, PATIENCE);
    up.folder.write("loadline.yaml", WRONG);
    up.process.line_with("the changed configuration is wrong and not taken", PATIENCE).expect("said");
    let place = format!("{}:5", file.display());
    let fault = up.process.line_with(&place, PATIENCE).expect("file and line");
    assert!(fault.contains("maxReplicsa"), "{fault}");
    assert_eq!(up.answer(&chat("n", 1, false)).0.status, 200, "what was in force stays");
    let events = all_events(&mut stream, &mut rest);
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
    let content = 1 + events.iter().filter(|event| has_content(event)).count();
    assert!(content >= 600, "{content}");
}
