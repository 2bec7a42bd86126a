//! HTTP as all adapters use it: a parsed target, a connector, a one-shot bounded GET, a listener and its accept loop.

pub mod connect;
pub mod fetch;
pub mod limits;
pub mod serve;
pub mod target;

pub use connect::{Connector, Stream, TlsClient};
pub use fetch::{FetchError, FetchErrorKind, Fetched, fetch};
pub use limits::{FetchLimits, ServeLimits};
pub use serve::{BindError, bind, serve};
pub use target::{Scheme, Target, TargetError};
