//! Request bodies with prompts of an exact length, cut from one buffer.

use crate::target::{Endpoint, PromptForm, Target};
use bytes::Bytes;
use loadline_base::num;
use loadline_sim::trace::Request;
use std::sync::OnceLock;

/// Short everyday words of one length, so that a place in the text is a multiplication away. Common tokenizers give each one token.
const WORDS: [&str; 32] = [
    "time", "year", "work", "life", "hand", "part", "city", "week", "case", "fact", "home", "word", "book", "food",
    "door", "road", "tree", "wind", "rain", "fish", "bird", "game", "town", "farm", "ship", "king", "song", "star",
    "lake", "gold", "milk", "wood",
];
/// Bytes of a word with the blank after it, and of a token id with the comma after it.
const UNIT_BYTES: usize = 5;
/// Words and token ids in the buffers.
const UNITS: usize = 1 << 16;
/// Token ids are four digits, from here on: clear of the special tokens that vocabularies keep at their start, and inside
/// a vocabulary of 1,024, the smallest that test models have.
const FIRST_TOKEN_ID: usize = 1_000;
const TOKEN_IDS: usize = 24;
/// Odd, near 2^64 divided by the golden ratio: spreads consecutive numbers over the buffer (Knuth, TAOCP 3, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What bodies are made from; one per run.
#[derive(Debug)]
pub(crate) struct Bodies {
    head: String,
    tail: &'static str,
    options: String,
    text: &'static [u8],
    form: PromptForm,
    block_tokens: u32,
    seed: u64,
}

impl Bodies {
    pub(crate) fn new(target: &Target, block_tokens: u32, seed: u64) -> Self {
        let model = serde_json::Value::from(target.model.as_str()).to_string();
        let (opening, tail) = match (target.endpoint, target.prompt) {
            (Endpoint::Chat, _) => ("\"messages\":[{\"role\":\"user\",\"content\":\"", "\"}]"),
            (Endpoint::Completions, PromptForm::TokenIds) => ("\"prompt\":[", "]"),
            (Endpoint::Completions, PromptForm::Words { .. }) => ("\"prompt\":\"", "\""),
        };
        let usage = if target.usage { ",\"stream_options\":{\"include_usage\":true}" } else { "" };
        // the chat endpoint takes text only
        let form = match (target.endpoint, target.prompt) {
            (Endpoint::Chat, PromptForm::TokenIds) => PromptForm::default(),
            (_, form) => form,
        };
        Self {
            head: format!("{{\"model\":{model},{opening}"),
            tail,
            options: format!(",\"stream\":true,\"ignore_eos\":true,\"temperature\":0{usage},\"max_tokens\":"),
            text: if form == PromptForm::TokenIds { token_ids() } else { words() },
            form,
            block_tokens,
            seed,
        }
    }

    /// The body of request number `index`.
    pub(crate) fn body(&self, request: &Request, index: u64) -> Bytes {
        let units = match self.form {
            PromptForm::TokenIds => request.input_tokens,
            PromptForm::Words { tokens_per_word } => {
                num::f64_to_u32_trunc((f64::from(request.input_tokens) / tokens_per_word).round())
            }
        };
        let mut left = usize::try_from(units.max(1)).unwrap_or(usize::MAX);
        let mut body = Vec::with_capacity(self.head.len() + self.options.len() + left.saturating_mul(UNIT_BYTES) + 64);
        body.extend_from_slice(self.head.as_bytes());
        let block = usize::try_from(self.block_tokens).unwrap_or(0);
        if block > 0 {
            for &hash in &request.prefix_hashes {
                let taken = block.min(left);
                self.copy(&mut body, hash, taken);
                left -= taken;
            }
        }
        self.copy(&mut body, (index ^ self.seed).wrapping_add(1 << 32), left);
        // the last unit's blank or comma
        body.pop();
        body.extend_from_slice(self.tail.as_bytes());
        body.extend_from_slice(self.options.as_bytes());
        body.extend_from_slice(request.output_tokens.max(1).to_string().as_bytes());
        body.push(b'}');
        Bytes::from(body)
    }

    /// Appends `count` units that depend on `key` alone.
    fn copy(&self, body: &mut Vec<u8>, key: u64, count: usize) {
        let mut at = usize::try_from(key.wrapping_mul(SPREAD) >> 48).unwrap_or(0) % UNITS;
        let mut left = count;
        while left > 0 {
            let taken = left.min(UNITS - at);
            body.extend_from_slice(self.text.get(at * UNIT_BYTES..(at + taken) * UNIT_BYTES).unwrap_or_default());
            left -= taken;
            at = 0;
        }
    }
}

/// A fixed pseudo-random sequence (splitmix64, Steele et al., OOPSLA 2014).
fn mixed(index: usize) -> u64 {
    let mut z = u64::try_from(index).unwrap_or(0).wrapping_add(1).wrapping_mul(SPREAD);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick(index: usize, choices: usize) -> usize {
    usize::try_from(mixed(index) >> 33).unwrap_or(0) % choices
}

fn words() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let words = (0..UNITS).filter_map(|index| WORDS.get(pick(index, WORDS.len())));
        words.flat_map(|word| word.bytes().chain([b' '])).collect()
    })
}

fn token_ids() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let ids = (0..UNITS).map(|index| FIRST_TOKEN_ID + pick(index, TOKEN_IDS));
        ids.flat_map(|id| format!("{id},").into_bytes()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn target(endpoint: Endpoint, prompt: PromptForm) -> Target {
        let mut target = Target::new("http://127.0.0.1:1", "a\"b", endpoint).expect("a URL");
        target.prompt = prompt;
        target
    }

    fn parsed(bodies: &Bodies, request: &Request, index: u64) -> Value {
        serde_json::from_slice(&bodies.body(request, index)).expect("JSON")
    }

    #[test]
    fn prompts_have_the_length_asked_for() {
        for tokens in [0_u32, 1, 2, 511, 65_536, 150_001] {
            let request = Request { input_tokens: tokens, output_tokens: 7, ..Request::default() };
            let expect = usize::try_from(tokens.max(1)).expect("small");
            let chat = parsed(&Bodies::new(&target(Endpoint::Chat, PromptForm::default()), 0, 1), &request, 3);
            assert_eq!(chat["model"], "a\"b");
            assert_eq!(chat["max_tokens"], 7);
            assert_eq!(chat["stream"], true);
            assert_eq!(chat["ignore_eos"], true);
            assert_eq!(chat["stream_options"]["include_usage"], true);
            let content = chat["messages"][0]["content"].as_str().expect("text");
            assert_eq!(content.split_whitespace().count(), expect);
            assert!(!content.ends_with(' '));
            let ids = parsed(&Bodies::new(&target(Endpoint::Completions, PromptForm::TokenIds), 0, 1), &request, 3);
            assert_eq!(ids["prompt"].as_array().expect("a list").len(), expect);
            let half = PromptForm::Words { tokens_per_word: 2.0 };
            let text = parsed(&Bodies::new(&target(Endpoint::Completions, half), 0, 1), &request, 3);
            let words = text["prompt"].as_str().expect("text").split_whitespace().count();
            assert!((2 * words).abs_diff(expect) <= 1, "{words} for {expect}");
        }
    }

    #[test]
    fn equal_prefix_hashes_give_equal_text_and_other_requests_other_text() {
        let bodies = Bodies::new(&target(Endpoint::Completions, PromptForm::default()), 4, 9);
        let prompt = |hashes: &[u64], index| {
            let request =
                Request { input_tokens: 10, output_tokens: 1, prefix_hashes: hashes.to_vec(), ..Request::default() };
            let words: Vec<String> = parsed(&bodies, &request, index)["prompt"]
                .as_str()
                .expect("text")
                .split(' ')
                .map(str::to_owned)
                .collect();
            assert_eq!(words.len(), 10);
            words
        };
        let (first, second) = (prompt(&[1, 2], 0), prompt(&[1, 3], 1));
        assert_eq!(first[..4], second[..4]);
        assert_ne!(first[4..8], second[4..8]);
        assert_eq!(prompt(&[1, 2, 7], 0)[..8], first[..8]);
        assert_ne!(prompt(&[], 0), prompt(&[], 1));
        assert_eq!(prompt(&[], 5), prompt(&[], 5));
    }
}
