//! Maps by numbers that relatch gives itself, one after another: nobody else chooses them, so that spreading them costs a
//! multiplication and no more.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by an id that is such a number.
pub(crate) type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The golden ratio's bits: numbers in a row lie far apart, and in the high bits, too.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
