//! The one table of what relatch changes in messages that it did not make.
//!
//! Everything else leaves byte for byte as it came. A change that is not named here is a fault. The ids under which
//! requests of a server reach the client are made and read here too.

use crate::request_id::RequestId;

/// An exception to "leaves byte for byte as it came".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exception {
    /// A second attempt, or a request whose id is in flight already, goes up under an id of relatch's; it is mapped
    /// back in answers and cancellations ([`crate::Envelope::with_id`], [`crate::scan::IdReplacer`]).
    MappedRequestId,
    /// A server's request reaches the client under an id that carries the generation; it is mapped back in the
    /// client's answer and in cancellations ([`server_request_id`]).
    MappedServerRequestId,
    /// An error answer of an upstream that names no id, or another than the request's, reaches the client under the
    /// request's own ([`crate::Envelope::with_id`]).
    ErrorWithoutId,
    /// `protocolVersion` of an `initialize` that is sent again asks for the revision that the client was promised
    /// ([`crate::handshake::initialize_message`]).
    RepeatedProtocolVersion,
    /// `listChanged` in the answer to `initialize` is true, since relatch itself tells when lists changed
    /// ([`crate::handshake::advertise_list_changed`]).
    ListChanged,
    /// Progress of a second attempt that does not exceed what the client has seen is dropped.
    DroppedProgress,
    /// On stdio, line breaks between tokens become spaces ([`crate::line::one_line`]).
    LineBreaks,
    /// Under `--tell` the answer to `initialize` gains the capabilities `tools`, `prompts` and `logging` where the server
    /// has none ([`crate::tell::advertise`]), and the last page of its tools and of its prompts one item behind its own
    /// ([`crate::tell::with_item`]); a refusal that says that it has none becomes the list of that one item, or the answer
    /// that the log level is set.
    Tell,
    /// In front of a process that several sessions share (`shared = true`): ids of requests and progress tokens are
    /// relatch's on the way to it and the client's own on the way back, and its answer to `initialize` has neither
    /// `logging` nor `tasks` ([`crate::handshake::without_capabilities`]).
    Shared,
}

impl Exception {
    /// Every exception.
    pub const ALL: &[Self] = &[
        Self::MappedRequestId,
        Self::MappedServerRequestId,
        Self::ErrorWithoutId,
        Self::RepeatedProtocolVersion,
        Self::ListChanged,
        Self::DroppedProgress,
        Self::LineBreaks,
        Self::Tell,
        Self::Shared,
    ];

    /// What is changed, for the documentation.
    pub const fn what(self) -> &'static str {
        match self {
            Self::MappedRequestId => "`id` of a request that is sent again or whose id is in flight already",
            Self::MappedServerRequestId => "`id` of a server's request: the generation is added",
            Self::ErrorWithoutId => "`id` of an error answer that names none, or another: the request's own",
            Self::RepeatedProtocolVersion => "`protocolVersion` of an `initialize` that is sent again",
            Self::ListChanged => "`listChanged` in the answer to `initialize`: true",
            Self::DroppedProgress => {
                "progress of a second attempt that does not exceed what was told: dropped"
            }
            Self::LineBreaks => "line breaks between tokens on stdio: spaces",
            Self::Tell => {
                "with `--tell`: capabilities that the server lacks, and `relatch_status` behind its tools and prompts"
            }
            Self::Shared => {
                "with `shared = true`: ids and progress tokens on the process' pipes, and the capabilities `logging` and `tasks`: dropped"
            }
        }
    }
}

/// The id under which a server's request reaches the client: the string `"<generation>:<original as spelled>"`.
pub fn server_request_id(generation: u32, original: &RequestId) -> RequestId {
    RequestId::text(&format!("{generation}:{}", original.raw()))
}

/// The generation and the original id of an id made by [`server_request_id`]; `None` for any other.
pub fn split_server_request_id(id: &RequestId) -> Option<(u32, RequestId)> {
    let text = id.as_text()?;
    let (number, original) = text.split_once(':')?;
    let generation: u32 = number.parse().ok()?;
    if generation.to_string() != number {
        return None;
    }
    Some((generation, RequestId::from_raw(original)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_id_comes_back_as_it_was_spelled() {
        for raw in ["0", "\"a\"", "\"\\u0061:\\\"\"", "1.10"] {
            let original = RequestId::from_raw(raw).unwrap();
            let (generation, back) = split_server_request_id(&server_request_id(7, &original)).unwrap();
            assert_eq!((generation, back.raw()), (7, raw));
        }
    }

    #[test]
    fn other_ids_are_not_taken_for_ours() {
        for raw in ["7", "\"7\"", "\"7:\"", "\"7:x\"", "\"+7:1\"", "\"07:1\"", "\":1\"", "\"99999999999:1\""]
        {
            assert_eq!(split_server_request_id(&RequestId::from_raw(raw).unwrap()), None, "{raw}");
        }
    }

    #[test]
    fn each_exception_is_named_once() {
        for (n, one) in Exception::ALL.iter().enumerate() {
            assert!(Exception::ALL.iter().skip(n + 1).all(|two| two.what() != one.what()));
        }
    }
}
