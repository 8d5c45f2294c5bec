//! Moments as people type them: `10m` ago, `14:02`, `2026-11-25T14:02`, a day. Reads; asks no clock but its caller's.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, Zoned};

use super::parse;

const EXPECTED: &str = "expected a span such as `10m` or `2h`, a time such as `14:02`, a date such as `2026-11-25`, \
    or both as `2026-11-25T14:02`";

/// Which end of a span a moment is: a day begins at midnight and ends at the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    From,
    To,
}

/// The moment that `text` means at `now`; a time of day is the last one that has been.
pub(crate) fn moment(text: &str, end: End, now: &Zoned) -> Result<Timestamp, String> {
    let zone = now.time_zone();
    let local = |civil: DateTime| {
        civil.to_zoned(zone.clone()).map(|zoned| zoned.timestamp()).map_err(|cause| cause.to_string())
    };
    if let Ok(ms) = parse::duration(text) {
        let then = now.timestamp().as_millisecond().saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
        return Timestamp::from_millisecond(then).map_err(|cause| cause.to_string());
    }
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()).filter(|d| *d >= 0) {
        let then = now.timestamp().as_second().saturating_sub(days.saturating_mul(86_400));
        return Timestamp::from_second(then).map_err(|_| "longer ago than there are dates".to_owned());
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    // A date with its time would be read as its time alone.
    if text.contains(':')
        && !text.contains('-')
        && let Ok(time) = text.parse::<Time>()
    {
        let today = local(now.date().to_datetime(time))?;
        if today <= now.timestamp() {
            return Ok(today);
        }
        let yesterday = now.date().yesterday().map_err(|cause| cause.to_string())?;
        return local(yesterday.to_datetime(time));
    }
    // A date alone is read before a date with its time, since it would be read as that, too.
    if text.len() == "2026-11-25".len()
        && let Ok(date) = text.parse::<Date>()
    {
        let date = match end {
            End::From => date,
            End::To => date.tomorrow().map_err(|cause| cause.to_string())?,
        };
        return local(date.to_datetime(Time::midnight()));
    }
    let civil: DateTime = text.parse().map_err(|_| EXPECTED.to_owned())?;
    local(civil)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_mean_them() {
        let now: Zoned = "2026-11-25T15:30:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, end, expected) in [
            ("10m", End::From, "2026-11-25T14:20:00Z"),
            ("2h", End::From, "2026-11-25T12:30:00Z"),
            ("3d", End::From, "2026-11-22T14:30:00Z"),
            ("14:02", End::From, "2026-11-25T13:02:00Z"),
            ("14:02:30", End::To, "2026-11-25T13:02:30Z"),
            // Later than now is yesterday's.
            ("16:00", End::From, "2026-11-24T15:00:00Z"),
            ("2026-11-25T14:02", End::From, "2026-11-25T13:02:00Z"),
            ("2026-11-25 14:02", End::From, "2026-11-25T13:02:00Z"),
            ("2026-07-01T14:02", End::From, "2026-07-01T12:02:00Z"),
            ("2026-11-25", End::From, "2026-11-24T23:00:00Z"),
            ("2026-11-25", End::To, "2026-11-25T23:00:00Z"),
            ("2026-11-25T14:02:00Z", End::From, "2026-11-25T14:02:00Z"),
            ("2026-11-25T14:02:00+02:00", End::From, "2026-11-25T12:02:00Z"),
        ] {
            assert_eq!(moment(text, end, &now), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "soon", "25:00", "14", "2026-13-01", "-5m", "-1d", "99999999999999d"] {
            assert!(moment(text, End::From, &now).is_err(), "{text}");
        }
    }
}
