//! Where in a run of bytes the next one stands that matters, looked for eight at a time, and far off by blocks.
//!
//! Nearly all bytes of a large message lie inside of strings and lines, where one byte in thousands says anything.
//! Knows no grammar.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// So many bytes are looked at word by word, those behind them by blocks.
const NEAR: usize = 64;
const BLOCK: usize = 128;

/// The offset of the first byte that is one of `stops`; the length where there is none.
pub(crate) fn first<const N: usize>(bytes: &[u8], stops: [u8; N]) -> usize {
    look(
        bytes,
        |word| stops.iter().fold(0, |found, stop| found | equal(word, *stop)),
        |byte| stops.contains(&byte),
    )
}

/// The same, control characters (below 0x20) being stops, too.
#[inline]
pub(crate) fn first_or_control<const N: usize>(bytes: &[u8], stops: [u8; N]) -> usize {
    // A byte of 0x80 and above is none, which `!word` sees to.
    let control = |word: u64| word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    look(
        bytes,
        |word| stops.iter().fold(control(word), |found, stop| found | equal(word, *stop)),
        |byte| byte < 0x20 || stops.contains(&byte),
    )
}

/// The high bit of each byte that equals `stop`. Above the lowest such byte there may be more that do not: a
/// subtraction borrows upwards, so the lowest is always right.
fn equal(word: u64, stop: u8) -> u64 {
    let differs = word ^ (ONES * u64::from(stop));
    differs.wrapping_sub(ONES) & !differs & HIGH
}

#[inline]
fn look(bytes: &[u8], words: impl Fn(u64) -> u64, each: impl Fn(u8) -> bool) -> usize {
    // The beginning word by word: most strings and lines are short.
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    let found = by_words(near, &words, &each);
    if found < near.len() {
        return found;
    }
    let (blocks, _) = far.as_chunks::<BLOCK>();
    // Without a way out of it, so that the compiler looks at many bytes with one instruction.
    let clear = |block: &&[u8; BLOCK]| !block.iter().fold(false, |found, byte| found | each(*byte));
    let passed = near.len() + blocks.iter().take_while(clear).count() * BLOCK;
    passed + by_words(bytes.get(passed..).unwrap_or_default(), &words, &each)
}

fn by_words(bytes: &[u8], words: &impl Fn(u64) -> u64, each: &impl Fn(u8) -> bool) -> usize {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (number, chunk) in chunks.iter().enumerate() {
        let found = words(u64::from_le_bytes(*chunk));
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let behind = rest.iter().position(|byte| each(*byte)).unwrap_or(rest.len());
    chunks.len() * 8 + behind
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
