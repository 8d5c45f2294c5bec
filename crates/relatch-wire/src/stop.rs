//! Where in a run of bytes the next one stands that matters, looked for eight at a time, and far off by more.
//!
//! Nearly all bytes of a large message lie inside of strings and lines, where one byte in thousands says anything.
//! Knows no grammar.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// So many bytes are looked at word by word, which for them is quicker than what is quick for many.
const NEAR: usize = 64;

/// The offset of the first byte that is one of `stops`; the length where there is none.
pub(crate) fn first<const N: usize>(bytes: &[u8], stops: [u8; N]) -> usize {
    look::<N, 0>(bytes, stops)
}

/// The same, control characters (below 0x20) being stops, too.
#[inline]
pub(crate) fn first_or_control<const N: usize>(bytes: &[u8], stops: [u8; N]) -> usize {
    look::<N, 0x20>(bytes, stops)
}

/// The same in eight bytes alone; nothing where there is none.
#[inline]
pub(crate) fn in_word<const N: usize>(word: [u8; 8], stops: [u8; N]) -> Option<usize> {
    by_word::<N, 0x20>(word, stops)
}

/// Stops are `stops`, and every byte below `BELOW`.
#[inline]
fn look<const N: usize, const BELOW: u8>(bytes: &[u8], stops: [u8; N]) -> usize {
    // The beginning word by word: most strings and lines are short.
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    let found = by_words::<N, BELOW>(near, stops);
    if found < NEAR || far.is_empty() { found } else { NEAR + far_off::<N, BELOW>(far, stops) }
}

/// The rest, by instructions that look at many bytes at once. Chosen by hand, since a program that is optimized for size has
/// none by itself.
fn far_off<const N: usize, const BELOW: u8>(bytes: &[u8], stops: [u8; N]) -> usize {
    let found = match stops.as_slice() {
        [one] => memchr::memchr(*one, bytes),
        [one, two] => memchr::memchr2(*one, *two, bytes),
        [one, two, three] => memchr::memchr3(*one, *two, *three, bytes),
        _ => return by_words::<N, BELOW>(bytes, stops),
    };
    let run = bytes.get(..found.unwrap_or(bytes.len())).unwrap_or_default();
    if BELOW == 0 || is_clear::<BELOW>(run) { run.len() } else { by_words::<N, BELOW>(run, stops) }
}

/// Whether no byte is below `BELOW`. Without a way out of it: there is hardly ever one.
fn is_clear<const BELOW: u8>(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let found = chunks.iter().fold(0, |found, chunk| found | below::<BELOW>(u64::from_le_bytes(*chunk)));
    found == 0 && rest.iter().all(|byte| *byte >= BELOW)
}

#[inline]
fn by_words<const N: usize, const BELOW: u8>(bytes: &[u8], stops: [u8; N]) -> usize {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        if let Some(found) = by_word::<N, BELOW>(*chunk, stops) {
            return number * 8 + found;
        }
    }
    let is_stop = |byte: &u8| *byte < BELOW || stops.contains(byte);
    chunks.len() * 8 + rest.iter().position(is_stop).unwrap_or(rest.len())
}

#[inline]
fn by_word<const N: usize, const BELOW: u8>(word: [u8; 8], stops: [u8; N]) -> Option<usize> {
    let word = u64::from_le_bytes(word);
    // A byte of 0x80 and above is not below, which `!word` sees to.
    let below = word.wrapping_sub(ONES * u64::from(BELOW)) & !word & HIGH;
    let found = stops.iter().fold(below, |found, stop| found | equal(word, *stop));
    (found != 0).then_some(found.trailing_zeros() as usize / 8)
}

/// The high bit of each byte that is below `BELOW`, the lowest of them at least, as in [`equal`].
fn below<const BELOW: u8>(word: u64) -> u64 {
    // A byte of 0x80 and above is not below, which `!word` sees to.
    word.wrapping_sub(ONES * u64::from(BELOW)) & !word & HIGH
}

/// The high bit of each byte that equals `stop`. Above the lowest such byte there may be more that do not: a
/// subtraction borrows upwards, so the lowest is always right.
fn equal(word: u64, stop: u8) -> u64 {
    let differs = word ^ (ONES * u64::from(stop));
    differs.wrapping_sub(ONES) & !differs & HIGH
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
            prop_assert_eq!(first(&bytes, [b'"', b'\\']), slow(|b| matches!(b, b'"' | b'\\')));
            prop_assert_eq!(first(&bytes, [0x80, 0xff]), slow(|b| matches!(b, 0x80 | 0xff)));
            let plain = slow(|b| matches!(b, b'"' | b'\\') || b < 0x20);
            prop_assert_eq!(first_or_control(&bytes, [b'"', b'\\']), plain);
        }

        #[test]
        fn a_stop_is_found_wherever_it_stands(at in 0_usize..900, filler in 0x20_u8.., stop in prop::sample::select(vec![b'"', b'\\', 0, 0x1f])) {
            prop_assume!(filler != b'"' && filler != b'\\');
            let mut bytes = vec![filler; 901];
            bytes[at] = stop;
            prop_assert_eq!(first_or_control(&bytes, [b'"', b'\\']), at);
        }
    }
}
