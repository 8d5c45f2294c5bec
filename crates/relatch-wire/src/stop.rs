//! Where in a run of bytes the next one stands that matters, looked for eight at a time, and far off by more.
//!
//! Nearly all bytes of a large message lie inside of strings and lines, where one byte in thousands says anything.
//! Knows no grammar.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// So many bytes are looked at word by word, which for them is quicker than what is quick for many.
const NEAR: usize = 64;

/// The same for lines: those that are longer than a name and a word are much longer.
const NEAR_LINE: usize = 16;

/// So many bytes are looked at in one go where hardly one is expected to matter.
const PIECE: usize = 4096;

/// The offset of the first byte that is one of `stops`; the length where there is none.
#[inline]
pub(crate) fn first<const N: usize>(bytes: &[u8], stops: [u8; N]) -> usize {
    look(bytes, OneOf(stops))
}

/// The offset of the first line feed or carriage return; the length where there is none.
#[inline]
pub(crate) fn line_end(bytes: &[u8]) -> usize {
    look(bytes, LineEnd)
}

/// The offset of the first byte that may not stand in a JSON string as it is: a quote, a backslash, or a control
/// character (below 0x20). The length where there is none.
#[inline]
pub(crate) fn in_text(bytes: &[u8]) -> usize {
    look(bytes, NotText)
}

/// The same in eight bytes alone, eight where there is none.
#[inline]
pub(crate) fn in_text_word(word: [u8; 8]) -> usize {
    lowest(NotText.mark(u64::from_le_bytes(word)))
}

/// What is left behind the text: it begins with the first byte that may not stand in a JSON string as it is.
#[inline]
pub(crate) fn behind_text(mut bytes: &[u8]) -> &[u8] {
    // The beginning word by word: most texts are short, or a backslash is near.
    let far = bytes.len().saturating_sub(NEAR).max(7);
    while bytes.len() > far
        && let Some((word, rest)) = bytes.split_first_chunk()
    {
        let run = in_text_word(*word);
        if run < word.len() {
            return bytes.get(run..).unwrap_or_default();
        }
        bytes = rest;
    }
    bytes.get(NotText.far_off(bytes)..).unwrap_or_default()
}

/// Whether all bytes are ASCII. Without a way out but for every piece, since nearly always they are.
pub(crate) fn is_ascii(bytes: &[u8]) -> bool {
    let (pieces, rest) = bytes.as_chunks::<PIECE>();
    pieces.iter().all(|piece| piece.iter().fold(0, |found, byte| found | byte) < 0x80) && is_ascii_rest(rest)
}

/// The same of less than a piece. Its last word, which may lie across those before it, spares a look at single bytes.
fn is_ascii_rest(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else { return bytes.iter().all(u8::is_ascii) };
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(u64::from_ne_bytes(*last), |found, word| found | u64::from_ne_bytes(*word)) & HIGH == 0
}

/// What is looked for.
trait Stops: Copy {
    /// So many bytes are looked at word by word.
    const NEAR: usize = NEAR;

    /// The high bit of each byte of a word that is a stop. Above the lowest of them there may be more that are none: a
    /// subtraction borrows upwards, so the lowest is always right.
    fn mark(self, word: u64) -> u64;

    /// Whether this byte is one.
    fn has(self, byte: u8) -> bool;

    /// The first one in many bytes, or their count. By instructions that look at many at once, chosen by hand, since a
    /// program that is optimized for size has none by itself.
    fn far_off(self, bytes: &[u8]) -> usize;
}

#[derive(Clone, Copy)]
struct OneOf<const N: usize>([u8; N]);

impl<const N: usize> Stops for OneOf<N> {
    #[inline]
    fn mark(self, word: u64) -> u64 {
        self.0.iter().fold(0, |found, stop| {
            let differs = word ^ (ONES * u64::from(*stop));
            found | (differs.wrapping_sub(ONES) & !differs & HIGH)
        })
    }

    #[inline]
    fn has(self, byte: u8) -> bool {
        self.0.contains(&byte)
    }

    fn far_off(self, bytes: &[u8]) -> usize {
        let found = match self.0.as_slice() {
            [one] => memchr::memchr(*one, bytes),
            [one, two] => memchr::memchr2(*one, *two, bytes),
            [one, two, three] => memchr::memchr3(*one, *two, *three, bytes),
            _ => return by_words(bytes, self),
        };
        found.unwrap_or(bytes.len())
    }
}

#[derive(Clone, Copy)]
struct LineEnd;

impl LineEnd {
    const EXACT: OneOf<2> = OneOf([b'\n', b'\r']);
}

impl Stops for LineEnd {
    const NEAR: usize = NEAR_LINE;

    #[inline]
    fn mark(self, word: u64) -> u64 {
        // Hardly a text has any other control character: they are seen to only where one is.
        let control = word.wrapping_sub(ONES * (u64::from(b'\r') + 1)) & !word & HIGH;
        if control == 0 { 0 } else { Self::EXACT.mark(word) }
    }

    #[inline]
    fn has(self, byte: u8) -> bool {
        Self::EXACT.has(byte)
    }

    fn far_off(self, bytes: &[u8]) -> usize {
        Self::EXACT.far_off(bytes)
    }
}

#[derive(Clone, Copy)]
struct NotText;

impl Stops for NotText {
    #[inline]
    fn mark(self, word: u64) -> u64 {
        // A quote is 0x22. With the bit 0x02 turned round it is 0x20, just above the control characters, while what stood
        // between them is above it: one comparison finds both.
        let quote_or_control = (word ^ (ONES * 0x02)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        // A byte of 0x80 and above is none of them, which `!word` sees to.
        (quote_or_control | backslash) & !word & HIGH
    }

    #[inline]
    fn has(self, byte: u8) -> bool {
        matches!(byte, b'"' | b'\\' | ..0x20)
    }

    fn far_off(self, bytes: &[u8]) -> usize {
        let found = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        let run = bytes.get(..found).unwrap_or_default();
        if is_clear_of_controls(run) { found } else { by_words(run, self) }
    }
}

#[inline]
fn look<S: Stops>(bytes: &[u8], stops: S) -> usize {
    // The beginning word by word: most strings and lines are short.
    match bytes.split_at_checked(S::NEAR) {
        None => by_words(bytes, stops),
        Some((near, far)) => match by_words(near, stops) {
            found if found < S::NEAR => found,
            _ => S::NEAR + stops.far_off(far),
        },
    }
}

#[inline]
fn by_words(bytes: &[u8], stops: impl Stops) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let marks = stops.mark(u64::from_le_bytes(*word));
        if marks != 0 {
            return number * 8 + lowest(marks);
        }
    }
    words.len() * 8 + rest.iter().position(|byte| stops.has(*byte)).unwrap_or(rest.len())
}

/// Which byte of a word the lowest mark stands in; the length of a word where there is none.
#[inline]
fn lowest(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// Whether no byte is below 0x20. Without a way out of it: there is hardly ever one.
fn is_clear_of_controls(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let found = words.iter().fold(0, |found, word| {
        let word = u64::from_le_bytes(*word);
        found | (word.wrapping_sub(ONES * 0x20) & !word & HIGH)
    });
    found == 0 && rest.iter().all(|byte| *byte >= 0x20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn eight_at_a_time_finds_what_one_at_a_time_does(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let slow = |stop: fn(u8) -> bool| bytes.iter().position(|b| stop(*b)).unwrap_or(bytes.len());
            prop_assert_eq!(first(&bytes, [b'\n']), slow(|b| b == b'\n'));
            prop_assert_eq!(line_end(&bytes), slow(|b| matches!(b, b'\n' | b'\r')));
            prop_assert_eq!(first(&bytes, [b'"', b'\\']), slow(|b| matches!(b, b'"' | b'\\')));
            prop_assert_eq!(first(&bytes, [0x80, 0xff]), slow(|b| matches!(b, 0x80 | 0xff)));
            let plain = slow(|b| matches!(b, b'"' | b'\\') || b < 0x20);
            prop_assert_eq!(in_text(&bytes), plain);
            prop_assert_eq!(behind_text(&bytes), &bytes[plain..]);
            prop_assert_eq!(is_ascii(&bytes), bytes.iter().all(|b| *b < 0x80));
            for (at, word) in bytes.windows(8).enumerate() {
                let word: [u8; 8] = word.try_into().unwrap();
                let slow = bytes[at..at + 8].iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20);
                prop_assert_eq!(in_text_word(word), slow.unwrap_or(8));
            }
        }

        #[test]
        fn a_stop_is_found_wherever_it_stands(at in 0_usize..900, filler in 0x20_u8.., stop in prop::sample::select(vec![b'"', b'\\', 0, 0x1f])) {
            prop_assume!(filler != b'"' && filler != b'\\');
            let mut bytes = vec![filler; 901];
            bytes[at] = stop;
            prop_assert_eq!(in_text(&bytes), at);
            prop_assert_eq!(behind_text(&bytes), &bytes[at..]);
            bytes[at] = b'\r';
            prop_assert_eq!(line_end(&bytes), at);
            prop_assert_eq!(is_ascii(&bytes), filler < 0x80);
        }
    }
}
