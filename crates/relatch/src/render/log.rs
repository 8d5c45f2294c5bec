//! Lines of the journal, for people: when, which upstream, what, and the rest as a sentence. One line each.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use relatch_admin::Dated;
use relatch_core::journal::{Entry, What};

use super::{Style, Tint, clean, span};

/// Characters of the widest word of a kind.
const WIDEST: usize = 19;

/// How the lines of one listing look, so that their columns stand under each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    zone: TimeZone,
    style: Style,
    /// Whether each line begins with its date.
    dated: bool,
    name: usize,
}

impl Columns {
    /// For these entries, and for those that follow them: the date stands in each line unless all are of today.
    pub(crate) fn of(entries: &[Dated], today: &Zoned, style: Style) -> Columns {
        let zone = today.time_zone().clone();
        let dated = entries.iter().any(|entry| entry.at.to_zoned(zone.clone()).date() != today.date());
        let name = entries.iter().map(|entry| entry.upstream.chars().count()).max().unwrap_or(0);
        Columns { zone, style, dated, name: name.clamp(8, 24) }
    }

    /// The same, made wider or dated where these entries need it.
    pub(crate) fn and(&self, entries: &[Dated], today: &Zoned) -> Columns {
        let other = Columns::of(entries, today, self.style);
        Columns { dated: self.dated || other.dated, name: self.name.max(other.name), ..other }
    }

    /// One line.
    pub(crate) fn line(&self, dated: &Dated) -> String {
        let at = dated.at.to_zoned(self.zone.clone());
        let form = if self.dated { "%Y-%m-%d %H:%M:%S%.3f" } else { "%H:%M:%S%.3f" };
        let word = format!("{:<WIDEST$}", dated.entry.what.as_str());
        let line = format!(
            "{}  {:<width$}  {}  {}",
            at.strftime(form),
            clean(&dated.upstream),
            self.style.tint(tint(dated.entry.what), &word),
            clean(&words(&dated.entry)),
            width = self.name,
        );
        format!("{}\n", line.trim_end())
    }
}

/// That older entries are there and not shown.
pub(crate) fn older(count: usize, shown: usize) -> String {
    format!(
        "({count} older entries are not shown, but the newest {shown}; say from when on with `--since`)\n"
    )
}

/// That nothing happened in the time that was asked for, and how far back the journals go.
pub(crate) fn quiet(oldest: Timestamp, now: &Zoned) -> String {
    let oldest = oldest.to_zoned(now.time_zone().clone()).strftime("%Y-%m-%d %H:%M:%S");
    format!("(nothing happened then; the oldest entry is of {oldest})\n")
}

/// That entries are missing, because this end read too slowly.
pub(crate) fn missed(count: u64) -> String {
    format!("({count} entries are missing here: they came faster than they were read)\n")
}

/// That a keeper gives no answer that can be read, so that what it keeps in memory only is missing.
pub(crate) fn unanswered(cause: &str) -> String {
    format!(
        "(a keeper gives no answer, and what it keeps in memory only is missing here: {})\n",
        clean(cause)
    )
}

/// What happened, in plain words.
pub(crate) fn words(entry: &Entry) -> String {
    let subject =
        || entry.subject.as_deref().map_or("a request".to_owned(), |subject| format!("`{subject}`"));
    let detail = entry.detail.as_deref();
    let with = |words: String| detail.map_or(words.clone(), |detail| format!("{words}: {detail}"));
    let span = entry.ms.map(took);
    if let (Some(count), None, None, None) = (entry.count, &entry.subject, span.as_deref(), detail) {
        return format!("and {count} more like these");
    }
    let mut text = match entry.what {
        What::Attached => detail.unwrap_or("a client").to_owned(),
        What::Left => {
            let client = detail.unwrap_or("a client");
            span.map_or(client.to_owned(), |span| format!("{client}, after {span}"))
        }
        What::Lost => with("the session is gone".to_owned()),
        What::Suspected => format!("{}; asking whether the session lives", detail.unwrap_or("an odd answer")),
        What::Cleared => {
            let found = detail.unwrap_or("the session lives");
            span.map_or(found.to_owned(), |span| format!("{found} (asked for {span})"))
        }
        What::Relatched => {
            with(span.map_or("a new session".to_owned(), |span| format!("a new session after {span}")))
        }
        What::FromCopy => format!("{} was answered from {}", subject(), detail.unwrap_or("a copy")),
        What::Latched => {
            with(span.map_or("it is there".to_owned(), |span| format!("it is there after {span}")))
        }
        What::Away => detail.unwrap_or("it can't be reached").to_owned(),
        What::Back => {
            let tries = entry.count.filter(|tries| *tries > 0).map(|tries| format!(", at try {tries}"));
            format!("after {}{}", span.unwrap_or_default(), tries.unwrap_or_default())
        }
        What::Resent => format!("{} went out again", subject()),
        What::Held => with(format!("{} waits", subject())),
        What::HoldEnded => {
            let count = entry.count.unwrap_or(1);
            let calls = if count == 1 { "1 call".to_owned() } else { format!("{count} calls") };
            with(format!("{calls} had waited, over {}", span.unwrap_or_default()))
        }
        What::Flapping => format!(
            "{} new sessions in a row were refused; relatch rests for {}",
            entry.count.unwrap_or_default(),
            span.unwrap_or_default()
        ),
        What::GivenBack => with(format!("{} ended with an error", subject())),
        What::DeliveryUnknown => with(format!("{} may have run", subject())),
        What::CredentialsRefused => detail.unwrap_or("to a request of relatch's own").to_owned(),
        What::Probed | What::ListChanged | What::Skipped => with(subject()),
        What::Reconnect => "somebody asked for a new session".to_owned(),
        What::Paused => {
            let running = match entry.count {
                None => "no call runs".to_owned(),
                Some(1) => "1 call runs".to_owned(),
                Some(running) => format!("{running} calls run"),
            };
            format!("new calls wait, {}; {running}", detail.unwrap_or("until it is resumed"))
        }
        What::Resumed => {
            let waiting = match entry.count {
                None => "no call waits".to_owned(),
                Some(1) => "1 call waits".to_owned(),
                Some(waiting) => format!("{waiting} calls wait"),
            };
            let span = span.unwrap_or_default();
            with(format!("after {span}; {waiting}"))
        }
        What::Restarting => format!("somebody asked for new sessions beside {}", detail.unwrap_or("the old")),
        What::Stayed => with("the old session goes on".to_owned()),
        What::HookFailed => with(subject()),
        What::Configured => format!("changed: {}", detail.unwrap_or("nothing")),
        What::Added => detail.unwrap_or("by the configuration").to_owned(),
        What::Removed => detail.unwrap_or("from the configuration").to_owned(),
        What::ReloadRefused => detail.unwrap_or("the configuration is faulty").to_owned(),
        What::Woke => {
            format!(
                "nothing could happen for {}: the machine slept, or relatch was stopped",
                span.unwrap_or_default()
            )
        }
    };
    if let (What::Lost | What::Relatched, Some(generation)) = (entry.what, entry.generation) {
        text.push_str(&format!(" (generation {})", generation.0));
    }
    text
}

/// How long it took: `12 ms`, `4.2 s`, then as people say it.
fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => span(ms),
    }
}

pub(crate) fn tint(what: What) -> Tint {
    match what {
        What::Relatched | What::Latched | What::Back | What::Cleared | What::Resumed => Tint::Good,
        What::Lost
        | What::Suspected
        | What::Probed
        | What::Away
        | What::FromCopy
        | What::Held
        | What::HoldEnded
        | What::Paused
        | What::Restarting
        | What::Resent => Tint::Busy,
        What::GivenBack
        | What::DeliveryUnknown
        | What::CredentialsRefused
        | What::Flapping
        | What::ReloadRefused
        | What::Stayed
        | What::HookFailed => Tint::Bad,
        What::Configured
        | What::Added
        | What::Removed
        | What::Attached
        | What::Left
        | What::ListChanged
        | What::Skipped
        | What::Reconnect
        | What::Woke => Tint::Faint,
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::Gen;

    use super::*;

    fn dated(at: &str, entry: Entry) -> Dated {
        let at = format!("2026-11-25T{at}Z").parse().unwrap();
        Dated { at, upstream: "gmail".into(), pid: 4711, seq: 1, entry }
    }

    fn entry(what: What, subject: &str, ms: u64, detail: &str, count: u64) -> Entry {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Entry {
            generation: Some(Gen(4)),
            subject: some(subject),
            ms: (ms > 0).then_some(ms),
            detail: some(detail),
            count: (count > 0).then_some(count),
            ..Entry::new(what)
        }
    }

    /// A bad morning, with every kind of line in it.
    fn morning() -> Vec<Dated> {
        let gone = "HTTP 404 to `ping`";
        let refused = "connection refused (ECONNREFUSED 127.0.0.1:8761)";
        vec![
            dated("13:58:02.118", entry(What::Attached, "", 0, "claude-code 2.1.330", 0)),
            dated("14:02:11.204", entry(What::Lost, "", 0, gone, 0)),
            dated("14:02:11.204", entry(What::Held, "search_mail", 0, "a new session is being opened", 0)),
            dated("14:02:11.236", entry(What::Relatched, "", 32, "gmail-mcp 1.4 → gmail-mcp 1.5", 0)),
            dated("14:02:11.240", entry(What::Resent, "search_mail", 0, "", 0)),
            dated("14:02:11.301", entry(What::ListChanged, "tools/list", 0, "+archive −old", 0)),
            dated("14:02:12.000", entry(What::Skipped, "resources/list", 0, "HTTP 500", 0)),
            dated("14:05:00.000", entry(What::Suspected, "", 0, "HTTP 409 to `send_mail`", 0)),
            dated("14:05:00.012", entry(What::Cleared, "", 12, "", 0)),
            dated("14:06:10.000", entry(What::Probed, "ping", 0, "no answer within 2 s", 0)),
            dated("14:07:30.000", entry(What::DeliveryUnknown, "send_mail", 0, "connection reset", 0)),
            dated("14:07:30.001", entry(What::Away, "", 0, refused, 0)),
            dated("14:07:31.000", entry(What::Held, "search_mail", 0, refused, 0)),
            dated("14:08:16.000", entry(What::GivenBack, "search_mail", 0, refused, 0)),
            dated("14:08:16.001", entry(What::GivenBack, "", 0, "", 980)),
            dated("14:08:16.002", entry(What::HoldEnded, "", 45_002, "11 sent, 1 given back", 12)),
            dated("14:09:00.000", entry(What::Back, "", 89_999, "", 73)),
            dated("14:09:01.000", entry(What::Flapping, "", 5_000, "", 3)),
            dated("14:10:00.000", entry(What::CredentialsRefused, "", 0, "HTTP 401 to `send_mail`", 0)),
            dated("14:11:00.000", entry(What::Reconnect, "", 0, "", 0)),
            dated("14:11:10.000", entry(What::Paused, "", 0, "for at most 5 min", 1)),
            dated("14:11:15.200", entry(What::Resumed, "", 5_200, "", 3)),
            dated("14:11:20.000", entry(What::Restarting, "", 0, "the 2 that live", 0)),
            dated("14:11:20.900", entry(What::Stayed, "", 0, "`gmail-mcp` exited with status 1", 0)),
            dated("14:11:30.000", entry(What::Configured, "", 0, "headers, hold", 0)),
            dated("14:11:30.001", entry(What::Added, "", 0, "http://127.0.0.1:8931/mcp", 0)),
            dated(
                "14:11:30.002",
                entry(What::Removed, "", 0, "taken out of the configuration: its session ends", 0),
            ),
            dated(
                "14:11:40.000",
                entry(What::ReloadRefused, "", 0, "line 7: relatch knows no `hodl` in `[server.a]`", 0),
            ),
            dated("14:12:00.000", entry(What::HookFailed, "notify", 0, "it ended with status 1", 0)),
            dated("15:40:00.000", entry(What::Woke, "", 1_200_000, "", 0)),
            dated(
                "15:50:00.000",
                entry(What::FromCopy, "initialize", 0, "a copy of 2026-11-25 09:10; connection refused", 0),
            ),
            dated("15:50:09.000", entry(What::Latched, "", 9_000, "gmail-mcp 1.4 → gmail-mcp 1.5", 0)),
            dated("16:08:03.000", entry(What::Left, "", 7_800_882, "claude-code 2.1.330", 0)),
        ]
    }

    fn listing(entries: &[Dated], today: &str) -> String {
        let today = today.parse::<Zoned>().unwrap();
        let columns = Columns::of(entries, &today, Style::Plain);
        entries.iter().map(|entry| columns.line(entry)).collect()
    }

    #[test]
    fn a_bad_morning_reads_as_a_story_and_says_what_happened_at_14_02() {
        let morning = morning();
        for what in What::ALL {
            assert!(morning.iter().any(|dated| dated.entry.what == what), "{what:?} is not shown");
        }
        insta::assert_snapshot!(listing(&morning, "2026-11-25T18:00:00Z[UTC]"), @r"
        13:58:02.118  gmail     attached             claude-code 2.1.330
        14:02:11.204  gmail     lost                 the session is gone: HTTP 404 to `ping` (generation 4)
        14:02:11.204  gmail     held                 `search_mail` waits: a new session is being opened
        14:02:11.236  gmail     relatched            a new session after 32 ms: gmail-mcp 1.4 → gmail-mcp 1.5 (generation 4)
        14:02:11.240  gmail     resent               `search_mail` went out again
        14:02:11.301  gmail     list-changed         `tools/list`: +archive −old
        14:02:12.000  gmail     skipped              `resources/list`: HTTP 500
        14:05:00.000  gmail     suspected            HTTP 409 to `send_mail`; asking whether the session lives
        14:05:00.012  gmail     cleared              the session lives (asked for 12 ms)
        14:06:10.000  gmail     probed               `ping`: no answer within 2 s
        14:07:30.000  gmail     delivery-unknown     `send_mail` may have run: connection reset
        14:07:30.001  gmail     away                 connection refused (ECONNREFUSED 127.0.0.1:8761)
        14:07:31.000  gmail     held                 `search_mail` waits: connection refused (ECONNREFUSED 127.0.0.1:8761)
        14:08:16.000  gmail     given-back           `search_mail` ended with an error: connection refused (ECONNREFUSED 127.0.0.1:8761)
        14:08:16.001  gmail     given-back           and 980 more like these
        14:08:16.002  gmail     hold-ended           12 calls had waited, over 45.0 s: 11 sent, 1 given back
        14:09:00.000  gmail     back                 after 1m 29s, at try 73
        14:09:01.000  gmail     flapping             3 new sessions in a row were refused; relatch rests for 5.0 s
        14:10:00.000  gmail     credentials-refused  HTTP 401 to `send_mail`
        14:11:00.000  gmail     reconnect            somebody asked for a new session
        14:11:10.000  gmail     paused               new calls wait, for at most 5 min; 1 call runs
        14:11:15.200  gmail     resumed              after 5.2 s; 3 calls wait
        14:11:20.000  gmail     restarting           somebody asked for new sessions beside the 2 that live
        14:11:20.900  gmail     stayed               the old session goes on: `gmail-mcp` exited with status 1
        14:11:30.000  gmail     configured           changed: headers, hold
        14:11:30.001  gmail     added                http://127.0.0.1:8931/mcp
        14:11:30.002  gmail     removed              taken out of the configuration: its session ends
        14:11:40.000  gmail     reload-refused       line 7: relatch knows no `hodl` in `[server.a]`
        14:12:00.000  gmail     hook-failed          `notify`: it ended with status 1
        15:40:00.000  gmail     woke                 nothing could happen for 20m: the machine slept, or relatch was stopped
        15:50:00.000  gmail     from-copy            `initialize` was answered from a copy of 2026-11-25 09:10; connection refused
        15:50:09.000  gmail     latched              it is there after 9.0 s: gmail-mcp 1.4 → gmail-mcp 1.5
        16:08:03.000  gmail     left                 claude-code 2.1.330, after 2h 10m
        ");
    }

    #[test]
    fn a_listing_that_is_not_of_today_alone_has_dates_and_local_time() {
        let some = &morning()[..2];
        insta::assert_snapshot!(listing(some, "2026-11-26T01:00:00+01:00[Europe/Berlin]"), @r"
        2026-11-25 14:58:02.118  gmail     attached             claude-code 2.1.330
        2026-11-25 15:02:11.204  gmail     lost                 the session is gone: HTTP 404 to `ping` (generation 4)
        ");
    }

    #[test]
    fn a_line_is_one_line_whatever_a_server_calls_itself() {
        let bad = dated("14:00:00", entry(What::Attached, "", 0, "evil\n\u{1b}[31mclient", 0));
        let line = listing(&[bad], "2026-11-25T18:00:00Z[UTC]");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\u{1b}'));
    }
}
