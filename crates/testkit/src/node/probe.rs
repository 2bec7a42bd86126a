//! Probes: what to ask, how often, and when the answers count.

use super::process;
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The most that is read of an answer's head.
const MAX_HEAD_BYTES: usize = 4096;

/// Periods and thresholds with the API's defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) success: u32,
    pub(super) failure: u32,
}

impl Pace {
    pub(super) fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32, least: i32| {
            Duration::from_secs(u64::from(value.unwrap_or(default).max(least).unsigned_abs()))
        };
        let times = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1).unsigned_abs();
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success: times(probe.success_threshold, 1),
            failure: times(probe.failure_threshold, 3),
        }
    }
}

/// Counts answers until a threshold is reached.
#[derive(Debug, Clone)]
pub(super) struct Count {
    pace: Pace,
    was_success: bool,
    run: u32,
}

impl Count {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, was_success: false, run: 0 }
    }

    /// Takes one answer; gives the verdict once as many equal ones as the threshold asks for came in a row.
    pub(super) fn take(&mut self, is_success: bool) -> Option<bool> {
        self.run = if self.run > 0 && self.was_success == is_success { self.run.saturating_add(1) } else { 1 };
        self.was_success = is_success;
        let threshold = if is_success { self.pace.success } else { self.pace.failure };
        (self.run >= threshold).then_some(is_success)
    }
}

/// Where a probe or hook acts.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    pub(super) pod_ip: IpAddr,
    pub(super) pid: u32,
    pub(super) env: BTreeMap<String, String>,
    pub(super) container: Container,
}

impl Aim {
    fn port(&self, port: &IntOrString) -> Result<u16> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).context("not a port"),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports.clone().find(|port| port.name.as_deref() == Some(name.as_str()));
                match named {
                    Some(port) => u16::try_from(port.container_port).context("not a port"),
                    None => name.parse().with_context(|| format!("no port is named `{name}`")),
                }
            }
        }
    }

    fn address(&self, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr> {
        let ip = match host {
            None | Some("") => self.pod_ip,
            Some(host) => host.parse().with_context(|| format!("`host: {host}` is no address"))?,
        };
        Ok(SocketAddr::new(ip, self.port(port)?))
    }

    /// Asks once.
    ///
    /// # Errors
    /// With what was answered instead of success.
    pub(super) async fn ask(&self, probe: &Probe) -> Result<()> {
        let pace = Pace::of(probe);
        let asked = async {
            if let Some(get) = &probe.http_get {
                self.get(get).await
            } else if let Some(socket) = &probe.tcp_socket {
                self.connect(socket).await
            } else if let Some(exec) = &probe.exec {
                self.run(exec).await
            } else {
                bail!("only httpGet, tcpSocket and exec are known here")
            }
        };
        match tokio::time::timeout(pace.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {:?}", pace.timeout),
        }
    }

    /// A GET whose status must be from 200 to 399.
    pub(super) async fn get(&self, get: &HTTPGetAction) -> Result<()> {
        let address = self.address(get.host.as_deref(), &get.port)?;
        let path = get.path.as_deref().unwrap_or("/");
        let mut head = format!("GET {}{path} HTTP/1.1\r\n", if path.starts_with('/') { "" } else { "/" });
        let headers = get.http_headers.iter().flatten();
        if !headers.clone().any(|header| header.name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {address}\r\n"));
        }
        for header in headers {
            head.push_str(&format!("{}: {}\r\n", header.name, header.value));
        }
        head.push_str("User-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n\r\n");
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        let status = if get.scheme.as_deref() == Some("HTTPS") {
            let name = address.ip().into();
            let tls = tokio_rustls::TlsConnector::from(super::tls::trusting_client()?).connect(name, stream).await?;
            exchange(tls, &head).await?
        } else {
            exchange(stream, &head).await?
        };
        if (200..400).contains(&status) { Ok(()) } else { bail!("HTTP probe failed with statuscode: {status}") }
    }

    async fn connect(&self, socket: &TCPSocketAction) -> Result<()> {
        let address = self.address(socket.host.as_deref(), &socket.port)?;
        TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        Ok(())
    }

    /// A command inside the container whose exit status must be 0.
    pub(super) async fn run(&self, exec: &ExecAction) -> Result<()> {
        let argv = exec.command.as_deref().unwrap_or_default();
        let output = process::inside(self.pid, argv, &self.env).output().await.context("cannot start `nsenter`")?;
        if output.status.success() {
            return Ok(());
        }
        bail!("`{}` ended with {}", argv.join(" "), output.status)
    }
}

/// Sends a request's head and gives the status of the answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, head: &str) -> Result<u16> {
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut seen = Vec::new();
    let mut chunk = [0; 512];
    while seen.len() < MAX_HEAD_BYTES && !seen.contains(&b'\n') {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            break;
        }
        seen.extend(chunk.iter().take(count));
    }
    status_of(&seen)
}

fn status_of(head: &[u8]) -> Result<u16> {
    let text = String::from_utf8_lossy(head);
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next().map(str::parse)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => Ok(status),
        _ => bail!("`{line}` is no HTTP answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_as_many_equal_answers_as_their_threshold() {
        struct Case {
            name: &'static str,
            thresholds: (i32, i32),
            answers: &'static [bool],
            expect: &'static [Option<bool>],
        }
        for case in [
            Case { name: "first success", thresholds: (1, 3), answers: &[true], expect: &[Some(true)] },
            Case {
                name: "three failures",
                thresholds: (1, 3),
                answers: &[false, false, false, false],
                expect: &[None, None, Some(false), Some(false)],
            },
            Case {
                name: "a success between starts over",
                thresholds: (1, 2),
                answers: &[false, true, false, false],
                expect: &[None, Some(true), None, Some(false)],
            },
            Case {
                name: "two successes",
                thresholds: (2, 1),
                answers: &[true, false, true, true],
                expect: &[None, Some(false), None, Some(true)],
            },
        ] {
            let probe = Probe {
                success_threshold: Some(case.thresholds.0),
                failure_threshold: Some(case.thresholds.1),
                ..Probe::default()
            };
            let mut count = Count::new(Pace::of(&probe));
            let got: Vec<Option<bool>> = case.answers.iter().map(|answer| count.take(*answer)).collect();
            assert_eq!(got, case.expect, "{}", case.name);
        }
        let defaults = Pace::of(&Probe::default());
        assert_eq!((defaults.period.as_secs(), defaults.timeout.as_secs()), (10, 1));
        assert_eq!((defaults.success, defaults.failure), (1, 3));
    }

    #[test]
    fn status_lines() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n").unwrap(), 204);
        assert_eq!(status_of(b"HTTP/1.0 503\r\n").unwrap(), 503);
        for bad in [&b""[..], b"HTTP/1.1\r\n", b"SSH-2.0 200", b"\xff\xfe"] {
            assert!(status_of(bad).is_err());
        }
    }
}
