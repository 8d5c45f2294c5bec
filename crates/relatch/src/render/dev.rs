//! What `relatch dev` says: each event in words, a call in columns, and plain lines where there is no terminal to draw on.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::log::words as journal_words;
use super::{Style, Tint, clean, say, span};
use crate::dev::files::named;
use crate::dev::news::{Event, Left, Line, News, Said, Stage, Up};

/// Lines that wait to be printed.
const WAITING: usize = 4_096;
/// The last of them have so long.
const PRINTED_WITHIN: Duration = Duration::from_secs(1);
/// Calls that are not over are known up to this many.
const OPEN: usize = 4_096;

/// For who was started by something that may be a client.
pub(crate) const PIPED: &str =
    "stdin is a pipe and is not read: if a client has started this, `--stdio` serves it\n";

/// Where clients find the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// The address.
    pub(crate) url: String,
    /// The line to paste into a client.
    pub(crate) paste: String,
}

/// Says where clients find the server.
pub(crate) fn listening(listening: &Listening) {
    let _ = super::out(&format!("{}\n\n{}\n\n", listening.url, listening.paste));
}

/// Plain lines, as they come. They are printed by a thread of its own: a reader that stands still holds nobody up.
pub(crate) struct Lines {
    style: Style,
    calls: HashMap<u64, String>,
    out: SyncSender<String>,
    missed: u64,
    printed: Receiver<()>,
}

impl Lines {
    /// `aside` is for words on stderr: stdout is a client's.
    pub(crate) fn new(style: Style, aside: bool) -> Lines {
        let (out, lines) = sync_channel::<String>(WAITING);
        let (over, printed) = sync_channel(1);
        std::thread::spawn(move || {
            for text in lines {
                if aside {
                    say(&text);
                } else if !super::out(&text) {
                    // The reader is gone.
                    break;
                }
            }
            let _ = over.send(());
        });
        Lines { style, calls: HashMap::new(), out, missed: 0, printed }
    }

    /// Prints what there is to say of it; before it, that so many were not shown.
    pub(crate) fn print(&mut self, news: &News, missed: u64) {
        self.missed += missed;
        if self.missed > 0 {
            let at = Timestamp::now();
            let text = self.line(&Line { at, said: Said::Relatch(Event::Missed(self.missed)) });
            if self.out.try_send(text).is_ok() {
                self.missed = 0;
            }
        }
        let text = self.text(news);
        if !text.is_empty() && self.out.try_send(text).is_err() {
            self.missed += 1;
        }
    }

    /// Waits until all of it is printed, for a moment at most.
    pub(crate) fn end(self) {
        let Lines { out, printed, .. } = self;
        drop(out);
        let _ = printed.recv_timeout(PRINTED_WITHIN);
    }

    fn text(&mut self, news: &News) -> String {
        match news {
            News::Line(line) => self.line(line),
            News::Asked { call, method, tool, .. } => {
                // Nobody leaves so many open; the bound is for those whose end was not told.
                if self.calls.len() >= OPEN {
                    self.calls.clear();
                }
                self.calls.insert(*call, subject(method, tool.as_deref()));
                String::new()
            }
            News::Ended { call, ms, outcome, failed } => {
                let subject = self.calls.remove(call).unwrap_or_else(|| "a call".to_owned());
                let tint = if *failed { Tint::Bad } else { Tint::Faint };
                let words =
                    format!("{}  {ms} ms  {}", clean(&subject), self.style.tint(tint, &clean(outcome)));
                self.marked(Timestamp::now(), "call", Tint::Faint, &words)
            }
            News::Stage(_) => String::new(),
        }
    }

    fn line(&self, line: &Line) -> String {
        let (who, tint) = source(&line.said);
        let (words, tone) = said(&line.said);
        let words = if tone == Tone::Plain { words } else { self.style.tint(tone.tint(), &words) };
        self.marked(line.at, who, tint, &words)
    }

    fn marked(&self, at: Timestamp, who: &str, tint: Tint, words: &str) -> String {
        format!(
            "{}  {}  {words}\n",
            clock(at, &TimeZone::system()),
            self.style.tint(tint, &format!("{who:<7}"))
        )
    }
}

/// The time of a line.
pub(crate) fn clock(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string()
}

/// How a line sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
}

impl Tone {
    pub(crate) fn tint(self) -> Tint {
        match self {
            Tone::Plain => Tint::Faint,
            Tone::Good => Tint::Good,
            Tone::Busy => Tint::Busy,
            Tone::Bad => Tint::Bad,
        }
    }
}

/// Who says a line.
pub(crate) fn source(said: &Said) -> (&'static str, Tint) {
    match said {
        Said::Server(_) => ("server", Tint::Faint),
        Said::Build(_) => ("build", Tint::Faint),
        Said::Relatch(_) => ("relatch", Tint::Strong),
    }
}

/// What a line says, and how.
pub(crate) fn said(said: &Said) -> (String, Tone) {
    match said {
        Said::Server(line) | Said::Build(line) => (clean(line).into_owned(), Tone::Plain),
        Said::Relatch(event) => {
            let (words, tone) = words(event);
            (clean(&words).into_owned(), tone)
        }
    }
}

fn words(event: &Event) -> (String, Tone) {
    match event {
        Event::Watches { roots, files } => {
            let files = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            (format!("watching {files} in {}", named_roots(roots)), Tone::Plain)
        }
        Event::Looks { why } => (
            format!("the system does not tell of every change, so it is looked for each second: {why}"),
            Tone::Busy,
        ),
        Event::Changed(paths) => (format!("{} changed", named(paths)), Tone::Busy),
        Event::Asked => ("asked to start the server again".to_owned(), Tone::Busy),
        Event::Builds(command) => (format!("building: {command}"), Tone::Busy),
        Event::Built { ms } => (format!("built in {}", took(*ms)), Tone::Plain),
        Event::BuildFailed { words, left } => {
            (format!("the build failed: {words} · {}", left_words(*left)), Tone::Bad)
        }
        Event::Products(paths) => (
            format!(
                "{} changes with each build: taken for what the build writes, until it changes without one; \
                 `--ignore` leaves it out",
                named(paths)
            ),
            Tone::Busy,
        ),
        Event::Up(up) => (up_words(up), Tone::Good),
        Event::NotUp { words, left } => {
            (format!("the new server does not come up: {words} · {}", left_words(*left)), Tone::Bad)
        }
        Event::Cut { calls, ms } => {
            let calls = if *calls == 1 { "1 call was".to_owned() } else { format!("{calls} calls were") };
            (format!("{calls} not over after {} and may have run (`--drain`)", took(*ms)), Tone::Bad)
        }
        Event::Exited { words, again_ms: Some(ms) } => {
            (format!("{words} · it is started again in {}", took(*ms)), Tone::Bad)
        }
        Event::Exited { words, again_ms: None } => {
            (format!("{words} · the next call starts it again"), Tone::Bad)
        }
        Event::Journal(dated) => {
            let entry = &dated.entry;
            let tone = match super::log::tint(entry.what) {
                Tint::Good => Tone::Good,
                Tint::Busy => Tone::Busy,
                Tint::Bad => Tone::Bad,
                Tint::Faint | Tint::Strong => Tone::Plain,
            };
            (format!("{}: {}", entry.what.as_str(), journal_words(entry)), tone)
        }
        Event::Missed(count) => {
            (format!("({count} lines and calls were not shown: they came too fast)"), Tone::Plain)
        }
    }
}

fn up_words(up: &Up) -> String {
    let server = up.server.as_ref().map_or("the server".to_owned(), |server| format!("`{server}`"));
    let port = up.port.map_or(String::new(), |port| format!(" at port {port}"));
    let for_whom = match up.clients {
        None => "; it has ended again, since no client is there: each gets a process of its own".to_owned(),
        Some(0) => "; no client is there yet".to_owned(),
        Some(1) => "; 1 client goes on with it".to_owned(),
        Some(clients) => format!("; {clients} clients go on with it"),
    };
    format!("{server} is up{port}, in {}{for_whom}", took(up.ms))
}

fn left_words(left: Left) -> &'static str {
    match left {
        Left::Former => "the former one goes on",
        Left::Nothing => "calls wait for the next change",
    }
}

/// `12 ms`, `1.34 s`, `2m 10s`.
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        #[expect(clippy::cast_precision_loss, reason = "below a minute")]
        1_000..60_000 => format!("{:.2} s", ms as f64 / 1_000.0),
        _ => span(ms),
    }
}

/// What is called.
pub(crate) fn subject(method: &str, tool: Option<&str>) -> String {
    tool.map_or_else(|| method.to_owned(), |tool| format!("{method} {tool}"))
}

/// What the workshop does, in a line; `now` is when it is read.
pub(crate) fn stage(stage: &Stage, now: Timestamp) -> (String, Tone) {
    let ago = |since: &Timestamp| super::status::ago(*since, now);
    match stage {
        Stage::Begins => ("starting".to_owned(), Tone::Busy),
        Stage::Builds { since } => (format!("building for {}", ago(since)), Tone::Busy),
        Stage::Drains { since } => (format!("waiting for running calls for {}", ago(since)), Tone::Busy),
        Stage::Starts { since } => (format!("starting for {}", ago(since)), Tone::Busy),
        Stage::Runs { since } => (format!("the newest code runs, since {}", ago(since)), Tone::Good),
        Stage::Failed { since, words, left } => (
            clean(&format!("failed {} ago, {}: {words}", ago(since), left_words(*left))).into_owned(),
            Tone::Bad,
        ),
        Stage::Rests { words, since } => {
            (clean(&format!("crashed {} ago: {words}", ago(since))).into_owned(), Tone::Bad)
        }
        Stage::Ends => ("ending".to_owned(), Tone::Busy),
    }
}

fn named_roots(roots: &[std::path::PathBuf]) -> String {
    let names: Vec<String> = roots.iter().take(3).map(|root| format!("`{}`", root.display())).collect();
    let more = roots.len().saturating_sub(names.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relatch(event: Event) -> String {
        said(&Said::Relatch(event)).0
    }

    #[test]
    fn each_event_is_a_sentence_that_says_what_clients_have() {
        let words = || "`python` exited with status 1".to_owned();
        let up = |clients, port| Event::Up(Up { server: Some("notes 1.0".into()), ms: 1_340, clients, port });
        for (event, text) in [
            (up(Some(0), None), "`notes 1.0` is up, in 1.34 s; no client is there yet"),
            (up(Some(1), Some(4711)), "`notes 1.0` is up at port 4711, in 1.34 s; 1 client goes on with it"),
            (
                up(None, None),
                "`notes 1.0` is up, in 1.34 s; it has ended again, since no client is there: each gets a process of its own",
            ),
            (
                Event::NotUp { words: words(), left: Left::Former },
                "the new server does not come up: `python` exited with status 1 · the former one goes on",
            ),
            (
                Event::BuildFailed { words: "it exited with status 2".into(), left: Left::Nothing },
                "the build failed: it exited with status 2 · calls wait for the next change",
            ),
            (
                Event::Exited { words: words(), again_ms: Some(500) },
                "`python` exited with status 1 · it is started again in 500 ms",
            ),
            (
                Event::Cut { calls: 1, ms: 2_000 },
                "1 call was not over after 2.00 s and may have run (`--drain`)",
            ),
            (Event::Changed(vec!["/a/b.py".into()]), "`/a/b.py` changed"),
            (Event::Missed(7), "(7 lines and calls were not shown: they came too fast)"),
        ] {
            assert_eq!(relatch(event), text);
        }
    }

    #[test]
    fn a_call_is_a_line_when_it_is_over() {
        let mut lines = Lines::new(Style::Plain, false);
        let at = Timestamp::UNIX_EPOCH;
        let asked =
            News::Asked { at, call: 1, method: "tools/call".into(), tool: Some("add\u{1b}[31m".into()) };
        assert_eq!(lines.text(&asked), "");
        let over = lines.text(&News::Ended { call: 1, ms: 12, outcome: "answered".into(), failed: false });
        assert!(over.ends_with("  call     tools/call add [31m  12 ms  answered\n"), "{over:?}");
        let line = lines.text(&News::Line(Line { at, said: Said::Server("\u{1b}]0;x".into()) }));
        assert!(line.ends_with("  server    ]0;x\n"), "{line:?}");
    }

    #[test]
    fn spans_are_said_as_short_as_they_are_looked_at() {
        assert_eq!(
            [0, 999, 1_000, 59_994, 130_000].map(took),
            ["0 ms", "999 ms", "1.00 s", "59.99 s", "2m 10s"]
        );
    }
}
