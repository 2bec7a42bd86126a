//! Answers of reviews, kept for a while, bounded, with equal questions asked once.

use loadline_base::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A question, as the SHA-256 of its parts: of fixed size, and no credential is kept.
pub(crate) type Key = [u8; 32];

/// Feeds text parts to a [`Key`] so that no two lists of parts read alike.
#[derive(Default)]
pub(crate) struct KeyParts(Vec<u8>);

impl KeyParts {
    pub(crate) fn add(&mut self, part: &str) -> &mut Self {
        self.0.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.extend_from_slice(part.as_bytes());
        self
    }

    pub(crate) fn key(&self) -> Key {
        sha256(&self.0)
    }
}

/// SHA-256, by the TLS library's provider.
pub(crate) fn sha256(bytes: &[u8]) -> Key {
    let mut key = Key::default();
    if let rustls::SupportedCipherSuite::Tls13(suite) =
        rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256
    {
        let digest = suite.common.hash_provider.hash(bytes);
        for (to, from) in key.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
    }
    key
}

struct Entry<V, E> {
    number: u64,
    answer: OnceCell<(Result<V, E>, Timestamp)>,
}

struct State<V, E> {
    entries: BTreeMap<Key, Arc<Entry<V, E>>>,
    /// Every entry once, in the order they were made.
    order: VecDeque<(Key, u64)>,
    next: u64,
}

/// A bounded map from questions to answers with one life for all. A failure is shared by those who waited for it and
/// not kept. If the caller that asks goes away, the next one that waits asks again.
pub(crate) struct Cache<V, E> {
    state: Mutex<State<V, E>>,
    ttl: Duration,
    max: usize,
}

impl<V: Clone, E: Clone> Cache<V, E> {
    pub(crate) fn new(ttl: Duration, max: usize) -> Self {
        let state = State { entries: BTreeMap::new(), order: VecDeque::new(), next: 0 };
        Self { state: Mutex::new(state), ttl, max: max.max(1) }
    }

    /// The kept answer, or that of `ask`; `now` reads the clock.
    pub(crate) async fn get<F>(&self, key: Key, now: impl Fn() -> Timestamp, ask: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let entry = self.entry(key, now());
        let (answer, _) = entry.answer.get_or_init(|| async { (ask().await, now()) }).await;
        if answer.is_err() {
            self.forget(key, entry.number);
        }
        answer.clone()
    }

    fn entry(&self, key: Key, now: Timestamp) -> Arc<Entry<V, E>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = state.entries.get(&key)
            && !self.is_over(entry, now)
        {
            return Arc::clone(entry);
        }
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        let entry = Arc::new(Entry { number, answer: OnceCell::new() });
        state.entries.insert(key, Arc::clone(&entry));
        state.order.push_back((key, number));
        while let Some(&(oldest, number)) = state.order.front() {
            let kept = state.entries.get(&oldest).filter(|entry| entry.number == number);
            let drop_it = kept.is_none_or(|entry| self.is_over(entry, now)) || state.entries.len() > self.max;
            if !drop_it {
                break;
            }
            if kept.is_some() {
                state.entries.remove(&oldest);
            }
            state.order.pop_front();
        }
        if state.order.len() > self.max.saturating_mul(2) {
            // failures behind a long-lived answer leave places in the order that no entry has
            let State { entries, order, .. } = &mut *state;
            order.retain(|(key, number)| entries.get(key).is_some_and(|entry| entry.number == *number));
        }
        entry
    }

    fn is_over(&self, entry: &Entry<V, E>, now: Timestamp) -> bool {
        entry.answer.get().is_some_and(|(answer, at)| answer.is_err() || now.since(*at) >= self.ttl)
    }

    fn forget(&self, key: Key, number: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.entries.get(&key).is_some_and(|entry| entry.number == number) {
            state.entries.remove(&key);
        }
    }

    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.entries.len(), state.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn key(text: &str) -> Key {
        KeyParts::default().add(text).key()
    }

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(KeyParts::default().add("ab").add("c").key(), KeyParts::default().add("a").add("bc").key());
        assert_ne!(sha256(b"a"), sha256(b"b"));
        // FIPS 180-2, appendix B.1
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_answers_end() {
        let cache: Cache<u32, String> = Cache::new(Duration::from_secs(10), 8);
        let asked = AtomicU32::new(0);
        let ask = || async {
            tokio::task::yield_now().await;
            Ok(asked.fetch_add(1, Ordering::SeqCst))
        };
        let start = || Timestamp::from_secs(100);
        let both = tokio::join!(cache.get(key("a"), start, ask), cache.get(key("a"), start, ask));
        assert_eq!(both, (Ok(0), Ok(0)));
        assert_eq!(cache.get(key("a"), || Timestamp::from_secs(109), ask).await, Ok(0));
        assert_eq!(cache.get(key("a"), || Timestamp::from_secs(110), ask).await, Ok(1));
    }

    #[tokio::test]
    async fn failures_are_not_kept_and_the_map_stays_bounded() {
        let cache: Cache<u32, String> = Cache::new(Duration::from_secs(10), 4);
        let now = || Timestamp::from_secs(100);
        assert_eq!(cache.get(key("a"), now, || async { Err("no".to_owned()) }).await, Err("no".to_owned()));
        assert_eq!(cache.get(key("a"), now, || async { Ok(7) }).await, Ok(7));
        for number in 0..1000 {
            assert_eq!(cache.get(key(&number.to_string()), now, || async { Ok(number) }).await, Ok(number));
            let _ = cache.get(key("bad"), now, || async { Err("no".to_owned()) }).await;
        }
        for _ in 0..1000 {
            let _ = cache.get(key("bad"), now, || async { Err("no".to_owned()) }).await;
        }
        let (entries, order) = cache.sizes();
        assert!(entries <= 4 && order <= 9, "{entries} entries, {order} in order");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_question_to_the_next() {
        let cache: Cache<u32, String> = Cache::new(Duration::from_secs(10), 4);
        let now = || Timestamp::from_secs(1);
        let first = tokio::time::timeout(Duration::ZERO, cache.get(key("a"), now, std::future::pending)).await;
        assert!(first.is_err());
        assert_eq!(cache.get(key("a"), now, || async { Ok(3) }).await, Ok(3));
    }
}
