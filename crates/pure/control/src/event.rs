//! What goes in and what comes out.

use loadline_base::{GatewayId, ModelId, PoolId, ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{Action, Policy, PoolDecision};
use loadline_signals::dialect::{Reading, SignalName};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Where the value of one metric of a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricQuery {
    /// Requests held and in flight at the gateways, with the peak since the last decision.
    GatewayDemand,
    /// Requests held at the gateways.
    GatewayHeld,
    /// Requests in flight at the gateways.
    GatewayInFlight,
    /// A normalised signal of every replica's engine.
    Engine(SignalName),
    /// A series of every replica's page under its own name: the key it has in `Reading::named`.
    Series {
        /// The key.
        key: String,
    },
    /// The same series added up over all replicas that serve; with one of them missing there is no total.
    SeriesTotal {
        /// The key.
        key: String,
    },
    /// No source here can answer it; the text says why.
    Unanswerable(String),
}

/// One model to serve.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The model as clients name it.
    pub model: ModelId,
    /// The pool that serves it.
    pub pool: PoolId,
    /// The policy of that pool; it holds exactly this pool.
    pub policy: Policy,
    /// One source per metric of the policy, in the policy's order.
    pub queries: Vec<MetricQuery>,
    /// Requests a replica may have in flight.
    pub slots: u32,
    /// How often each replica is scraped.
    pub scrape_period: Duration,
    /// How long a start is expected to take before one has been seen.
    pub start_estimate: Duration,
    /// How long a draining replica may take to finish what it has.
    pub drain_timeout: Duration,
}

/// What a supervisor says about one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// It was created.
    Started {
        /// Its pool.
        pool: PoolId,
        /// Where it will listen: `host:port`.
        address: String,
        /// When it was created.
        created_at: Timestamp,
    },
    /// It can serve.
    Ready,
    /// It cannot serve any more, but exists.
    NotReady,
    /// It broke; the supervisor will try again.
    Failed {
        /// What happened, for people.
        why: String,
    },
    /// It is gone and will not come back.
    Stopped,
}

/// One input.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The whole set of models. Replicas of a model that is not in it any more finish what they have, within its drain time, and go; then
    /// it is forgotten.
    Configure(Vec<ModelSpec>),
    /// A gateway speaks.
    Gateway(GatewayReport),
    /// A gateway is gone and will not come back under this name; its silence means nothing any more.
    GatewayGone(GatewayId),
    /// The scale target was found to be told this count by somebody else: an earlier loop, or a person. Say it once per model to a
    /// restored loop, after the replicas that exist; then only for counts that this loop did not order.
    Counted {
        /// The pool whose target it is.
        pool: PoolId,
        /// The count found.
        replicas: u32,
    },
    /// A replica's page was read, or could not be.
    Scraped {
        /// Whose page.
        replica: ReplicaId,
        /// When.
        at: Timestamp,
        /// What it said, or why it said nothing.
        outcome: Result<Arc<Reading>, String>,
    },
    /// A supervisor speaks.
    Replica {
        /// About which replica.
        replica: ReplicaId,
        /// What it says.
        event: ReplicaEvent,
    },
    /// Time has passed; due at [`crate::Control::next_deadline`].
    Tick,
}

/// One output.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// For the scale target: [`Action::SetReplicas`] alone, since draining is said to the gateways. The replicas it names have been emptied
    /// and serve nothing any more: they go in any case, and are named until they are gone. Where more must go, those that do not serve go first.
    Act(Action),
    /// Say this to every gateway.
    Gateway(GatewayOrder),
    /// The set of replicas worth scraping changed: [`crate::Control::scrape_targets`].
    TargetsChanged,
    /// The number of wanted replicas changed, with its explanation (law L8).
    Scaled(ScaleEvent),
    /// A decision was made.
    Decided {
        /// For which model.
        model: ModelId,
        /// The decision with its steps.
        decision: Box<PoolDecision>,
    },
    /// Something a person should know: an autoscaler that cannot act, a drain that ran out of time, a broken law.
    Alarm {
        /// For which model.
        model: ModelId,
        /// What and what to do.
        text: String,
    },
}

/// One change of the number of wanted replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleEvent {
    /// When it was decided.
    pub at: Timestamp,
    /// For which model.
    pub model: ModelId,
    /// Wanted before.
    pub from: u32,
    /// Wanted from now on.
    pub to: u32,
    /// Why, in one line.
    pub reason: String,
}
