use super::{HistogramDelta, HistogramError, POINT_BYTES, Reading, Store, StoreError, StoreLimits, quantile};
use loadline_base::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(seconds)
}

const fn counter(series: &str, value: f64) -> Reading<'_> {
    Reading { series, value, cumulative: true }
}

const fn gauge(series: &str, value: f64) -> Reading<'_> {
    Reading { series, value, cumulative: false }
}

#[test]
fn a_drop_of_one_counter_resets_every_counter_of_that_source_only() {
    let mut store = Store::new(StoreLimits::default());
    for source in ["r1", "r2"] {
        store.store(source, at(1), None, &[counter("a", 10.0), counter("b", 5.0), gauge("g", 3.0)]).expect("room");
    }
    // b did not go down, but its process did
    let outcome =
        store.store("r1", at(2), None, &[counter("a", 2.0), counter("b", 6.0), gauge("g", 1.0)]).expect("room");
    assert!(outcome.restarted);
    assert_eq!(store.latest("r1", "a").expect("a").total, 12.0);
    assert_eq!(store.latest("r1", "b").expect("b").total, 11.0);
    assert_eq!(store.latest("r1", "b").expect("b").value, 6.0);
    assert_eq!(store.latest("r1", "g").expect("g").total, 1.0);
    assert_eq!((store.restarts("r1"), store.restarts("r2")), (1, 0));
    assert_eq!(store.latest("r2", "a").expect("a").age(at(4)), Duration::from_secs(3));
    assert_eq!(
        store.across("a").map(|(source, latest)| (source, latest.total)).collect::<Vec<_>>(),
        [("r1", 12.0), ("r2", 10.0)]
    );
}

#[test]
fn a_newer_start_time_is_a_restart_even_when_every_counter_grew() {
    let mut store = Store::new(StoreLimits::default());
    store.store("r1", at(1), Some(100.0), &[counter("a", 10.0)]).expect("room");
    assert!(!store.store("r1", at(2), Some(100.0), &[counter("a", 11.0)]).expect("room").restarted);
    assert!(store.store("r1", at(3), Some(200.0), &[counter("a", 15.0)]).expect("room").restarted);
    assert_eq!(store.latest("r1", "a").expect("a").total, 26.0);
}

#[test]
fn history_is_kept_only_where_asked_and_survives_restarts() {
    let mut store = Store::new(StoreLimits { history_points: 3, ..StoreLimits::default() });
    store.keep_history("a").expect("room");
    for (second, value) in [(0, 0.0), (10, 50.0), (20, 10.0), (30, 40.0)] {
        store.store("r1", at(second), None, &[counter("a", value), counter("b", value)]).expect("room");
    }
    let totals: Vec<f64> = store.history("r1", "a", at(30), Duration::from_secs(60)).map(|point| point.total).collect();
    assert_eq!(totals, [50.0, 60.0, 90.0]);
    assert_eq!(store.increase("r1", "a", at(30), Duration::from_secs(60)), Some(40.0));
    assert_eq!(store.rate("r1", "a", at(30), Duration::from_secs(10)), Some(3.0));
    assert_eq!(store.rate("r1", "a", at(30), Duration::from_secs(9)), None);
    assert_eq!(store.rate("r1", "b", at(30), Duration::from_secs(60)), None);
}

#[test]
fn every_bound_is_a_counted_error_and_forgetting_frees_the_room() {
    let limits = StoreLimits { max_sources: 2, max_series: 3, max_bytes: 1_000, max_histories: 1, history_points: 4 };
    let mut store = Store::new(limits);
    store.store("r1", at(1), None, &[gauge("a", 1.0), gauge("b", 1.0)]).expect("room");
    let outcome = store.store("r2", at(1), None, &[gauge("a", 1.0), gauge("b", 1.0)]).expect("room");
    assert_eq!((outcome.stored, outcome.refused), (1, 1));
    assert_eq!(outcome.first_error, Some(StoreError::TooManySeries { series: "b".into(), limit: 3 }));
    assert!(matches!(store.store("r3", at(1), None, &[]), Err(StoreError::TooManySources { limit: 2, .. })));
    assert_eq!(store.refused(), 2);
    assert!(matches!(store.store("r1", at(1), None, &[]), Err(StoreError::NotNewer { .. })));
    store.forget("r1");
    let long = "x".repeat(1_000);
    let outcome = store.store("r2", at(2), None, &[gauge(&long, 1.0), gauge("b", 1.0)]).expect("room");
    assert!(matches!(outcome.first_error, Some(StoreError::TooManyBytes { limit: 1_000, .. })));
    assert_eq!(store.series_count(), 2);
    store.keep_history("b").expect("room");
    store.keep_history("b").expect("asked before");
    assert_eq!(store.keep_history("c"), Err(StoreError::TooManyHistories { series: "c".into(), limit: 1 }));
    let bytes = store.bytes();
    store.store("r2", at(3), None, &[gauge("b", 1.0)]).expect("room");
    assert_eq!(store.bytes(), bytes + 4 * POINT_BYTES);
    store.drop_history("b");
    assert_eq!(store.bytes(), bytes - 1);
    assert!(matches!(store.keep_history(&long), Err(StoreError::TooManyBytes { .. })));
    store.keep_history("b").expect("room again");
    store.store("r2", at(4), None, &[gauge("b", 1.0)]).expect("room");
    store.forget("r2");
    store.drop_history("b");
    assert_eq!((store.series_count(), store.bytes()), (0, 0));
}

#[test]
fn quantiles_interpolate_as_prometheus_does() {
    let buckets = [(1.0, 10.0), (2.0, 30.0), (f64::INFINITY, 40.0)];
    for (q, want) in [
        (0.0, Some(0.0)),
        (0.125, Some(0.5)),
        (0.5, Some(1.5)),
        (0.75, Some(2.0)),
        (0.99, Some(2.0)),
        (1.1, None),
        (f64::NAN, None),
    ] {
        assert_eq!(quantile(&buckets, q), want, "{q}");
    }
    assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
    assert_eq!(quantile(&[(f64::INFINITY, 3.0)], 0.5), None);
    assert_eq!(quantile(&[(1.0, 3.0), (2.0, 4.0)], 0.5), None);
    let later = [(1.0, 12.0), (2.0, 34.0), (f64::INFINITY, 44.0)];
    let delta = HistogramDelta::between(&buckets, &later).expect("same edges");
    assert_eq!(delta.count(), 4.0);
    assert_eq!(delta.quantile(0.5), Some(1.0));
    assert_eq!(HistogramDelta::between(&later, &buckets), Err(HistogramError::Reset));
    assert_eq!(HistogramDelta::between(&later, &buckets[1..]), Err(HistogramError::Edges));
}

proptest! {
    #[test]
    fn totals_never_go_down(values in proptest::collection::vec(0_u32..1_000, 1..50)) {
        let mut store = Store::new(StoreLimits::default());
        let mut last = 0.0;
        for (second, value) in (0_i64..).zip(values) {
            store.store("r1", at(second), None, &[counter("a", f64::from(value))]).expect("room");
            let total = store.latest("r1", "a").expect("a").total;
            prop_assert!(total >= last);
            last = total;
        }
    }
}
