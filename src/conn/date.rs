//! The time of day, for the `Date` header.
//!
//! Knows: how long a second's text is good for. Refuses to know: who is told the time.

use std::time::{Duration, SystemTime};

use crate::ring::Time;

/// The seconds of a `Date` header, put into words once each.
#[derive(Debug, Default)]
pub struct DateText {
    until: Time,
    text: String,
}

impl DateText {
    /// The time of day. `now` says whether the last answer is good still.
    pub fn at(&mut self, now: Time) -> &str {
        if now >= self.until {
            let date = SystemTime::now();
            let into_second = date
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or(Duration::ZERO)
                .subsec_millis();
            self.until = now.plus_ms(u64::from(1000 - into_second));
            self.text = httpdate::fmt_http_date(date);
        }
        &self.text
    }
}
