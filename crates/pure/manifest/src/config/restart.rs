//! What is taken at the start only: sockets, and bounds that hold for a connection's whole life.

use super::{Config, defaults};
use crate::defaults::Entry;

macro_rules! at_start {
    ($($entry:ident => $($field:ident).+;)*) => {
        /// Settings whose change takes effect with the next start.
        pub const AT_START: &[Entry] = &[$(defaults::$entry),*];

        impl Config {
            /// Gives every setting of [`AT_START`] the value it had at the start, and names the fields that were changed.
            pub fn keep_from_start(&mut self, started: &Self) -> Vec<&'static str> {
                let mut changed = Vec::new();
                $(
                    if self.$($field).+ != started.$($field).+ {
                        self.$($field).+.clone_from(&started.$($field).+);
                        changed.push(defaults::$entry.field);
                    }
                )*
                changed
            }
        }
    };
}

at_start! {
    LISTEN => listen;
    SCRAPE_PERIOD => scrape_period;
    MAX_BODY => gateway.max_body_bytes;
    MAX_HEADER_BYTES => gateway.max_header_bytes;
    HEADER_TIMEOUT => gateway.header_timeout;
    BODY_TIMEOUT => gateway.body_timeout;
    MIN_BODY_RATE => gateway.min_body_rate;
    MAX_CONNECTIONS => gateway.max_connections;
    H2_MAX_STREAMS => gateway.h2_max_streams;
    CONNECT_TIMEOUT => gateway.connect_timeout;
    RESPONSE_TIMEOUT => gateway.response_timeout;
    STREAM_IDLE_TIMEOUT => gateway.stream_idle_timeout;
    WRITE_STALL_TIMEOUT => gateway.write_stall_timeout;
    IDLE_CONNECTIONS => gateway.idle_connections_per_replica;
    HELD_BYTES_TOTAL => gateway.held_bytes_total;
    INFERENCE_POOL => gateway.inference_pool;
    CONTROLLER => gateway.top_level_controller_name;
    LEGACY_METRICS => gateway.legacy_metrics;
}
