//! The built-in workload: ten minutes with the figures of a recorded one.
//!
//! Only figures of the recording are kept (`data/azure-2023-conv-figures.json`, with their derivation, source and licence): how many
//! requests arrive in each window of ten seconds, and the joint quantiles of prompt and answer lengths. Requests are drawn anew from them:
//! given its number of arrivals, a Poisson process places them independently and uniformly in a window, and lengths follow the quantiles,
//! linear in between.

use crate::trace::Request;
use loadline_base::num;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;
use std::time::Duration;
use thiserror::Error;

/// The figures of the built-in workload.
const BUILTIN: &str = include_str!("../data/azure-2023-conv-figures.json");
/// Most requests that one call generates.
pub const MAX_REQUESTS: usize = 10_000_000;
/// Streams of the seeded generator: arrivals and lengths are drawn apart, so that a change to one does not move the other.
const ARRIVAL_STREAM: u64 = 0x6172_7269_7661_6c73;
const LENGTH_STREAM: u64 = 0x006c_656e_6774_6873;

/// Why figures cannot be used.
#[derive(Debug, Error)]
pub enum WorkloadError {
    /// Not the expected JSON.
    #[error("the workload figures cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A table that contradicts itself.
    #[error("the workload figures are wrong: {0}")]
    Shape(&'static str),
}

/// Figures of a workload; see the module's text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Where the figures come from, how they were computed, licence and citation.
    pub provenance: String,
    window_seconds: u32,
    requests_per_window: Vec<u32>,
    input_probabilities: Vec<f64>,
    input_tokens: Vec<f64>,
    output_probabilities: Vec<f64>,
    output_tokens: Vec<Vec<f64>>,
}

impl Workload {
    /// Ten minutes of the Azure 2023 conversation service: 4,205 requests, 7.8 a second for six minutes, then falling to 5.3.
    ///
    /// # Errors
    /// None for the figures that are built in; a test holds that.
    pub fn builtin() -> Result<Self, WorkloadError> {
        Self::from_json(BUILTIN)
    }

    /// Reads figures from JSON in the form of the built-in ones.
    ///
    /// # Errors
    /// When the JSON does not parse, or its tables differ in length, fall, or hold what is no probability.
    pub fn from_json(text: &str) -> Result<Self, WorkloadError> {
        let figures: Self = serde_json::from_str(text)?;
        let whole = |probabilities: &[f64], values: &[f64]| {
            probabilities.len() == values.len()
                && probabilities.len() >= 2
                && probabilities.first() == Some(&0.0)
                && probabilities.last() == Some(&1.0)
                && probabilities.is_sorted_by(|a, b| a < b)
                && values.is_sorted()
                && values.iter().all(|value| (0.0..=f64::from(u32::MAX)).contains(value))
        };
        if figures.window_seconds == 0 || figures.requests_per_window.is_empty() {
            return Err(WorkloadError::Shape("`window_seconds` and `requests_per_window` must not be zero or empty"));
        }
        if !whole(&figures.input_probabilities, &figures.input_tokens) {
            return Err(WorkloadError::Shape("`input_tokens` must rise with `input_probabilities` from 0 to 1"));
        }
        if figures.output_tokens.len() + 1 != figures.input_probabilities.len()
            || !figures.output_tokens.iter().all(|row| whole(&figures.output_probabilities, row))
        {
            return Err(WorkloadError::Shape(
                "`output_tokens` must have one row per step of `input_probabilities`, each rising with `output_probabilities`",
            ));
        }
        Ok(figures)
    }

    /// How long the figures last before they repeat.
    #[must_use]
    pub fn span(&self) -> Duration {
        let windows = u64::try_from(self.requests_per_window.len()).unwrap_or(u64::MAX);
        Duration::from_secs(windows.saturating_mul(u64::from(self.window_seconds)))
    }

    /// Length of a window.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_secs(u64::from(self.window_seconds))
    }

    /// Requests that arrive in each window.
    #[must_use]
    pub fn requests_per_window(&self) -> &[u32] {
        &self.requests_per_window
    }

    /// Draws the requests that arrive before `duration`, sorted by arrival; beyond [`Self::span`] the windows start again with new draws.
    ///
    /// The same seed gives the same requests, and a longer duration only adds to them. At most [`MAX_REQUESTS`] are drawn.
    #[must_use]
    pub fn generate(&self, duration: Duration, seed: u64) -> Vec<Request> {
        let mut arrivals = Pcg64Mcg::seed_from_u64(seed ^ ARRIVAL_STREAM);
        let mut lengths = Pcg64Mcg::seed_from_u64(seed ^ LENGTH_STREAM);
        let window = self.window();
        let window_nanos = f64::from(self.window_seconds) * 1e9;
        let mut requests = Vec::new();
        let mut offsets: Vec<u64> = Vec::new();
        let mut start = Duration::ZERO;
        for &count in self.requests_per_window.iter().cycle() {
            if start >= duration || requests.len() >= MAX_REQUESTS {
                break;
            }
            offsets.clear();
            offsets.extend((0..count).map(|_| num::f64_to_u64_trunc(unit(&mut arrivals) * window_nanos)));
            offsets.sort_unstable();
            for &offset in &offsets {
                let (input_tokens, output_tokens) = self.lengths(&mut lengths);
                let arrival = start.saturating_add(Duration::from_nanos(offset));
                if arrival < duration && requests.len() < MAX_REQUESTS {
                    requests.push(Request { arrival, input_tokens, output_tokens, ..Request::default() });
                }
            }
            start = start.saturating_add(window);
        }
        requests
    }

    /// One pair of lengths, each at least 1.
    fn lengths(&self, generator: &mut Pcg64Mcg) -> (u32, u32) {
        let (part, input) = interpolate(&self.input_probabilities, &self.input_tokens, unit(generator));
        let row = self.output_tokens.get(part).map_or(&[][..], Vec::as_slice);
        let (_, output) = interpolate(&self.output_probabilities, row, unit(generator));
        (whole_tokens(input), whole_tokens(output))
    }
}

fn whole_tokens(tokens: f64) -> u32 {
    num::f64_to_u32_trunc(libm::round(tokens)).max(1)
}

/// Uniform in [0, 1) with 53 bits.
fn unit(generator: &mut Pcg64Mcg) -> f64 {
    num::u64_to_f64(generator.next_u64() >> 11) / num::u64_to_f64(1 << 53)
}

/// The step that holds `probability`, and the value there on the line between its ends.
fn interpolate(probabilities: &[f64], values: &[f64], probability: f64) -> (usize, f64) {
    let step =
        probabilities.partition_point(|&bound| bound <= probability).clamp(1, probabilities.len().max(2) - 1) - 1;
    let at = |list: &[f64], index: usize| list.get(index).copied().unwrap_or(0.0);
    let (low, high) = (at(probabilities, step), at(probabilities, step + 1));
    let (from, to) = (at(values, step), at(values, step + 1));
    let share = if high > low { (probability - low) / (high - low) } else { 0.0 };
    (step, from + share * (to - from))
}

/// Requests of one length: a Poisson process of `rate` a second, or all at once if the rate is infinite.
///
/// Rates that are not positive count as infinite. At most [`MAX_REQUESTS`] are drawn.
#[must_use]
pub fn fixed_lengths(count: usize, input_tokens: u32, output_tokens: u32, rate: f64, seed: u64) -> Vec<Request> {
    let mut arrivals = Pcg64Mcg::seed_from_u64(seed ^ ARRIVAL_STREAM);
    let mut at = 0.0;
    (0..count.min(MAX_REQUESTS))
        .map(|_| {
            if rate.is_finite() && rate > 0.0 {
                at -= libm::log(1.0 - unit(&mut arrivals)) / rate;
            }
            Request { arrival: num::duration_from_secs(at), input_tokens, output_tokens, ..Request::default() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The six hundred seconds of the figures.
    const SPAN: Duration = Duration::from_secs(600);

    fn quantile(mut values: Vec<f64>, probability: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        values[num::f64_to_u32_trunc(libm::round(num::usize_to_f64(last) * probability)) as usize]
    }

    #[test]
    fn the_figures_are_sound_and_say_where_they_come_from() {
        let figures = Workload::builtin().expect("built in");
        assert_eq!(figures.span(), SPAN);
        assert_eq!(figures.window(), Duration::from_secs(10));
        assert_eq!(figures.requests_per_window().iter().sum::<u32>(), 4205);
        for word in ["CC-BY 4.0", "Splitwise", "ISCA 2024", "1,740 s", "AzureLLMInferenceTrace_conv.csv"] {
            assert!(figures.provenance.contains(word), "{word}");
        }
    }

    #[test]
    fn every_window_has_its_count_also_when_repeated_and_cut() {
        let figures = Workload::builtin().expect("built in");
        let requests = figures.generate(SPAN * 2, 7);
        assert!(requests.is_sorted_by_key(|request| request.arrival));
        let mut counts = vec![0_u32; 120];
        for request in &requests {
            counts[usize::try_from(request.arrival.as_secs() / 10).expect("small")] += 1;
        }
        let (first, second) = counts.split_at(60);
        assert_eq!(first, figures.requests_per_window());
        assert_eq!(second, figures.requests_per_window());
        let cut = figures.generate(Duration::from_secs(95), 7);
        assert!(cut.iter().all(|request| request.arrival < Duration::from_secs(95)));
        assert_eq!(cut[..], requests[..cut.len()], "a longer one only adds");
        assert!(requests[cut.len()].arrival >= Duration::from_secs(95));
        assert!(figures.generate(Duration::ZERO, 7).is_empty());
    }

    #[test]
    fn arrivals_inside_windows_are_poisson() {
        let requests = Workload::builtin().expect("built in").generate(SPAN * 20, 3);
        let gaps: Vec<f64> =
            requests.windows(2).map(|pair| (pair[1].arrival - pair[0].arrival).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / num::usize_to_f64(gaps.len());
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / num::usize_to_f64(gaps.len());
        let cv = variance.sqrt() / mean;
        // 1 for one rate; the windows' rates differ by a fifth, which adds a few hundredths
        assert!((0.95..1.1).contains(&cv), "{cv}");
        // the first of 77 in ten seconds comes after 10 / 78 s on average, whatever the seed
        let figures = Workload::builtin().expect("built in");
        let firsts = (0..400).map(|seed| figures.generate(Duration::from_secs(10), seed)[0].arrival.as_secs_f64());
        let mean = firsts.sum::<f64>() / 400.0;
        assert!((mean * 7.8 - 1.0).abs() < 0.2, "{mean}");
    }

    #[test]
    fn lengths_follow_the_table_jointly() {
        let figures = Workload::builtin().expect("built in");
        let requests = figures.generate(SPAN * 20, 11);
        let inputs: Vec<f64> = requests.iter().map(|request| f64::from(request.input_tokens)).collect();
        for (&probability, &tokens) in figures.input_probabilities.iter().zip(&figures.input_tokens) {
            // 84,100 draws: the share below a table value is within half a percent of its probability
            let below = inputs.iter().filter(|&&input| input < tokens).count();
            let upto = inputs.iter().filter(|&&input| input <= tokens).count();
            let total = num::usize_to_f64(inputs.len());
            let (low, high) = (num::usize_to_f64(below) / total, num::usize_to_f64(upto) / total);
            assert!(low - 0.006 <= probability && probability <= high + 0.006, "{probability} {tokens}: {low} {high}");
        }
        for (step, row) in figures.output_tokens.iter().enumerate() {
            let (low, high) = (figures.input_tokens[step], figures.input_tokens[step + 1]);
            let outputs: Vec<f64> = requests
                .iter()
                .filter(|request| (low + 1.0..high - 1.0).contains(&f64::from(request.input_tokens)))
                .map(|request| f64::from(request.output_tokens))
                .collect();
            if outputs.len() > 2_000 {
                let median = quantile(outputs, 0.5);
                assert!((median - row[5]).abs() <= row[5] * 0.06 + 2.0, "step {step}: {median} for {}", row[5]);
            }
        }
        let mean = inputs.iter().sum::<f64>() / num::usize_to_f64(inputs.len());
        // the recorded window's mean is 1,128.7 (and 152.3 for answers): linear steps keep it within four percent
        assert!((mean / 1128.7 - 1.0).abs() < 0.04, "{mean}");
        let output = requests.iter().map(|request| f64::from(request.output_tokens)).sum::<f64>();
        let output = output / num::usize_to_f64(requests.len());
        assert!((output / 152.3 - 1.0).abs() < 0.04, "{output}");
    }

    #[test]
    fn a_seed_names_one_workload_for_good() {
        let figures = Workload::builtin().expect("built in");
        let requests = figures.generate(SPAN, 1);
        assert_eq!(requests, figures.generate(SPAN, 1));
        assert_ne!(requests, figures.generate(SPAN, 2));
        let head: Vec<(u128, u32, u32)> = requests
            .iter()
            .take(3)
            .map(|request| (request.arrival.as_nanos(), request.input_tokens, request.output_tokens))
            .collect();
        assert_eq!(head, [(677_573_581, 1222, 436), (714_570_416, 1834, 138), (760_713_121, 775, 92)]);
    }

    #[test]
    fn fixed_lengths_arrive_at_their_rate() {
        let requests = fixed_lengths(20_000, 128, 16, 50.0, 5);
        assert!(requests.is_sorted_by_key(|request| request.arrival));
        assert!(requests.iter().all(|request| (request.input_tokens, request.output_tokens) == (128, 16)));
        let seconds = requests[19_999].arrival.as_secs_f64();
        assert!((seconds / 400.0 - 1.0).abs() < 0.03, "{seconds}");
        assert!(fixed_lengths(3, 1, 1, f64::INFINITY, 0).iter().all(|request| request.arrival.is_zero()));
    }

    #[test]
    fn wrong_figures_are_refused() {
        let good = r#"{"provenance":"","window_seconds":1,"requests_per_window":[1],"input_probabilities":[0,1],"input_tokens":[1,2],"output_probabilities":[0,1],"output_tokens":[[1,2]]}"#;
        Workload::from_json(good).expect("good");
        for (from, to, expect) in [
            ("\"window_seconds\":1", "\"window_seconds\":0", "`window_seconds`"),
            ("[1,2],\"output_p", "[2,1],\"output_p", "`input_tokens` must rise"),
            ("[[1,2]]", "[[1,2],[1,2]]", "`output_tokens` must have one row"),
            ("[[1,2]]", "[[1]]", "`output_tokens` must have one row"),
            ("\"window_seconds\":1", "\"windows\":1", "cannot be read"),
        ] {
            let error = Workload::from_json(&good.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
    }
}
