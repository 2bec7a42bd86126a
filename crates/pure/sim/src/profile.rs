//! How long an engine step takes on which GPU, and what fits its memory: the built-in table of profiles.
//!
//! The table is derived from published measurements; every profile names its source (`provenance`), and how its KV
//! blocks were found (`kv_blocks_source`).

use loadline_base::num;
use serde::Deserialize;
use std::sync::OnceLock;

/// The profile used when none is named: a common model on a common inference card.
pub const DEFAULT_PROFILE: &str = "l40s/meta-llama-3.1-8b/tp1/vllm";
/// Per-step host overhead in milliseconds where the profile has none (reference runs: 0.9 to 1.1).
pub const DEFAULT_STEP_OVERHEAD_MS: f64 = 1.0;
/// Host overhead per live sequence and step in milliseconds where the profile has none (reference runs: 0.004 to 0.008).
pub const DEFAULT_PER_SEQ_MS: f64 = 0.006;

/// Batch sizes up to this many tokens are looked up in a dense array.
const DENSE_TOKENS: u32 = 1024;
/// Most names offered as "did you mean".
const MAX_SUGGESTIONS: usize = 3;
static TABLE: &str = include_str!("../profiles.json");

/// The terms of a step's duration, all in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StepModel {
    /// Tokens in the forward pass (prefill tokens plus decoding sequences), ascending.
    pub batch_tokens: Vec<u32>,
    /// Milliseconds at those sizes; linear between them, and beyond the last with its slope.
    pub ms: Vec<f64>,
    /// Per context token of a decoding sequence.
    pub kv_ms_per_token: f64,
    /// Per pair of (prefill token, token it attends to).
    pub attn_ms_per_token_pair: f64,
    /// Per step.
    #[serde(default = "default_step_overhead")]
    pub step_overhead_ms: f64,
    /// Per live sequence and step.
    #[serde(default = "default_per_seq")]
    pub per_seq_ms: f64,
    /// Calibration factor on the table, 1 unless calibrated.
    #[serde(default = "one")]
    pub table_scale: f64,
    /// Calibration factor on the KV term, 1 unless calibrated.
    #[serde(default = "one")]
    pub kv_scale: f64,
}

const fn default_step_overhead() -> f64 {
    DEFAULT_STEP_OVERHEAD_MS
}

const fn default_per_seq() -> f64 {
    DEFAULT_PER_SEQ_MS
}

const fn one() -> f64 {
    1.0
}

impl StepModel {
    /// What makes the model unusable, if anything.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.batch_tokens.is_empty() || self.batch_tokens.len() != self.ms.len() {
            return Err("it needs as many sizes as times, and at least one");
        }
        if !self.batch_tokens.is_sorted_by(|a, b| a < b) {
            return Err("the sizes must ascend");
        }
        let terms = [
            self.kv_ms_per_token,
            self.attn_ms_per_token_pair,
            self.step_overhead_ms,
            self.per_seq_ms,
            self.table_scale,
            self.kv_scale,
        ];
        if !self.ms.iter().chain(&terms).all(|term| term.is_finite() && *term >= 0.0) {
            return Err("every term must be finite and not negative");
        }
        Ok(())
    }

    fn interpolate(&self, tokens: f64) -> f64 {
        let points = || self.batch_tokens.iter().map(|x| f64::from(*x)).zip(self.ms.iter().copied());
        let Some(first) = points().next() else { return 0.0 };
        if tokens <= first.0 {
            return first.1;
        }
        let mut segment = None;
        for (left, right) in points().zip(points().skip(1)) {
            segment = Some((left, right));
            if tokens <= right.0 {
                break;
            }
        }
        match segment {
            Some((left, right)) => left.1 + (right.1 - left.1) * (tokens - left.0) / (right.0 - left.0),
            None => first.1,
        }
    }
}

/// What one step computes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Batch {
    /// Prompt tokens.
    pub prefill_tokens: u32,
    /// Sequences that decode.
    pub decoding: u32,
    /// Context tokens of those.
    pub context_tokens: u64,
    /// Pairs of (prefill token, token it attends to).
    pub token_pairs: f64,
    /// Sequences in the batch, scheduled or not.
    pub live: u32,
}

impl Batch {
    /// Adds one sequence that has `context` tokens and computes `tokens` more.
    pub fn add(&mut self, context: u32, tokens: u32, decodes: bool) {
        if decodes {
            self.decoding += 1;
            self.context_tokens += u64::from(context);
        } else {
            self.prefill_tokens += tokens;
            self.token_pairs += f64::from(tokens) * (f64::from(context) + f64::from(tokens) / 2.0);
        }
    }
}

/// A step model made ready for fast evaluation.
#[derive(Debug, Clone)]
pub struct StepTime {
    model: StepModel,
    dense: std::sync::Arc<[f64]>,
}

impl StepTime {
    /// Prepares a model.
    #[must_use]
    pub fn new(model: &StepModel) -> Self {
        let dense = (0..=DENSE_TOKENS).map(|tokens| model.interpolate(f64::from(tokens))).collect();
        Self { model: model.clone(), dense }
    }

    /// Milliseconds that `batch` takes.
    #[must_use]
    pub fn millis(&self, batch: &Batch) -> f64 {
        let tokens = u64::from(batch.prefill_tokens) + u64::from(batch.decoding);
        let dense = usize::try_from(tokens).ok().and_then(|index| self.dense.get(index)).copied();
        let table = dense.unwrap_or_else(|| self.model.interpolate(num::u64_to_f64(tokens)));
        self.model.table_scale * table
            + self.model.attn_ms_per_token_pair * batch.token_pairs
            + self.model.kv_scale * self.model.kv_ms_per_token * num::u64_to_f64(batch.context_tokens)
            + self.model.step_overhead_ms
            + self.model.per_seq_ms * f64::from(batch.live)
    }
}

/// One (GPU, model, tensor-parallel degree, engine).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Profile {
    /// `gpu/model/tpN/engine`, lower case.
    pub id: String,
    /// GPU.
    pub gpu: String,
    /// Model.
    pub model: String,
    /// GPUs that one replica spans.
    pub tp: u32,
    /// Engine and version that was measured.
    pub engine: String,
    /// Step times.
    pub step: StepModel,
    /// KV bytes per token over all GPUs of the replica.
    pub kv_bytes_per_token: u64,
    /// KV blocks of 16 tokens.
    pub kv_blocks: usize,
    /// `measured`, or `rule`: (utilization * memory * tp - weights - overhead * tp) / bytes per token.
    pub kv_blocks_source: String,
    /// vLLM's default for that GPU.
    pub max_num_seqs: usize,
    /// vLLM's default for that GPU.
    pub max_num_batched_tokens: u32,
    /// The model's context length, cut to what the KV memory holds.
    pub max_model_len: u32,
    /// Where the step times come from.
    pub provenance: String,
}

/// No such profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Not in the table.
    #[error("no engine profile `{name}`{}", suggest(.nearest))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Ids that look like it.
        nearest: Vec<String>,
    },
    /// The built-in table is damaged.
    #[error("built-in profiles: {0}")]
    Damaged(String),
}

fn suggest(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
    format!("; did you mean {}?", names.join(" or "))
}

#[derive(Deserialize)]
struct File {
    profiles: Vec<Profile>,
}

impl Profile {
    /// All built-in profiles.
    ///
    /// # Errors
    /// Only if the table that was built in is damaged.
    pub fn all() -> Result<&'static [Self], ProfileError> {
        static PARSED: OnceLock<Result<Vec<Profile>, String>> = OnceLock::new();
        let parsed =
            PARSED.get_or_init(|| serde_json::from_str::<File>(TABLE).map(|f| f.profiles).map_err(|e| e.to_string()));
        parsed.as_deref().map_err(|error| ProfileError::Damaged(error.clone()))
    }

    /// The profile with this id; the engine at its end may be left out if that is clear. Case does not matter.
    ///
    /// # Errors
    /// If there is none: the error offers the nearest names.
    pub fn find(name: &str) -> Result<&'static Self, ProfileError> {
        let wanted = name.trim().to_ascii_lowercase();
        let all = Self::all()?;
        if let Some(profile) = all.iter().find(|profile| profile.id == wanted) {
            return Ok(profile);
        }
        let mut prefixed = all
            .iter()
            .filter(|profile| profile.id.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('/')));
        if let (Some(only), None) = (prefixed.next(), prefixed.next()) {
            return Ok(only);
        }
        // A part of an id comes before a misspelt one.
        let rank = |id: &str| if wanted.len() > 1 && id.contains(&wanted) { 0 } else { distance(&wanted, id) };
        let mut ranked: Vec<(usize, &str)> =
            all.iter().map(|profile| (rank(&profile.id), profile.id.as_str())).collect();
        ranked.sort();
        let bound = wanted.len().max(6);
        let nearest = ranked.into_iter().filter(|(far, _)| *far < bound).take(MAX_SUGGESTIONS);
        Err(ProfileError::Unknown { name: name.to_owned(), nearest: nearest.map(|(_, id)| id.to_owned()).collect() })
    }
}

/// Edits (insert, delete, replace) between two names; what the id has beyond the name counts a third.
fn distance(name: &str, id: &str) -> usize {
    let id: Vec<char> = id.chars().collect();
    let mut row: Vec<usize> = (0..=id.len()).collect();
    for (i, a) in name.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in id.iter().zip(row.iter_mut().skip(1)) {
            let cost = diagonal + usize::from(a != *b);
            diagonal = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    let missing = id.len().saturating_sub(name.chars().count());
    row.last().copied().unwrap_or(0).saturating_sub(missing - missing / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_usable_and_has_its_source() {
        let all = Profile::all().unwrap();
        assert!(all.len() >= 60, "{}", all.len());
        for profile in all {
            profile.step.check().unwrap_or_else(|error| panic!("{}: {error}", profile.id));
            assert!(!profile.provenance.is_empty() && profile.kv_blocks > 64, "{}", profile.id);
            assert!(u64::from(profile.max_model_len) <= (profile.kv_blocks as u64 - 1) * 16, "{}", profile.id);
            assert_eq!(all.iter().filter(|other| other.id == profile.id).count(), 1, "{}", profile.id);
        }
        Profile::find(DEFAULT_PROFILE).unwrap();
    }

    #[test]
    fn names_are_found_whole_shortened_or_nearly() {
        assert_eq!(Profile::find("L40S/meta-llama-3.1-8b/tp1").unwrap().id, DEFAULT_PROFILE);
        let error = Profile::find("l40/meta-llama-3.1-8b/tp1/vllm").unwrap_err().to_string();
        assert!(error.contains("did you mean `l40s/meta-llama-3.1-8b/tp1/vllm`"), "{error}");
        let error = Profile::find("h200").unwrap_err().to_string();
        assert!(error.matches("`h200_sxm/").count() == 3, "{error}");
        assert!(Profile::find("").is_err());
    }

    #[test]
    fn step_time_follows_the_table() {
        let profile = Profile::find("rtx4090/llama-3.1-8b/tp1").unwrap();
        let step = StepTime::new(&profile.step);
        struct Case {
            name: &'static str,
            batch: Batch,
            expect: f64,
        }
        // Table points 16: 16.1291, 1024: 91.2733, 2048: 181.5124; overhead 1.1, per sequence 0.0082.
        for case in [
            Case {
                name: "decode on a point",
                batch: Batch { decoding: 16, context_tokens: 1000, live: 16, ..Batch::default() },
                expect: 16.1291 + 0.140771 + 1.1 + 16.0 * 0.0082,
            },
            Case {
                name: "prefill between points, beyond the dense array",
                batch: Batch { prefill_tokens: 1792, token_pairs: 1e6, live: 1, ..Batch::default() },
                expect: (136.8306 + 181.5124) / 2.0 + 4.5501 + 1.1 + 0.0082,
            },
            Case {
                name: "beyond the last point",
                batch: Batch { prefill_tokens: 2560, live: 1, ..Batch::default() },
                expect: 181.5124 + (181.5124 - 136.8306) + 1.1 + 0.0082,
            },
        ] {
            let got = step.millis(&case.batch);
            assert!((got - case.expect).abs() < 1e-6, "{}: {got} {}", case.name, case.expect);
        }
    }
}
