//! A cluster to play with: the control plane and node agent of the tests, kept up until told otherwise.
//!
//! `cargo xtask cluster up|exec|shell|status|down` runs this. The cluster lives in a private namespace of its own; nothing outside
//! reaches it, so commands are run inside with `exec`.

use anyhow::{Context, Result, bail};
use loadline_testkit::controlplane::{ControlPlane, Minor, Options, tools};
use loadline_testkit::netns::{self, Life, Plan};
use loadline_testkit::node::{NodeAgentThread, NodeSettings, NodeShape};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cluster <command>
  build [--minor MINOR] [--peers]    build the Go programs (--peers: Prometheus and its adapter too)
  up [--minor MINOR] [--nodes N] [--gpus N]
                                     start a cluster in the background: N nodes (2) of N GPUs each (8)
  exec -- COMMAND...                 run a command in the cluster's namespace; kubectl and helm are in its PATH
  shell                              the same with your shell
  status                             what is up
  down                               end it with all that is in it";

/// What is said once a cluster is up.
const NEXT: &str = "run commands in it:  cargo xtask cluster exec -- kubectl get nodes
or a shell:          cargo xtask cluster shell
end it:              cargo xtask cluster down";

/// The background process's own command.
const SERVE: &str = "serve";
/// How long a start may take.
const START: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);

/// What `up` leaves for the other commands, in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The process whose end is the cluster's end.
    process: u32,
    /// When that process started, in the kernel's ticks: tells it from a later one of the same number.
    started: String,
    minor: String,
    environment: Vec<(String, String)>,
}

struct Arguments {
    minor: Minor,
    nodes: u8,
    gpus: u32,
    with_peers: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build", rest @ ..] => build(&arguments(rest)?),
        ["up", rest @ ..] => up(&arguments(rest)?, rest),
        [SERVE, rest @ ..] => serve(&arguments(rest)?),
        ["exec", "--", command @ ..] | ["exec", command @ ..] if !command.is_empty() => inside(command),
        ["shell"] => inside(&[&std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())]),
        ["status"] => status(),
        ["down"] => down(),
        _ => bail!("{USAGE}"),
    }
}

/// Writes a line; a closed pipe is an error, not a panic.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output is closed")
}

fn arguments(words: &[&str]) -> Result<Arguments> {
    let mut found = Arguments { minor: Minor::default(), nodes: 2, gpus: 8, with_peers: false };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().with_context(|| format!("`{word}` lacks its value"));
        match word {
            "--minor" => found.minor = Minor::parse(value()?)?,
            "--nodes" => found.nodes = value()?.parse().context("`--nodes` is no number of nodes")?,
            "--gpus" => found.gpus = value()?.parse().context("`--gpus` is no number of GPUs")?,
            "--peers" => found.with_peers = true,
            _ => bail!("unknown argument `{word}`\n{USAGE}"),
        }
    }
    Ok(found)
}

fn build(arguments: &Arguments) -> Result<ExitCode> {
    tools::build(arguments.minor)?;
    if arguments.with_peers {
        tools::PROMETHEUS.build()?;
        tools::PROMETHEUS_ADAPTER.build()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn folder() -> Result<PathBuf> {
    let folder = tools::cache()?.join("cluster");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

fn state_path() -> Result<PathBuf> {
    Ok(folder()?.join("state.json"))
}

/// The running cluster, if there is one; what a dead one left is taken away.
fn running() -> Result<Option<State>> {
    let path = state_path()?;
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    if let Ok(state) = serde_json::from_str::<State>(&text)
        && started(state.process).is_some_and(|ticks| ticks == state.started)
    {
        return Ok(Some(state));
    }
    std::fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    Ok(None)
}

/// Field 22 of `/proc/PID/stat`; nothing for a process that ended.
fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let is_alive = fields.first().is_some_and(|&state| state != "Z" && state != "X");
    is_alive.then(|| fields.get(19).map(|&ticks| ticks.to_owned())).flatten()
}

fn up(arguments: &Arguments, words: &[&str]) -> Result<ExitCode> {
    if running()?.is_some() {
        bail!("a cluster is up already; `cluster down` ends it");
    }
    build(arguments)?;
    let begun = Instant::now();
    let ready = folder()?.join("ready.json");
    if ready.exists() {
        std::fs::remove_file(&ready).with_context(|| format!("{} cannot be removed", ready.display()))?;
    }
    let log_path = folder()?.join("cluster.log");
    let log = std::fs::File::create(&log_path).with_context(|| format!("{} cannot be made", log_path.display()))?;
    // Its own process group: an interrupt at this terminal is not meant for it.
    let mut child = Command::new(std::env::current_exe()?)
        .arg(SERVE)
        .args(words)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("the cluster's process could not be started")?;
    let environment = loop {
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&log_path).unwrap_or_default();
            bail!("the cluster did not start ({status}):\n{}", text.trim());
        }
        if let Ok(text) = std::fs::read_to_string(&ready) {
            break serde_json::from_str(&text)?;
        }
        if begun.elapsed() >= START {
            child.kill()?;
            bail!("the cluster did not start within {START:?}; see {}", log_path.display());
        }
        std::thread::sleep(LOOK);
    };
    let process = child.id();
    let started = started(process).context("the cluster ended at once")?;
    let state = State { process, started, minor: arguments.minor.name().to_owned(), environment };
    let path = state_path()?;
    std::fs::write(&path, serde_json::to_string_pretty(&state)?)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let mut text = format!(
        "Kubernetes {} with {} nodes of {} GPUs is up ({:.1} s)\n",
        state.minor,
        arguments.nodes,
        arguments.gpus,
        begun.elapsed().as_secs_f64()
    );
    for (name, value) in state.environment.iter().filter(|(name, _)| name == "KUBECONFIG") {
        text.push_str(&format!("{name}={value} (inside only)\n"));
    }
    text.push_str(NEXT);
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// In the background: the cluster itself.
fn serve(arguments: &Arguments) -> Result<ExitCode> {
    netns::enter(Life::Detached)?;
    let plane = ControlPlane::start(Plan::new(0)?, Options { minor: arguments.minor, ..Options::default() })?;
    let _agent = nodes(&plane, arguments)?;
    netns::ask_dns_of(plane.plan())?;
    // Written elsewhere and renamed: whoever sees it sees the whole.
    let ready = folder()?.join("ready.json");
    let part = folder()?.join("ready.part");
    std::fs::write(&part, serde_json::to_string(&plane.environment()?)?)?;
    std::fs::rename(&part, &ready)?;
    loop {
        std::thread::park();
    }
}

/// The nodes `node-1`, `node-2`, ...; their pods run the `loadline` that was built beside this program.
fn nodes(plane: &ControlPlane, arguments: &Arguments) -> Result<NodeAgentThread> {
    let directory = plane.directory().join("node");
    let mut settings = NodeSettings::new(plane.agent_kubeconfig().to_owned(), plane.plan(), directory);
    settings.nodes =
        (1..=arguments.nodes).map(|number| NodeShape::new(&format!("node-{number}"), arguments.gpus)).collect();
    let beside = std::env::current_exe()?.with_file_name("loadline");
    settings.loadline = beside.is_file().then_some(beside);
    NodeAgentThread::start(settings)
}

/// The first process of the namespace, as numbered out here.
fn first_process(state: &State) -> Result<String> {
    let path = format!("/proc/{0}/task/{0}/children", state.process);
    let children = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    Ok(children.split_whitespace().next().context("the cluster has no first process")?.to_owned())
}

/// Runs a command in the namespace, in this folder, in place of this process.
fn inside(command: &[&str]) -> Result<ExitCode> {
    let state = running()?.context("no cluster is up; `cluster up` starts one")?;
    let init = first_process(&state)?;
    let mut enter = Command::new("nsenter");
    enter.args(["--target", &init, "--net", "--mount", "--pid"]);
    if std::fs::read_link(format!("/proc/{init}/ns/user"))? != std::fs::read_link("/proc/self/ns/user")? {
        enter.args(["--user", "--preserve-credentials"]);
    }
    // Entering a mount namespace goes to its root.
    enter.args(["--", "sh", "-c", "cd \"$0\" && exec \"$@\""]).arg(std::env::current_dir()?).args(command);
    enter.envs(state.environment);
    Err(enter.exec()).context("`nsenter` of util-linux could not be run")
}

fn status() -> Result<ExitCode> {
    match running()? {
        None => {
            say("no cluster is up")?;
            Ok(ExitCode::from(1))
        }
        Some(state) => {
            say(&format!("Kubernetes {} is up (process {})", state.minor, state.process))?;
            inside(&["kubectl", "get", "nodes,pods", "--all-namespaces"])
        }
    }
}

fn down() -> Result<ExitCode> {
    let Some(state) = running()? else {
        say("no cluster is up")?;
        return Ok(ExitCode::SUCCESS);
    };
    let init: u32 = first_process(&state)?.parse().context("a process number is expected")?;
    let process = nix::unistd::Pid::from_raw(i32::try_from(state.process)?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).context("the cluster could not be ended")?;
    // The kernel ends the first process after all others of its namespace.
    loadline_testkit::wait_for("the end of the cluster", loadline_testkit::PATIENCE, || {
        started(init).is_none().then_some(())
    })?;
    std::fs::remove_file(state_path()?)?;
    say("the cluster is down")?;
    Ok(ExitCode::SUCCESS)
}
