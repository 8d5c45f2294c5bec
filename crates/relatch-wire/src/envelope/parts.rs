//! Where in the text of one message its members lie, found in one pass.
//!
//! Finds the members that JSON-RPC names, and in `params` what every call is looked at for. What they make of the message
//! is decided in [`crate::envelope`].

use std::ops::Range;

use crate::json::{Fault, Members};
use crate::params::META_REVISION;
use crate::request_id::RequestId;

/// A member that JSON-RPC names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
}

impl Part {
    const COUNT: usize = 6;

    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        // Compared as wholes: a pattern is looked at byte by byte.
        match name {
            _ if name == b"jsonrpc" => Some(Self::Jsonrpc),
            _ if name == b"id" => Some(Self::Id),
            _ if name == b"method" => Some(Self::Method),
            _ if name == b"params" => Some(Self::Params),
            _ if name == b"result" => Some(Self::Result),
            _ if name == b"error" => Some(Self::Error),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Jsonrpc => "jsonrpc",
            Self::Id => "id",
            Self::Method => "method",
            Self::Params => "params",
            Self::Result => "result",
            Self::Error => "error",
        }
    }
}

/// Where the members that JSON-RPC names lie in the text.
#[derive(Default)]
pub(super) struct Parts {
    spans: [Span; Part::COUNT],
    pub(super) named: Named,
    /// The one that came once more last.
    pub(super) repeated: Option<Part>,
}

impl Parts {
    /// Reads all members of a message. What was found before a fault stays.
    #[inline]
    pub(super) fn read(&mut self, members: &mut Members<'_>) -> Result<(), Fault> {
        while members.another()? {
            let (part, value) = match members.take(br#""jsonrpc":"2.0""#, br#""2.0""#) {
                // Every message has it, and hardly one spells it in another way.
                Some(version) => (Some(Part::Jsonrpc), version),
                None => {
                    let part = Part::of(&members.key()?.name());
                    let params = part == Some(Part::Params);
                    (part, if params { self.read_params(members)? } else { members.value()? })
                }
            };
            if let Some(part) = part
                && let Some(place) = self.spans.get_mut(part as usize)
                && std::mem::replace(place, Span::of(value)).is_some()
            {
                self.repeated = Some(part);
            }
        }
        Ok(())
    }

    /// Reads `params` and finds on the way what is named there.
    fn read_params(&mut self, members: &mut Members<'_>) -> Result<Range<usize>, Fault> {
        let (mut name, mut metas, mut meta) = (Once::default(), 0_u32, Meta::default());
        let span = members.inside(|params, key| {
            let place = match &*key.name() {
                key if key == b"name" => Some(&mut name),
                key if key == b"_meta" => {
                    metas += 1;
                    *params = meta.read(*params)?;
                    return Ok(());
                }
                _ => None,
            };
            keep(place, params.value()?);
            Ok(())
        })?;
        let (token, revision) =
            if metas == 1 { (meta.token.span, meta.revision.span) } else { Default::default() };
        self.named = Named { name: name.span, token, revision };
        Ok(span)
    }

    pub(super) fn span(&self, part: Part) -> Span {
        self.spans.get(part as usize).copied().unwrap_or_default()
    }

    /// The value of one as it is spelled.
    pub(super) fn value<'b>(&self, part: Part, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.span(part).of_bytes(bytes)
    }

    /// The id, where it is one. The bytes are known to be UTF-8.
    pub(super) fn readable_id(&self, bytes: &[u8]) -> Option<RequestId> {
        RequestId::from_value(self.value(Part::Id, bytes)?)
    }
}

/// What `params` names and every call is looked at for, found while the message is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// `name`: the tool, the prompt.
    pub(super) name: Span,
    /// `_meta.progressToken`.
    pub(super) token: Span,
    /// `_meta.io.modelcontextprotocol/protocolVersion`.
    pub(super) revision: Span,
}

/// A value's place in a message of at most 4 GiB. None stands at its very beginning, where the message itself opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn of(range: Range<usize>) -> Span {
        // What is longer than 4 GiB is not read.
        debug_assert!(u32::try_from(range.end).is_ok());
        Span { start: range.start as u32, end: range.end as u32 }
    }

    pub(super) fn range(self) -> Option<Range<usize>> {
        self.is_some().then_some(self.start as usize..self.end as usize)
    }

    pub(super) fn of_bytes(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(self.range()?)
    }

    pub(super) fn is_some(self) -> bool {
        self.start != 0
    }
}

/// What `_meta` names.
#[derive(Default)]
struct Meta {
    token: Once,
    revision: Once,
}

impl Meta {
    /// Reads it where its value is due, and gives back what follows.
    #[inline(never)]
    fn read<'b>(&mut self, mut params: Members<'b>) -> Result<Members<'b>, Fault> {
        params.inside(|meta, key| {
            let place = match &*key.name() {
                key if key == b"progressToken" => Some(&mut self.token),
                key if key == META_REVISION.as_bytes() => Some(&mut self.revision),
                _ => None,
            };
            keep(place, meta.value()?);
            Ok(())
        })?;
        Ok(params)
    }
}

/// One value that may be named once: a second one takes the first away.
#[derive(Default)]
struct Once {
    span: Span,
    seen: bool,
}

impl Once {
    fn put(&mut self, span: Range<usize>) {
        self.span = if self.seen { Span::default() } else { Span::of(span) };
        self.seen = true;
    }
}

fn keep(place: Option<&mut Once>, span: Range<usize>) {
    if let Some(place) = place {
        place.put(span);
    }
}
