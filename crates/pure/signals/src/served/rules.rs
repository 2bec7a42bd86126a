//! How several series of one name on one pod become one value, and whose a series is.

use super::PodKey;
use std::borrow::Cow;

/// How values join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// They add.
    Sum,
    /// The largest counts.
    Max,
}

impl Fold {
    pub(super) fn join(self, values: impl Iterator<Item = f64>) -> Option<f64> {
        values.reduce(|a, b| match self {
            Self::Sum => a + b,
            Self::Max => a.max(b),
        })
    }
}

/// One line of the table of folds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldRule {
    /// How the name ends, with `_` for `:`; empty fits every name.
    pub ending: &'static str,
    /// How values join.
    pub fold: Fold,
    /// Why.
    pub why: &'static str,
}

const FRACTION: &str =
    "a part of a whole: the fullest engine or rank preempts or saturates first, whatever the sum or the mean says";
const MOMENT: &str = "a moment in time, which cannot be added; the latest counts";
const TEMPERATURE: &str = "a temperature, which cannot be added; the hottest counts";
const FACT: &str = "a fact with the value 1: it is there or it is not, however many series say so";
const AMOUNT: &str = "an amount or a count: engines, ranks and workers of one pod add up";

/// The first line whose ending fits a name counts. Everything that no line names is an amount and adds.
pub const FOLD_RULES: [FoldRule; 21] = [
    rule("_perc", Fold::Max, FRACTION),
    rule("_percent", Fold::Max, FRACTION),
    rule("_percentage", Fold::Max, FRACTION),
    rule("_ratio", Fold::Max, FRACTION),
    rule("_fraction", Fold::Max, FRACTION),
    rule("_usage", Fold::Max, FRACTION),
    rule("_utilization", Fold::Max, FRACTION),
    rule("_util", Fold::Max, FRACTION),
    // DCGM: DCGM_FI_DEV_GPU_UTIL, DCGM_FI_DEV_MEM_COPY_UTIL, DCGM_FI_PROF_GR_ENGINE_ACTIVE, DCGM_FI_PROF_SM_OCCUPANCY
    rule("_UTIL", Fold::Max, FRACTION),
    rule("_ACTIVE", Fold::Max, FRACTION),
    rule("_OCCUPANCY", Fold::Max, FRACTION),
    // SGLang: cache_hit_rate, spec_accept_rate
    rule("_hit_rate", Fold::Max, FRACTION),
    rule("_accept_rate", Fold::Max, FRACTION),
    rule("_TEMP", Fold::Max, TEMPERATURE),
    rule("_celsius", Fold::Max, TEMPERATURE),
    rule("_created", Fold::Max, MOMENT),
    rule("_time_seconds", Fold::Max, MOMENT),
    rule("_timestamp", Fold::Max, MOMENT),
    rule("_timestamp_seconds", Fold::Max, MOMENT),
    rule("_info", Fold::Max, FACT),
    rule("", Fold::Sum, AMOUNT),
];

const ADDS: FoldRule = rule("", Fold::Sum, AMOUNT);

const fn rule(ending: &'static str, fold: Fold, why: &'static str) -> FoldRule {
    FoldRule { ending, fold, why }
}

/// The rule for a name, given with `_` for `:`. `_sum`, `_count`, `_bucket` and `_total` belong to what accumulates and always add.
pub(super) fn fold_of(folded: &str) -> FoldRule {
    FOLD_RULES.into_iter().find(|rule| folded.ends_with(rule.ending)).unwrap_or(ADDS)
}

/// The labels by which an exporter says whose a series is, as (pod, namespace), the first that both have a value counts. The DCGM exporter writes `pod` and
/// `namespace`; where its page went through a scrape that sets those itself, they became `exported_*`
/// (<https://prometheus.io/docs/prometheus/latest/configuration/configuration/>, `honor_labels`); its old spelling is `pod_name` and `pod_namespace`.
const OWNER_LABELS: [(&str, &str); 3] =
    [("exported_pod", "exported_namespace"), ("pod", "namespace"), ("pod_name", "pod_namespace")];

/// The pod that a series is about, by its labels.
pub(super) fn owner_of<'l>(label: impl Fn(&str) -> Option<Cow<'l, str>>) -> Option<PodKey> {
    OWNER_LABELS.iter().find_map(|(pod, namespace)| {
        let pod = label(pod).filter(|pod| !pod.is_empty())?;
        let namespace = label(namespace).filter(|namespace| !namespace.is_empty())?;
        Some(PodKey::new(&namespace, &pod))
    })
}

/// The labels that set one observation apart from others of the same kind in one histogram or summary; adding over them counts it several times.
pub(super) const PART_LABELS: [(&str, Option<&str>); 2] = [("le", Some("_bucket")), ("quantile", None)];

/// Labels that Kubernetes' controllers give each pod or revision; pods that differ only in these are siblings.
/// Source: <https://kubernetes.io/docs/reference/labels-annotations-taints/>.
const INSTANCE_LABELS: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
];

/// What siblings have in common.
pub(super) fn siblings(labels: &loadline_base::Labels) -> Box<str> {
    let common = labels.iter().filter(|(name, _)| !INSTANCE_LABELS.contains(name));
    common.map(|(name, value)| format!("{name}={value},")).collect::<String>().into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::LabelText;

    #[test]
    fn names_join_as_the_table_says() {
        for (name, fold) in [
            ("vllm_num_requests_waiting", Fold::Sum),
            ("vllm_kv_cache_usage_perc", Fold::Max),
            ("sglang_token_usage", Fold::Max),
            ("sglang_utilization", Fold::Max),
            ("sglang_cache_hit_rate", Fold::Max),
            ("DCGM_FI_DEV_GPU_UTIL", Fold::Max),
            ("DCGM_FI_DEV_GPU_TEMP", Fold::Max),
            ("DCGM_FI_DEV_FB_USED", Fold::Sum),
            ("vllm_prompt_tokens_total", Fold::Sum),
            ("x_ratio_count", Fold::Sum),
            ("x_created", Fold::Max),
            ("process_start_time_seconds", Fold::Max),
            ("vllm_cache_config_info", Fold::Max),
            ("up", Fold::Sum),
        ] {
            assert_eq!(fold_of(name).fold, fold, "{name}");
        }
    }

    #[test]
    fn both_shapes_of_the_gpu_exporter_name_the_gpu_user() {
        for (labels, owner) in [
            (r#"gpu="0",pod="llm-0",namespace="ai""#, Some("ai/llm-0")),
            (r#"exported_pod="llm-0",exported_namespace="ai",pod="dcgm-x",namespace="gpu""#, Some("ai/llm-0")),
            (r#"pod_name="llm-0",pod_namespace="ai""#, Some("ai/llm-0")),
            (r#"exported_pod="",exported_namespace="",pod="dcgm-x",namespace="gpu""#, Some("gpu/dcgm-x")),
            (r#"pod="llm-0""#, None),
            (r#"gpu="0""#, None),
        ] {
            assert_eq!(
                owner_of(|name| LabelText::checked(labels).get(name)).map(|pod| pod.to_string()).as_deref(),
                owner,
                "{labels}"
            );
        }
    }
}
