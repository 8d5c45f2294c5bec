//! The binding of one downstream session to one upstream session.
//!
//! `Latch` is what is known of it. It begins in `opening`, or before its server in `copies`, is lost in `relatch`, renewed in
//! `rebuild`, replaced while it lives in `replace`, and ends in `end`. Doubt is settled in `diagnosis`; what an answer says is in [`reading`], the standing stream in `stream`,
//! comparison of lists in `compare`, messages without answer in `notes`.

mod compare;
mod copies;
mod diagnosis;
mod end;
mod notes;
mod opening;
pub mod reading;
mod rebuild;
mod relatch;
mod replace;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use relatch_wire::failure::Code;

pub(crate) use diagnosis::{Diagnosis, Raised};
pub use replace::Replacement;
pub(crate) use replace::{Beside, Wish};
pub(crate) use stream::StreamState;

use crate::exchange::Print;
use crate::few::{Few, Kinds};
use crate::health::{ClientSeen, ServerSeen};
use crate::input::{CopySeen, SessionFacts, Told};
use crate::policy;
use crate::{At, AttemptId, ExId, Gen, LatchId, NoteId};

/// What is known of a latch. There may be ten thousand: what most of them lack is boxed, and what they have alike is shared.
#[derive(Debug)]
pub(crate) struct Latch {
    pub(crate) id: LatchId,
    pub(crate) opened: At,
    pub(crate) last_used: At,
    /// When its client last did anything; never, in this keeper, where it only comes from the records.
    pub(crate) seen: Option<At>,
    pub(crate) client: Option<Arc<ClientSeen>>,
    /// The revision that the client was promised.
    pub(crate) promised: Arc<str>,
    /// What the server said of itself last.
    pub(crate) hello: Option<Arc<Hello>>,
    /// Its client was answered from this copy, and it has had no session yet.
    pub(crate) copied: Option<Box<CopySeen>>,
    /// Kinds of lists that its client knows from a copy alone.
    pub(crate) from_copy: Kinds,
    /// What its newest handshake says other than the one before it; told of when it is bound.
    pub(crate) changes: Vec<String>,
    /// The client has sent `notifications/initialized`.
    pub(crate) initialized: bool,
    /// The session that has been told so.
    pub(crate) announced: Option<Gen>,
    pub(crate) state: LatchState,
    /// How many handshakes were begun.
    pub(crate) begun: u32,
    /// How many of them were begun before the upstream's address became another one.
    pub(crate) former: u32,
    /// The session in use, or in use last.
    pub(crate) generation: Option<Gen>,
    /// Whether it has an id, so that it can be refused.
    pub(crate) has_id: bool,
    pub(crate) bound: Option<At>,
    /// When this session last answered a request of any kind.
    pub(crate) answered: Option<At>,
    /// Bindings since a client's request was last answered.
    pub(crate) unanswered: u32,
    /// How long it rested last.
    pub(crate) rested: u64,
    /// The client has a stream open, or sits on stdio.
    pub(crate) attached: bool,
    /// What is under way for it.
    pub(crate) attempts: Few<AttemptId>,
    /// Its exchanges, and which of them wait.
    pub(crate) exchanges: Few<(ExId, Print)>,
    pub(crate) waiting: Few<ExId>,
    pub(crate) notes: VecDeque<(NoteId, Told, Accepted)>,
    /// The one that is under way.
    pub(crate) note: Option<Box<(AttemptId, NoteId, Told, Accepted)>>,
    /// Tools that may be repeated, by their annotations, where there are any.
    pub(crate) repeatable: Option<Arc<BTreeSet<String>>>,
    /// What its client has set, where it has.
    wishes: Option<Box<Wishes>>,
    /// Kinds of lists that the client knows.
    pub(crate) lists: Kinds,
    pub(crate) stream: StreamState,
    pub(crate) trial_at: Option<At>,
    pub(crate) knows: Knows,
    /// Whether its session has been heard since the upstream was last away.
    pub(crate) heard: Heard,
    pub(crate) gap: Gap,
    /// No comparison before this.
    pub(crate) compare_at: At,
    /// The handshake for a session that is to take the place of the one in use.
    pub(crate) beside: Option<Box<Beside>>,
    /// Sessions that still have open attempts.
    pub(crate) old: BTreeMap<Gen, Farewell>,
    pub(crate) emptied: Emptied,
    /// How the machine's sets have it, where nothing of it is in them that may change by itself.
    pub(crate) filed: Option<Resting>,
}

/// A bound latch that has no need of a permit: the machine's sets hold nothing of it, but whether its client is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resting {
    pub(crate) attached: bool,
}

/// What a server said of itself in a handshake, as far as another one may differ from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) server: ServerSeen,
    /// Of what else a client may have built on, where that is known.
    pub(crate) digest: Option<u64>,
    pub(crate) offers: Option<BTreeSet<&'static str>>,
}

/// What a client has set in its session, to be replayed into the next.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Raw params of `logging/setLevel`.
    pub(crate) level: Option<String>,
    /// Address to raw params of `resources/subscribe`.
    pub(crate) subscriptions: BTreeMap<String, String>,
}

/// Whether the client counts on state that was lost with a session, where sessions hold any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emptied {
    /// No.
    No,
    /// Yes: it has not heard of the loss.
    Unheard,
    /// It has heard that this session's state is gone.
    Heard(Gen),
}

/// Where a latch stands.
#[derive(Debug)]
pub(crate) enum LatchState {
    /// The client's own `initialize` has no answer yet.
    Opening(ExId),
    /// In use.
    Bound(Gen),
    /// In use, and asked about.
    Doubted(Gen, Box<Diagnosis>),
    /// Gone, or its endpoint is; nothing is under way for it.
    Refused(Box<Loss>),
    /// A new session is being opened.
    Relatching(Box<Loss>, Gen, Step),
    /// The upstream refused the credentials of a request of relatch's own.
    Parked(Box<Loss>),
    /// The downstream session is over; open attempts end.
    Ended,
}

/// What is known of a session that was refused.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// Which session; `None` where there never was one.
    pub(crate) generation: Option<Gen>,
    pub(crate) at: At,
    pub(crate) doubt: Doubtful,
    /// No handshake before this.
    pub(crate) not_before: Option<At>,
    /// How often a server refused the handshake.
    pub(crate) tries: u32,
    /// The last handshake's trouble.
    pub(crate) trouble: Option<(Code, String)>,
}

/// Whether a session that is given up may still live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubtful {
    /// The server has refused it.
    Gone,
    /// The endpoint was missing: ask it first.
    AskFirst,
    /// It is being asked.
    Asking(AttemptId),
    /// It may live, and is replaced whatever it says.
    Replaced,
    /// It lives, and another one is wished for: where that can't be had, it goes on.
    Wished,
}

/// The steps of a handshake and of rebuilding.
#[derive(Debug)]
pub(crate) enum Step {
    /// `initialize` is out.
    Handshake(AttemptId),
    /// State is replayed, one request after the other.
    Rebuild(AttemptId, VecDeque<Replay>),
}

/// Something replayed into a new session.
#[derive(Clone, Debug)]
pub(crate) enum Replay {
    /// `notifications/initialized`.
    Initialized,
    /// Raw params of `logging/setLevel`.
    Level(String),
    /// Raw params of `resources/subscribe`.
    Subscribe(String),
}

/// Whether the session knows what its client has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// Yes.
    All,
    /// Its client has set something in an older one meanwhile: it is told before anything else.
    NotTheLatest,
    /// It may have survived an outage, or may not: it is told everything again, or renewed where it could not say.
    PerhapsNothing,
}

/// Whether the client already has its 202.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It has.
    Yes,
    /// It waits for the upstream's.
    NotYet,
}

/// Whether a session has been heard since its upstream was last away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It has, or it was asked in vain and gets the benefit of the doubt.
    Yes,
    /// It has not.
    No,
    /// It is being asked.
    Asking(AttemptId),
}

/// Whether server messages may have been lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// No.
    Closed,
    /// Yes.
    Open,
    /// Lists are being compared; so many pages of this one were fetched.
    Comparing(AttemptId, Kinds, u32),
}

/// What happens to a session that is not in use any more, when its last attempt is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It is gone; forget it.
    Forget,
    /// It may live; DELETE it.
    Delete,
}

impl Hello {
    pub(crate) fn of(session: &SessionFacts) -> Hello {
        Hello {
            server: session.server.clone(),
            digest: Some(session.digest),
            offers: Some(session.offers.clone()),
        }
    }
}

impl Loss {
    pub(crate) fn new(generation: Option<Gen>, at: At, doubt: Doubtful) -> Box<Loss> {
        Box::new(Loss { generation, at, doubt, not_before: None, tries: 0, trouble: None })
    }

    pub(crate) fn may_live(&self) -> Option<Gen> {
        match self.doubt {
            Doubtful::Gone => None,
            Doubtful::AskFirst | Doubtful::Asking(_) | Doubtful::Replaced | Doubtful::Wished => {
                self.generation
            }
        }
    }
}

impl Latch {
    pub(crate) fn new(id: LatchId, now: At, state: LatchState, client: Option<Arc<ClientSeen>>) -> Latch {
        Latch {
            id,
            opened: now,
            last_used: now,
            seen: Some(now),
            client,
            promised: Arc::default(),
            hello: None,
            copied: None,
            from_copy: Kinds::default(),
            changes: Vec::new(),
            initialized: false,
            announced: None,
            state,
            begun: 0,
            former: 0,
            generation: None,
            has_id: false,
            bound: None,
            answered: None,
            unanswered: 0,
            rested: 0,
            attached: false,
            attempts: Few::default(),
            exchanges: Few::default(),
            waiting: Few::default(),
            notes: VecDeque::new(),
            note: None,
            repeatable: None,
            wishes: None,
            lists: Kinds::default(),
            stream: StreamState::Off,
            trial_at: None,
            knows: Knows::All,
            heard: Heard::Yes,
            gap: Gap::Closed,
            compare_at: now,
            beside: None,
            old: BTreeMap::new(),
            emptied: Emptied::No,
            filed: None,
        }
    }

    /// Whether relatch works for it of its own accord.
    pub(crate) fn wanted(&self, now: At) -> bool {
        !matches!(self.state, LatchState::Ended)
            && (self.attached
                || !self.waiting.is_empty()
                || self.seen.is_some_and(|at| now.since(at) < policy::ATTACHED_MS))
    }

    /// Whether its session has yet to say that it survived.
    pub(crate) fn has_to_be_heard(&self) -> bool {
        self.heard != Heard::Yes && self.has_id && self.initialized
    }

    /// The session in use, where one is, doubted or not.
    pub(crate) fn in_use(&self) -> Option<Gen> {
        match &self.state {
            LatchState::Bound(g) | LatchState::Doubted(g, _) => Some(*g),
            LatchState::Opening(_)
            | LatchState::Refused(_)
            | LatchState::Relatching(..)
            | LatchState::Parked(_)
            | LatchState::Ended => None,
        }
    }

    /// What is known of the session that was refused, while no other is bound.
    pub(crate) fn loss(&self) -> Option<&Loss> {
        match &self.state {
            LatchState::Refused(loss) | LatchState::Relatching(loss, ..) | LatchState::Parked(loss) => {
                Some(loss)
            }
            LatchState::Opening(_) | LatchState::Bound(_) | LatchState::Doubted(..) | LatchState::Ended => {
                None
            }
        }
    }

    /// The session that was to be replaced by this one gets its farewell: it may live still, or is only to be forgotten.
    pub(crate) fn part_from_older(&mut self, generation: Gen) {
        let Some(loss) = self.loss() else { return };
        let lives = loss.may_live().is_some();
        if let Some(older) = loss.generation.filter(|older| *older != generation) {
            if lives {
                self.old.insert(older, Farewell::Delete);
            } else {
                self.old.entry(older).or_insert(Farewell::Forget);
            }
        }
    }

    /// Whether this session is of a former address.
    pub(crate) fn is_former(&self, generation: Gen) -> bool {
        generation.0 <= self.former
    }

    /// The lost session that is asked once more before another is opened. One of a former address is not: whatever it
    /// says, the present address needs one of its own.
    pub(crate) fn asks_first(&self) -> Option<Gen> {
        match &self.state {
            LatchState::Refused(loss) if loss.doubt == Doubtful::AskFirst => {
                loss.generation.filter(|generation| !self.is_former(*generation))
            }
            _ => None,
        }
    }

    /// Whether this tool may be repeated, by its annotations.
    pub(crate) fn may_repeat(&self, tool: &str) -> bool {
        self.repeatable.as_ref().is_some_and(|tools| tools.contains(tool))
    }

    /// What its client has set.
    pub(crate) fn wishes(&self) -> &Wishes {
        static NONE: Wishes = Wishes { level: None, subscriptions: BTreeMap::new() };
        self.wishes.as_deref().unwrap_or(&NONE)
    }

    /// The same, to be changed.
    pub(crate) fn wishes_mut(&mut self) -> &mut Wishes {
        self.wishes.get_or_insert_default()
    }

    /// The client has done something.
    pub(crate) fn used(&mut self, now: At) {
        self.last_used = now;
        self.seen = Some(now);
    }

    /// The session that may be alive at the server.
    pub(crate) fn may_live(&self) -> Option<Gen> {
        match &self.state {
            LatchState::Bound(g) | LatchState::Doubted(g, _) => Some(*g),
            LatchState::Refused(loss) | LatchState::Relatching(loss, ..) | LatchState::Parked(loss) => {
                loss.may_live()
            }
            LatchState::Opening(_) | LatchState::Ended => None,
        }
    }

    /// The state in a word, for people.
    pub(crate) fn word(&self) -> &'static str {
        match self.state {
            // Its client is here, and its server has yet to come.
            LatchState::Refused(_) | LatchState::Relatching(..) if self.copied.is_some() => "late",
            LatchState::Opening(_) => "opening",
            LatchState::Bound(_) => "bound",
            LatchState::Doubted(..) => "doubted",
            LatchState::Refused(_) => "refused",
            LatchState::Relatching(..) => "relatching",
            LatchState::Parked(_) => "parked",
            LatchState::Ended => "ended",
        }
    }
}
