//! The nearest right name for a wrong one.

/// How many edits a wrong name may be away from the right one, per three letters of it, at least two.
fn allowance(length: usize) -> usize {
    (length / 3).max(2)
}

/// The edit distance of two names, without regard to case (insert, delete, replace, swap neighbours).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&row, j) + usize::from(x != y)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                cost = cost.min(at(&before, j - 1) + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

/// The name of `known` that `wrong` most likely stands for, if one is near enough. Names longer than 64 characters are not compared.
#[must_use]
pub fn did_you_mean<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    if wrong.len() > 64 {
        return None;
    }
    known
        .iter()
        // of equally near names the one that continues what was written
        .map(|name| (distance(wrong, name), !name.starts_with(wrong), *name))
        .filter(|(edits, _, name)| *edits <= allowance(name.len().max(wrong.len())))
        .min()
        .map(|(_, _, name)| name)
}
