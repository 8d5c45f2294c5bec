//! Two texts compared line by line: which lines are gone, which are new, and which are the same. It decides nothing about
//! how they are shown.

/// More pairs of lines than this are not compared: what differs is then gone as a whole, and new as a whole.
const MOST: usize = 1_000_000;

/// One line of either text, with its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Gone(&'a str),
    New(&'a str),
    Same(&'a str),
}

/// The fewest lines that make the one text of the other; where both change, what is gone comes first.
pub(crate) fn compare<'a>(before: &'a str, after: &'a str) -> Vec<Line<'a>> {
    let before: Vec<&str> = before.split_inclusive('\n').collect();
    let after: Vec<&str> = after.split_inclusive('\n').collect();
    let head = before.iter().zip(&after).take_while(|(old, new)| old == new).count();
    let (old, new) = (&before[head..], &after[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, ends) = old.split_at(old.len() - tail);
    let new = &new[..new.len() - tail];

    let same = |line: &&'a str| Line::Same(line);
    let mut lines: Vec<Line<'a>> = before[..head].iter().map(same).collect();
    let (mut i, mut j) = (0, 0);
    for (x, y) in common(old, new).into_iter().chain([(old.len(), new.len())]) {
        lines.extend(old[i..x].iter().map(|line| Line::Gone(line)));
        lines.extend(new[j..y].iter().map(|line| Line::New(line)));
        lines.extend(old.get(x).map(same));
        (i, j) = (x + 1, y + 1);
    }
    lines.extend(ends.iter().map(same));
    lines
}

/// Where the longest run of lines that both have in this order stands in either.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    if old.len().saturating_mul(new.len()) > MOST {
        return found;
    }
    // How long that run is from line `i` of the old text and line `j` of the new one on.
    let width = new.len() + 1;
    let mut longest = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            found.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(before: &str, after: &str) -> String {
        let sign = |line: &Line<'_>| match line {
            Line::Gone(line) => format!("-{}", line.trim_end()),
            Line::New(line) => format!("+{}", line.trim_end()),
            Line::Same(line) => line.trim_end().to_owned(),
        };
        compare(before, after).iter().map(sign).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_changed_in_the_middle_is_told_between_what_did_not() {
        assert_eq!(shown("{\na\nb\n}\n", "{\nc\nd\n}\n"), "{ -a -b +c +d }");
        assert_eq!(shown("a\nb\nc\nd\n", "a\nx\nc\nd\n"), "a -b +x c d");
        assert_eq!(shown("a\nb\nc\nb\n", "b\nc\n"), "-a b c -b");
    }

    #[test]
    fn a_text_that_comes_or_goes_is_new_or_gone_as_a_whole() {
        assert_eq!(shown("", "a\nb\n"), "+a +b");
        assert_eq!(shown("a\nb\n", ""), "-a -b");
        assert_eq!(shown("a\n", "a\n"), "a");
        assert_eq!(shown("", ""), "");
        assert_eq!(shown("a", "a\n"), "-a +a", "the end of a line is part of it");
    }

    #[test]
    fn what_is_too_long_to_compare_is_gone_and_new_as_a_whole() {
        let text = |from: usize| (from..from + 1_001).map(|n| format!("{n}\n")).collect::<String>();
        let lines = compare(&text(0), &text(1_000)).len();
        assert_eq!(lines, 2_002, "line 1000 is in both, and not looked for");
        assert_eq!(compare(&text(0), &text(0)).len(), 1_001, "what is the same at either end costs nothing");
    }

    proptest! {
        #[test]
        fn what_is_not_new_is_the_old_text_and_what_is_not_gone_the_new_one(
            before in "([abc]\n){0,12}",
            after in "([abc]\n){0,12}",
        ) {
            let lines = compare(&before, &after);
            let text = |of: fn(&Line<'_>) -> bool| -> String {
                lines.iter().filter(|line| of(line)).map(|line| match line {
                    Line::Gone(line) | Line::New(line) | Line::Same(line) => *line,
                }).collect()
            };
            prop_assert_eq!(text(|line| !matches!(line, Line::New(_))), before.as_str());
            prop_assert_eq!(text(|line| !matches!(line, Line::Gone(_))), after.as_str());
        }
    }
}
