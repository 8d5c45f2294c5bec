//! Random names, from the operating system's source and from nothing else.

/// A new id for a downstream session: 128 random bits as 32 characters of lower-case hex.
///
/// # Panics
/// When the operating system has no random bytes.
#[must_use]
pub fn session_id() -> String {
    random_hex::<16>()
}

/// A new token: 256 random bits as 64 characters of lower-case hex.
///
/// # Panics
/// When the operating system has no random bytes.
#[must_use]
pub fn token() -> String {
    random_hex::<32>()
}

/// What the ids of relatch's own requests begin with in this process: `relatch-`, 64 random bits, `-`.
///
/// # Panics
/// When the operating system has no random bytes.
#[must_use]
pub fn relatch_id_prefix() -> String {
    format!("relatch-{}-", random_hex::<8>())
}

/// What the event ids of this process begin with, so that no other process takes them for its own.
///
/// # Panics
/// When the operating system has no random bytes.
#[must_use]
pub fn event_prefix() -> String {
    format!("{}.", random_hex::<4>())
}

fn random_hex<const N: usize>() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0; N];
    // Going on with guessable ids would be worse than ending.
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_long_visible_and_never_the_same() {
        let ids: BTreeSet<String> = (0..1_000).map(|_| session_id()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in &ids {
            assert_eq!(id.len(), 32);
            assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        assert_eq!(token().len(), 64);
        assert_ne!(token(), token());
    }

    #[test]
    fn own_request_ids_are_told_by_their_prefix() {
        let prefix = relatch_id_prefix();
        assert!(prefix.starts_with("relatch-") && prefix.ends_with('-'));
        assert_eq!(prefix.len(), "relatch-".len() + 16 + 1);
    }
}
