//! What goes in and what comes out.

use loadline_base::{GatewayId, ModelId, PoolId, ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{Action, Policy, PoolDecision};
use loadline_signals::dialect::{Reading, SignalName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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
    /// A value that comes from outside the replicas' pages (cpu, memory, an external source): [`Event::Supplied`] brings it.
    Supplied {
        /// How often its source speaks; the age of its values is counted in it.
        period: Duration,
    },
    /// No source here can answer it; the text says why.
    Unanswerable(String),
}

/// Whether gateways stand in front of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GatewayUse {
    /// They do: one that does not speak is missing, never idle.
    #[default]
    Configured,
    /// None does. Nothing is drained or closed through one, and zero is reached only when every replica itself reports to be idle.
    /// What a removed replica has in flight is ended by its own termination (preStop, grace period).
    Absent,
}

/// Who chooses the replica that goes when the count of a scale target is lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Removal {
    /// The target removes those it is told to (processes; a ReplicaSet through `pod-deletion-cost`): the emptiest go first.
    #[default]
    Named,
    /// The target removes the highest ordinal first (a StatefulSet); ids end in `-N`. The count goes down no further than to the
    /// lowest ordinal that is still draining.
    HighestOrdinal,
    /// Nobody can tell which one goes, so none is drained: only the count goes down, and the replica's own termination ends its work.
    Unknown,
}

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// They are.
    #[default]
    Active,
    /// They are made and said, and nothing else: no count, no drain, no close. Whoever sets the count is not reported.
    Advisory,
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
    /// Whether gateways stand in front of it.
    pub gateway: GatewayUse,
    /// Who chooses the replica that goes.
    pub removal: Removal,
    /// Whether decisions are carried out.
    pub mode: Mode,
}

/// A value of [`MetricQuery::Supplied`].
#[derive(Debug, Clone, PartialEq)]
pub enum Supplied {
    /// One value for the pool.
    Total(f64),
    /// One value per replica; replicas without one are missing, not zero.
    PerReplica(BTreeMap<ReplicaId, f64>),
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
    /// It exists and nothing can run it now: no node has room, its image cannot be pulled. Over when it is said to be ready or
    /// gone, or with [`ReplicaEvent::Scheduled`].
    Unschedulable {
        /// What stands in the way, for people.
        why: String,
    },
    /// What [`ReplicaEvent::Unschedulable`] said is over.
    Scheduled,
    /// It is being ended, by whoever: it takes nothing new and may finish what it has within its grace. [`ReplicaEvent::Stopped`] follows.
    Ending,
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
    /// A model is not autoscaled any more and its scale target stays as it is: it is forgotten at once, and nothing is ordered. Say it
    /// before an [`Event::Configure`] without the model, where replicas do not belong to Loadline.
    Release(ModelId),
    /// A gateway speaks.
    Gateway(GatewayReport),
    /// A gateway is gone and will not come back under this name; its silence means nothing any more.
    GatewayGone(GatewayId),
    /// A gateway does not serve a model any more, although it lives.
    GatewayLeft {
        /// The model.
        model: ModelId,
        /// The gateway.
        gateway: GatewayId,
    },
    /// The gateways of a model that are known to run, all of them: one that has not spoken to this loop yet is missing, not idle.
    Gateways {
        /// The model.
        model: ModelId,
        /// Who should speak.
        running: BTreeSet<GatewayId>,
    },
    /// So many replicas exist by the word of the scale target alone, and nothing else is known of them: they have no events of their own.
    Unlisted {
        /// The pool.
        pool: PoolId,
        /// How many.
        replicas: u32,
    },
    /// The scale target was found to be told this count by somebody else: an earlier loop, or a person. Say it once per model to a
    /// restored loop, after the replicas that exist; then only for counts that this loop did not order.
    Counted {
        /// The pool whose target it is.
        pool: PoolId,
        /// The count found.
        replicas: u32,
    },
    /// The scale target is at rest: it was told this count, as many replicas exist and none is being ended. Replicas that were named for
    /// removal and are still there have been spared (the target chose others) and serve again. Ignored while another count is ordered.
    Settled {
        /// The pool whose target it is.
        pool: PoolId,
        /// The count.
        replicas: u32,
    },
    /// What became of the last [`Action::SetReplicas`] of a pool: `Err` says why it could not be written yet (law L8); `Ok` ends that.
    Written {
        /// The pool.
        pool: PoolId,
        /// What happened.
        outcome: Result<(), String>,
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
    /// The value of a metric whose query is [`MetricQuery::Supplied`], or why there is none. Its evidence ages like that of a page.
    Supplied {
        /// The model.
        model: ModelId,
        /// The metric's place in the policy.
        metric: usize,
        /// When its source gave it, by this process's clock.
        at: Timestamp,
        /// The value, or why there is none.
        outcome: Result<Supplied, String>,
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
