//! Numbers as people read them.
//!
//! Knows: units, digits, grouping. Refuses to know: what is measured.

/// A latency in nanoseconds with three significant digits: `812 ns`, `1.24 µs`, `118 µs`, `3.00 s`.
#[must_use]
pub fn latency(ns: u64) -> String {
    let ns = ns as f64;
    // 999.9 µs is 1.00 ms: the unit is chosen by what the digits will say.
    for (unit, name) in [(1.0, "ns"), (1e3, "µs"), (1e6, "ms")] {
        if ns < unit * 999.5 {
            return if unit == 1.0 {
                format!("{ns:.0} {name}")
            } else {
                format!("{} {name}", three_digits(ns / unit))
            };
        }
    }
    format!("{} s", three_digits(ns / 1e9))
}

/// Three significant digits, as long as that is no more than two behind the point.
#[must_use]
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A count with its thousands apart: `1,834,022`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// So many a second: `183,402/s`, and `12.5/s` where a whole number would hide something.
#[must_use]
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() {
        return "-".to_owned();
    }
    if per_second > 0.0 && per_second < 99.95 && per_second.fract() != 0.0 {
        return format!("{}/s", three_digits(per_second));
    }
    format!("{}/s", count(per_second.round() as u64))
}

/// So many a second, in at most six characters before the `/s`: `183 k/s`, `1.25 M/s`.
#[must_use]
pub fn rate_short(per_second: f64) -> String {
    let size = per_second.abs();
    match size {
        _ if !size.is_finite() => "-".to_owned(),
        _ if size < 9_999.5 => rate(per_second),
        _ if size < 999_500.0 => format!("{} k/s", three_digits(per_second / 1e3)),
        _ => format!("{} M/s", three_digits(per_second / 1e6)),
    }
}

/// Bytes in binary units with three significant digits: `64 B`, `16 KiB`, `1.25 GiB`.
#[must_use]
pub fn bytes(value: f64) -> String {
    let mut scaled = value;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled.abs() < 999.5 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    // 16 KiB is exactly that, and 16.0 KiB would only look as if it had been measured.
    if scaled.fract() == 0.0 {
        format!("{scaled:.0} {unit}")
    } else {
        format!("{} {unit}", three_digits(scaled))
    }
}

/// Milliseconds as seconds, or as milliseconds below one second: `10.0 s`, `250 ms`.
#[must_use]
pub fn milliseconds(ms: f64) -> String {
    if ms >= 60_000.0 {
        let seconds = (ms / 1e3).round() as u64;
        return format!("{} min {:02} s", seconds / 60, seconds % 60);
    }
    if ms >= 999.5 {
        return format!("{} s", three_digits(ms / 1e3));
    }
    if ms.fract() == 0.0 {
        return format!("{ms:.0} ms");
    }
    format!("{} ms", three_digits(ms))
}

/// A share from 0 to 1 in percent: `97 %`, `0.4 %`.
#[must_use]
pub fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 9.95 {
        format!("{percent:.0} %")
    } else {
        format!("{percent:.1} %")
    }
}

/// Singular or plural: `1 connection`, `2 connections`, `2 deliveries`.
#[must_use]
pub fn plural(value: u64, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if value == 1 => format!("1 {noun}"),
        Some(stem) => format!("{} {stem}ies", count(value)),
        None => format!("{} {noun}s", count(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_never_shows_four_digits() {
        let shown = [0, 999, 1_000, 999_499, 999_500, 59_999_999_999].map(latency);
        assert_eq!(
            shown,
            ["0 ns", "999 ns", "1.00 µs", "999 µs", "1.00 ms", "60.0 s"]
        );
    }

    #[test]
    fn one_is_singular() {
        let shown = [0, 1, 2_000].map(|value| plural(value, "delivery"));
        assert_eq!(shown, ["0 deliveries", "1 delivery", "2,000 deliveries"]);
        assert_eq!(plural(1, "message"), "1 message");
        assert_eq!(plural(2, "message"), "2 messages");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            [0, 999, 1_000, 1_834_022].map(count),
            ["0", "999", "1,000", "1,834,022"]
        );
    }

    #[test]
    fn sizes_that_were_chosen_look_chosen() {
        assert_eq!(
            [64.0, 16_384.0, 1_500.0].map(bytes),
            ["64 B", "16 KiB", "1.46 KiB"]
        );
    }

    #[test]
    fn rates_are_short_where_room_is_short() {
        let shown = [0.5, 12.0, 9_999.0, 183_402.0, 1_250_000.0].map(rate_short);
        assert_eq!(shown, ["0.50/s", "12/s", "9,999/s", "183 k/s", "1.25 M/s"]);
    }
}
