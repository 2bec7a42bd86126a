//! A reader that has seen enough, such as `head`, ends no command with a panic or an error.

use std::process::{Command, Stdio};

#[test]
fn a_closed_pipe_is_no_error() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let config = format!("{root}/examples/loadline.yaml");
    for arguments in [
        vec!["up", "--print-config", "-f", &config],
        vec!["engine", "--list-profiles"],
        vec!["completions", "bash"],
        vec!["help-markdown"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_loadline"))
            .args(&arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), told.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
