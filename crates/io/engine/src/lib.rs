//! An engine without a GPU: the OpenAI API and a real engine's metrics page around the engine model of `loadline-sim`,
//! driven in real time.
//!
//! Invariants
//! - The model decides when every token is due; a connection only carries it.
//! - All times and rates on the metrics page are in model time, also when the clock runs faster.
//! - A client that goes away frees its batch slot and KV blocks at once.
//! - Connections, bodies, waiting requests and output lengths are bounded by settings.
//!
//! Deliberately absent: text that means something, tokenizers, tools, images, and any scheduling rule (it is in the model).

mod api;
mod core;
mod driver;
mod http_guard;
mod http_stats;
mod page;
mod process_stats;
mod server;
mod settings;
mod stream;

pub use driver::{Engine, EngineHandle, StartError};
pub use settings::{
    DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_CONNECTIONS, DEFAULT_MEAN_OUTPUT_TOKENS, DEFAULT_SHUTDOWN_TIMEOUT, Dialect,
    EngineSettings,
};
