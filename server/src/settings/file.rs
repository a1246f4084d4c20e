//! A file of settings, in TOML.
//!
//! Knows: where in the file each key and value stands. Refuses to know: what they mean.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Settings,
    finding::{Finding, Place},
    table::{self, setting},
    value::Written,
};

/// Reads a file into settings, and adds what is wrong in it to the findings: all of it, not only
/// the first.
pub fn read(path: &str, text: &str, settings: &mut Settings, findings: &mut Vec<Finding>) {
    let at = |offset: usize| place(path, text, offset);
    // Editors of some systems begin a file with it.
    let start = text.len() - text.trim_start_matches('\u{feff}').len();
    let (table, errors) = DeTable::parse_recoverable(&text[start..]);
    if !errors.is_empty() {
        let mut said: Vec<_> = errors
            .iter()
            .map(|error| {
                let offset = error.span().map_or(text.len(), |span| start + span.start);
                let message = error.message().trim();
                let there = error.span().and_then(|span| text[start..].get(span));
                let there = there
                    .map_or("", str::trim)
                    .lines()
                    .next()
                    .unwrap_or_default();
                let there = match there.is_empty() || there.len() > 40 {
                    true => String::new(),
                    false => format!(" at {there}"),
                };
                Finding::error(at(offset), format!("this is no TOML: {message}{there}"))
            })
            .collect();
        said.sort();
        // What follows in a line is most often due to what comes first.
        said.dedup_by_key(|finding| finding.place.line());
        // Of values, some may have come out of what is broken.
        return findings.extend(said);
    }
    // In the order of the file.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let place = at(start + key.span().start);
        let Some(setting) = setting(key.get_ref()) else {
            findings.push(Finding::error(place, unknown(key.get_ref(), value)));
            continue;
        };
        let place = match value.get_ref() {
            DeValue::Table(_) => place,
            _ => at(start + value.span().start),
        };
        if let Err(finding) = settings.give(setting, &written(value), place) {
            findings.push(finding);
        }
    }
}

fn unknown(key: &str, value: &Spanned<DeValue<'_>>) -> String {
    let what = match value.get_ref().is_table() {
        true => "a table, and no setting",
        false => "no setting",
    };
    format!("{key} is {what}{}", table::guess(key))
}

fn written(value: &Spanned<DeValue<'_>>) -> Written {
    match value.get_ref() {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            Written::Number(number.as_str().to_owned())
        }
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            match u64::from_str_radix(&digits, number.radix()) {
                Ok(number) => Written::Number(number.to_string()),
                Err(_) => Written::Number(digits),
            }
        }
        DeValue::Float(number) => Written::Number(number.as_str().to_owned()),
        DeValue::Boolean(on) => Written::Switch(*on),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str());
            match texts.collect::<Option<Vec<_>>>() {
                Some(texts) => Written::List(texts.into_iter().map(str::to_owned).collect()),
                None => Written::Other("a list of something else than texts"),
            }
        }
        DeValue::Datetime(_) => Written::Other("a date"),
        DeValue::Table(_) => Written::Other("a table"),
    }
}

fn place(path: &str, text: &str, offset: usize) -> Place {
    // An error may be said to be in the middle of a character.
    let is_boundary = |&at: &usize| text.is_char_boundary(at);
    let end = (0..=offset.min(text.len())).rev().find(is_boundary);
    let before = &text[..end.unwrap_or(0)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place::File {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        read("it.toml", text, &mut Settings::default(), &mut findings);
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_file_is_read_into_settings() {
        let text = "\u{feff}listen = ['127.0.0.1:0', \"unix:/x\"]\n\
            idle_timeout_ms = \"30s\"\nhead_bytes_max = 0x1000\ncompress = true\nring = 'epoll'\n";
        let (mut settings, mut findings) = (Settings::default(), Vec::new());
        read("it.toml", text, &mut settings, &mut findings);
        assert_eq!(findings, []);
        assert_eq!(settings.listen, ["127.0.0.1:0", "unix:/x"]);
        assert_eq!(settings.config.idle_timeout_ms, 30_000);
        assert_eq!(settings.config.head_bytes_max, 4096);
        assert!(settings.config.compress);
        assert_eq!(settings.ring, "epoll");
        assert_eq!(settings.place("ring").to_string(), "it.toml:5:8");
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_place() {
        let found = findings(
            "idle_timeout = 30\nrign = 'epoll'\n\nhead_bytes_max = 1\nlisten = [1]\n[route]\n",
        );
        assert_eq!(found.len(), 5, "{found:#?}");
        assert!(found[0].starts_with(
            "it.toml:1:1: error: idle_timeout is no setting; is idle_timeout_ms meant?"
        ));
        assert!(found[1].starts_with("it.toml:2:1: error: rign is no setting; is ring meant?"));
        assert!(found[2].starts_with("it.toml:4:18: error: head_bytes_max is 1, but it has to be"));
        assert!(found[3].contains("listen is a list of something else than texts"));
        assert!(found[4].starts_with("it.toml:6:2: error: route is a table, and no setting"));
    }

    #[test]
    fn what_is_no_toml_is_said_with_its_place() {
        let found = findings("listen = \nring == 'x'\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found[0].starts_with("it.toml:1:10: error: this is no TOML:"),
            "{found:#?}"
        );
    }
}
