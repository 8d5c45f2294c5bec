//! The workshop: builds, starts and ends the server of `relatch dev`, one round at a time.
//!
//! Decides what a change, a key or a crash leads to, and what clients keep when the new server does not come. How calls wait
//! and are sent is the core's; whether a server is up is found out in `web`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use relatch_net::upstream::process::{self, Process};
use relatch_wire::RequestId;
use relatch_wire::handshake::request_message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::clients::Clients;
use super::files::Told;
use super::news::{Event, Left, Stage, Up, Wish};
use super::teller::Teller;
use super::web::{self, Place, Run};
use crate::launch::Program;

/// A start that a newer change has overtaken is given up after this, unless it is over sooner: while calls go on in the former
/// server, and while they wait for the start.
const OVERTAKEN: Duration = Duration::from_secs(3);
const WAITED_FOR: Duration = Duration::from_secs(10);
/// Calls that have waited for a start get so long to go out before the next one: however fast somebody saves, they go on.
const BREATH: Duration = Duration::from_secs(2);
/// A file that only ever changes during builds is taken for a product at so many of them; one that somebody has saved, too, may
/// be saved during a build a few times more.
const MADE: u32 = 2;
const SAVED: u32 = 5;
/// The date of a file is by so much older than its writing, at most.
const COARSE: Duration = Duration::from_millis(20);
/// The pause after a crash; it doubles up to the longest.
const REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// One that has run for so long before it crashed rests no longer than one that crashed for the first time.
const STEADY: Duration = Duration::from_secs(10);
/// A command that is tried without a client has so long to answer.
const TRIAL: Duration = Duration::from_secs(20);
/// Longer than a start may take; it ends by itself should its end be forgotten.
const PAUSE: Duration = Duration::from_secs(60);
/// Of what a build said last, so many lines are looked at for its fault.
const BUILD_TAIL: usize = 40;

/// What runs, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// Goes before each start, through `sh -c`.
    pub(crate) build: Option<String>,
    /// Running calls have so long to end before their server does.
    pub(crate) drain: Duration,
}

/// How clients' messages reach the server.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// By its stdin and stdout: a process for each session.
    Stdio(Vec<String>),
    /// By an address.
    Web(Place),
}

/// Why there is a round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Because {
    Start,
    Files(Vec<PathBuf>),
    Key,
    Crash,
}

/// The last build, for whoever has to decide whether it is what has changed a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastBuild {
    None,
    Runs { began: SystemTime },
    Ended { began: SystemTime, ended: SystemTime },
}

impl LastBuild {
    /// Whether a file that was written then may have been written by it.
    fn covers(self, written: SystemTime) -> bool {
        match self {
            LastBuild::None => false,
            LastBuild::Runs { began } => began <= written,
            LastBuild::Ended { began, ended } => began <= written && written <= ended,
        }
    }
}

/// How a round ended.
enum Next {
    Wait,
    Again(Because),
    End,
}

/// The workshop, from start to end.
pub(crate) struct Shop {
    worker: Worker,
    products: Products,
    changes: mpsc::Receiver<Told>,
    wishes: mpsc::Receiver<Wish>,
    stopped: watch::Receiver<bool>,
}

impl Shop {
    pub(crate) fn new(
        plan: Plan,
        clients: Clients,
        teller: Teller,
        changes: mpsc::Receiver<Told>,
        wishes: mpsc::Receiver<Wish>,
        stopped: watch::Receiver<bool>,
    ) -> Shop {
        let worker = Worker {
            plan,
            clients,
            teller,
            starts: watch::Sender::new(None),
            last_build: watch::Sender::new(LastBuild::None),
            running: None,
            crashes: 0,
            rests: None,
            leaving: JoinSet::new(),
        };
        Shop { worker, products: Products::default(), changes, wishes, stopped }
    }

    /// Runs until somebody has seen enough; then the server ends.
    pub(crate) async fn run(mut self) {
        let mut due = Some(Because::Start);
        loop {
            if let Some(because) = due.take() {
                match self.round(because).await {
                    Next::Wait => {}
                    Next::Again(because) => due = Some(because),
                    Next::End => break,
                }
                continue;
            }
            tokio::select! {
                told = next(&mut self.changes) => due = self.told(told),
                wish = self.wishes.recv() => match wish {
                    Some(Wish::Restart) => due = Some(Because::Key),
                    Some(Wish::Quit) | None => break,
                },
                () = stopped(&mut self.stopped) => break,
                words = crash(self.worker.running.as_ref()) => self.worker.crashed(words),
                () = rested(self.worker.rests) => due = Some(Because::Crash),
            }
        }
        self.worker.end().await;
    }

    /// One round; what comes meanwhile makes another one, at once where this one is overtaken by it.
    async fn round(&mut self, because: Because) -> Next {
        let Shop { worker, products, changes, wishes, stopped: stop } = self;
        let teller = worker.teller.clone();
        let (starts, last_build) = (worker.starts.subscribe(), worker.last_build.subscribe());
        let patience = if worker.keeps_calls_waiting() { WAITED_FOR } else { OVERTAKEN };
        let mut newer: Option<Because> = None;
        let mut work = pin!(worker.round(because));
        loop {
            let overtaken = overtaken(starts.clone(), newer.is_some().then_some(patience));
            tokio::select! {
                () = &mut work => return newer.map_or(Next::Wait, Next::Again),
                told = next(changes) => {
                    let last_build = *last_build.borrow();
                    if let Some(because) = products.sift(told, last_build, &teller) {
                        newer = Some(because);
                    }
                }
                wish = wishes.recv() => match wish {
                    Some(Wish::Restart) => newer = Some(Because::Key),
                    Some(Wish::Quit) | None => return Next::End,
                },
                () = self::stopped(stop) => return Next::End,
                () = overtaken => return newer.map_or(Next::Wait, Next::Again),
            }
        }
    }

    fn told(&mut self, told: Told) -> Option<Because> {
        let last_build = *self.worker.last_build.borrow();
        self.products.sift(told, last_build, &self.worker.teller)
    }
}

/// Files that change with each build are what it writes, and no reason for another one.
#[derive(Debug, Default)]
struct Products {
    /// Files that have changed without a build: somebody writes them.
    sources: BTreeSet<PathBuf>,
    /// During how many builds each has changed, since it last changed without one.
    builds: BTreeMap<PathBuf, u32>,
}

impl Products {
    /// What follows from what a watch tells.
    fn sift(&mut self, told: Told, last_build: LastBuild, teller: &Teller) -> Option<Because> {
        let paths = match told {
            Told::Changed(paths) => paths,
            Told::Looks(why) => {
                teller.say(Event::Looks { why });
                return None;
            }
        };
        let (during, without): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| {
            // What is gone went just now.
            let written = path.metadata().and_then(|about| about.modified());
            last_build.covers(written.unwrap_or_else(|_| SystemTime::now()))
        });
        let mut changed = self.wrote(without);
        let (more, learnt) = self.built(during);
        changed.extend(more);
        if !learnt.is_empty() {
            teller.say(Event::Products(learnt));
        }
        (!changed.is_empty()).then_some(Because::Files(changed))
    }

    /// Somebody wrote them.
    fn wrote(&mut self, paths: Vec<PathBuf>) -> Vec<PathBuf> {
        for path in &paths {
            self.builds.remove(path);
            self.sources.insert(path.clone());
        }
        paths
    }

    /// They changed during a build: those that count all the same, and those that are seen to be products by now.
    fn built(&mut self, paths: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut changed, mut learnt) = (Vec::new(), Vec::new());
        for path in paths {
            let most = if self.sources.contains(&path) { SAVED } else { MADE };
            let builds = self.builds.entry(path.clone()).or_default();
            *builds += 1;
            if *builds < most {
                changed.push(path);
            } else if *builds == most {
                learnt.push(path);
            }
        }
        (changed, learnt)
    }
}

/// Who does the work of a round. One that is dropped leaves no process behind and nothing half done.
struct Worker {
    plan: Plan,
    clients: Clients,
    teller: Teller,
    /// Since when a server starts, while one does.
    starts: watch::Sender<Option<Instant>>,
    last_build: watch::Sender<LastBuild>,
    /// The server that clients have, where it is reached by an address.
    running: Option<Run>,
    /// In a row, without a steady run in between.
    crashes: u32,
    /// When a server that has crashed is started again.
    rests: Option<Instant>,
    /// Former servers that end.
    leaving: JoinSet<()>,
}

impl Worker {
    async fn round(&mut self, because: Because) {
        self.rests = None;
        while self.leaving.try_join_next().is_some() {}
        if because == Because::Start && matches!(self.plan.kind, Kind::Web(_)) {
            // Who comes first waits for it.
            self.pause();
        }
        let builds = because != Because::Crash;
        match because {
            Because::Start | Because::Crash => {}
            Because::Files(paths) => self.teller.say(Event::Changed(paths)),
            Because::Key => self.teller.say(Event::Asked),
        }
        if builds {
            // Somebody has done something about it.
            self.crashes = 0;
            if !self.build().await {
                return;
            }
        }
        if self.keeps_calls_waiting() && self.left() == Left::Former {
            self.clients.breathe(BREATH).await;
        }
        match self.plan.kind.clone() {
            Kind::Stdio(command) => self.renew(&command).await,
            Kind::Web(place) if place.moves() => self.beside(&place).await,
            Kind::Web(place) => self.in_place(&place).await,
        }
        self.starts.send_replace(None);
    }

    /// Whether the code is built, or needs no building.
    async fn build(&mut self) -> bool {
        let Some(line) = self.plan.build.clone() else { return true };
        let began = Instant::now();
        self.starts.send_replace(None);
        let dated = SystemTime::now() - COARSE;
        self.last_build.send_replace(LastBuild::Runs { began: dated });
        self.teller.stage(Stage::Builds { since: Timestamp::now() });
        self.teller.say(Event::Builds(line.clone()));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (teller, kept) = (self.teller.clone(), Arc::clone(&tail));
        let heard = move |line: &str| {
            teller.built(line);
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == BUILD_TAIL {
                kept.pop_front();
            }
            kept.push_back(line.to_owned());
        };
        // Whoever asks something in a build hears that nobody answers.
        let shell = ["sh", "-c", "exec sh -c \"$0\" </dev/null", &line].map(str::to_owned);
        let shell = crate::keeper::command(&Program::typed(&shell));
        let outcome = match Process::start(&shell, heard) {
            Ok(process) => {
                let words = process.over().await;
                let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                build_outcome(process.code(), &words, &tail)
            }
            Err(words) => Err(words),
        };
        self.last_build.send_replace(LastBuild::Ended { began: dated, ended: SystemTime::now() });
        match outcome {
            Ok(()) => {
                self.teller.say(Event::Built { ms: ms(began) });
                true
            }
            Err(words) => {
                self.clients.resume();
                let left = self.left();
                self.teller.say(Event::BuildFailed { words: words.clone(), left });
                self.fails(words, left);
                false
            }
        }
    }

    /// Each session gets a process of the new code beside its old one. Without a client the command is tried once.
    async fn renew(&mut self, command: &[String]) {
        let began = Instant::now();
        self.starts();
        if self.clients.count() == 0 {
            match self.try_out(command).await {
                Ok(server) => self.up(Up { server, ms: ms(began), clients: None, port: None }),
                Err(words) => self.not_up(words, Left::Nothing),
            }
            return;
        }
        match self.clients.renew().await {
            Ok(clients) => {
                let server = self.clients.server();
                self.up(Up { server, ms: ms(began), clients: Some(clients), port: None });
            }
            Err(words) => self.not_up(words, Left::Former),
        }
        let (clients, teller, drain) = (self.clients.clone(), self.teller.clone(), self.plan.drain);
        self.leaving.spawn(async move {
            let calls = clients.part_from_old(drain).await;
            if calls > 0 {
                teller.say(Event::Cut { calls, ms: ms_of(drain) });
            }
        });
    }

    async fn try_out(&self, command: &[String]) -> Result<Option<String>, String> {
        let message =
            request_message(&RequestId::number(1), "initialize", Some(web::params().to_string().as_bytes()));
        let answer = process::ask_once(
            &crate::keeper::command(&Program::typed(command)),
            &message,
            TRIAL,
            self.teller.heard(),
        )
        .await?;
        let read: serde_json::Value = serde_json::from_slice(&answer)
            .map_err(|_| "its answer to `initialize` is no message".to_owned())?;
        if let Some(error) = read.get("error") {
            let said = error["message"].as_str().unwrap_or_default();
            return Err(format!("it answers `initialize` with an error: {said}"));
        }
        Ok(web::server_name(&read["result"]))
    }

    /// The new server starts at another port, and the old one ends when clients have moved.
    async fn beside(&mut self, place: &Place) {
        let began = Instant::now();
        self.starts();
        match place.start(self.teller.heard()).await {
            Ok((run, server)) => {
                let (url, port) = (run.url.clone(), run.port);
                let former = self.running.replace(run);
                self.clients.move_to(&url);
                self.clients.resume();
                self.up(Up { server, ms: ms(began), clients: Some(self.clients.count()), port });
                if let Some(former) = former {
                    let (clients, teller, drain) =
                        (self.clients.clone(), self.teller.clone(), self.plan.drain);
                    self.leaving.spawn(async move {
                        let calls = clients.left_behind(drain).await;
                        if calls > 0 {
                            teller.say(Event::Cut { calls, ms: ms_of(drain) });
                        }
                        former.process.stop().await;
                    });
                }
            }
            Err(words) => {
                self.clients.resume();
                let left = self.left();
                self.not_up(words, left);
            }
        }
    }

    /// The port is needed: calls wait while the old server ends and the new one starts.
    async fn in_place(&mut self, place: &Place) {
        self.pause();
        if let Some(run) = self.running.take() {
            self.teller.stage(Stage::Drains { since: Timestamp::now() });
            let calls = self.clients.drained(self.plan.drain).await;
            if calls > 0 {
                self.teller.say(Event::Cut { calls, ms: ms_of(self.plan.drain) });
            }
            run.process.stop().await;
        }
        let began = Instant::now();
        self.starts();
        match place.start(self.teller.heard()).await {
            Ok((run, server)) => {
                self.running = Some(run);
                self.clients.resume();
                self.up(Up { server, ms: ms(began), clients: Some(self.clients.count()), port: None });
            }
            Err(words) => {
                // Calls go on waiting, for a server that is away now.
                self.clients.resume();
                self.not_up(words, Left::Nothing);
            }
        }
    }

    /// The server has ended by itself.
    fn crashed(&mut self, words: String) {
        let steady = self.running.take().is_some_and(|run| run.began.elapsed() > STEADY);
        self.crashes = if steady { 1 } else { self.crashes + 1 };
        self.rest(words);
    }

    fn rest(&mut self, words: String) {
        let pause = pause(self.crashes);
        self.rests = Some(Instant::now() + pause);
        self.teller.say(Event::Exited { words: words.clone(), again_ms: Some(ms_of(pause)) });
        self.teller.stage(Stage::Rests { since: Timestamp::now(), words });
    }

    /// Running calls have their time once more, then everything ends.
    async fn end(&mut self) {
        self.teller.stage(Stage::Ends);
        if let Some(run) = self.running.take() {
            if run.process.last_words().is_none() {
                self.clients.drained(self.plan.drain).await;
            }
            run.process.stop().await;
        } else if matches!(self.plan.kind, Kind::Stdio(_)) {
            self.clients.drained(self.plan.drain).await;
            self.clients.close().await;
        }
        while self.leaving.join_next().await.is_some() {}
    }

    /// Whether calls wait while the server starts.
    fn keeps_calls_waiting(&self) -> bool {
        match &self.plan.kind {
            Kind::Stdio(_) => true,
            Kind::Web(place) => !place.moves(),
        }
    }

    fn pause(&self) {
        self.clients.pause(PAUSE + self.plan.drain);
    }

    fn left(&self) -> Left {
        match &self.plan.kind {
            Kind::Stdio(_) if self.clients.count() > 0 => Left::Former,
            Kind::Web(_) if self.running.is_some() => Left::Former,
            Kind::Stdio(_) | Kind::Web(_) => Left::Nothing,
        }
    }

    fn starts(&self) {
        self.starts.send_replace(Some(Instant::now()));
        self.teller.stage(Stage::Starts { since: Timestamp::now() });
    }

    fn up(&self, up: Up) {
        self.teller.say(Event::Up(up));
        self.teller.stage(Stage::Runs { since: Timestamp::now() });
    }

    fn not_up(&mut self, words: String, left: Left) {
        // What crashes is tried again; what was edited waits for the next edit.
        if self.crashes > 0 {
            self.crashes += 1;
            return self.rest(words);
        }
        self.teller.say(Event::NotUp { words: words.clone(), left });
        self.fails(words, left);
    }

    fn fails(&self, words: String, left: Left) {
        self.teller.stage(Stage::Failed { since: Timestamp::now(), words, left });
    }
}

/// How a build ended; a fault says what is most telling of its last lines.
fn build_outcome(code: Option<i32>, words: &str, tail: &VecDeque<String>) -> Result<(), String> {
    let telling = tail.iter().rev().find(|line| line.to_ascii_lowercase().contains("error"));
    let said = telling.or(tail.back()).map_or(String::new(), |line| format!(": `{}`", line.trim()));
    match code {
        Some(0) => Ok(()),
        Some(127) => Err(format!("its command is not there{said}")),
        Some(code) => Err(format!("it exited with status {code}{said}")),
        None => Err(words.to_owned()),
    }
}

/// How long a server rests that has crashed so often.
fn pause(crashes: u32) -> Duration {
    REST.saturating_mul(1 << crashes.saturating_sub(1).min(10)).min(LONGEST_REST)
}

async fn next(changes: &mut mpsc::Receiver<Told>) -> Told {
    match changes.recv().await {
        Some(told) => told,
        // Nothing can be watched any more; the key is left.
        None => std::future::pending().await,
    }
}

async fn stopped(stopped: &mut watch::Receiver<bool>) {
    // Who could stop it is gone: that is a stop, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn crash(running: Option<&Run>) -> String {
    match running {
        Some(run) => run.process.over().await,
        None => std::future::pending().await,
    }
}

async fn rested(rests: Option<Instant>) {
    match rests {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends when something newer has waited long enough for a start that does not come to an end.
async fn overtaken(mut starts: watch::Receiver<Option<Instant>>, patience: Option<Duration>) {
    let began = match starts.wait_for(|starts| patience.is_some() && starts.is_some()).await {
        Ok(began) => *began,
        Err(_) => None,
    };
    match began.zip(patience) {
        Some((began, patience)) => tokio::time::sleep_until((began + patience).into()).await,
        None => std::future::pending().await,
    }
}

fn ms(since: Instant) -> u64 {
    ms_of(since.elapsed())
}

fn ms_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn what_each_build_writes_is_no_reason_for_another_and_a_save_always_is() {
        let mut products = Products::default();
        let none = Vec::<PathBuf>::new();
        let made = || paths(&["dist/a.js"]);
        // The first time it may have been the user.
        assert_eq!(products.built(made()), (made(), none.clone()));
        assert_eq!(products.built(made()), (none.clone(), made()));
        assert_eq!(products.built(made()), (none.clone(), none.clone()));
        // What somebody saves counts during builds, too, unless it goes round in circles.
        let saved = || paths(&["a.ts"]);
        assert_eq!(products.wrote(saved()), saved());
        for _ in 1..SAVED {
            assert_eq!(products.built([saved(), made()].concat()), (saved(), none.clone()));
        }
        assert_eq!(products.built(saved()), (none.clone(), saved()));
        assert_eq!(products.wrote(saved()), saved());
        assert_eq!(products.built(saved()), (saved(), none));
    }

    #[test]
    fn what_was_written_after_a_build_was_not_written_by_it() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        let ended = LastBuild::Ended { began, ended: at(110) };
        assert_eq!([99, 100, 110, 111].map(|second| ended.covers(at(second))), [false, true, true, false]);
        let runs = LastBuild::Runs { began };
        assert_eq!([99, 100, 111].map(|second| runs.covers(at(second))), [false, true, true]);
        assert!(!LastBuild::None.covers(at(100)));
    }

    #[test]
    fn a_crash_rests_ever_longer_within_a_bound() {
        let rests: Vec<u128> = [1, 2, 3, 6, 7, 8, 100].map(|crashes| pause(crashes).as_millis()).to_vec();
        assert_eq!(rests, [250, 500, 1_000, 8_000, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn a_build_that_fails_says_its_most_telling_line() {
        let tail: VecDeque<String> =
            ["   Compiling x", "error[E0425]: no `y`", "could not compile"].map(str::to_owned).into();
        assert_eq!(build_outcome(Some(0), "", &tail), Ok(()));
        assert_eq!(
            build_outcome(Some(101), "", &tail).unwrap_err(),
            "it exited with status 101: `error[E0425]: no `y``"
        );
        let missing: VecDeque<String> = ["sh: 1: mkae: not found".to_owned()].into();
        assert_eq!(
            build_outcome(Some(127), "", &missing).unwrap_err(),
            "its command is not there: `sh: 1: mkae: not found`"
        );
        assert_eq!(
            build_outcome(None, "`sh` was ended by signal 9", &tail).unwrap_err(),
            "`sh` was ended by signal 9"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_is_overtaken_by_something_newer_and_only_after_a_while() {
        let starts = watch::Sender::new(None);
        let soon = Duration::from_secs(60);
        let build = tokio::time::timeout(soon, overtaken(starts.subscribe(), Some(OVERTAKEN))).await;
        assert!(build.is_err(), "a build is never overtaken");
        starts.send_replace(Some(Instant::now()));
        let alone = tokio::time::timeout(soon, overtaken(starts.subscribe(), None)).await;
        assert!(alone.is_err(), "nothing newer has come");
        assert!(tokio::time::timeout(soon, overtaken(starts.subscribe(), Some(OVERTAKEN))).await.is_ok());
    }
}
