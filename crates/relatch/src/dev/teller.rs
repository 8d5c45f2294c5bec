//! Tells whoever looks on. Nobody waits for that: what finds no room is counted and let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::news::{Event, Line, News, Said, Stage};

/// News that wait to be shown.
const ROOM: usize = 8_192;

/// The end at which things are told. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    out: mpsc::Sender<News>,
    missed: Arc<AtomicU64>,
}

impl Teller {
    pub(crate) fn new() -> (Teller, mpsc::Receiver<News>) {
        let (out, news) = mpsc::channel(ROOM);
        (Teller { out, missed: Arc::default() }, news)
    }

    /// relatch says something of its own work.
    pub(crate) fn say(&self, event: Event) {
        self.line(Said::Relatch(event));
    }

    pub(crate) fn stage(&self, stage: Stage) {
        self.tell(News::Stage(stage));
    }

    /// For each line of the build.
    pub(crate) fn built(&self, line: &str) {
        self.line(Said::Build(line.to_owned()));
    }

    /// For each line of the server.
    pub(crate) fn server(&self, line: &str) {
        self.line(Said::Server(line.to_owned()));
    }

    /// The same for who starts one.
    pub(crate) fn heard(&self) -> impl Fn(&str) + Clone + Send + Sync + 'static {
        let teller = self.clone();
        move |line: &str| teller.server(line)
    }

    pub(crate) fn tell(&self, news: News) {
        if self.out.try_send(news).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// That so many found no room.
    pub(crate) fn missed(&self, count: u64) {
        self.missed.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were let go since this was asked last.
    pub(crate) fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }

    fn line(&self, said: Said) {
        self.tell(News::Line(Line { at: Timestamp::now(), said }));
    }
}
