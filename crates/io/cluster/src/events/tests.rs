use super::book::Book;
use super::{EventKind, EventNote, Events, ObjectRef, reason};
use crate::fake::{Fake, ok, status};
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::ClusterSettings;
use loadline_base::Timestamp;
use loadline_net::clock::Clock;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

fn note(message: &str) -> EventNote {
    EventNote {
        about: ObjectRef::new("loadline.dev/v1alpha1", "InferenceAutoscaler", Key::new("ml", "vllm"), "u1"),
        kind: EventKind::Normal,
        reason: reason::SUCCESSFUL_RESCALE,
        message: message.to_owned(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(seconds)
}

#[test]
fn equal_events_are_counted_and_others_are_not() {
    let mut book = Book::new(100, 100);
    book.note(at(1), note("New size: 2"));
    let first = book.due(at(1)).expect("due");
    assert!(!first.is_repeat && first.entry.count == 1);
    book.written(&first);
    book.note(at(5), note("New size: 2"));
    book.note(at(6), note("New size: 2"));
    let second = book.due(at(6)).expect("due");
    assert_eq!((second.is_repeat, second.entry.count, second.name == first.name), (true, 3, true));
    assert_eq!((second.entry.first, second.entry.last), (at(1), at(6)));
    assert_eq!(book.due(at(6)), None);
    book.note(at(7), note("New size: 3"));
    assert!(!book.due(at(7)).expect("due").is_repeat);
    book.note(at(2_000), note("New size: 2"));
    assert!(!book.due(at(2_000)).expect("due").is_repeat, "ten minutes later it is told anew");
}

#[test]
fn a_rush_is_bounded_per_object_and_told_later() {
    let mut book = Book::new(2, 100);
    for size in 0..5 {
        book.note(at(1), note(&format!("New size: {size}")));
    }
    let mut other = note("x");
    other.about.uid = "u2".into();
    book.note(at(1), other);
    let now: Vec<String> = std::iter::from_fn(|| book.due(at(1))).map(|post| post.entry.message).collect();
    assert_eq!(now, ["New size: 0", "New size: 1", "x"], "another object is not held up");
    let later: Vec<String> = std::iter::from_fn(|| book.due(at(61))).map(|post| post.entry.message).collect();
    assert_eq!(later, ["New size: 2", "New size: 3"]);
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let mut book = Book::new(1, 3);
    for size in 0..5 {
        book.note(at(1), note(&format!("New size: {size}")));
    }
    assert_eq!(book.take_dropped(), 2);
}

#[tokio::test(start_paused = true)]
async fn events_are_written_repeated_by_patch_and_told_anew_where_they_have_ended() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "PATCH" => status(404, "ended"),
        _ => ok(json!({})),
    });
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let rest = Rest::new(fake.client(), Duration::from_secs(5));
    let settings = ClusterSettings::new("ops", "loadline-0");
    let events = Events::start(rest, Clock::real(), &settings, &tasks, &cancel);
    tasks.close();
    events.record(note("New size: 2; reason: demand"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    events.record(note("New size: 2; reason: demand"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    cancel.cancel();
    tasks.wait().await;
    let seen = fake.seen();
    let methods: Vec<&str> = seen.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PATCH", "POST"]);
    let body = &seen[0].body;
    assert_eq!(body["involvedObject"]["uid"], "u1");
    assert_eq!(
        (&body["count"], &body["type"], &body["reason"]),
        (&json!(1), &json!("Normal"), &json!("SuccessfulRescale"))
    );
    assert!(body["lastTimestamp"].is_string() && body["firstTimestamp"].is_string());
    assert_eq!(seen[2].body["count"], 2);
    assert_eq!(events.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_outlives_a_server_that_is_away() {
    let fake = Fake::script(vec![status(503, "away"), status(503, "away"), ok(json!({}))]);
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let rest = Rest::new(fake.client(), Duration::from_secs(5));
    let events = Events::start(rest, Clock::real(), &ClusterSettings::new("ops", "l"), &tasks, &cancel);
    tasks.close();
    events.record(note("New size: 2"));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(fake.seen().len(), 3, "tried until it was written, then no more");
    cancel.cancel();
    tasks.wait().await;
}
