//! What happened in a rehearsal: a timeline as it goes, and a verdict for each scene.
//!
//! Lines of different origin (the client here, relatch's journal) may arrive a little out of order; each waits a
//! moment, so that the timeline is told in the order in which things happened.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinSet;

/// How long a line waits for an earlier one.
const SETTLE: Duration = Duration::from_millis(60);

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    Client,
    Server,
    Relatch,
    You,
}

impl Who {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Who::Client => "client",
            Who::Server => "server",
            Who::Relatch => "relatch",
            Who::You => "you",
        }
    }
}

/// A line of the timeline.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Milliseconds since the rehearsal began.
    pub(crate) ms: u64,
    pub(crate) who: Who,
    pub(crate) text: String,
}

/// What became of a scene's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The call was answered.
    Answered,
    /// It could not be answered, and the client was told what is known, at once.
    ToldTheTruth,
    /// Neither.
    Lost,
    /// Not played.
    Skipped,
}

/// A scene and its end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scene {
    /// The stable word for machines.
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    pub(crate) outcome: Outcome,
    /// How often the call ran at the server; none where that can't be counted.
    pub(crate) executions: Option<usize>,
    /// From the call (for a call that was told the truth: from the server's death) to its end.
    pub(crate) ms: Option<u64>,
    /// What there is to say.
    pub(crate) note: String,
}

/// The whole of it, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Account {
    pub(crate) schema: u32,
    /// `relatch` or `direct`.
    pub(crate) mode: &'static str,
    pub(crate) url: String,
    pub(crate) ok: bool,
    pub(crate) lost: usize,
    pub(crate) ran_twice: usize,
    pub(crate) scenes: Vec<Scene>,
    pub(crate) timeline: Vec<Line>,
}

impl Account {
    pub(crate) fn new(direct: bool, url: &str, scenes: Vec<Scene>, timeline: Vec<Line>) -> Account {
        let lost = scenes.iter().filter(|scene| scene.outcome == Outcome::Lost).count();
        let ran_twice = scenes.iter().filter(|scene| scene.executions.is_some_and(|count| count > 1)).count();
        Account {
            schema: 1,
            mode: if direct { "direct" } else { "relatch" },
            url: relatch_admin::schema::shown_url(url),
            ok: lost == 0 && ran_twice == 0,
            lost,
            ran_twice,
            scenes,
            timeline,
        }
    }
}

/// What the timeline is told to as it goes.
pub(crate) type Listener = Box<dyn Fn(&Told<'_>) + Send>;

/// A piece of the story.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// A scene begins.
    Scene { number: usize, title: &'a str },
    /// Something happened.
    Line(&'a Line),
}

/// The timeline while it is being written.
pub(crate) struct Story {
    inner: Arc<Mutex<Inner>>,
    began: Instant,
    began_at: Timestamp,
    // Ends with the story.
    _telling: JoinSet<()>,
}

struct Inner {
    lines: Vec<Line>,
    /// Lines that have been told already.
    told: usize,
    listener: Listener,
}

impl Story {
    /// Begins now; tells each line to `listener`.
    pub(crate) fn begin(listener: Listener) -> Story {
        let inner = Arc::new(Mutex::new(Inner { lines: Vec::new(), told: 0, listener }));
        let began = Instant::now();
        let mut telling = JoinSet::new();
        let teller = Arc::clone(&inner);
        telling.spawn(async move {
            let mut tick = tokio::time::interval(SETTLE / 2);
            loop {
                tick.tick().await;
                let ripe = began.elapsed().saturating_sub(SETTLE);
                lock(&teller).tell_until(millis(ripe));
            }
        });
        Story { inner, began, began_at: Timestamp::now(), _telling: telling }
    }

    /// Something happened just now.
    pub(crate) fn tell(&self, who: Who, text: impl Into<String>) {
        let line = Line { ms: self.elapsed(), who, text: text.into() };
        lock(&self.inner).add(line);
    }

    /// A pen for another task, which writes with dates of its own.
    pub(crate) fn pen(&self) -> Pen {
        Pen { inner: Arc::clone(&self.inner), began_at: self.began_at }
    }

    /// A scene begins; what came before it is told first.
    pub(crate) async fn scene(&self, number: usize, title: &str) {
        self.settle().await;
        let inner = lock(&self.inner);
        (inner.listener)(&Told::Scene { number, title });
    }

    /// Tells everything that has happened until now.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(SETTLE).await;
        lock(&self.inner).tell_until(u64::MAX);
    }

    /// Milliseconds since the beginning.
    pub(crate) fn elapsed(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// The whole timeline.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lock(&self.inner).lines.clone()
    }
}

/// Writes into a story from elsewhere.
#[derive(Clone)]
pub(crate) struct Pen {
    inner: Arc<Mutex<Inner>>,
    began_at: Timestamp,
}

impl Pen {
    pub(crate) fn tell(&self, at: Timestamp, who: Who, text: String) {
        let ms = u64::try_from(at.as_millisecond() - self.began_at.as_millisecond()).unwrap_or_default();
        lock(&self.inner).add(Line { ms, who, text });
    }
}

impl Inner {
    /// In its place among the lines that have not been told; the told ones stay as they are.
    fn add(&mut self, line: Line) {
        let place = self.lines[self.told..].partition_point(|other| other.ms <= line.ms);
        self.lines.insert(self.told + place, line);
    }

    fn tell_until(&mut self, ms: u64) {
        while let Some(line) = self.lines.get(self.told)
            && line.ms <= ms
        {
            (self.listener)(&Told::Line(line));
            self.told += 1;
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_told_in_the_order_in_which_things_happened() {
        let (sender, heard) = std::sync::mpsc::channel();
        let story = Story::begin(Box::new(move |told| {
            if let Told::Line(line) = told {
                sender.send(line.text.clone()).unwrap();
            }
        }));
        let pen = story.pen();
        let later = story.began_at + Duration::from_millis(40);
        pen.tell(later, Who::Relatch, "second".into());
        story.tell(Who::Client, "first");
        story.settle().await;
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["first", "second"]);
    }

    #[test]
    fn an_account_counts_what_was_lost_and_what_ran_twice() {
        let scene = |outcome, executions| Scene {
            code: "a",
            title: "b",
            outcome,
            executions,
            ms: None,
            note: String::new(),
        };
        let account = Account::new(
            false,
            "http://127.0.0.1:1/mcp",
            vec![
                scene(Outcome::Answered, Some(2)),
                scene(Outcome::Lost, Some(0)),
                scene(Outcome::Skipped, None),
            ],
            vec![],
        );
        assert_eq!((account.ok, account.lost, account.ran_twice), (false, 1, 1));
        let fine = vec![scene(Outcome::Answered, Some(1)), scene(Outcome::ToldTheTruth, Some(1))];
        assert!(Account::new(false, "http://127.0.0.1:1/mcp", fine, vec![]).ok);
    }
}
