//! A file of settings, in TOML.
//!
//! Knows: where in the file each key and value stands. Refuses to know: what they mean.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Settings,
    finding::{Finding, Place},
    route::RouteSettings,
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
    let at = |offset: usize| at(start + offset);
    for (key, value) in entries(table.get_ref()) {
        if key.get_ref() == ROUTE {
            let routes = routes(key, value, &at, findings);
            settings.routes.extend(routes);
            continue;
        }
        let Some(setting) = setting(key.get_ref()) else {
            let sentence = unknown(key.get_ref(), value);
            findings.push(Finding::error(at(key.span().start), sentence));
            continue;
        };
        let given = settings.give(setting, &written(value), at(start_of(key, value)));
        findings.extend(given.err());
    }
}

/// Tables of this name are routes.
pub const ROUTE: &str = "route";

type Text<'t> = Spanned<Cow<'t, str>>;
type Entry<'t> = (&'t Text<'t>, &'t Spanned<DeValue<'t>>);

/// In the order of the file.
fn entries<'t>(table: &'t DeTable<'t>) -> Vec<Entry<'t>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Where a value stands; of a table, which may stand in many places, its key.
fn start_of(key: &Text<'_>, value: &Spanned<DeValue<'_>>) -> usize {
    match value.get_ref() {
        DeValue::Table(_) => key.span().start,
        _ => value.span().start,
    }
}

fn routes(
    key: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    at: &impl Fn(usize) -> Place,
    findings: &mut Vec<Finding>,
) -> Vec<RouteSettings> {
    let tables = match value.get_ref() {
        DeValue::Array(items) => {
            let tables = items
                .iter()
                .map(|item| Some((item.span().start, item.get_ref().as_table()?)));
            tables.collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    let Some(tables) = tables else {
        let sentence = "route has to be a list of tables: begin each route with [[route]]";
        findings.push(Finding::error(at(key.span().start), sentence));
        return Vec::new();
    };
    let route_of = |(start, table)| {
        let mut route = RouteSettings::at(at(start));
        for (key, value) in entries(table) {
            let place = at(start_of(key, value));
            let place = match RouteSettings::is_known(key.get_ref()) {
                true => place,
                false => at(key.span().start),
            };
            let given = route.give(key.get_ref(), &written(value), place);
            findings.extend(given.err());
        }
        route
    };
    tables.into_iter().map(route_of).collect()
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
        assert!(found[4].starts_with("it.toml:6:2: error: route has to be a list of tables"));
    }

    #[test]
    fn routes_are_read_in_their_order() {
        let text = "ring = 'epoll'\n[[route]]\npath = '/a'\nhost = 'example.com'\n\n[[route]]\n\
            path = '/b'\napplication = 'sink'\nconnections_max = 5\n";
        let (mut settings, mut findings) = (Settings::default(), Vec::new());
        read("it.toml", text, &mut settings, &mut findings);
        assert_eq!(findings, []);
        let [a, b] = &settings.routes[..] else {
            panic!("{:?}", settings.routes);
        };
        assert_eq!(
            (&*a.path, &a.host[..]),
            ("/a", &["example.com".to_owned()][..])
        );
        assert_eq!((&*b.application, b.connections_max), ("sink", 5));
        assert_eq!(b.place("path").to_string(), "it.toml:7:8");
        assert_eq!(b.place("auth").to_string(), "it.toml:6:1");
    }

    #[test]
    fn what_is_wrong_in_a_route_is_said_with_its_place() {
        let found =
            findings("[[route]]\npaht = '/'\nconnections_max = 'many'\napplication = 'ecko'\n");
        assert_eq!(
            found,
            [
                "it.toml:2:1: error: paht is no key of a route; is path meant? 'ringwire config \
                 reference' has them all",
                "it.toml:3:19: error: connections_max is 'many', but it has to be a number from 0 \
                 to 4294967295",
                "it.toml:4:15: error: application is 'ecko', but it has to be echo, sink, page, \
                 health or topics; is echo meant?",
            ]
        );
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
