//! The failures of other autoscalers, each as a test that is named after its number in the catalogue.
//!
//! | # | failure | test |
//! |---|---|---|
//! | 1 | a metric source that is down is read as 0 | `outages::failure_01_source_down_is_not_zero` |
//! | 2 | zero traffic gives no value, so nothing shrinks | `outages::failure_02_zero_traffic_shrinks_on_proof` |
//! | 3 | scaled down after invalid intervals | `outages::failure_03_invalid_intervals_never_shrink` |
//! | 4 | inert but healthy | `outages::failure_04_no_live_signal_is_said_within_three_periods` |
//! | 5 | an unschedulable pod freezes decisions | `pods::failure_05_unschedulable_pods_freeze_nothing` |
//! | 6 | oscillation between 2 and 1 | `outages::failure_06_no_oscillation_between_two_and_one` |
//! | 7 | the stuck gauge of a dead pod blocks going down | `pods::failure_07_the_gauge_of_a_dead_pod_dies_with_it` |
//! | 8 | one crash-looping or slow pod blocks all | `pods::failure_08_a_crash_looping_pod_blocks_nothing` |
//! | 9 | the mean of survivors is taken for all | `outages::failure_09_survivors_are_not_all` |
//! | 10 | fallback to a small number in the middle of a burst | `outages::failure_10_fallback_is_never_below_the_count` |
//! | 11 | pods and groups mixed up | cannot occur yet: the only unit is the pod |
//! | 12 | two controllers fight | `writers::failure_12_two_writers_come_to_rest` |
//! | 13 | requests killed by a scale-down | `removal::failure_13_*`, and `world.rs` and `laws/` beside this folder |
//! | 14 | 404 at zero after a restart | not of this crate: a gateway's models are its configuration (`io/gateway`) |
//! | 15 | held requests lost on restart | `writers::failure_15_a_wake_is_answered_by_the_next_writer` |
//! | 16 | a budget that is silently 0 or off | `writers::failure_16_a_budget_of_zero_is_one_and_is_said`; an unreadable one: `manifest` |
//! | 17 | the wait from zero looks like overload | `pods::failure_17_starting_pods_are_capacity_to_come` |
//! | 18 | other tenants' traffic in a shared Prometheus | cannot occur yet: every value comes from the page of a pod of the target |
//! | 19 | a backlog that does not fall with replicas | comes with the slo policy: with the HPA rule the user chose the metric |
//! | 20 | KV low while prefill is saturated | comes with the slo policy; several metrics already take the largest proposal |
//! | 21 | prefill grows when decode is the bottleneck | comes with several pools |
//! | 22 | a restart forgets history and shrinks at once | `writers::failure_22_a_restart_holds_for_a_down_window` |
//! | 23 | counters reset on an engine's restart | `pods::failure_23_a_new_life_of_a_pod_starts_from_nothing` |
//! | 24 | a total multiplied by the replicas | `pods::failure_24_a_total_is_not_multiplied` |

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a test stops at the first surprise, and its counts are small"
)]

mod outages;
mod pods;
mod removal;
mod world;
mod writers;
