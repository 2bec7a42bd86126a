//! The load generator: `wrk` with a fixed POST body and a last line that is easy to read.

use super::http::completion_body;
use super::rig::{LOAD_CORE, pinned};
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The path of every request.
pub(super) const PATH: &str = "/v1/completions";

/// What one run saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    /// Median latency, microseconds.
    pub(super) p50: f64,
    /// 99th percentile, microseconds.
    pub(super) p99: f64,
}

/// A script that posts a completion of `model`.
pub(super) struct Script(PathBuf);

impl Script {
    /// Writes the script into a folder.
    pub(super) fn write(folder: &Path, model: &str) -> Result<Self> {
        let path = folder.join("post.lua");
        let text = format!(
            r#"wrk.method = "POST"
wrk.body = [==[{}]==]
wrk.headers["content-type"] = "application/json"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("seen %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#,
            completion_body(model, false)
        );
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self(path))
    }

    /// Loads a server for some seconds over `connections` that are kept open. An error of any request fails the run.
    pub(super) fn load(&self, address: SocketAddr, connections: u32, seconds: u32) -> Result<Seen> {
        let output = pinned(LOAD_CORE, "wrk")
            .args(["-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s"), "-s"])
            .arg(&self.0)
            .arg(format!("http://{address}{PATH}"))
            .output()
            .context("cannot run `wrk`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (seen, errors) = parse(&text).with_context(|| {
            format!("`wrk` against `{address}` printed no figures: {text}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        if errors > 0 {
            bail!("{errors} of {} requests to `{address}` failed, so that its figures mean nothing", seen.requests);
        }
        Ok(seen)
    }
}

fn parse(output: &str) -> Option<(Seen, u64)> {
    let line = output.lines().find_map(|line| line.strip_prefix("seen "))?;
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<f64>().ok();
    let seen = Seen { requests: number()?, seconds: number()? / 1e6, p50: number()?, p99: number()? };
    Some((seen, loadline_base::num::f64_to_u64_trunc(number()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read() {
        let seen = Seen { requests: 100.0, seconds: 2.0, p50: 30.0, p99: 90.0 };
        assert_eq!(parse("Running\nseen 100 2000000 30 90 1\n"), Some((seen, 1)));
        assert_eq!(parse("Running\n"), None);
        assert_eq!(parse("seen 100 x\n"), None);
    }
}
