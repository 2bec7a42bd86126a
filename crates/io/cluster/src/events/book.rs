//! Which events are written, as new ones or as repeats, and when. No requests here.

use super::{EventKind, EventNote, ObjectRef};
use crate::checkpoints::fnv1a;
use loadline_base::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Equal events this close together are one event with a count.
const AGGREGATE: Duration = Duration::from_secs(600);
/// Longest message, as the server allows.
const MAX_MESSAGE: usize = 1_024;
/// How long an event that cannot be written is kept.
const KEEP_FAILED: Duration = Duration::from_secs(600);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// One event as it will stand in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) about: ObjectRef,
    pub(super) kind: EventKind,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: u32,
}

/// One write to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) name: String,
    pub(super) is_repeat: bool,
    pub(super) entry: Entry,
}

type Same = (ObjectRef, &'static str, String);

struct Known {
    name: String,
    first: Timestamp,
    last: Timestamp,
    count: u32,
    /// It stands in the cluster; until then a repeat only counts.
    stands: bool,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// What is known of past events, and what waits.
pub(super) struct Book {
    per_minute: f64,
    limit: usize,
    known: BTreeMap<Same, Known>,
    buckets: BTreeMap<Arc<str>, Bucket>,
    waiting: VecDeque<Same>,
    kinds: BTreeMap<Same, EventKind>,
    not_before: Timestamp,
    sequence: u64,
    dropped: u64,
}

impl Book {
    pub(super) fn new(per_minute: u32, limit: usize) -> Self {
        Self {
            per_minute: f64::from(per_minute.max(1)),
            limit: limit.max(1),
            known: BTreeMap::new(),
            buckets: BTreeMap::new(),
            waiting: VecDeque::new(),
            kinds: BTreeMap::new(),
            not_before: Timestamp::ZERO,
            sequence: 0,
            dropped: 0,
        }
    }

    /// Takes an event in. The same event again within ten minutes counts up the first.
    pub(super) fn note(&mut self, now: Timestamp, note: EventNote) {
        let message = cut(note.message);
        let same = (note.about, note.reason, message);
        self.forget_old(now);
        if !self.known.contains_key(&same) && self.known.len() >= self.limit {
            self.dropped += 1;
            return;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let name = || {
            let seed = format!("{}/{}/{}/{}/{sequence}", same.0.uid, same.1, same.2, now.as_nanos());
            format!("{}.{:016x}", same.0.key.name, fnv1a(seed.as_bytes()))
        };
        let known = self.known.entry(same.clone()).or_insert_with(|| Known {
            name: name(),
            first: now,
            last: now,
            count: 0,
            stands: false,
        });
        known.count = known.count.saturating_add(1);
        known.last = now;
        if !self.kinds.contains_key(&same) {
            self.kinds.insert(same.clone(), note.kind);
            self.waiting.push_back(same);
        }
    }

    /// The next write that is due: the oldest whose object still has a token.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Post> {
        if now < self.not_before {
            return None;
        }
        let index = (0..self.waiting.len()).find(|index| {
            let uid = self.waiting.get(*index).map(|same| Arc::clone(&same.0.uid));
            uid.is_some_and(|uid| self.take_token(now, &uid))
        })?;
        let same = self.waiting.remove(index)?;
        let kind = self.kinds.remove(&same)?;
        let known = self.known.get(&same)?;
        Some(Post {
            name: known.name.clone(),
            is_repeat: known.stands,
            entry: Entry {
                about: same.0,
                kind,
                reason: same.1,
                message: same.2,
                first: known.first,
                last: known.last,
                count: known.count,
            },
        })
    }

    pub(super) fn written(&mut self, post: &Post) {
        if let Some(known) = self.known.get_mut(&same_of(post)) {
            known.stands = true;
        }
    }

    /// A write failed: it waits again, or is given up.
    pub(super) fn failed(&mut self, now: Timestamp, post: &Post, retry: bool) {
        let same = same_of(post);
        if retry && now.since(post.entry.last) < KEEP_FAILED {
            self.not_before = now.plus(RETRY);
            if self.kinds.insert(same.clone(), post.entry.kind).is_none() {
                self.waiting.push_front(same);
            }
        } else {
            self.dropped += 1;
            if !self.kinds.contains_key(&same) {
                self.known.remove(&same);
            }
        }
    }

    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn take_token(&mut self, now: Timestamp, uid: &Arc<str>) -> bool {
        let per_minute = self.per_minute;
        let bucket = self.buckets.entry(Arc::clone(uid)).or_insert(Bucket { tokens: per_minute, at: now });
        let gained = now.since(bucket.at).as_secs_f64() * per_minute / 60.0;
        bucket.tokens = (bucket.tokens + gained).min(per_minute);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Lets go of events that are too old to be counted up.
    fn forget_old(&mut self, now: Timestamp) {
        let kinds = &self.kinds;
        self.known.retain(|same, known| kinds.contains_key(same) || now.since(known.last) < AGGREGATE);
        self.buckets.retain(|_, bucket| now.since(bucket.at) < AGGREGATE);
    }
}

fn same_of(post: &Post) -> Same {
    (post.entry.about.clone(), post.entry.reason, post.entry.message.clone())
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}
