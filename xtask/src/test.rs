//! `cargo xtask test`: stages in order, the time of each, and one last line `N passed, N failed`.

use crate::{cluster, codegen, layers, root, shared};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What a stage counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    fn one(is_passed: bool) -> Self {
        Self { passed: u64::from(is_passed), failed: u64::from(!is_passed) }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// A named stage.
struct Stage {
    name: &'static str,
    what: &'static str,
    run: fn(&Request) -> Result<Counts>,
}

/// What a run was asked for beside its parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Request {
    /// The Kubernetes minor; the newest if none is named.
    minor: Option<String>,
    /// Long variants too.
    is_full: bool,
}

const STAGES: [Stage; 10] = [
    Stage { name: "tools", what: "what a bare machine lacks is installed", run: tools },
    Stage { name: "format", what: "rustfmt", run: format },
    Stage { name: "layers", what: "tiers, licences, sizes", run: tiers },
    Stage { name: "clippy", what: "lints, all targets", run: clippy },
    Stage { name: "rust", what: "unit, property, golden and process tests", run: rust },
    Stage { name: "conformance", what: "HPA vectors and OpenMetrics cases", run: conformance },
    Stage {
        name: "controlplane",
        what: "etcd, Kubernetes and helm are built from their Go modules",
        run: control_plane,
    },
    // It renders the chart with the helm that was just built, and asks the binary of the `rust` stage.
    Stage { name: "codegen", what: "generated pages equal the code", run: generated },
    Stage { name: "kube", what: "on a real control plane, with pods as local processes", run: kube },
    Stage { name: "clients", what: "openai-python and openai-node through the gateway", run: clients },
];

/// Splits the words of a command into its request and the parts it names.
fn request<'a>(words: &[&'a str]) -> Result<(Request, Vec<&'a str>)> {
    let mut request = Request::default();
    let mut names = Vec::new();
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--minor" => {
                let minor = words.next().context("`--minor` lacks its value, as in `--minor 1.33`")?;
                request.minor = Some((*minor).to_owned());
            }
            "--full" => request.is_full = true,
            name if STAGES.iter().any(|stage| stage.name == name) => names.push(name),
            name => {
                let known: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
                bail!("there is no test part `{name}`; the parts are {}", known.join(", "));
            }
        }
    }
    // The tests of the control plane need its programs.
    if names.contains(&"kube") && !names.contains(&"controlplane") {
        names.push("controlplane");
    }
    Ok((request, names))
}

/// Runs all stages, or those named.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    let (request, names) = request(words)?;
    let mut total = Counts::default();
    let mut times: Vec<(&str, Duration, Counts)> = Vec::new();
    for stage in STAGES.iter().filter(|stage| names.is_empty() || names.contains(&stage.name)) {
        println!("== {}: {}", stage.name, stage.what);
        let start = Instant::now();
        let counts = (stage.run)(&request).unwrap_or_else(|error| {
            println!("{}: {error:#}", stage.name);
            Counts::one(false)
        });
        println!(
            "== {}: {} passed, {} failed, {:.1} s",
            stage.name,
            counts.passed,
            counts.failed,
            start.elapsed().as_secs_f64()
        );
        times.push((stage.name, start.elapsed(), counts));
        total.add(counts);
        if stage.name == "tools" && counts.failed > 0 {
            break;
        }
    }
    println!();
    for (name, time, counts) in times {
        println!("{name:<12} {:>7.1} s  {:>5} passed {:>3} failed", time.as_secs_f64(), counts.passed, counts.failed);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Programs the tests need and the Debian package of each.
const TOOLS: [(&str, &str); 6] = [
    ("cc", "gcc"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("python3", "python3-venv"),
    ("npm", "npm"),
    ("unshare", "util-linux"),
];

fn tools(_: &Request) -> Result<Counts> {
    let missing: Vec<&str> = TOOLS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!("installing {}", missing.join(" "));
        let install =
            format!("apt-get update -q && apt-get install -y -q --no-install-recommends {}", missing.join(" "));
        let done = Command::new("sh").args(["-c", &install]).status().is_ok_and(|status| status.success());
        if !done {
            bail!("missing: {}; install these packages and run again", missing.join(", "));
        }
    }
    Ok(Counts::one(true))
}

fn cargo(args: &[&str]) -> Result<bool> {
    let status =
        Command::new(env!("CARGO")).args(args).current_dir(root()).status().context("cargo could not be run")?;
    Ok(status.success())
}

fn format(_: &Request) -> Result<Counts> {
    Ok(Counts::one(cargo(&["fmt", "--all", "--check"])?))
}

fn tiers(_: &Request) -> Result<Counts> {
    let findings = layers::findings()?;
    for finding in &findings {
        println!("{finding}");
    }
    Ok(Counts { passed: u64::from(findings.is_empty()), failed: u64::try_from(findings.len())? })
}

fn generated(_: &Request) -> Result<Counts> {
    Ok(Counts::one(codegen::run(codegen::Mode::Check)? == ExitCode::SUCCESS))
}

fn clippy(_: &Request) -> Result<Counts> {
    Ok(Counts::one(cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--profile",
        PROFILE,
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?))
}

/// The profile the tests are built with; the binary of the client tests comes from the same build.
pub(crate) const PROFILE: &str = "ci";

fn rust(_: &Request) -> Result<Counts> {
    counted(Command::new(env!("CARGO")).args([
        "test",
        "--workspace",
        "--profile",
        PROFILE,
        "--locked",
        "--no-fail-fast",
    ]))
}

/// Runs a command, passes its output on, and adds up its `test result:` and `N passed, N failed` lines.
fn counted(command: &mut Command) -> Result<Counts> {
    let mut child =
        command.current_dir(root()).stdout(Stdio::piped()).spawn().context("a test command could not be started")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if !line.ends_with(" ... ok") && !line.trim().is_empty() && line != "running 0 tests" {
                println!("{line}");
            }
            if let Some(found) = counts_of(&line) {
                counts.add(found);
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        counts.failed += 1;
    }
    if status.success() && counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(counts)
}

fn counts_of(line: &str) -> Option<Counts> {
    let text = line.strip_prefix("test result:").unwrap_or(line);
    let number_before = |word: &str| -> Option<u64> {
        text.split(word).next()?.trim_end().rsplit([' ', '.', ';', ',']).next()?.parse().ok()
    };
    (text.contains(" passed") && text.contains(" failed"))
        .then(|| Some(Counts { passed: number_before(" passed")?, failed: number_before(" failed")? }))
        .flatten()
}

fn conformance(_: &Request) -> Result<Counts> {
    let mut counts = Counts::default();
    let runs = [
        ("hpa", shared().join("vectors/hpa"), Some(root().join("testdata/hpa"))),
        ("openmetrics", shared().join("openmetrics"), None),
    ];
    for (suite, folder, fallback) in runs {
        let folder = if folder.is_dir() { Some(folder) } else { fallback };
        let Some(folder) = folder else {
            println!("{suite}: skipped, {} is not there", shared().display());
            continue;
        };
        let own = std::env::current_exe().context("the path of this program is unknown")?;
        counts.add(counted(Command::new(own).args(["conformance", suite]).arg(folder))?);
    }
    Ok(counts)
}

fn control_plane(request: &Request) -> Result<Counts> {
    let mut words = vec!["build"];
    if let Some(minor) = &request.minor {
        words.extend(["--minor", minor]);
    }
    let mut is_built = cluster::run(&words)? == ExitCode::SUCCESS;
    if is_built && request.is_full && request.minor.is_none() {
        is_built = cluster::run(&["build", "--minor", OLDEST_MINOR])? == ExitCode::SUCCESS;
    }
    Ok(Counts::one(is_built))
}

/// The oldest supported Kubernetes; `--full` runs on it too.
const OLDEST_MINOR: &str = "1.33";

/// The whole workspace is selected so that the crates are those the `rust` stage built.
fn kube(request: &Request) -> Result<Counts> {
    let run = |minor: Option<&str>| {
        let mut command = Command::new(env!("CARGO"));
        command.args(["test", "--workspace", "--profile", PROFILE, "--locked", "--test", "kube"]);
        if let Some(minor) = minor {
            command.env("LOADLINE_KUBE_MINOR", minor);
        }
        if request.is_full {
            command.env("LOADLINE_FULL", "1");
        }
        counted(&mut command)
    };
    let mut counts = run(request.minor.as_deref())?;
    if request.is_full && request.minor.is_none() {
        counts.add(run(Some(OLDEST_MINOR))?);
    }
    Ok(counts)
}

fn clients(_: &Request) -> Result<Counts> {
    counted(Command::new("sh").arg("crates/loadline/tests/clients/run.sh").env("LOADLINE_PROFILE", PROFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_minor_and_parts() {
        fn parse(words: &[&'static str]) -> Result<(Request, Vec<&'static str>), String> {
            request(words).map_err(|error| error.to_string())
        }
        let oldest = Request { minor: Some("1.33".to_owned()), is_full: false };
        assert_eq!(parse(&["kube", "--minor", "1.33"]), Ok((oldest, vec!["kube", "controlplane"])));
        assert_eq!(parse(&["--full"]), Ok((Request { minor: None, is_full: true }, vec![])));
        assert!(parse(&["kube", "--minor"]).is_err_and(|error| error.contains("lacks its value")));
        assert!(parse(&["cube"]).is_err_and(|error| error.contains("`cube`") && error.contains("kube")));
    }

    #[test]
    fn result_lines_of_all_runners_are_counted() {
        for (line, expect) in [
            ("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", Some((12, 0))),
            ("test result: FAILED. 3 passed; 2 failed; 0 ignored", Some((3, 2))),
            ("318 passed, 0 failed", Some((318, 0))),
            ("running 3 tests", None),
            ("nothing failed", None),
        ] {
            assert_eq!(counts_of(line).map(|counts| (counts.passed, counts.failed)), expect, "{line}");
        }
    }
}
