//! Metrics of a model: normalised signals, and the `Pods` and `External` metrics of autoscaling/v2 over the sources one
//! machine has, which are the replicas' own pages and the gateway.

use crate::hpa::{ExternalSource, MetricIdentifier, MetricTarget, PodsSource, target_of};
use loadline_base::Quantity;
use loadline_policy::hpa as peer;
use loadline_policy::signal::{REQUESTS_DEMAND, REQUESTS_HELD};
use std::collections::BTreeMap;
use std::fmt;

/// A normalised signal and its target per replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalMetric {
    /// A name of [`loadline_policy::signal::SIGNALS`].
    pub name: String,
    /// `averageValue`, positive.
    pub average_value: Quantity,
}

/// One metric of a model, valid.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelMetric {
    /// A normalised signal.
    Signal(SignalMetric),
    /// A series of each replica's own page, averaged over replicas.
    Pods(PodsSource),
    /// A series added over all replicas, or one of the gateway's counts.
    External(ExternalSource),
}

/// Where the value of a metric comes from on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Requests held and in flight at the gateways, with the peak since the last decision.
    GatewayDemand,
    /// Requests held at the gateways.
    GatewayHeld,
    /// Requests in flight at the gateways.
    GatewayInFlight,
    /// A normalised signal of every replica's engine.
    Engine(&'a str),
    /// One value of a series per replica.
    PerReplica {
        /// The series; `:` and `_` are equal.
        series: &'a str,
        /// Labels it must carry.
        labels: &'a BTreeMap<String, String>,
    },
    /// The series of all replicas added up.
    Total {
        /// The series; `:` and `_` are equal.
        series: &'a str,
        /// Labels it must carry.
        labels: &'a BTreeMap<String, String>,
    },
}

/// External metrics that the gateway itself answers, also at zero replicas: the endpoint picker's names of both generations
/// (`reference/gateway.md` 3.2, 3.3), what the guides' adapter rules call them, and Loadline's own.
pub const GATEWAY_METRICS: &[(&str, Origin<'static>)] = &[
    ("llm_d_epp_flow_control_queue_size", Origin::GatewayHeld),
    ("inference_extension_flow_control_queue_size", Origin::GatewayHeld),
    ("igw_queue_depth", Origin::GatewayHeld),
    ("loadline_gateway_queue_depth", Origin::GatewayHeld),
    ("llm_d_epp_request_running", Origin::GatewayInFlight),
    ("inference_objective_running_requests", Origin::GatewayInFlight),
    ("igw_running_requests", Origin::GatewayInFlight),
    ("loadline_gateway_in_flight", Origin::GatewayInFlight),
    ("loadline_gateway_demand_peak", Origin::GatewayDemand),
];

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

fn labels_of(metric: &MetricIdentifier) -> &BTreeMap<String, String> {
    metric.selector.as_ref().map_or(&NO_LABELS, |selector| &selector.match_labels)
}

fn selector_text(metric: &MetricIdentifier) -> Option<String> {
    let pairs: Vec<String> = labels_of(metric).iter().map(|(label, value)| format!("{label}={value}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

impl ModelMetric {
    /// Where its value comes from. Labels of a gateway metric are not looked at: the gateway's counts are this model's alone.
    #[must_use]
    pub fn origin(&self) -> Origin<'_> {
        match self {
            Self::Signal(signal) if signal.name == REQUESTS_DEMAND => Origin::GatewayDemand,
            Self::Signal(signal) if signal.name == REQUESTS_HELD => Origin::GatewayHeld,
            Self::Signal(signal) => Origin::Engine(&signal.name),
            Self::Pods(source) => Origin::PerReplica { series: &source.metric.name, labels: labels_of(&source.metric) },
            Self::External(source) => {
                let series = source.metric.name.as_str();
                let own = GATEWAY_METRICS.iter().find(|(name, _)| *name == series);
                own.map_or(Origin::Total { series, labels: labels_of(&source.metric) }, |(_, origin)| *origin)
            }
        }
    }

    /// The name as written.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Signal(signal) => &signal.name,
            Self::Pods(source) => &source.metric.name,
            Self::External(source) => &source.metric.name,
        }
    }

    /// Its part of a policy.
    #[must_use]
    pub fn spec(&self) -> peer::MetricSpec {
        let named = |metric: &MetricIdentifier| (metric.name.clone(), selector_text(metric));
        match self {
            Self::Signal(signal) => peer::MetricSpec {
                source: peer::MetricSource::Signal { name: signal.name.clone() },
                target: peer::MetricTarget::average_value(signal.average_value.milli_value()),
            },
            Self::Pods(source) => {
                let (metric, selector) = named(&source.metric);
                let target = target_of(&source.target);
                peer::MetricSpec { source: peer::MetricSource::Pods { metric, selector }, target }
            }
            Self::External(source) => {
                let (metric, selector) = named(&source.metric);
                let target = target_of(&source.target);
                peer::MetricSpec { source: peer::MetricSource::External { metric, selector }, target }
            }
        }
    }
}

/// The name with its target, for people: `requests_demand 11 per replica`.
impl fmt::Display for ModelMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        let of = |target: &MetricTarget| (target.average_value, target.value);
        let (average, value) = match self {
            Self::Signal(signal) => (Some(signal.average_value), None),
            Self::Pods(source) => of(&source.target),
            Self::External(source) => of(&source.target),
        };
        match (average, value) {
            (Some(average), _) => write!(f, "{name} {average} per replica"),
            (None, Some(value)) => write!(f, "{name} {value} in all"),
            (None, None) => f.write_str(name),
        }
    }
}
