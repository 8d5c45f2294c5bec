//! The revisions of MCP and the two eras that they fall into.
//!
//! Which revision a session speaks is negotiated and kept elsewhere.

use std::fmt;

/// How a revision opens its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Era {
    /// By an `initialize` handshake (revisions up to 2025-11-25).
    Legacy,
    /// By metadata on each request (2026-07-28 on).
    Modern,
}

/// A published revision, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// 2024-11-05: HTTP+SSE.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, with batches.
    V2025_03_26,
    /// 2025-06-18: the version header, no batches.
    V2025_06_18,
    /// 2025-11-25: priming events, tasks.
    V2025_11_25,
    /// 2026-07-28: no sessions.
    V2026_07_28,
}

/// The legacy revisions that relatch serves over Streamable HTTP and stdio, oldest first.
pub const LEGACY_SERVED: &[Revision] = &[Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];

impl Revision {
    /// Every revision, oldest first.
    pub const ALL: &[Self] =
        &[Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The revision that this text names exactly.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|revision| revision.as_str() == text)
    }

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era that it belongs to.
    pub const fn era(self) -> Era {
        match self {
            Self::V2024_11_05 | Self::V2025_03_26 | Self::V2025_06_18 | Self::V2025_11_25 => Era::Legacy,
            Self::V2026_07_28 => Era::Modern,
        }
    }

    /// Whether a body may be an array of messages (2025-03-26 basic/transports; removed in 2025-06-18).
    pub const fn batches_allowed(self) -> bool {
        match self {
            Self::V2025_03_26 => true,
            Self::V2024_11_05 | Self::V2025_06_18 | Self::V2025_11_25 | Self::V2026_07_28 => false,
        }
    }

    /// Whether requests after the handshake carry `MCP-Protocol-Version` (2025-06-18 on).
    pub fn has_version_header(self) -> bool {
        self >= Self::V2025_06_18
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Era {
    /// Its word, as in `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_and_named_as_on_the_wire() {
        assert!(Revision::ALL.is_sorted());
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(*revision));
        }
        assert_eq!(Revision::parse("2025-11-25 "), None);
        assert_eq!(Revision::V2026_07_28.era(), Era::Modern);
        assert!(LEGACY_SERVED.iter().all(|revision| revision.era() == Era::Legacy));
        assert_eq!(Revision::ALL.iter().filter(|revision| revision.batches_allowed()).count(), 1);
    }
}
