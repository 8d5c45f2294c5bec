//! What `--tell` adds inside the client: `relatch_status` as a tool and as a prompt, and a log message on lost and back.
//!
//! relatch answers to that name itself, from one health report and by the words of whoever started the keeper. Who
//! answers to the name and what is logged is decided in [`relatch_core::tell`]; the bytes are [`relatch_wire::tell`]'s.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use relatch_core::LatchId;
use relatch_core::health::HealthReport;
use relatch_core::health::turns::{Turn, Turns};
use relatch_core::journal::{Entry, What};
use relatch_core::record::TellRecord;
use relatch_core::tell::{Whose, has_none, whose, words};
use relatch_wire::era::Revision;
use relatch_wire::failure::result;
use relatch_wire::handshake::ServerHello;
use relatch_wire::method::{self, ListKind};
use relatch_wire::tell::{self as bytes_of, NAME};
use relatch_wire::{Envelope, Kind, params};
use serde_json::Value;

use crate::desk::{Desk, Exchange};
use crate::driver::Upstream;
use crate::intake::Request;
use crate::keeper::Keeper;

/// How often health is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The story of one upstream, as clients are told it.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// For people and models.
    pub text: String,
    /// The same as data.
    pub structured: Value,
}

/// Tells the story of an upstream from its report.
pub type Storyteller = Box<dyn Fn(&str, &HealthReport) -> Story + Send + Sync>;

/// Who tells clients, and what the data looks like.
pub struct Teller {
    /// Tells the story.
    pub story: Storyteller,
    /// The JSON schema of [`Story::structured`].
    pub schema: Value,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}

impl Keeper {
    /// The clients of upstreams whose policy says so are told by this teller from now on. The first one counts. Needs a
    /// running tokio runtime.
    pub fn tell_by(self: &Arc<Self>, teller: Teller) {
        if self.common.teller.set(teller).is_ok() {
            tokio::spawn(look(Arc::downgrade(self), self.turns()));
        }
    }
}

impl Upstream {
    fn teller(&self) -> Option<&Teller> {
        self.common.teller.get().filter(|_| self.tells())
    }

    /// The answer to a request that is relatch's own to answer; it never goes to the server.
    pub(crate) fn answer_itself(&self, latch: LatchId, request: &Request) -> Option<Bytes> {
        let teller = self.teller()?;
        let arrival = &request.arrival;
        let kind = match arrival.envelope.method()? {
            method::TOOLS_CALL => ListKind::Tools,
            method::PROMPTS_GET => ListKind::Prompts,
            _ => return None,
        };
        let named = arrival.envelope.param_name(&arrival.message)?;
        if named != NAME {
            return None;
        }
        let revision = self.desk(|desk| {
            let kept = desk.latches.get(&latch).filter(|kept| kept.tell.is_some())?;
            match whose(kept.lists.has(kind, NAME), desk.taken.contains(&kind)) {
                Whose::Relatch => Some(kept.promised.as_deref().and_then(Revision::parse)),
                Whose::Server => None,
            }
        })?;
        let mut report = self.report();
        let all = report.sessions.len();
        // Other clients are none of this one's business.
        report.sessions.retain(|session| session.latch == latch);
        let others = all - report.sessions.len();
        let Story { mut text, structured } = (teller.story)(&self.name, &report);
        if others > 0 {
            let sessions = if others == 1 { "session is" } else { "sessions are" };
            text.push_str(&format!("\n  {others} more {sessions} shown by `relatch status {}`\n", self.name));
        }
        Some(match kind {
            ListKind::Prompts => bytes_of::prompt_answer(
                &request.id,
                &format!(
                    "This is what relatch knows about the connection to `{}` at this moment. Tell me in a few \
                     sentences whether it works, since when and on what evidence, and what I can do if it does \
                     not. Another status may be out of date.\n\n{text}",
                    self.name
                ),
            ),
            ListKind::Tools | ListKind::Resources | ListKind::ResourceTemplates => {
                let structured = structured.to_string();
                let has_data = revision >= Some(Revision::V2025_06_18);
                bytes_of::tool_answer(&request.id, &text, has_data.then_some(structured.as_str()))
            }
        })
    }

    /// The answer of the server with what is added to it, and whether the latch changed in something that its record
    /// holds. A list has been read before this.
    pub(crate) fn with_told(
        &self,
        desk: &mut Desk,
        exchange: &Exchange,
        text: Bytes,
        journal: &mut Vec<Entry>,
    ) -> (Bytes, bool) {
        let Some(teller) = self.teller() else { return (text, false) };
        let Desk { latches, taken, .. } = desk;
        let Some(latch) = latches.get_mut(&exchange.latch) else { return (text, false) };
        let Ok(envelope) = Envelope::read(&text) else { return (text, false) };
        if exchange.opening {
            if let Some(hello) = envelope.result(&text).and_then(ServerHello::read) {
                latch.tell = Some(Box::new(TellRecord {
                    tools: hello.has_tools,
                    prompts: hello.has_prompts,
                    logging: hello.has_logging,
                    level: None,
                }));
                // Its record is written when the machine has bound it.
                return (bytes_of::advertise(&text), false);
            }
            return (text, false);
        }
        let Some(told) = &mut latch.tell else { return (text, false) };
        if exchange.arrival.envelope.method() == Some(method::SET_LEVEL) {
            let raw = exchange.arrival.envelope.params(&exchange.arrival.message).unwrap_or_default();
            let Some(level) = params::level(raw) else { return (text, false) };
            return match envelope.kind {
                Kind::Result { .. } => {
                    told.level = Some(level);
                    (text, true)
                }
                Kind::Error { code, .. }
                    if has_none(code, told.logging) && relatch_core::tell::Level::parse(&level).is_some() =>
                {
                    told.level = Some(level);
                    (result(&exchange.id, b"{}"), true)
                }
                Kind::Error { .. } | Kind::Request { .. } | Kind::Notification { .. } => (text, false),
            };
        }
        let Some((kind, first)) = exchange.list else { return (text, false) };
        let revision = latch.promised.as_deref().and_then(Revision::parse);
        let Some(item) = bytes_of::item(kind, revision, &teller.schema.to_string()) else {
            return (text, false);
        };
        let text = match envelope.kind {
            Kind::Result { .. } => {
                let page = envelope.result(&text).and_then(|raw| relatch_wire::lists::items(raw, kind));
                match (page, latch.lists.has(kind, NAME)) {
                    (Some(_), Some(true)) => {
                        if taken.insert(kind) {
                            journal.push(left_to_the_server(kind));
                        }
                        text
                    }
                    (Some(page), _) if page.next_cursor.is_none() => {
                        taken.remove(&kind);
                        bytes_of::with_item(&text, kind, &item)
                    }
                    // There is more to come, or nobody can say what is in it.
                    (Some(_) | None, _) => text,
                }
            }
            Kind::Error { code, .. } => {
                let offered = match kind {
                    ListKind::Tools => told.tools,
                    ListKind::Prompts => told.prompts,
                    ListKind::Resources | ListKind::ResourceTemplates => true,
                };
                if first && has_none(code, offered) {
                    bytes_of::list(&exchange.id, kind, &item)
                } else {
                    text
                }
            }
            Kind::Request { .. } | Kind::Notification { .. } => text,
        };
        (text, false)
    }

    /// Tells the clients that listen of a turn.
    fn log(&self, turn: Turn) {
        let report = self.summary();
        let (level, words) = words(&self.name, turn, report.reason.as_deref());
        let message = bytes_of::log_message(level.as_str(), &words);
        self.desk(|desk| {
            for latch in desk.latches.values() {
                let told = latch.tell.as_ref().is_some_and(|told| level.reaches(told.level.as_deref()));
                // Who does not listen now would take it for news when it does.
                if let Some(outbox) = latch.outbox_so_far().filter(|outbox| told && outbox.attached()) {
                    outbox.push(message.clone());
                }
            }
        });
    }
}

fn left_to_the_server(kind: ListKind) -> Entry {
    Entry {
        subject: Some(kind.method().to_owned()),
        detail: Some(format!("the server has a `{NAME}` of its own, so relatch adds none")),
        ..Entry::new(What::Skipped)
    }
}

/// Looks after those whose clients are told; who they are may change with the configuration.
async fn look(keeper: Weak<Keeper>, mut turned: tokio::sync::watch::Receiver<u64>) {
    let mut told: Vec<(Arc<Upstream>, Turns)> = Vec::new();
    loop {
        let Some(all) = keeper.upgrade().map(|keeper| keeper.all()) else { return };
        let telling: Vec<_> = all.into_iter().filter(|up| up.tells()).collect();
        told.retain(|(known, _)| telling.iter().any(|up| Arc::ptr_eq(up, known)));
        for up in telling {
            if !told.iter().any(|(known, _)| Arc::ptr_eq(known, &up)) {
                told.push((up, Turns::default()));
            }
        }
        for (up, turns) in &mut told {
            let (now, glance) = up.glance();
            if let Some(turn) = turns.see(now, glance) {
                up.log(turn);
            }
        }
        if told.is_empty() {
            // A changed configuration is announced as a turn.
            if turned.changed().await.is_err() {
                return;
            }
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
}
