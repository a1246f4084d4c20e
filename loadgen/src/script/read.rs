//! From TOML to steps, with the place of everything that is wrong.
//!
//! Knows: keys, and which of them go together. Refuses to know: what a step is for.

use std::borrow::Cow;

use regex_lite::Regex;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Expected, Op, Pattern, STEPS_MAX, Said, Script, Step};
use crate::plan::parse_duration_ms;

const KEYS: [&str; 12] = [
    "name",
    "send",
    "send_hex",
    "expect",
    "expect_hex",
    "expect_regex",
    "expect_json",
    "expect_any",
    "skip_others",
    "wait",
    "repeat",
    "step",
];

/// How often something may be repeated.
const REPEAT_MAX: u64 = 1_000_000_000;

/// How deep steps may lie in steps.
const DEPTH_MAX: usize = 8;

type Key<'t> = Spanned<Cow<'t, str>>;
type Given<'t> = Spanned<DeValue<'t>>;

/// A text in TOML, and what it is called.
struct Source<'t> {
    file: &'t str,
    text: &'t str,
}

impl Source<'_> {
    fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn wrong<T>(&self, offset: usize, what: &str) -> Result<T, String> {
        Err(format!("{}:{}: {what}", self.file, self.line(offset)))
    }

    fn text_of<'v>(&self, key: &Key<'_>, value: &'v Given<'_>) -> Result<&'v str, String> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => self.wrong(
                value.span().start,
                &format!("{} has to be a text, in quotes", key.get_ref()),
            ),
        }
    }

    fn switch(&self, key: &Key<'_>, value: &Given<'_>) -> Result<bool, String> {
        match value.get_ref() {
            DeValue::Boolean(on) => Ok(*on),
            _ => self.wrong(
                value.span().start,
                &format!("{} has to be true or false", key.get_ref()),
            ),
        }
    }

    fn hex(&self, key: &Key<'_>, value: &Given<'_>) -> Result<Vec<u8>, String> {
        let text: String = self.text_of(key, value)?.split_whitespace().collect();
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
            .collect();
        match digits {
            Some(digits) if digits.len().is_multiple_of(2) => Ok(digits
                .chunks(2)
                .map(|pair| pair[0] << 4 | pair[1])
                .collect()),
            _ => self.wrong(
                value.span().start,
                &format!(
                    "{} has to be bytes in hexadecimal, as '68 69'",
                    key.get_ref()
                ),
            ),
        }
    }

    fn count(&self, key: &Key<'_>, value: &Given<'_>) -> Result<u64, String> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            _ => None,
        };
        match number.filter(|number| (1..=REPEAT_MAX).contains(number)) {
            Some(number) => Ok(number),
            None => self.wrong(
                value.span().start,
                &format!(
                    "{} has to be a number from 1 to {REPEAT_MAX}",
                    key.get_ref()
                ),
            ),
        }
    }
}

/// What a step says, before it is put in order.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    said: Option<Said>,
    expected: Option<(Pattern, String)>,
    skips_others: Option<usize>,
    wait_ns: Option<u64>,
    repeat: Option<u64>,
    inner: bool,
}

pub fn script(file: &str, text: &str) -> Result<Script, String> {
    // Editors of some systems begin a file with it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source { file, text };
    let table = DeTable::parse(text).or_else(|error| {
        let offset = error.span().map_or(text.len(), |span| span.start);
        source.wrong(
            offset,
            &format!("this is no TOML: {}", error.message().trim()),
        )
    })?;
    let mut script = Script {
        steps: Vec::new(),
        ops: Vec::new(),
        repeat: None,
    };
    for (key, value) in entries(table.get_ref()) {
        match key.get_ref().as_ref() {
            "repeat" => script.repeat = Some(source.count(key, value)?),
            "step" => steps(&source, key, value, 1, &mut script)?,
            other => {
                let what = format!("{other} is no key of a script: it has repeat and [[step]]");
                return source.wrong(key.span().start, &what);
            }
        }
    }
    if !script.ops.iter().any(|(_, op)| matches!(op, Op::Expect(_))) {
        return source.wrong(
            0,
            "nothing is expected, so that there is nothing to measure: give a step expect, \
             expect_hex, expect_regex, expect_json or expect_any",
        );
    }
    Ok(script)
}

/// In the order of the file.
fn entries<'t>(table: &'t DeTable<'t>) -> Vec<(&'t Key<'t>, &'t Given<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn steps(
    source: &Source<'_>,
    key: &Key<'_>,
    value: &Given<'_>,
    depth: usize,
    script: &mut Script,
) -> Result<(), String> {
    let begin = if depth == 1 {
        "[[step]]"
    } else {
        "[[step.step]]"
    };
    let tables = value.get_ref().as_array().map(|items| {
        let tables = items
            .iter()
            .map(|item| Some((item.span().start, item.get_ref().as_table()?)));
        tables.collect::<Option<Vec<_>>>()
    });
    let Some(Some(tables)) = tables else {
        let what = format!("step has to be a list of tables: begin each with {begin}");
        return source.wrong(key.span().start, &what);
    };
    if depth > DEPTH_MAX {
        return source.wrong(key.span().start, "steps lie too deep in each other");
    }
    tables
        .into_iter()
        .try_for_each(|(start, table)| step(source, start, table, depth, script))
}

fn step(
    source: &Source<'_>,
    start: usize,
    table: &DeTable<'_>,
    depth: usize,
    script: &mut Script,
) -> Result<(), String> {
    let mut draft = Draft::default();
    for (key, value) in entries(table) {
        take(source, key, value, &mut draft)?;
    }
    if script.steps.len() >= STEPS_MAX {
        let what = format!("more than the {STEPS_MAX} steps that a script may have");
        return source.wrong(start, &what);
    }
    let (at, number) = (script.steps.len(), script.steps.len() + 1);
    script.steps.push(Step {
        name: draft.name.unwrap_or_else(|| format!("step {number}")),
        line: source.line(start),
        expects: draft.expected.as_ref().map(|(_, words)| words.clone()),
    });
    let does = draft.said.is_some() || draft.expected.is_some() || draft.wait_ns.is_some();
    match (draft.inner, draft.repeat) {
        (true, _) if does => {
            return source.wrong(
                start,
                "a step with steps of its own does nothing else: only name and repeat go with them",
            );
        }
        (false, Some(_)) => {
            return source.wrong(
                start,
                "repeat is for a step with steps of its own: [[step.step]]",
            );
        }
        (false, None) if !does => {
            return source.wrong(
                start,
                "a step that does nothing: give it send, expect or wait",
            );
        }
        _ => {}
    }
    if let (Some(offset), None) = (draft.skips_others, &draft.expected) {
        return source.wrong(offset, "skip_others is for a step that expects something");
    }
    if let Some(said) = draft.said {
        script.ops.push((at, Op::Send(said)));
    }
    if let Some((what, _)) = draft.expected {
        let expected = Expected {
            what,
            skips_others: draft.skips_others.is_some(),
        };
        script.ops.push((at, Op::Expect(expected)));
    }
    if let Some(wait_ns) = draft.wait_ns {
        script.ops.push((at, Op::Wait(wait_ns)));
    }
    if draft.inner {
        let begin = script.ops.len();
        script.ops.push((at, Op::Begin(draft.repeat.unwrap_or(1))));
        for (key, value) in entries(table) {
            if key.get_ref() == "step" {
                steps(source, key, value, depth + 1, script)?;
            }
        }
        script.ops.push((at, Op::Back(begin)));
    }
    Ok(())
}

fn take(
    source: &Source<'_>,
    key: &Key<'_>,
    value: &Given<'_>,
    draft: &mut Draft,
) -> Result<(), String> {
    let name = key.get_ref().as_ref();
    let offset = value.span().start;
    match name {
        "name" => draft.name = Some(source.text_of(key, value)?.to_owned()),
        "wait" => {
            let ms = parse_duration_ms(source.text_of(key, value)?)
                .or_else(|error| source.wrong(offset, &format!("wait: {error}")))?;
            draft.wait_ns = Some(ms * 1_000_000);
        }
        "repeat" => draft.repeat = Some(source.count(key, value)?),
        "step" => draft.inner = true,
        "skip_others" => {
            draft.skips_others = source.switch(key, value)?.then_some(key.span().start);
        }
        "send" | "send_hex" => {
            let said = match name {
                "send" => Said::Text(source.text_of(key, value)?.to_owned()),
                _ => Said::Binary(source.hex(key, value)?),
            };
            if draft.said.replace(said).is_some() {
                return source.wrong(
                    key.span().start,
                    "a step sends one message: send or send_hex",
                );
            }
        }
        _ if name.starts_with("expect") => {
            let expected = expected(source, key, value)?;
            if draft.expected.replace(expected).is_some() {
                return source.wrong(key.span().start, "a step expects one message in one way");
            }
        }
        other => {
            let what = format!("{other} is no key of a step: it has {}", KEYS.join(", "));
            return source.wrong(key.span().start, &what);
        }
    }
    Ok(())
}

/// What is expected, and the words for it.
fn expected(
    source: &Source<'_>,
    key: &Key<'_>,
    value: &Given<'_>,
) -> Result<(Pattern, String), String> {
    let offset = value.span().start;
    match key.get_ref().as_ref() {
        "expect" => {
            let text = source.text_of(key, value)?;
            let shown = crate::redact::text(text);
            Ok((
                Pattern::Text(text.to_owned()),
                format!("the text '{shown}'"),
            ))
        }
        "expect_hex" => {
            let bytes = source.hex(key, value)?;
            let words = format!("the {} bytes of expect_hex", bytes.len());
            Ok((Pattern::Binary(bytes), words))
        }
        "expect_regex" => {
            let text = source.text_of(key, value)?;
            let regex = Regex::new(text).or_else(|error| {
                let what = format!("expect_regex is no regular expression: {error}");
                source.wrong(offset, &what)
            })?;
            Ok((Pattern::Regex(regex), format!("what matches '{text}'")))
        }
        "expect_json" => {
            let Some(table) = value.get_ref().as_table() else {
                return source.wrong(
                    offset,
                    "expect_json has to be a table of pointers and values, as { '/status' = \"ok\" \
                     }",
                );
            };
            let mut wanted = Vec::new();
            for (pointer, value) in entries(table) {
                let text = pointer.get_ref().to_string();
                if !text.is_empty() && !text.starts_with('/') {
                    let what = format!(
                        "'{text}' in expect_json is no JSON pointer: it has to begin with /"
                    );
                    return source.wrong(pointer.span().start, &what);
                }
                wanted.push((text, json(source, value)?));
            }
            let words: Vec<String> = wanted
                .iter()
                .map(|(pointer, value)| format!("{pointer} = {value}"))
                .collect();
            Ok((
                Pattern::Json(wanted),
                format!("JSON with {}", words.join(", ")),
            ))
        }
        "expect_any" if source.switch(key, value)? => Ok((Pattern::Any, "any message".to_owned())),
        "expect_any" => source.wrong(offset, "expect_any is true or is left out"),
        other => {
            let what = format!("{other} is no key of a step: it has {}", KEYS.join(", "));
            source.wrong(key.span().start, &what)
        }
    }
}

fn json(source: &Source<'_>, value: &Given<'_>) -> Result<Value, String> {
    let offset = value.span().start;
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::from(text.as_ref())),
        DeValue::Boolean(on) => Ok(Value::from(*on)),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            match i64::from_str_radix(&digits, number.radix()) {
                Ok(number) => Ok(Value::from(number)),
                Err(_) => source.wrong(offset, "this number is too long"),
            }
        }
        DeValue::Float(number) => match number.as_str().replace('_', "").parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::from(number)),
            _ => source.wrong(offset, "JSON has no such number"),
        },
        DeValue::Array(items) => items
            .iter()
            .map(|item| json(source, item))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::from),
        DeValue::Table(table) => {
            let mut object = serde_json::Map::new();
            for (key, value) in entries(table) {
                object.insert(key.get_ref().to_string(), json(source, value)?);
            }
            Ok(Value::Object(object))
        }
        DeValue::Datetime(_) => source.wrong(offset, "JSON has no dates: write it as a text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_file_line_and_key() {
        for (text, said) in [
            ("[[step]]\nsend = 5\n", "it.toml:2: send has to be a text"),
            (
                "[[step]]\nsned = 'x'\n",
                "it.toml:2: sned is no key of a step: it has name, send",
            ),
            ("\nloop = 1\n", "it.toml:2: loop is no key of a script"),
            ("[[step]]\nsend = 'x'\n", "it.toml:1: nothing is expected"),
            (
                "[[step]]\nname = 'x'\n",
                "it.toml:1: a step that does nothing",
            ),
            (
                "[[step]]\nwait = '5'\nexpect_any = false",
                "it.toml:3: expect_any is true or",
            ),
            (
                "[[step]]\nwait = 'soon'\n",
                "it.toml:2: wait: 'soon' is not a time",
            ),
            (
                "[[step]]\nexpect_regex = '('\n",
                "it.toml:2: expect_regex is no regular",
            ),
            (
                "[[step]]\nexpect_json = { 'a' = 1 }\n",
                "it.toml:2: 'a' in expect_json is no JSON",
            ),
            (
                "[[step]]\nexpect_json = 'a'\n",
                "it.toml:2: expect_json has to be a table",
            ),
            (
                "[[step]]\nexpect_json = { '/a' = 2026-01-01 }\n",
                "it.toml:2: JSON has no dates",
            ),
            (
                "[[step]]\nsend_hex = '6'\n",
                "it.toml:2: send_hex has to be bytes in hexadecimal",
            ),
            (
                "[[step]]\nsend = 'a'\nsend_hex = '61'\n",
                "it.toml:3: a step sends one message",
            ),
            (
                "[[step]]\nexpect = 'a'\nexpect_any = true\n",
                "it.toml:3: a step expects one",
            ),
            (
                "[[step]]\nrepeat = 2\nsend = 'a'\n",
                "it.toml:1: repeat is for a step with steps",
            ),
            (
                "[[step]]\nrepeat = 0\n",
                "it.toml:2: repeat has to be a number from 1",
            ),
            (
                "[[step]]\nwait = '1s'\nskip_others = true\n",
                "it.toml:3: skip_others is for",
            ),
            (
                "[step]\nsend = 'a'\n",
                "it.toml:1: step has to be a list of tables: begin each",
            ),
            (
                "[[step]]\nsend = 'x'\n[[step.step]]\nexpect = 'x'\n",
                "it.toml:1: a step with steps of its own does nothing else",
            ),
            ("[[step]]\nsend = \n", "it.toml:2: this is no TOML"),
        ] {
            let error = script("it.toml", text).unwrap_err();
            assert!(error.starts_with(said), "{text:?}: {error}");
        }
        let many = "[[step]]\nexpect_any = true\n".repeat(STEPS_MAX + 1);
        assert!(
            script("it.toml", &many)
                .unwrap_err()
                .contains("more than the 200 steps")
        );
    }

    #[test]
    fn steps_become_what_is_done() {
        let text = "repeat = 3\n[[step]]\nname = 'in'\nsend = 'a'\nexpect = 'b'\nwait = '1s'\n\
            [[step]]\nrepeat = 2\n[[step.step]]\nsend_hex = '00 ff'\n[[step.step]]\n\
            expect_any = true\nskip_others = true\n";
        let script = script("it.toml", text).unwrap();
        assert_eq!(script.repeat, Some(3));
        let names: Vec<(&str, usize)> = script
            .steps
            .iter()
            .map(|step| (step.name.as_str(), step.line))
            .collect();
        assert_eq!(
            names,
            [("in", 2), ("step 2", 7), ("step 3", 9), ("step 4", 11)]
        );
        let ops: Vec<String> = script
            .ops
            .iter()
            .map(|(step, op)| match op {
                Op::Send(_) => format!("{step} send"),
                Op::Expect(it) => format!("{step} expect {}", it.skips_others),
                Op::Wait(ns) => format!("{step} wait {ns}"),
                Op::Begin(times) => format!("{step} begin {times}"),
                Op::Back(to) => format!("{step} back {to}"),
            })
            .collect();
        assert_eq!(
            ops,
            [
                "0 send",
                "0 expect false",
                "0 wait 1000000000",
                "1 begin 2",
                "2 send",
                "3 expect true",
                "1 back 3",
            ]
        );
    }
}
