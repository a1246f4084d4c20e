//! What people and editors look up: every setting with all that the table has of it.
//!
//! Knows: how the table is said in words and as a JSON Schema. Refuses to know: any one setting.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::{
    Settings,
    file::ROUTE,
    route::KEYS,
    table::{Flag, settings},
    value::{Kind, Value},
};

/// Every setting, in words: a page in Markdown.
pub fn reference() -> String {
    let introduction = "A file of settings is TOML: `key = value`. Each setting can also be given \
        by its variable of the environment and by its flag, or `--set key=value`; a flag wins over \
        a variable, and that over the file. Sizes read `64KiB`, `16MiB`, times `250ms`, `30s`, \
        `2m`; plain numbers are in the unit that the key names. A list is an array in a file, \
        several flags, or a variable with commas. What a flag or a variable says stays at SIGHUP.";
    let mut page = format!("# Settings of ringwire\n\n{}\n", wrapped(introduction));
    let mut group = None;
    for setting in settings() {
        if group.replace(setting.group) != Some(setting.group) {
            // Writing to a text does not fail.
            let _ = writeln!(page, "\n## {}", setting.group.heading());
        }
        let _ = writeln!(
            page,
            "\n### `{}`\n\n{}",
            setting.key,
            wrapped(&sentence(&setting.meaning))
        );
        let _ = writeln!(page, "\n- value: {}", setting.kind.allowed());
        let _ = writeln!(
            page,
            "- default: {}",
            said(setting.kind, &setting.default())
        );
        let flag = match (setting.flag_name(), setting.flag) {
            (Some(flag), Flag::Own) => format!("`--{flag}`"),
            _ => format!("`--set {}=...`", setting.key),
        };
        let _ = writeln!(page, "- flag: {flag}");
        let _ = writeln!(page, "- variable: `{}`", setting.variable());
        let when = match setting.is_live() {
            true => "at SIGHUP, for connections that are there as well",
            false => "with a restart",
        };
        let _ = writeln!(page, "- changes: {when}");
    }
    page + &routes()
}

/// The settings in force, each with its value and where that came from. Secrets are in files, of
/// which only the names are here.
pub fn in_force(in_force: &Settings) -> Json {
    let each = settings().iter().map(|setting| {
        let value = match setting.get(in_force) {
            Value::Number(number) => json!(number),
            Value::Switch(on) => json!(on),
            Value::Text(text) => json!(text),
            Value::List(items) => json!(items),
        };
        let from = match in_force.is_given(setting.key) {
            true => in_force.place(setting.key).to_string(),
            false => "default".to_owned(),
        };
        let said = json!({ "value": value, "from": from, "live": setting.is_live() });
        (setting.key.to_owned(), said)
    });
    let routes = in_force.routes.iter().map(|route| {
        json!({
            "path": route.path,
            "host": route.host,
            "application": route.application,
            "auth": route.auth,
        })
    });
    let routes: Vec<Json> = routes.collect();
    json!({ "settings": each.collect::<Map<_, _>>(), "routes": routes })
}

/// The part of the reference that is about routes.
fn routes() -> String {
    let introduction = "What is served where: each `[[route]]` of the file is one, and a request \
        takes the one of its host and path. Without any there are two: a `page` at `/` and a \
        `sink` at `/sink`. Routes change at SIGHUP; who is connected stays, under what was in \
        force when he came. Settings of the server stand above the first of them.";
    let mut page = format!("\n## Routes\n\n{}\n", wrapped(introduction));
    for key in KEYS {
        let _ = writeln!(page, "\n### `{}` of a route\n", key.key);
        let _ = writeln!(page, "{}\n", wrapped(&sentence(key.meaning)));
        let _ = writeln!(page, "- value: {}", key.kind.allowed());
        let _ = writeln!(page, "- default: {}", said(key.kind, &key.default()));
    }
    page
}

fn sentence(meaning: &str) -> String {
    let meaning = meaning.trim();
    match meaning.ends_with(['.', ']']) {
        true => meaning.to_owned(),
        false => format!("{meaning}."),
    }
}

/// A default, in words.
fn said(kind: Kind, default: &Value) -> String {
    match kind.say(default) {
        none if none.is_empty() => "none".to_owned(),
        said => said,
    }
}

fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        if width > 0 && width + 1 + word.len() > 100 {
            lines.push('\n');
            width = 0;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines += word;
        width += word.len();
    }
    lines
}

/// The same for editors, as a JSON Schema (2020-12) of the file's data.
pub fn schema() -> Json {
    let properties = settings().iter().map(|setting| {
        let property = property(setting.kind, &setting.meaning, &setting.default());
        (setting.key.to_owned(), property)
    });
    let mut properties: Map<_, _> = properties.collect();
    let of_routes = KEYS.iter().map(|key| {
        let property = property(key.kind, key.meaning, &key.default());
        (key.key.to_owned(), property)
    });
    let of_routes: Map<_, _> = of_routes.collect();
    let route = json!({
        "type": "object",
        "properties": of_routes,
        "required": ["path"],
        "additionalProperties": false,
    });
    properties.insert(
        ROUTE.to_owned(),
        json!({"type": "array", "items": route, "description": "What is served where."}),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of ringwire",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn property(kind: Kind, meaning: &str, default: &Value) -> Json {
    let mut property = match kind {
        Kind::Count(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Bytes(least, most) => number(least, most, "^[0-9_]+ ?([KMGT]iB|[kMGT]?B)?$"),
        Kind::Milliseconds(least, most) => number(least, most, "^[0-9_]+ ?(ms|s|m|h|d)?$"),
        Kind::Microseconds(least, most) => number(least, most, "^[0-9_]+ ?(us|ms|s)?$"),
        Kind::Switch => json!({"type": "boolean"}),
        Kind::Text => json!({"type": "string"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::List => json!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
        ]}),
    };
    property["description"] = Json::String(sentence(meaning));
    property["default"] = match default {
        Value::Number(number) => json!(number),
        Value::Switch(on) => json!(on),
        Value::Text(text) => json!(text),
        Value::List(items) => json!(items),
    };
    property
}

fn number(least: u64, most: u64, pattern: &str) -> Json {
    json!({"anyOf": [
        {"type": "integer", "minimum": least, "maximum": most},
        {"type": "string", "pattern": pattern},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_every_setting() {
        let (page, schema) = (reference(), schema());
        for setting in settings() {
            assert!(
                page.contains(&format!("### `{}`\n", setting.key)),
                "{}",
                setting.key
            );
            let property = &schema["properties"][setting.key];
            assert!(property["description"].is_string(), "{}", setting.key);
        }
        for key in KEYS {
            assert!(page.contains(&format!("### `{}` of a route\n", key.key)));
            let property = &schema["properties"]["route"]["items"]["properties"][key.key];
            assert!(property["description"].is_string(), "{}", key.key);
        }
        let longest = page.lines().map(str::len).max().unwrap_or(0);
        assert!(longest <= 170, "a line of {longest}");
    }
}
