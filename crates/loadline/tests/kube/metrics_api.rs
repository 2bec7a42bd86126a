//! The metrics APIs as kubectl, the API server and other clients see them.

use crate::views::{Engines, PATIENCE, View, in_namespace, seconds_of, until};
use crate::{Case, dcgm, golden, install};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) const CASES: [Case; 6] = [
    ("metrics_api::every_form_of_a_question_is_answered", every_form),
    ("metrics_api::what_has_no_value_says_why", says_why),
    ("metrics_api::a_stale_pod_is_left_out_and_leaves_no_sum", stale_pod),
    ("metrics_api::discovery_is_clean", discovery),
    ("metrics_api::only_who_may_read_gets_values", rights),
    ("metrics_api::another_provider_is_said", another_provider),
];

const CUSTOM: &str = "/apis/custom.metrics.k8s.io";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// The document of all groups, versions and resources (KEP-3352).
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// How old a sample of an engine that answers may be on a busy machine.
const FRESH_SECONDS: i64 = 10;

/// Two idle engines, scraped by their annotation: no autoscaler asks for them.
fn two_engines(view: &View<'_>, namespace: &crate::world::Namespace<'_>) -> Result<()> {
    let engines = Engines { replicas: 2, ..Engines::new("StatefulSet", "llm", "--dialect vllm") };
    let labels = "metadata: {labels: {app: llm}}";
    let annotated = "metadata: {labels: {app: llm}, annotations: {loadline.dev/scrape: \"true\"}}";
    let manifest = engines.manifest();
    ensure!(manifest.contains(labels), "{manifest}");
    namespace.apply(&manifest.replace(labels, annotated))?;
    view.until_replicas(&engines, 2, PATIENCE)?;
    until("a value of both pods", PATIENCE, || {
        let list =
            view.get(&format!("{CUSTOM}/v1beta2/namespaces/{}/pods/*/vllm:num_requests_waiting", view.namespace))?;
        let count = list["items"].as_array().map_or(0, Vec::len);
        ensure!(count == 2, "{list}");
        Ok(())
    })
}

/// A body with `TIME` for its times, which must be those of real samples.
fn untimed(body: &str) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
    let mut value: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
    for item in value["items"].as_array_mut().into_iter().flatten() {
        let at = seconds_of(item["timestamp"].as_str().unwrap_or_default())?;
        ensure!((now - FRESH_SECONDS..=now).contains(&at), "a sample of {at}, asked at {now}: {item}");
        item["timestamp"] = "TIME".into();
    }
    Ok(value.to_string())
}

fn every_form() -> Result<()> {
    let name = "metrics-api";
    in_namespace(name, |installed, namespace, view| {
        two_engines(&view, namespace)?;
        let custom = |version: &str, rest: &str| format!("{CUSTOM}/{version}/namespaces/{name}/{rest}");
        let external = |rest: &str| format!("{EXTERNAL}/namespaces/{name}/{rest}");
        let asked = [
            custom("v1beta2", "pods/*/vllm:num_requests_waiting?labelSelector=app%3Dllm"),
            custom("v1beta1", "pods/*/vllm:num_requests_waiting?labelSelector=app%3Dllm"),
            custom("v1beta2", "pods/%2A/vllm%3Anum_requests_waiting"),
            custom("v1beta2", "pods/*/vllm_num_requests_waiting?labelSelector=apps.kubernetes.io%2Fpod-index%3D1"),
            custom("v1beta2", "pods/llm-0/vllm:num_requests_waiting"),
            custom("v1beta1", "pods/llm-0/vllm_num_requests_running"),
            custom("v1beta2", "pods/*/vllm:num_requests_waiting?metricLabelSelector=engine%3D0"),
            custom("v1beta2", "pods/llm-1/loadline:requests_waiting"),
            custom("v1beta2", "pods/llm-1/loadline_kv_cache_utilization"),
            custom("v1beta2", "pods/*/vllm:cache_config_info"),
            custom("v1beta2", "metrics/vllm:cache_config_info"),
            external("vllm:cache_config_info?labelSelector=app%3Dllm"),
            custom("v1beta2", "metrics/vllm:num_requests_waiting"),
            external("vllm:num_requests_waiting?labelSelector=app%3Dllm"),
            external("vllm_num_requests_running"),
            external("loadline_requests_waiting?labelSelector=app%20in%20%28llm%2Cother%29"),
        ];
        let mut text = String::new();
        for path in asked {
            let body = installed.world().plane.kubectl(&["get", "--raw", &path])?;
            text.push_str(&format!("{path}\n{}\n\n", untimed(&body)?));
        }
        golden::check("metrics-api.values", &text)
    })
}

fn says_why() -> Result<()> {
    let name = "metrics-api-errors";
    in_namespace(name, |installed, namespace, view| {
        two_engines(&view, namespace)?;
        let custom = |rest: &str| format!("{CUSTOM}/v1beta2/namespaces/{name}/{rest}");
        let external = |rest: &str| format!("{EXTERNAL}/namespaces/{name}/{rest}");
        let asked = [
            custom("pods/*/vllm:num_request_waiting"),
            custom("pods/llm-0/vllm:num_requests_wating"),
            custom("pods/*/vllm:num_requests_waiting?labelSelector=app%3Dother"),
            custom("pods/*/vllm:num_requests_waiting?metricLabelSelector=engine%3D7"),
            custom("pods/llm-9/vllm:num_requests_waiting"),
            custom("pods/*/vllm:request_queue_time_seconds_bucket"),
            custom("deployments.apps/llm/vllm:num_requests_waiting"),
            custom("pods/*/vllm:num_requests_waiting?labelSelector=app%20near%20llm"),
            custom("pods/llm-0"),
            external("vllm:num_request_waiting"),
            external("vllm:num_requests_waiting?labelSelector=app%3Dother"),
        ];
        let mut text = String::new();
        for path in asked {
            let (status, body) = installed.world().plane.get(&path)?;
            ensure!((400..500).contains(&status), "{path}: {status} {body}");
            text.push_str(&format!("{path}\n{}\n\n", body.trim_end()));
        }
        let (succeeded, _, error) =
            view.kubectl(None, &["get", "--raw", &custom("pods/*/vllm:num_request_waiting")])?;
        ensure!(!succeeded, "an unknown metric has a value");
        text.push_str(&format!("kubectl:\n{error}\n"));
        golden::check("metrics-api.errors", &text)
    })
}

fn stale_pod() -> Result<()> {
    let name = "metrics-api-stale";
    in_namespace(name, |installed, namespace, view| {
        two_engines(&view, namespace)?;
        let list = format!("{CUSTOM}/v1beta2/namespaces/{name}/pods/*/vllm:num_requests_waiting");
        let one = format!("{CUSTOM}/v1beta2/namespaces/{name}/pods/llm-0/vllm:num_requests_waiting");
        let sum = format!("{EXTERNAL}/namespaces/{name}/vllm:num_requests_waiting?labelSelector=app%3Dllm");
        ensure!(view.get(&sum)?["items"][0]["value"] == "0", "a sum of both");
        // frozen as a whole it soon is not ready, and then no part of the pool: the link alone would do the same
        installed.faults().freeze(name, "llm-0")?;
        let refused = until("an answer that the pod is stale", PATIENCE, || {
            let (status, body) = installed.world().plane.get(&one)?;
            ensure!(status == 404 && body.contains("last scraped"), "{status} {body}");
            Ok(body)
        })?;
        for part in ["metric `vllm:num_requests_waiting`: pod `llm-0`: last scraped ", " s ago, limit 10 s: "] {
            ensure!(refused.contains(part), "`{part}` is not in {refused}");
        }
        let left = view.get(&list)?;
        let pods: Vec<&str> = left["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item.pointer("/describedObject/name")?.as_str())
            .collect();
        ensure!(pods == ["llm-1"], "{left}");
        installed.faults().freeze(name, "llm-1")?;
        until("an answer without any value", PATIENCE, || {
            let (status, body) = installed.world().plane.get(&list)?;
            ensure!(status == 404 && body.contains("has no value now: pod `llm-0`: last scraped"), "{status} {body}");
            ensure!(body.contains("pod `llm-1`: last scraped"), "{body}");
            Ok(())
        })?;
        let (status, body) = installed.world().plane.get(&sum)?;
        ensure!(status == 404 && !body.contains("\"items\""), "a sum without values: {status} {body}");
        for pod in ["llm-0", "llm-1"] {
            installed.faults().thaw(name, pod)?;
        }
        until("values again", PATIENCE, || view.get(&sum).map(drop))
    })
}

fn discovery() -> Result<()> {
    let name = "metrics-api-discovery";
    in_namespace(name, |installed, namespace, view| {
        let plane = &installed.world().plane;
        two_engines(&view, namespace)?;
        let (succeeded, listed, said) = view.kubectl(None, &["api-resources", "--cached=false"])?;
        ensure!(succeeded && said.is_empty() && listed.contains("horizontalpodautoscalers"), "{said}\n{listed}");
        for (group, expected) in [
            ("custom.metrics.k8s.io/v1beta2", "\"name\":\"pods/vllm:num_requests_waiting\""),
            ("custom.metrics.k8s.io/v1beta1", "\"name\":\"pods/vllm_num_requests_waiting\""),
            ("custom.metrics.k8s.io/v1beta2", "\"name\":\"namespaces/loadline:requests_waiting\""),
            ("external.metrics.k8s.io/v1beta1", "\"name\":\"vllm:num_requests_waiting\""),
        ] {
            let (status, body) = plane.get(&format!("/apis/{group}"))?;
            ensure!(status == 200 && body.contains(expected), "`{expected}` is not in {group}: {status}");
        }
        // the API server asks for this about once a minute, and marks what it could not read as stale
        until("both groups in the aggregated document", PATIENCE * 2, || {
            let (status, body) = plane.get_as("/apis", AGGREGATED)?;
            ensure!(status == 200, "{status} {body}");
            let document: Value = serde_json::from_str(&body)?;
            for (group, versions) in
                [("custom.metrics.k8s.io", &["v1beta2", "v1beta1"][..]), ("external.metrics.k8s.io", &["v1beta1"])]
            {
                let mut items = document["items"].as_array().into_iter().flatten();
                let found = items.find(|item| item.pointer("/metadata/name").is_some_and(|name| name == group));
                let found = found.with_context(|| format!("`{group}` is not in it"))?;
                for version in versions {
                    let mut all = found["versions"].as_array().into_iter().flatten();
                    let seen = all.find(|seen| seen["version"] == *version);
                    let seen = seen.with_context(|| format!("`{version}` of `{group}` is not in it"))?;
                    let resources = seen["resources"].to_string();
                    ensure!(seen["freshness"] == "Current", "`{version}` of `{group}` is {}", seen["freshness"]);
                    ensure!(resources.contains("vllm:num_requests_waiting"), "no metric in `{version}` of `{group}`");
                }
            }
            Ok(())
        })?;
        for path in
            ["/openapi/v3/apis/custom.metrics.k8s.io/v1beta2", "/openapi/v3/apis/external.metrics.k8s.io/v1beta1"]
        {
            let (status, body) = plane.get(path)?;
            ensure!(status == 200 && body.contains("\"openapi\""), "{path}: {status} {body}");
        }
        // a list that a client cannot read would keep namespaces from ending
        plane.kubectl(&["create", "namespace", "metrics-api-ended"])?;
        plane.kubectl(&["delete", "namespace", "metrics-api-ended", "--wait=false"])?;
        until("the end of a namespace", PATIENCE * 2, || {
            let (status, body) = plane.get("/api/v1/namespaces/metrics-api-ended")?;
            ensure!(status == 404, "{body}");
            Ok(())
        })
    })
}

/// An address of the metrics APIs themselves, past the API server, with what `kubectl` needs to trust it.
fn directly(view: &View<'_>, installed: &install::Installed<'_>) -> Result<[String; 3]> {
    let pod = installed.writer()?;
    let ip = installed.kubectl(&["get", "pod", &pod, "--output=jsonpath={.status.podIP}"])?;
    let template = "--output=go-template={{.spec.caBundle | base64decode}}";
    let authority = installed.kubectl(&["get", "apiservice", install::API_SERVICES[0], template])?;
    let file: PathBuf = view.world.plane.directory().join("loadline-ca.pem");
    std::fs::write(&file, authority)?;
    Ok([
        format!("--server=https://{ip}:6443"),
        "--tls-server-name=loadline.loadline.svc".to_owned(),
        format!("--certificate-authority={}", file.display()),
    ])
}

const READER: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reads-waiting}
rules:
- {apiGroups: [custom.metrics.k8s.io], resources: ["pods/vllm:num_requests_waiting"], verbs: [get]}
- {apiGroups: [external.metrics.k8s.io], resources: ["vllm:num_requests_waiting"], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reads-waiting}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reads-waiting}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: metrics-reader}
- {kind: ServiceAccount, name: reader, namespace: metrics-api-rights}
"#;

fn rights() -> Result<()> {
    let name = "metrics-api-rights";
    in_namespace(name, |installed, namespace, view| {
        let plane = &installed.world().plane;
        two_engines(&view, namespace)?;
        namespace.kubectl(&["create", "serviceaccount", "reader"])?;
        namespace.apply(READER)?;
        let reader = plane.kubeconfig_for("metrics-reader.kubeconfig", "metrics-reader", &[])?;
        let stranger = plane.kubeconfig_for("stranger.kubeconfig", "stranger", &[])?;
        let may = format!("{CUSTOM}/v1beta2/namespaces/{name}/pods/llm-0/vllm:num_requests_waiting");
        let other = format!("{CUSTOM}/v1beta2/namespaces/{name}/pods/llm-0/vllm:num_requests_running");
        let sum = format!("{EXTERNAL}/namespaces/{name}/vllm:num_requests_waiting");
        let direct = directly(&view, installed)?;
        let direct: Vec<&str> = direct.iter().map(String::as_str).collect();
        let ask =
            |who: &Path, how: &[&str], path: &str| view.kubectl(Some(who), &[how, &["get", "--raw", path]].concat());
        // through the API server, which refuses by itself, and to Loadline directly, which asks for an access review
        for how in [&[][..], &direct] {
            until("a reader with rights", PATIENCE, || {
                for path in [&may, &sum] {
                    let (succeeded, body, error) = ask(&reader, how, path)?;
                    ensure!(succeeded && body.contains("\"value\":\"0\""), "{body} {error}");
                }
                Ok(())
            })?;
            for (who, path) in [(&reader, &other), (&stranger, &may), (&stranger, &sum)] {
                let (succeeded, body, error) = ask(who, how, path)?;
                ensure!(!succeeded && error.contains("Forbidden"), "{}: {body} {error}", who.display());
            }
        }
        let (_, _, error) = ask(&stranger, &direct, &may)?;
        golden::check("metrics-api.forbidden", &error)?;
        // a token goes through a token review; one that nobody issued is nobody's
        let token = namespace.kubectl(&["create", "token", "reader"])?;
        let nobody = installed.world().plane.directory().join("nobody.kubeconfig");
        std::fs::write(&nobody, "apiVersion: v1\nkind: Config\n")?;
        for (token, expected) in
            [(token.trim(), Ok(())), ("not-a-token", Err("unauthorized: the bearer token is not valid"))]
        {
            let bearer = format!("--token={token}");
            let how = [&direct[..], &[bearer.as_str()]].concat();
            let (succeeded, body, error) = ask(&nobody, &how, &may)?;
            match expected {
                Ok(()) => ensure!(succeeded && body.contains("\"value\":\"0\""), "{body} {error}"),
                Err(expected) => ensure!(!succeeded && error.contains(expected), "{body} {error}"),
            }
        }
        Ok(())
    })
}

/// Only one provider of a group version can be in a cluster. Where it is another, Loadline says whose it is, and leaves it alone.
fn another_provider() -> Result<()> {
    let installed = dcgm::beside()?;
    let view = View { world: installed.world(), namespace: install::NAMESPACE };
    let api_service = "v1beta1.external.metrics.k8s.io";
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{api_service}");
    let point_at = |namespace: &str, name: &str| {
        let patch = format!(r#"{{"spec":{{"service":{{"namespace":"{namespace}","name":"{name}","port":443}}}}}}"#);
        installed.kubectl(&["patch", "apiservice", api_service, "--type=merge", "--patch", &patch])
    };
    let said = || -> Result<(String, String)> {
        let pod = installed.writer()?;
        let page = |path: &str| {
            let proxied = format!("/api/v1/namespaces/{}/services/loadline:admin/proxy{path}", install::NAMESPACE);
            view.world.plane.get(&proxied).map(|(_, body)| body)
        };
        let status: Value = serde_json::from_str(&page("/status")?)?;
        let about = status["api_services"][api_service].as_str().unwrap_or_default().to_owned();
        let gauge = format!("loadline_api_service_registered{{api_service=\"{api_service}\"}} ");
        let metrics = page("/metrics")?;
        let registered = metrics.lines().find_map(|line| line.strip_prefix(&gauge)).unwrap_or_default();
        ensure!((about == "ours") == (registered == "1"), "{pod}: `{about}` and `{registered}`");
        Ok((about, installed.log(&pod)))
    };
    installed.explain(|| {
        until("a registration of ours", PATIENCE, || {
            let (about, _) = said()?;
            ensure!(about == "ours", "`{about}`");
            Ok(())
        })?;
        let bundle = view.get(&path)?["spec"]["caBundle"].clone();
        point_at("keda", "keda-operator-metrics-apiserver")?;
        let expected = "served by keda/keda-operator-metrics-apiserver: HPAs read that provider, not Loadline; remove it, or \
                        point the APIService at loadline/loadline";
        until("a word about the other provider", PATIENCE, || {
            let (about, log) = said()?;
            ensure!(about == expected, "`{about}`");
            ensure!(log.contains(expected), "it is not in the log");
            Ok(())
        })?;
        let seen = view.get(&path)?;
        ensure!(seen.pointer("/spec/service/namespace").is_some_and(|owner| owner == "keda"), "taken over: {seen}");
        ensure!(seen["spec"]["caBundle"] == bundle, "the authority of another's registration was changed");
        point_at(install::NAMESPACE, "loadline")?;
        until("a registration of ours again", Duration::from_secs(120), || {
            let (about, _) = said()?;
            ensure!(about == "ours", "`{about}`");
            Ok(())
        })?;
        installed.wait_until_it_serves()
    })
}
