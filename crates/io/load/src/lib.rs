//! The load client behind `bench` and `demo`: replays requests against an OpenAI endpoint and measures what a user of it sees.
//!
//! Invariants
//! - Open loop: a request counts from the instant it was due, also when the client itself was late; the lateness is measured and reported.
//! - Every request that was due ends in exactly one outcome; what failed, timed out or was cut short is a miss of the objective.
//! - Connections, bodies, events, waits and kept records are bounded by [`Options`].
//! - Reported latencies are in model time of the one clock; lateness is in wall time, as it is a property of the client's machine.
//!
//! Deliberately absent: a tokenizer (prompts are sized in words, one word a token, or sent as token ids), pooling of HTTP/2 streams, redirects.

mod client;
mod histogram;
mod live;
mod options;
mod plan;
mod prompt;
mod report;
mod run;
mod stream;
mod target;
mod trace_file;

pub use histogram::Quantiles;
pub use live::{Live, LiveCounts};
pub use options::{DEFAULT_CONNECTIONS, Options, descriptor_budget, raise_descriptor_limit};
pub use plan::{Pace, Plan};
pub use report::{FailureCount, Record, Report, Slo};
pub use run::Load;
pub use stream::{Scanner, StreamError};
pub use target::{Endpoint, ProbeError, PromptForm, Target, TargetError};
pub use trace_file::{TraceFileError, read_trace};
