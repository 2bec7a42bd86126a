//! Every bound of a hold, by name, with its default.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The bounds and switches of one model's hold. All spans are model time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct HoldSettings {
    /// Requests held at once; the newest beyond it is refused (`gateway.md` 6.2: 5,000).
    pub max_held: u32,
    /// Bytes of bodies held at once; the newest beyond it is refused (6.2: 256 MB).
    pub max_held_bytes: u64,
    /// How long a request may wait, in all, while replicas exist and none has a free slot (6.4: 60 s).
    #[serde(with = "loadline_base::duration::text")]
    pub saturated_budget: Duration,
    /// How long a request may wait, in all, while no replica exists. Without a value: twice the 90th percentile of the
    /// start times seen, or twice the start time the writer named if that is longer, within `cold_budget_min` and
    /// `cold_budget_max`; `cold_budget_max` as long as nothing is known, so that a first slow start loses nobody.
    #[serde(with = "optional_span", skip_serializing_if = "Option::is_none")]
    pub cold_budget: Option<Duration>,
    /// Lower end of the learnt cold budget (6.4: 120 s).
    #[serde(with = "loadline_base::duration::text")]
    pub cold_budget_min: Duration,
    /// Upper end of the learnt cold budget (6.4: 900 s).
    #[serde(with = "loadline_base::duration::text")]
    pub cold_budget_max: Duration,
    /// The longest hold of any request, whatever the budgets add up to.
    #[serde(with = "loadline_base::duration::text")]
    pub hold_limit: Duration,
    /// The longest hold of a request that does not stream; set it below the idle limit of a proxy in front.
    #[serde(with = "optional_span", skip_serializing_if = "Option::is_none")]
    pub unstreamed_hold_limit: Option<Duration>,
    /// Times a request may be given to a replica (6.4: 3).
    pub max_attempts: u32,
    /// Retries allowed per hundred admitted requests (6.4: 20).
    pub retry_percent: u32,
    /// Retries that may be saved up; the budget starts with as many.
    pub retry_reserve: u32,
    /// Bodies above this are not sent a second time (6.4: 8 MiB).
    pub retry_body_bytes: u64,
    /// Whether held streams are kept alive with comments; some clients refuse them.
    pub keepalive: bool,
    /// How long a stream is held in silence first (`gateway.md` 4: 15 s).
    #[serde(with = "loadline_base::duration::text")]
    pub keepalive_grace: Duration,
    /// Time between comments (15 s).
    #[serde(with = "loadline_base::duration::text")]
    pub keepalive_period: Duration,
    /// Whether a new replica is given 1, then 4, then 16, ... requests instead of all its slots at once (6.3).
    pub ramp: bool,
    /// Time after which the ramp takes a step without a first byte (6.3: 100 ms).
    #[serde(with = "loadline_base::duration::text")]
    pub ramp_step: Duration,
    /// How long a replica that refused or reset a connection gets nothing; doubles with each repeat.
    #[serde(with = "loadline_base::duration::text")]
    pub eject_first: Duration,
    /// The longest such pause.
    #[serde(with = "loadline_base::duration::text")]
    pub eject_max: Duration,
    /// Whether a request whose expected wait exceeds its budget is refused on arrival.
    pub early_reject: bool,
    /// Samples needed before `early_reject` acts (6.2: 20).
    pub early_reject_samples: u32,
}

impl Default for HoldSettings {
    fn default() -> Self {
        Self {
            max_held: 5_000,
            max_held_bytes: 256 * 1024 * 1024,
            saturated_budget: Duration::from_secs(60),
            cold_budget: None,
            cold_budget_min: Duration::from_secs(120),
            cold_budget_max: Duration::from_secs(900),
            hold_limit: Duration::from_secs(960),
            unstreamed_hold_limit: None,
            max_attempts: 3,
            retry_percent: 20,
            retry_reserve: 20,
            retry_body_bytes: 8 * 1024 * 1024,
            keepalive: true,
            keepalive_grace: Duration::from_secs(15),
            keepalive_period: Duration::from_secs(15),
            ramp: true,
            ramp_step: Duration::from_millis(100),
            eject_first: Duration::from_millis(500),
            eject_max: Duration::from_secs(5),
            early_reject: false,
            early_reject_samples: 20,
        }
    }
}

/// An optional span as text.
mod optional_span {
    use loadline_base::{format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    #[expect(clippy::ref_option, reason = "the signature serde calls")]
    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => serializer.serialize_str(&format_duration(*span)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse_duration(&text).map_err(D::Error::custom))
            .transpose()
    }
}
