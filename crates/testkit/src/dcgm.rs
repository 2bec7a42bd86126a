//! A stand-in for NVIDIA's DCGM exporter: a metrics page with its names and labels about the GPUs that pods hold, without a GPU.
//!
//! Names, types and labels are those of the exporter's default counters
//! (<https://github.com/NVIDIA/dcgm-exporter>, `etc/default-counters.csv` and its README). The figures follow one number: the work
//! that all pods share. It is spread evenly over their GPUs, so that more pods are each less busy.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// The port of the real exporter.
pub const PORT: u16 = 9400;
/// The resource by which a container holds GPUs.
const GPU: &str = "nvidia.com/gpu";
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most that is read of a request, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;
/// Memory of a GPU, in MiB.
const FRAME_BUFFER: u32 = 81_559;
const MODEL: &str = "NVIDIA H100 80GB HBM3";

/// In which labels a page names the pod that uses a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `pod` and `namespace`: as the exporter writes them.
    Direct,
    /// `exported_pod` and `exported_namespace`, `pod` and `namespace` being the exporter's own: as a page reads behind a scrape that sets
    /// the latter itself.
    Exported,
}

/// What the exporter says and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The Kubernetes namespace whose pods it looks at.
    pub namespace: String,
    /// Percent of one GPU that all pods together have to do: 180 is two GPUs at 90.
    pub work: f64,
    /// Labels.
    pub shape: Shape,
    /// The exporter's own pod and namespace.
    pub own: (String, String),
}

/// A pod that holds GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The pod.
    pub pod: String,
    /// The first container that holds some.
    pub container: String,
    /// How many.
    pub gpus: u32,
}

impl Settings {
    /// From `--namespace NAME`, `--work PERCENT` and `--shape direct|exported`; the own pod from `POD_NAME` and `POD_NAMESPACE`.
    ///
    /// # Errors
    /// For anything else.
    pub fn of(words: &[String]) -> Result<Self> {
        let own = ["POD_NAME", "POD_NAMESPACE"].map(|name| std::env::var(name).unwrap_or_default());
        let mut settings = Self { namespace: String::new(), work: 0.0, shape: Shape::Direct, own: own.into() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("`{word}` lacks its value"))?;
            match (word.as_str(), value.as_str()) {
                ("--namespace", name) => settings.namespace = name.to_owned(),
                ("--work", percent) => settings.work = percent.parse().context("`--work` is no number")?,
                ("--shape", "direct") => settings.shape = Shape::Direct,
                ("--shape", "exported") => settings.shape = Shape::Exported,
                _ => bail!("`{word} {value}` is not known"),
            }
        }
        Ok(settings)
    }
}

/// Serves pages until it is ended. Every page asks the API server anew which pods hold GPUs, by the pod's own service account.
///
/// # Errors
/// If it cannot listen, or finds no API server.
pub fn serve(settings: &Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(Client::try_default()).context("no API server")?;
    let pods: Api<Pod> = Api::namespaced(client, &settings.namespace);
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    for stream in listener.incoming() {
        let listed = runtime.block_on(pods.list(&ListParams::default()));
        let answer = match &listed {
            Ok(listed) => ("200 OK", page(settings, &users(&listed.items))),
            Err(error) => ("503 Service Unavailable", error.to_string()),
        };
        if let Err(error) = stream.map_err(Into::into).and_then(|stream| reply(stream, &answer)) {
            eprintln!("a page was not read: {error:#}");
        }
    }
    Ok(())
}

fn reply(mut stream: TcpStream, (status, body): &(&str, String)) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new((&stream).take(MAX_REQUEST));
    let mut line = String::new();
    while request.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        line.clear();
    }
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(body.as_bytes())?)
}

/// The pods that run and hold GPUs, by name.
#[must_use]
pub fn users(pods: &[Pod]) -> Vec<User> {
    let user = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let held = pod.spec.as_ref()?.containers.iter().find_map(|container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            Some((container.name.clone(), limits.get(GPU)?.0.parse::<u32>().ok()?))
        });
        let (container, gpus) = held?;
        Some(User { pod: pod.metadata.name.clone()?, container, gpus })
    };
    let mut users: Vec<User> = pods.iter().filter_map(user).collect();
    users.sort_by(|a, b| a.pod.cmp(&b.pod));
    users
}

/// A page about these pods' GPUs, and one GPU that nobody uses.
#[must_use]
pub fn page(settings: &Settings, users: &[User]) -> String {
    let held: u32 = users.iter().map(|user| user.gpus).sum();
    let busy = (settings.work / f64::from(held.max(1))).clamp(0.0, 100.0).round();
    let mut gpus: Vec<(String, f64)> = Vec::new();
    for user in users {
        for _ in 0..user.gpus {
            gpus.push((labels(settings, gpus.len(), Some(user)), busy));
        }
    }
    gpus.push((labels(settings, gpus.len(), None), 0.0));
    let used = |busy: f64| if busy > 0.0 { f64::from(FRAME_BUFFER) * 0.9 } else { 0.0 };
    type Family<'a> = (&'a str, &'a str, &'a str, &'a dyn Fn(f64) -> f64);
    let families: [Family<'_>; 9] = [
        ("DCGM_FI_DEV_SM_CLOCK", "gauge", "SM clock frequency (in MHz).", &|_| 1_980.0),
        ("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Memory clock frequency (in MHz).", &|_| 2_619.0),
        ("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C).", &|busy| 35.0 + (busy * 0.3).round()),
        ("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W).", &|busy| 70.0 + busy * 6.0),
        ("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %).", &|busy| busy),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Memory utilization (in %).", &|busy| (busy * 0.6).round()),
        ("DCGM_FI_DEV_FB_FREE", "gauge", "Frame buffer memory free (in MB).", &|busy| {
            (f64::from(FRAME_BUFFER) - used(busy)).round()
        }),
        ("DCGM_FI_DEV_FB_USED", "gauge", "Frame buffer memory used (in MB).", &|busy| used(busy).round()),
        ("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered.", &|_| 0.0),
    ];
    let mut page = String::new();
    for (name, kind, help, value) in families {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, busy) in &gpus {
            let _ = writeln!(page, "{name}{{{labels}}} {}", value(*busy));
        }
    }
    page
}

fn labels(settings: &Settings, gpu: usize, user: Option<&User>) -> String {
    let mut text = format!(
        r#"gpu="{gpu}",UUID="GPU-{gpu:08}",device="nvidia{gpu}",modelName="{MODEL}",Hostname="node",DCGM_FI_DRIVER_VERSION="570.86.15""#
    );
    let (container, pod) = user.map_or(("", ""), |user| (user.container.as_str(), user.pod.as_str()));
    let namespace = if user.is_some() { settings.namespace.as_str() } else { "" };
    let (own_pod, own_namespace) = &settings.own;
    let _ = match settings.shape {
        Shape::Direct => write!(text, r#",container="{container}",namespace="{namespace}",pod="{pod}""#),
        Shape::Exported => write!(
            text,
            r#",exported_container="{container}",exported_namespace="{namespace}",exported_pod="{pod}",namespace="{own_namespace}",pod="{own_pod}""#
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(shape: Shape) -> Settings {
        Settings { namespace: "ai".into(), work: 180.0, shape, own: ("dcgm-0".into(), "gpu".into()) }
    }

    #[test]
    fn work_is_shared_by_the_gpus_that_pods_hold() {
        let user = |pod: &str| User { pod: pod.into(), container: "vllm".into(), gpus: 1 };
        for (users, busy) in [(vec![user("a")], "100"), (vec![user("a"), user("b")], "90")] {
            let page = page(&settings(Shape::Direct), &users);
            let util: Vec<&str> = page.lines().filter(|line| line.starts_with("DCGM_FI_DEV_GPU_UTIL{")).collect();
            assert_eq!(util.len(), users.len() + 1, "{page}");
            assert!(util.first().is_some_and(|line| line.ends_with(&format!(r#"pod="a"}} {busy}"#))), "{util:?}");
            assert!(util.last().is_some_and(|line| line.ends_with(r#"pod=""} 0"#)), "{util:?}");
        }
        let page = page(&settings(Shape::Exported), &[user("a")]);
        assert!(
            page.contains(r#"exported_namespace="ai",exported_pod="a",namespace="gpu",pod="dcgm-0"} 100"#),
            "{page}"
        );
    }

    #[test]
    fn what_is_said_wrongly_is_refused() {
        let of = |words: &str| Settings::of(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(of("--namespace ai --work 95 --shape exported").is_ok_and(|read| read.work == 95.0));
        assert!(of("--work many").is_err() && of("--shape other").is_err() && of("--namespace").is_err());
    }
}
