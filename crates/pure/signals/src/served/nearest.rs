//! The name that was probably meant.

/// Longer names are not compared letter by letter.
const MAX_LETTERS: usize = 128;

/// The most similar of some names: one that differs in its prefix only, or has an ending more, goes first, then the fewest changed letters, at most a third of them; of equals
/// the first in order. None if nothing is similar.
pub(super) fn nearest<'n>(asked: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let asked = asked.replace(':', "_");
    let mut best: Option<(bool, usize, &str)> = None;
    for name in names {
        let folded = name.replace(':', "_");
        let is_other_prefix = !stem(&asked).is_empty() && stem(&asked) == stem(&folded);
        // a histogram has series with endings only
        let is_longer = !asked.is_empty() && folded.strip_prefix(&*asked).is_some_and(|rest| rest.starts_with('_'));
        let is_akin = is_other_prefix || is_longer;
        let changes = distance(&asked, &folded);
        if !is_akin && changes > asked.len().max(folded.len()) / 3 {
            continue;
        }
        let rank = (!is_akin, changes, name);
        if best.is_none_or(|best| rank < best) {
            best = Some(rank);
        }
    }
    best.map(|(_, _, name)| name)
}

/// A name behind its first word; empty if that leaves less than two words.
fn stem(name: &str) -> &str {
    name.split_once('_').map(|(_, stem)| stem).filter(|stem| stem.contains('_')).unwrap_or_default()
}

/// How many letters must be added, removed or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    if a.len() > MAX_LETTERS || b.len() > MAX_LETTERS {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, letter) in a.bytes().enumerate() {
        let (mut diagonal, mut left) = (above, above + 1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, other) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted() {
        for (a, b, changes) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), changes, "{a} {b}");
        }
    }

    #[test]
    fn the_name_that_was_meant_is_found() {
        let names = ["vllm:num_requests_waiting", "vllm:num_requests_running", "sglang:num_queue_reqs", "up"];
        for (asked, expect) in [
            ("vllm:num_request_waiting", Some("vllm:num_requests_waiting")),
            ("vllm_num_requests_runing", Some("vllm:num_requests_running")),
            ("tgi_num_requests_waiting", Some("vllm:num_requests_waiting")),
            ("num_queue_reqs", Some("sglang:num_queue_reqs")),
            ("vllm_num", Some("vllm:num_requests_running")),
            ("something_else_entirely_different", None),
            ("", None),
        ] {
            assert_eq!(nearest(asked, names.into_iter()), expect, "{asked}");
        }
    }
}
