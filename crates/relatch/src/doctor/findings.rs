//! What the facts mean: one pure function from [`Facts`] to [`Finding`]s.
//!
//! *Wrong* is what fails for a client or endangers the user; *note* is what departs from the specification without
//! known harm, or what its owner wants to know; *unknown* is what could not be seen. `door` judges servers without a
//! handshake, `session`, `guard` and `talk` the others.

mod door;
mod guard;
mod session;
mod talk;

pub(crate) use talk::median;

use serde::Serialize;

use super::facts::{Answer, Door, End, Facts, Seen};
use super::sdk::Sdk;
use super::spec::Spec;

/// How much of a body is shown, in characters.
const SHOWN: usize = 200;

/// How a finding is marked; the order is that of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Wrong,
    Note,
    Unknown,
    Ok,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Stable; `docs/guide/doctor.md` lists them.
    pub(crate) code: &'static str,
    pub(crate) level: Level,
    /// One plain sentence.
    pub(crate) said: String,
    /// What was seen: the question, then status and the beginning of the body.
    pub(crate) evidence: Vec<String>,
    pub(crate) spec: Option<Spec>,
    /// For whom it matters.
    pub(crate) why: Option<String>,
    /// What relatch does about it.
    pub(crate) relatch: Option<String>,
    /// How to mend it.
    pub(crate) hint: Option<String>,
}

/// Judges everything that was seen; what to mend first stands first.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    match &facts.door {
        Door::Shut(shut) => door::judge(facts, shut, &mut all),
        Door::Open(inside) => {
            let sdk = Sdk::recognise(inside);
            session::judge(inside, sdk, &mut all);
            guard::judge(facts, inside, sdk, &mut all);
            talk::judge(inside, sdk, &mut all);
        }
    }
    if facts.stopped && matches!(facts.door, Door::Open(_)) {
        all.push(
            Finding::new(
                "silent",
                Level::Wrong,
                "It has stopped answering: three requests in a row got nothing",
            )
            .why("Each client waits for its time-out, a minute and more, before it says anything")
            .relatch("It says `down` after three probes without an answer")
            .hint("Look at the server's own log for the moment of this examination"),
        );
    }
    if !facts.redirected.is_empty() {
        all.push(
            Finding::new("redirect", Level::Note, "The address redirects to another path of the same server")
                .seen(facts.redirected.join(" → "))
                .why("A client that does not follow a redirected POST never reaches the server")
                .relatch("It follows and remembers")
                .hint(format!(
                    "Configure `{}`",
                    facts.redirected.last().map(String::as_str).unwrap_or_default()
                )),
        );
    }
    all.sort_by_key(|finding| finding.level);
    all
}

/// Whether the server passes: it was examined, and nothing is wrong.
pub(crate) fn passes(facts: &Facts, findings: &[Finding]) -> bool {
    matches!(facts.door, Door::Open(_)) && findings.iter().all(|finding| finding.level != Level::Wrong)
}

impl Finding {
    fn new(code: &'static str, level: Level, said: impl Into<String>) -> Finding {
        Finding {
            code,
            level,
            said: said.into(),
            evidence: Vec::new(),
            spec: None,
            why: None,
            relatch: None,
            hint: None,
        }
    }

    fn seen(mut self, what: impl Into<String>) -> Finding {
        self.evidence.push(what.into());
        self
    }

    /// The answer to one question.
    fn saw(self, asked: &str, seen: &Seen) -> Finding {
        let shown = shown(seen);
        self.seen(format!("{asked}: {shown}"))
    }

    fn spec(mut self, spec: Spec) -> Finding {
        self.spec = Some(spec);
        self
    }

    fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = Some(why.into());
        self
    }

    fn relatch(mut self, relatch: impl Into<String>) -> Finding {
        self.relatch = Some(relatch.into());
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }
}

/// What came back, in one line: the status and the beginning of the body.
fn shown(seen: &Seen) -> String {
    match &seen.end {
        End::Answered(answer) => shown_answer(answer),
        End::Broken(cause) => cause.to_string(),
        End::Silent(limit) => format!("no answer within {} s", limit.as_secs()),
        End::NotAsked => "not asked".to_owned(),
    }
}

fn shown_answer(answer: &Answer) -> String {
    let kind = if answer.kind.is_empty() { String::new() } else { format!(" {}", answer.kind) };
    let body = shown_text(&answer.body);
    let space = if body.is_empty() { "" } else { " " };
    format!("HTTP {}{kind}{space}{body}", answer.status)
}

/// The beginning of a text from the network, on one line.
fn shown_text(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line,
    }
}

/// What is said where a question got no answer that could be judged.
fn unseen(code: &'static str, what: &str, seen: &Seen) -> Finding {
    Finding::new(code, Level::Unknown, format!("{what} could not be seen")).saw("answered", seen)
}

#[cfg(test)]
mod tests;
