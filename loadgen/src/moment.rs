//! A moment that several machines can agree on.
//!
//! Knows: RFC 3339, and how far away something may be. Refuses to know: what begins then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use toml_datetime::{Datetime, Offset};

/// Nobody waits longer than this, in milliseconds: a wrong year or zone is more likely.
const AHEAD_MAX_MS: u64 = 24 * 3600 * 1000;

/// What is over for longer than this was not meant to begin now, in milliseconds.
const BEHIND_MAX_MS: u64 = 3600 * 1000;

/// A moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the clock of the machine.
    pub unix_ms: u64,
}

/// The clock of the machine, in milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since: Duration| since.as_millis() as u64)
}

/// Reads `2026-03-01T12:30:00Z`, with fractions and any offset, or `+10s` from now on.
///
/// # Errors
///
/// A sentence, when it is neither or too far away.
pub fn parse(text: &str) -> Result<Moment, String> {
    parse_at(text, unix_ms())
}

fn parse_at(text: &str, now_ms: u64) -> Result<Moment, String> {
    let wrong = || {
        format!(
            "'{text}' is not a moment: write it as 2026-03-01T12:30:00Z, with its zone, or as +10s \
             for so long from now on"
        )
    };
    let unix_ms = match text.strip_prefix('+') {
        Some(after) => now_ms + crate::plan::parse_duration_ms(after).map_err(|_| wrong())?,
        None => rfc3339_ms(text).ok_or_else(wrong)?,
    };
    if unix_ms > now_ms + AHEAD_MAX_MS {
        return Err(format!("'{text}' is more than a day away"));
    }
    if unix_ms + BEHIND_MAX_MS < now_ms {
        return Err(format!("'{text}' is over for more than an hour"));
    }
    Ok(Moment { unix_ms })
}

/// `None` when it is none, has no zone, or is before 1970.
fn rfc3339_ms(text: &str) -> Option<u64> {
    let given: Datetime = text.parse().ok()?;
    let (date, time, offset) = (given.date?, given.time?, given.offset?);
    // The inverse of `report::sheet::utc`: years that begin in March (Hinnant).
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let second = i64::from(time.second.unwrap_or(0));
    let seconds =
        days * 86_400 + i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + second;
    let ms = i64::from(time.nanosecond.unwrap_or(0) / 1_000_000);
    u64::try_from((seconds - minutes * 60) * 1000 + ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_their_zone() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2027-01-01T00:00:00.250Z", 1_798_761_600_250),
            ("2027-01-01T02:30:00+02:30", 1_798_761_600_000),
            ("2026-12-31T23:00:00-01:00", 1_798_761_600_000),
            ("2027-01-01 00:00:00Z", 1_798_761_600_000),
        ] {
            assert_eq!(rfc3339_ms(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "now",
            "2027-01-01",
            "2027-01-01T00:00:00",
            "1969-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339_ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_is_not_far_away() {
        let now_ms = 1_798_761_600_000;
        let at = |text| parse_at(text, now_ms);
        assert_eq!(
            at("+10s"),
            Ok(Moment {
                unix_ms: now_ms + 10_000
            })
        );
        assert_eq!(
            at("2026-12-31T23:59:59Z"),
            Ok(Moment {
                unix_ms: now_ms - 1000
            })
        );
        assert!(
            at("2027-01-03T00:00:00Z")
                .unwrap_err()
                .contains("more than a day away")
        );
        assert!(
            at("2026-12-31T22:00:00Z")
                .unwrap_err()
                .contains("more than an hour")
        );
        assert!(at("10s").unwrap_err().contains("+10s"));
    }
}
