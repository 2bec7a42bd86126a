//! A running `loadline up`, requests to it, and the processes under it.

use loadline_testkit::binary::Running;
use loadline_testkit::client::{Connection, Head, request};
use loadline_testkit::{PATIENCE, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A replica that can be told to misbehave.
pub(crate) const ODD_REPLICA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/replica.py");

/// Where chat completions are asked for.
pub(crate) const CHAT: &str = "/v1/chat/completions";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// A command of this binary.
pub(crate) fn loadline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadline"));
    command.args(arguments).env_remove("LOADLINE_LOG");
    command
}

/// A folder of a test's own; removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("loadline-up-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file whole or not at all, as a careful editor does.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let new = self.file(&format!("{name}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, self.file(name)).expect("renamed");
        self.file(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running `loadline up`.
pub(crate) struct Up {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
    pub(crate) folder: Folder,
}

impl Up {
    /// Starts it with a configuration and further arguments, and waits until it listens.
    pub(crate) fn start(config: &str, arguments: &[&str]) -> Self {
        let folder = Folder::new();
        let file = folder.write("loadline.yaml", config);
        let process = Running::start(loadline(&["up", "-f"]).arg(file).args(arguments)).expect("started");
        let line = process.line_with("loadline serves", PATIENCE).expect("it listens");
        let address = line.rsplit("http://").next().expect("an address").parse().expect("an address");
        Self { process, address, folder }
    }

    /// A GET of one of its own pages.
    pub(crate) fn page(&self, path: &str) -> String {
        let (head, body) = request(self.address, "GET", path, &[], b"", PATIENCE).expect("a page");
        assert_eq!(head.status, 200, "{path}");
        String::from_utf8(body).expect("text")
    }

    /// The value of one series of its metrics page.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = self.page("/metrics");
        let found = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no `{series}` in\n{page}"))
    }

    /// Waits until a series has a value.
    pub(crate) fn wait_metric(&self, series: &str, wanted: f64, patience: Duration) {
        let near = || (self.metric(series) - wanted).abs() < 1e-9;
        let waited = wait_for(series, patience, || near().then_some(()));
        waited.unwrap_or_else(|error| panic!("{error}: not {wanted}\n{}", self.process.lines().join("\n")));
    }

    /// A connection on which a chat completion was asked for.
    pub(crate) fn ask(&self, body: &str) -> Connection {
        let mut connection = Connection::open(self.address, PATIENCE * 2).expect("connected");
        connection.send("POST", CHAT, JSON, body.as_bytes()).expect("sent");
        connection
    }

    /// A whole chat completion.
    pub(crate) fn answer(&self, body: &str) -> (Head, Vec<u8>) {
        request(self.address, "POST", CHAT, JSON, body.as_bytes(), PATIENCE * 2).expect("an answer")
    }

    /// The value of `field` in the log line that has all of `parts`.
    pub(crate) fn logged(&self, parts: &[&str], field: &str) -> String {
        let look = || self.process.lines().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
        let line = wait_for(&format!("{parts:?}"), PATIENCE, look);
        let line = line.unwrap_or_else(|error| panic!("{error}\n{}", self.process.lines().join("\n")));
        let value = line.split(&format!("{field}=")).nth(1).and_then(|rest| rest.split(' ').next());
        value.unwrap_or_else(|| panic!("no `{field}` in {line}")).trim_matches('"').to_owned()
    }

    /// The process id of a replica: the first child of its keeper.
    pub(crate) fn replica(&self, name: &str) -> u32 {
        let keeper = self.logged(&["replica started", &format!("replica={name} ")], "keeper").parse();
        let keeper = keeper.expect("a number");
        wait_for("the replica", PATIENCE, || children(keeper).first().copied()).expect("a replica")
    }
}

/// The body of a chat completion of a number of tokens.
pub(crate) fn chat(model: &str, tokens: u32, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","stream":{stream},"max_tokens":{tokens},"ignore_eos":true,"messages":[{{"role":"user","content":"hi"}}]}}"#
    )
}

/// The body of an answer as JSON.
pub(crate) fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

/// An error body as the gateway writes it.
pub(crate) fn error(message: &str, kind: &str, code: &str) -> Value {
    serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The JSON of a stream's event.
pub(crate) fn event_json(event: &str) -> Value {
    json(event.trim_start().strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {event}")).as_bytes())
}

/// Reads on until an event with content came.
pub(crate) fn first_content(connection: &mut Connection, rest: &mut Vec<u8>) {
    while let Some(event) = connection.event(rest).expect("an event") {
        if has_content(&event) {
            return;
        }
    }
    panic!("the stream ended before its first content");
}

/// Whether an event carries a token.
pub(crate) fn has_content(event: &str) -> bool {
    event.contains("\"content\":\"") && !event.contains("\"content\":\"\"")
}

/// Every event of a stream until its end.
pub(crate) fn all_events(connection: &mut Connection, rest: &mut Vec<u8>) -> Vec<String> {
    std::iter::from_fn(|| connection.event(rest).expect("an event")).collect()
}

/// Sends a signal.
pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal).expect("sent");
}

/// The ids of all processes with this parent.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// All processes below this one.
pub(crate) fn descendants(parent: u32) -> Vec<u32> {
    let below = children(parent);
    let deeper = below.iter().flat_map(|child| descendants(*child)).collect::<Vec<_>>();
    below.into_iter().chain(deeper).collect()
}

/// The parent of a process that runs; one that only waits to be collected does not.
fn parent_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name in brackets may hold anything
    let mut fields = text.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    fields.next().filter(|_| state != "Z")?.parse().ok()
}

/// Whether a process runs.
pub(crate) fn runs(pid: u32) -> bool {
    parent_of(pid).is_some()
}

/// Memory of a process that is in use, in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Waits for a line in a file.
pub(crate) fn file_line(path: &Path) -> String {
    let read = || std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
    wait_for(&path.display().to_string(), PATIENCE, read).expect("the file").trim().to_owned()
}
