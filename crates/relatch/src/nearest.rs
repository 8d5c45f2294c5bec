//! The nearest of some known words, for hints after a mistyped one.

/// The nearest known word, where one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|known| (distance(word, known), known)).min();
    near.filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1)).map(|(_, known)| known)
}

/// How many characters have to be put in, taken out, changed or swapped with their neighbour; a foreign word is looked at
/// only so far.
fn distance(word: &str, known: &str) -> usize {
    let letters = |text: &str| text.chars().take(64).flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (word, known) = (letters(word), letters(known));
    let mut rows: Vec<Vec<usize>> = vec![(0..=word.len()).collect()];
    for (y, expected) in known.iter().enumerate() {
        let mut row = vec![y + 1];
        for (x, found) in word.iter().enumerate() {
            let changed = rows[y][x] + usize::from(found != expected);
            let mut least = changed.min(rows[y][x + 1] + 1).min(row[x] + 1);
            if x > 0 && y > 0 && word[x - 1] == *expected && known[y - 1] == *found {
                least = least.min(rows[y - 1][x - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[known.len()][word.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_near_is_found_and_a_foreign_one_is_not() {
        assert_eq!((distance("abc", "abc"), distance("", "abc"), distance("axc", "abc")), (0, 3, 1));
        assert_eq!(nearest("hodl", ["url", "hold"]), Some("hold"));
        assert_eq!(nearest("holt", ["url", "hold"]), Some("hold"));
        assert_eq!(nearest("gateway-errors", ["hold", "gateway_errors"]), Some("gateway_errors"));
        assert_eq!(nearest("florist", ["hold", "url"]), None);
    }
}
