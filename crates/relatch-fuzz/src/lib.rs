//! What must hold of relatch whatever comes: one function for each fuzz target, from bytes to a panic or none.
//!
//! The same code runs in two places: under libFuzzer in `fuzz/`, which is outside the workspace, and in
//! `tests/corpora.rs`, which replays every kept file on stable Rust. Each target compares what relatch made of its
//! input with a second opinion: another parser, the same input in other pieces, or a model.
//!
//! This crate is for tests alone; nothing that is handed out depends on it.

mod actions;
mod choice;
mod fields;
mod framing;
mod handshake;
mod headers;
mod messages;
mod reading;
mod records;

/// A target: it panics if something does not hold for this input.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("envelope", messages::envelope),
    ("sse", framing::sse),
    ("line", framing::line),
    ("headers", headers::headers),
    ("handshake", handshake::handshake),
    ("fields", fields::fields),
    ("reading", reading::reading),
    ("records", records::records),
    ("actions", actions::actions),
];

/// Runs one target on one input; does nothing for a name that is none.
pub fn run(name: &str, input: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) {
        target(input);
    }
}

/// The same text in pieces of several sizes, with the whole as one of them.
pub(crate) fn cuts(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    [usize::MAX, 1, 2, 3, 7].into_iter().map(|size| text.chunks(size).collect())
}

/// Whether another parser takes this for one JSON text.
pub(crate) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok()
}

/// The text without the byte order mark that a reader may pass over.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
