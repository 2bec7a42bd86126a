//! What holds where an `InferenceAutoscaler` says nothing.

use crate::defaults::{Entry, Setting, entry};
use std::time::Duration;

const fn secs(seconds: u64) -> Setting {
    Setting::Span(Duration::from_secs(seconds))
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $field:literal, $value:expr, $meaning:literal, $source:literal;)*) => {
        $($(#[$doc])* pub const $name: Entry = entry($field, $value, $meaning, $source);)*
        /// Every default, in the order of the reference page.
        pub const TABLE: &[Entry] = &[$($name),*];
    };
}

table! {
    /// Least count.
    MIN_REPLICAS = "spec.minReplicas", Setting::Count(1), "the least count, of a pool too", "autoscaling/v2";
    /// Share of the slots that the default metric with a gateway aims at, percent.
    DEMAND_PERCENT = "spec.metrics, with a gateway", Setting::Count(70), "one `Signal` `requests_demand` with an `AverageValue` of this percentage of `gateway.slots`, at least 1", "room for arrivals during a start; as in `loadline.yaml`";
    /// Target of the default metric without a gateway.
    WAITING_TARGET = "spec.metrics, without a gateway", Setting::Count(3), "one `Signal` `requests_waiting` with this `AverageValue`", "llm-d's guides scale vLLM on 3 to 5 waiting requests; every engine reports it, and it is zero as long as the replicas keep up";
    /// Slots.
    SLOTS = "spec.gateway.slots", Setting::Count(32), "requests in flight per replica", "below every engine's default batch, so that the gateway and not the engine queues";
    /// Idle time.
    IDLE_AFTER = "spec.idle.after", secs(300), "go to zero after this long without work", "KEDA's cooldown and the HPA's window";
    /// Downward window.
    DOWN_WINDOW_SECONDS = "spec.behavior.scaleDown.stabilizationWindowSeconds", Setting::Count(300), "seconds; the rest of `behavior` as the autoscaling/v2 API fills it in", "the HPA controller's default";
    /// Fallback.
    FALLBACK_AFTER = "spec.fallback.after", secs(180), "without any measurement for so long, `fallback.replicas` is the least count", "the least that KEP-5679 proposes for the HPA";
    /// Start time.
    START_TIME = "spec.startTime", secs(120), "how long a start is expected to take until one has been seen", "models of some ten GB from a local disk";
    /// Drain limit.
    DRAIN_TIMEOUT = "spec.drainTimeout", secs(600), "how long a replica may finish its requests", "the longest generations";
    /// Path.
    SCRAPE_PATH = "spec.scrape.path", Setting::Text("/metrics"), "path of the metrics page", "every engine but Triton";
}
