//! Lines of the journal, for people: when, which upstream, what, the rest.

use jiff::Zoned;
use jiff::tz::TimeZone;
use relatch_admin::Dated;
use relatch_core::journal::What;

use super::{Style, Tint, clean};

/// One line; the date stands in it only when it isn't today's.
pub(crate) fn line(dated: &Dated, today: &Zoned, zone: &TimeZone, style: Style) -> String {
    let at = dated.at.to_zoned(zone.clone());
    let when = if at.date() == today.date() {
        at.strftime("%H:%M:%S%.3f").to_string()
    } else {
        at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
    };
    let entry = &dated.entry;
    let word = style.tint(tint(entry.what), &format!("{:<19}", entry.what.as_str()));
    let mut rest = Vec::new();
    rest.extend(entry.subject.clone());
    rest.extend(entry.generation.map(|generation| format!("generation {}", generation.0)));
    rest.extend(entry.ms.map(|ms| format!("{ms} ms")));
    rest.extend(entry.detail.clone());
    let line = format!("{when}  {:<12} {word} {}", clean(&dated.upstream), clean(&rest.join(" · ")));
    format!("{}\n", line.trim_end())
}

/// That entries are missing, because this end read too slowly.
pub(crate) fn missed(count: u64) -> String {
    format!("({count} entries are missing here: they came faster than they were read)\n")
}

fn tint(what: What) -> Tint {
    match what {
        What::Relatched | What::Back | What::Cleared => Tint::Good,
        What::Lost | What::Suspected | What::Away | What::Held | What::Resent => Tint::Busy,
        What::GivenBack | What::DeliveryUnknown | What::CredentialsRefused => Tint::Bad,
        What::Attached
        | What::Left
        | What::ListChanged
        | What::Skipped
        | What::ServerChanged
        | What::Reconnect => Tint::Faint,
    }
}

#[cfg(test)]
mod tests {
    use relatch_core::Gen;
    use relatch_core::journal::Entry;

    use super::*;

    #[test]
    fn a_line_of_today_has_the_time_and_an_older_one_the_date() {
        let dated = Dated {
            at: "2026-11-23T10:00:01.5Z".parse().unwrap(),
            upstream: "gmail".into(),
            entry: Entry {
                what: What::Relatched,
                latch: None,
                generation: Some(Gen(4)),
                subject: None,
                ms: Some(12),
                detail: Some("the server was restarted\n".into()),
            },
        };
        let today = "2026-11-23T12:00:00Z[UTC]".parse::<Zoned>().unwrap();
        assert_eq!(
            line(&dated, &today, &TimeZone::UTC, Style::Plain),
            "10:00:01.500  gmail        relatched           generation 4 · 12 ms · the server was restarted\n"
        );
        let later = "2026-11-24T00:00:00Z[UTC]".parse::<Zoned>().unwrap();
        assert!(line(&dated, &later, &TimeZone::UTC, Style::Plain).starts_with("2026-11-23 10:00:01.500"));
    }
}
