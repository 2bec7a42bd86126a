//! Normalised signals and how each is combined over the replicas of a pool.

/// How a signal becomes a replica count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalKind {
    /// An amount of work that adds up: `ceil(total / target)`, as External with `AverageValue`. It needs no replica.
    Total,
    /// A property of each replica that does not add up: averaged over replicas, as Pods with `AverageValue`.
    PerReplica,
}

/// One normalised signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalEntry {
    /// Its name in policies and on every surface.
    pub name: &'static str,
    /// How it is combined.
    pub kind: SignalKind,
    /// Whether the gateway is its source (else the engines are).
    pub gateway: bool,
    /// What it counts, in one line.
    pub meaning: &'static str,
}

/// Work held at the gateway and in flight; the name of the default metric.
pub const REQUESTS_DEMAND: &str = "requests_demand";
/// Requests held at the gateway.
pub const REQUESTS_HELD: &str = "requests_held";

/// Every signal a policy may name. A name that is not here is refused by validation and fails at evaluation.
pub const SIGNALS: &[SignalEntry] = &[
    SignalEntry {
        name: REQUESTS_DEMAND,
        kind: SignalKind::Total,
        gateway: true,
        meaning: "requests held and in flight at the gateways, or their peak since the last decision if that is larger",
    },
    SignalEntry {
        name: REQUESTS_HELD,
        kind: SignalKind::Total,
        gateway: true,
        meaning: "requests held at the gateways and not yet given to a replica",
    },
    SignalEntry {
        name: "requests_running",
        kind: SignalKind::Total,
        gateway: false,
        meaning: "requests in the running batches, added over replicas",
    },
    SignalEntry {
        name: "requests_waiting",
        kind: SignalKind::Total,
        gateway: false,
        meaning: "requests waiting inside the engines, added over replicas",
    },
    SignalEntry {
        name: "kv_cache_utilization",
        kind: SignalKind::PerReplica,
        gateway: false,
        meaning: "used fraction of the KV cache (0..1), averaged over replicas",
    },
];

/// The entry of a signal.
#[must_use]
pub fn lookup(name: &str) -> Option<&'static SignalEntry> {
    SIGNALS.iter().find(|entry| entry.name == name)
}
