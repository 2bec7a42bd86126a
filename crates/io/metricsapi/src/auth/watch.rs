//! Keeps the authorities at what the cluster's ConfigMap says.

use super::authorities::{Authorities, CurrentAuthorities};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// Reads `keys` into the present authorities; a fault leaves what was there.
pub(crate) fn load(current: &CurrentAuthorities, keys: &BTreeMap<String, String>, source: &str) {
    match Authorities::read(keys) {
        Ok(next) => {
            tracing::info!(
                source,
                front_proxy = next.request_header.is_some(),
                client_certificates = next.client.is_some(),
                "authorities for delegated authentication loaded"
            );
            current.replace(next);
        }
        Err(error) => tracing::warn!(source, %error, "authorities cannot be used; the previous ones stay"),
    }
}

/// Follows the ConfigMap until `stop`. While it cannot be read or is gone, the last state stays.
pub(crate) async fn follow(
    client: kube::Client,
    namespace: &str,
    name: &str,
    current: CurrentAuthorities,
    stop: CancellationToken,
) {
    let source = format!("configmap {namespace}/{name}");
    let api = Api::<ConfigMap>::namespaced(client, namespace);
    let mut seen = std::pin::pin!(watch_object(api, name).default_backoff());
    let (mut last, mut failing): (Option<BTreeMap<String, String>>, bool) = (None, false);
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = seen.next() => next,
        };
        match next {
            Some(Ok(Some(map))) => {
                failing = false;
                let keys = map.data.unwrap_or_default();
                if last.as_ref() != Some(&keys) {
                    load(&current, &keys, &source);
                    last = Some(keys);
                }
            }
            Some(Ok(None)) => tracing::warn!(source, "not found; callers known so far stay known"),
            Some(Err(error)) => {
                if !failing {
                    tracing::warn!(source, %error, "cannot be watched; callers known so far stay known, trying again");
                }
                failing = true;
            }
            None => return,
        }
    }
}
