//! Loadline itself is killed, and its certificates change.

use crate::Case;
use crate::faults::{Bench, LOOK, PATIENCE, Page, Plan, TARGET, own_lab, waiting};
use crate::install::{API_SERVICES, Installed, NAMESPACE};
use anyhow::{Context, Result, ensure};
use loadline_testkit::controlplane::ControlPlane;
use loadline_testkit::wait_for;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 2] = [
    ("faults::failure_22_kill_9_of_the_writer_in_mid_burst_is_taken_over", killed_in_burst),
    ("faults::certificates_change_under_load_without_a_failed_request", certificates_change),
];

/// The window of scale-down here, in seconds.
const WINDOW: u32 = 10;

/// Who holds the lease: a pod, with the start of its process.
fn holder(installed: &Installed<'_>) -> Result<String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/loadline");
    let (status, body) = installed.world().plane.get(&path)?;
    ensure!(status == 200, "{status} {body}");
    let lease: Value = serde_json::from_str(&body)?;
    Ok(lease["spec"]["holderIdentity"].as_str().context("nobody holds the lease")?.to_owned())
}

/// The burst asks for six, one more every few seconds; the writer dies on the way.
fn killed_in_burst() -> Result<()> {
    own_lab()?.test("faults-kill-9", |installed, namespace| {
        let plan = Plan { window: WINDOW, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        let slow = json!({"spec": {"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 4}]}}}});
        namespace.kubectl(&["patch", "inferenceautoscaler", "pages", "--type=merge", "--patch", &slow.to_string()])?;
        let engines = bench.pods()?;
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(3 * TARGET))))?;
        bench.until("the middle of the burst", || Ok((bench.replicas()? >= 3).then_some(())))?;
        let (writer, before) = (installed.writer()?, holder(installed)?);
        installed.faults().kill(NAMESPACE, &writer, None)?;
        let (mut seen, killed) = (vec![bench.replicas()?], Instant::now());
        let mut taken_over = None;
        bench.until("the end of the burst", || {
            let now = bench.replicas()?;
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            if taken_over.is_none() && holder(installed)? != before {
                taken_over = Some(killed.elapsed());
            }
            Ok((now == 6 && taken_over.is_some()).then_some(()))
        })?;
        ensure!(seen.is_sorted(), "the count went down on the way: {seen:?}");
        eprintln!("taken over {:.1} s after the end of the writer; counts {seen:?}", taken_over.unwrap_or_default().as_secs_f64());
        // a second takeover, with nothing to do: the count is not touched, and then not lowered for a whole window
        wait_for("two processes", PATIENCE, || (installed.pods().ok()?.len() == 2).then_some(()))?;
        installed.kubectl(&["rollout", "status", "deployment/loadline", "--timeout=60s"])?;
        let (generation, writer, before) = (bench.generation()?, installed.writer()?, holder(installed)?);
        installed.faults().kill(NAMESPACE, &writer, None)?;
        wait_for("another writer", PATIENCE, || {
            std::thread::sleep(LOOK);
            (holder(installed).ok()? != before).then_some(())
        })?;
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.stays(Duration::from_secs(u64::from(WINDOW) - 2))?;
        ensure!(bench.generation()? == generation);
        bench.wait_for_replicas(1)?;
        installed.kubectl(&["rollout", "status", "deployment/loadline", "--timeout=60s"])?;
        bench.is_lawful()
    })
}

fn secret(plane: &ControlPlane) -> Result<Value> {
    let (status, body) = plane.get(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/loadline-tls"))?;
    ensure!(status == 200, "{status} {body}");
    Ok(serde_json::from_str(&body)?)
}

/// The serving certificate is made anew, the Secret is lost, and another authority is trusted, while the metrics APIs are asked all the
/// time.
fn certificates_change() -> Result<()> {
    let lab = own_lab()?;
    lab.test("faults-certificates", |installed, namespace| {
        let plane = lab.plane();
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/vllm:num_requests_waiting",
            namespace.name()
        );
        let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| -> Result<()> {
                while !is_over.load(Ordering::Acquire) {
                    let (status, body) = plane.get(&path)?;
                    ensure!(status == 200, "request {}: {status} {body}", asked.load(Ordering::Acquire));
                    asked.fetch_add(1, Ordering::AcqRel);
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            });
            let changed = change(plane, &bench, &|| load.is_finished());
            is_over.store(true, Ordering::Release);
            load.join().map_err(|_| anyhow::anyhow!("the load broke"))?.context("under load")?;
            changed
        })?;
        ensure!(asked.load(Ordering::Acquire) > 100, "{asked:?} requests");
        bench.is_lawful()
    })
}

fn change(plane: &ControlPlane, bench: &Bench<'_>, is_failed: &dyn Fn() -> bool) -> Result<()> {
    let until = |what: &str, look: &dyn Fn() -> Result<bool>| {
        bench.until(what, || {
            ensure!(!is_failed(), "a request failed");
            Ok(look()?.then_some(()))
        })
    };
    let in_force = || {
        let pods = bench.installed.pods().unwrap_or_default();
        let count =
            |pod: &String| bench.installed.log(pod).matches("the certificates of the Secret are in force").count();
        pods.iter().map(count).collect::<Vec<_>>()
    };
    let patch = |data: Value| {
        let patch = json!({ "data": data }).to_string();
        plane.kubectl(&["--namespace", NAMESPACE, "patch", "secret", "loadline-tls", "--type=merge", "--patch", &patch])
    };
    let first = secret(plane)?["data"].clone();
    let keys: Vec<&String> = first.as_object().context("data")?.keys().collect();
    let serving =
        keys.iter().find(|key| key.contains("serving") && key.ends_with("crt")).context("a certificate")?.as_str();
    // the certificate alone: the authority stays
    let before = in_force();
    patch(json!({ serving: null }))?;
    until("another serving certificate", &|| {
        let now = secret(plane)?["data"].clone();
        Ok(now[serving].is_string() && now[serving] != first[serving] && now["ca.crt"] == first["ca.crt"])
    })?;
    until("its use by every process", &|| Ok(in_force().iter().zip(&before).all(|(now, before)| now > before)))?;
    // the whole Secret: what was in force comes back
    let second = secret(plane)?["data"].clone();
    plane.kubectl(&["--namespace", NAMESPACE, "delete", "secret", "loadline-tls"])?;
    until("the Secret", &|| Ok(secret(plane)?["data"] == second))?;
    // another authority is trusted too: the registrations learn it
    let more = [decoded(&second["ca.crt"])?, plane.ca_pem().to_owned()].concat();
    patch(json!({ "ca.crt": encoded(more.as_bytes()) }))?;
    until("the new caBundle", &|| {
        let mut all = true;
        for name in API_SERVICES {
            let (_, body) = plane.get(&format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}"))?;
            let seen: Value = serde_json::from_str(&body)?;
            all &= decoded(&seen["spec"]["caBundle"])?.matches("BEGIN CERTIFICATE").count() == 2;
        }
        Ok(all)
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encoded(bytes: &[u8]) -> String {
    let mut out = String::new();
    for piece in bytes.chunks(3) {
        let number = piece.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for at in 0..4 {
            let index = (number >> (18 - 6 * at)) & 63;
            out.push(if at <= piece.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

fn decoded(text: &Value) -> Result<String> {
    let text = text.as_str().context("no text")?;
    let (mut out, mut number, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let index = ALPHABET.iter().position(|known| *known == letter).context("not base64")?;
        number = (number << 6 | u32::try_from(index)?) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(number >> bits & 0xff)?);
        }
    }
    Ok(String::from_utf8(out)?)
}
