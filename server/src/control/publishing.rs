//! Topics for those who run the server: messages to many, and what is kept.
//!
//! Knows: what bodies and replies look like. Refuses to know: HTTP, and who subscribes.
//!
//! Of several messages either all are well formed or none is published: whoever is told of a line
//! that is wrong can send all of them again.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use ringwire::{
    Message, Outgoing, PublishError,
    topics::{Position, Recalled, Since, name},
};
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use crate::engine::Operator;

/// For how long there may be no room for a message of several, and how long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often room is looked for.
const AGAIN_AFTER: Duration = Duration::from_millis(2);

/// The most kept messages that are shown, unless somebody asks for more or fewer.
const SHOWN: u64 = 10;

/// Why several messages were not published.
#[derive(Debug)]
pub enum Stopped {
    /// Something is wrong with them: none was.
    Wrong(String),
    /// So many were, and then there was no room or no server any more.
    After(usize, PublishError),
}

/// One of several messages.
#[derive(Debug)]
struct Line {
    topic: String,
    message: Outgoing<'static>,
}

/// A topic as it stands in a path: segments may have slashes between them, as in routes.
pub fn topic_of(in_path: &str) -> Vec<u8> {
    percent_decode_str(&in_path.replace('/', ".")).collect()
}

fn line_of(text: &str) -> Result<Line, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let field = |key: &str| value.get(key).and_then(Value::as_str);
    let topic = field("topic").ok_or("has no topic")?;
    name::check_name(topic.as_bytes()).map_err(|error| format!("has no topic: {error}"))?;
    let message = match (field("data"), field("base64")) {
        (Some(text), None) => Outgoing::from(text.to_owned()),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text);
            bytes
                .map_err(|error| format!("has no base64: {error}"))?
                .into()
        }
        _ => return Err("has to have either data, a text, or base64".to_owned()),
    };
    Ok(Line {
        topic: topic.to_owned(),
        message,
    })
}

/// Publishes several messages, one JSON object a line. Waits while there is no room for one.
/// Returns how many there were.
///
/// # Errors
///
/// Why not all of them were published.
pub async fn publish_lines(operator: &Operator, body: &[u8]) -> Result<usize, Stopped> {
    let body = str::from_utf8(body);
    let body = body.map_err(|_| Stopped::Wrong("The lines are no UTF-8".to_owned()))?;
    let mut lines = Vec::new();
    for (index, text) in body.lines().enumerate() {
        if !text.trim().is_empty() {
            let line = line_of(text);
            let number = index + 1;
            lines.push(line.map_err(|what| {
                let sentence = format!("Line {number} {what}. Nothing was published");
                Stopped::Wrong(sentence)
            })?);
        }
    }
    for (index, line) in lines.iter().enumerate() {
        let until = Instant::now() + PATIENCE;
        loop {
            match operator.publish(line.topic.as_bytes(), line.message.clone()) {
                Ok(()) => break,
                Err(PublishError::Full) if Instant::now() < until => sleep(AGAIN_AFTER).await,
                Err(error) => return Err(Stopped::After(index, error)),
            }
        }
    }
    Ok(lines.len())
}

fn shown(number: u64, message: Message<'_>) -> Value {
    match message.text() {
        Some(text) => json!({ "seq": number, "data": text }),
        None => json!({ "seq": number, "base64": BASE64_STANDARD.encode(message.payload()) }),
    }
}

/// What there is to be known of a topic: how many subscribe to it, and what is kept, the last so
/// many or what is behind a position.
///
/// # Errors
///
/// What is wrong with the topic, or that nobody answers.
pub async fn look(
    operator: &Operator,
    topic: &[u8],
    (last, since): (Option<&str>, Option<&str>),
) -> Result<Value, String> {
    let since = match (last, since) {
        (_, Some(since)) => {
            let position: Result<Position, _> = since.parse();
            Since::After(position.map_err(|error| format!("since is '{since}': {error}"))?)
        }
        (Some(last), None) => {
            let count = last.parse();
            Since::Last(count.map_err(|_| format!("last is '{last}', and has to be a number"))?)
        }
        (None, None) => Since::Last(SHOWN),
    };
    let subscribers = operator.subscribers(topic);
    let (tell, told) = oneshot::channel();
    let asked = operator.recall(topic, since, move |recalled| {
        // Who has asked may have gone.
        let _ = tell.send(recalled);
    });
    asked.map_err(|error| format!("That cannot be asked: {error}"))?;
    let told = timeout_at(Instant::now() + PATIENCE, told).await;
    let recalled: Recalled = told
        .ok()
        .and_then(Result::ok)
        .ok_or("The server does not answer in time")?;
    let resumed = recalled.resumed();
    let messages: Vec<_> = recalled
        .messages()
        .map(|(number, it)| shown(number, it))
        .collect();
    Ok(json!({
        "topic": String::from_utf8_lossy(topic),
        "subscribers": subscribers,
        "epoch": format!("{:x}", resumed.newest.epoch),
        "seq": resumed.newest.number,
        "gap": !resumed.is_whole,
        "messages": messages,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_topic_and_a_message() {
        let line = line_of(r#"{"topic": "a.b", "data": "text"}"#).unwrap();
        assert_eq!(line.topic, "a.b");
        assert_eq!(line.message.payload(), b"text");
        let line = line_of(r#"{"topic": "a", "base64": "/w=="}"#).unwrap();
        assert_eq!(line.message.payload(), b"\xff");
        for (text, says) in [
            ("{", "is no JSON"),
            ("{}", "has no topic"),
            (
                r#"{"topic": "a.*", "data": ""}"#,
                "has no topic: a message is published to one",
            ),
            (r#"{"topic": "a"}"#, "has to have either data"),
            (r#"{"topic": "a", "data": 1}"#, "has to have either data"),
            (r#"{"topic": "a", "base64": "?"}"#, "has no base64"),
        ] {
            let what = line_of(text).unwrap_err();
            assert!(what.starts_with(says), "{text}: {what}");
        }
    }
}
