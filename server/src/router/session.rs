//! The subprotocol `ringwire.topics.v1`: many topics on one connection, in JSON.
//!
//! Knows: what clients may say, and what they are told. Refuses to know: who else subscribes, and
//! how a message reaches them. `server/topics.md` is for those who write clients.
//!
//! Whatever a client says has one answer, which has the `id` of what was said; a connection is
//! never closed for what it says. Nothing is kept for a topic but the subscription, and its name
//! where others are told who comes and goes.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ringwire::{
    CloseCode, Conn, Message, Outgoing, PublishError, SendError, SubscribeError, Turn,
    topics::{Position, Published, Resumed, Since, TopicError, name},
};
use serde_json::{Map, Value, json};

use super::topics::{Forbidden, PRESENCE, Rights};

/// What it is called in `Sec-WebSocket-Protocol`.
pub const PROTOCOL: &str = "ringwire.topics.v1";

/// Why a client is closed that has more said to it than it reads.
const TOO_SLOW: &str = "answers come faster than they are read";

/// The longest text that a client may choose for an `id`, in bytes.
const ID_BYTES_MAX: usize = 64;

/// One connection.
#[derive(Debug)]
pub struct Session {
    rights: Rights,
    /// To which it subscribes as it opens.
    first: Option<(Box<[u8]>, Since)>,
    /// Wishes that are not answered yet, with their topics.
    waiting: Vec<(Box<str>, Value)>,
    /// Topics whose subscribers are told of it.
    seen_at: Vec<Box<str>>,
}

/// Why something that was asked for is not done.
struct Wrong {
    code: &'static str,
    message: String,
}

fn wrong(code: &'static str, message: impl Into<String>) -> Wrong {
    Wrong {
        code,
        message: message.into(),
    }
}

impl From<Forbidden> for Wrong {
    fn from(forbidden: Forbidden) -> Self {
        wrong("forbidden", forbidden.0)
    }
}

impl From<SubscribeError> for Wrong {
    fn from(error: SubscribeError) -> Self {
        let code = match error {
            SubscribeError::Topic(_) => "bad-topic",
            SubscribeError::NoHistory => "no-history",
            SubscribeError::TooMany => "too-many",
            _ => "busy",
        };
        wrong(code, error.to_string())
    }
}

impl From<PublishError> for Wrong {
    fn from(error: PublishError) -> Self {
        let code = match error {
            PublishError::Topic(_) => "bad-topic",
            _ => "busy",
        };
        wrong(code, error.to_string())
    }
}

/// What a client wants.
struct Wish {
    id: Value,
    fields: Map<String, Value>,
}

impl Wish {
    fn text(&self, key: &str) -> Result<&str, Wrong> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(wrong("bad-request", format!("{key} has to be a text"))),
            None => Err(wrong("bad-request", format!("there is no {key}"))),
        }
    }

    /// From where on messages are wanted, if it matters.
    fn since(&self) -> Result<Option<Since>, Wrong> {
        let since = match (self.fields.get("since"), self.fields.get("last")) {
            (None | Some(Value::Null), None | Some(Value::Null)) => return Ok(None),
            (None | Some(Value::Null), Some(last)) => last.as_u64().map(Since::Last),
            (Some(since), _) => position_of(since).map(Since::After),
        };
        let what = "since has to be {\"epoch\": TEXT, \"seq\": NUMBER} as it was told, and last a \
                    number";
        since.map(Some).ok_or_else(|| wrong("bad-request", what))
    }

    /// What is to be published.
    fn message(&self) -> Result<Outgoing<'_>, Wrong> {
        if self.fields.contains_key("base64") {
            let bytes = BASE64_STANDARD.decode(self.text("base64")?);
            let bytes = bytes.map_err(|_| wrong("bad-request", "base64 is no base64"))?;
            return Ok(bytes.into());
        }
        Ok(self.text("data")?.into())
    }
}

fn position_of(value: &Value) -> Option<Position> {
    Some(Position {
        epoch: u64::from_str_radix(value.get("epoch")?.as_str()?, 16).ok()?,
        number: value.get("seq")?.as_u64()?,
    })
}

impl Session {
    /// Of somebody with these rights, which begins with a subscription if the path names a topic.
    pub const fn new(rights: Rights, first: Option<(Box<[u8]>, Since)>) -> Self {
        Self {
            rights,
            first,
            waiting: Vec::new(),
            seen_at: Vec::new(),
        }
    }

    /// The connection is open.
    pub fn open<T>(&mut self, conn: &mut Conn<'_, T>) {
        conn.set_envelopes(true);
        if let Some((topic, since)) = self.first.take()
            && let Ok(topic) = String::from_utf8(topic.into())
        {
            let since = self.rights.has_history().then_some(since);
            if let Err(error) = self.subscribe(conn, topic, since, false, Value::Null) {
                refuse(conn, &Value::Null, &error);
            }
        }
    }

    /// A message came from the client.
    pub fn hear<T>(&mut self, conn: &mut Conn<'_, T>, message: Message<'_>) {
        let mut id = Value::Null;
        let done = wish_of(message).and_then(|mut wish| {
            id = std::mem::take(&mut wish.id);
            self.fulfil(conn, &wish, &id)
        });
        if let Err(error) = done {
            refuse(conn, &id, &error);
        }
    }

    fn fulfil<T>(&mut self, conn: &mut Conn<'_, T>, wish: &Wish, id: &Value) -> Result<(), Wrong> {
        let op = wish.text("op")?;
        if op == "ping" {
            tell(conn, "pong", id, json!({}));
            return Ok(());
        }
        let topic = wish.text("topic")?;
        if topic.len() > name::NAME_BYTES_MAX {
            // It is not repeated in an answer.
            return Err(SubscribeError::from(TopicError::TooLong).into());
        }
        match op {
            "subscribe" => {
                let sees = wish.fields.get("presence") == Some(&Value::Bool(true));
                let topic = topic.to_owned();
                self.subscribe(conn, topic, wish.since()?, sees, id.clone())
            }
            "unsubscribe" => {
                conn.unsubscribe(format!("{PRESENCE}{topic}"));
                if conn.unsubscribe(topic) {
                    self.waiting.retain(|(waiting, _)| **waiting != *topic);
                    self.leaves(&mut conn.turn(), topic);
                }
                tell(conn, "unsubscribed", id, json!({ "topic": topic }));
                Ok(())
            }
            "publish" => {
                self.rights.may_publish(topic)?;
                conn.publish(topic, wish.message()?)?;
                tell(conn, "published", id, json!({ "topic": topic }));
                Ok(())
            }
            "presence" => {
                self.rights.may_subscribe(topic)?;
                let subscribers = conn.turn().subscribers(topic);
                let told = json!({ "topic": topic, "subscribers": subscribers });
                tell(conn, "presence", id, told);
                Ok(())
            }
            other => {
                let other: String = other.chars().take(20).collect();
                let sentence = format!(
                    "op is {other}, and has to be subscribe, unsubscribe, publish, presence or ping"
                );
                Err(wrong("bad-request", sentence))
            }
        }
    }

    fn subscribe<T>(
        &mut self,
        conn: &mut Conn<'_, T>,
        topic: String,
        since: Option<Since>,
        sees: bool,
        id: Value,
    ) -> Result<(), Wrong> {
        self.rights.may_subscribe(&topic)?;
        if sees {
            self.rights.may_see(&topic)?;
        }
        // With numbers from the first message on, wherever there are some.
        let is_name = name::check_name(topic.as_bytes()).is_ok();
        let since = since.or((self.rights.has_history() && is_name).then_some(Since::Now));
        let presence = format!("{PRESENCE}{topic}");
        let sees_anew = sees && conn.subscribe(&presence)?;
        let subscribed = match since {
            Some(since) => conn
                .subscribe_since(&topic, since)
                .map(|()| !self.seen_at.iter().any(|it| **it == *topic)),
            None => conn.subscribe(&topic),
        };
        let is_new = subscribed.inspect_err(|_| {
            if sees_anew {
                conn.unsubscribe(&presence);
            }
        })?;
        if is_new {
            self.comes(&mut conn.turn(), &topic);
        }
        if since.is_some() {
            // Told when it is known what comes.
            self.waiting.retain(|(waiting, _)| **waiting != *topic);
            self.waiting.push((topic.into(), id));
        } else {
            let subscribers = conn.turn().subscribers(&topic);
            let told = json!({ "topic": topic, "subscribers": subscribers });
            tell(conn, "subscribed", &id, told);
        }
        Ok(())
    }

    /// It is known what comes of a wish for earlier messages.
    pub fn resumed<T>(&mut self, conn: &mut Conn<'_, T>, topic: &[u8], resumed: &Resumed) {
        let waiting = self.waiting.iter().position(|it| it.0.as_bytes() == topic);
        let Some(waiting) = waiting else {
            return;
        };
        let (topic, id) = self.waiting.swap_remove(waiting);
        let subscribers = conn.turn().subscribers(topic.as_bytes());
        let told = json!({
            "topic": topic,
            "epoch": format!("{:x}", resumed.newest.epoch),
            "seq": resumed.newest.number,
            "messages": resumed.messages,
            "gap": !resumed.is_whole,
            "subscribers": subscribers,
        });
        tell(conn, "subscribed", &id, told);
    }

    /// It is over.
    pub fn close(self, turn: &mut Turn<'_>) {
        for topic in &self.seen_at {
            self.rights.tell_of(turn, "left", topic);
        }
    }

    fn comes(&mut self, turn: &mut Turn<'_>, topic: &str) {
        if self.rights.may_see(topic).is_ok() {
            self.seen_at.push(topic.into());
            self.rights.tell_of(turn, "joined", topic);
        }
    }

    fn leaves(&mut self, turn: &mut Turn<'_>, topic: &str) {
        if let Some(seen) = self.seen_at.iter().position(|it| **it == *topic) {
            self.seen_at.swap_remove(seen);
            self.rights.tell_of(turn, "left", topic);
        }
    }
}

fn wish_of(message: Message<'_>) -> Result<Wish, Wrong> {
    let text = message.text();
    let text = text.ok_or_else(|| wrong("bad-request", "a message has to be JSON, as text"))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| wrong("bad-request", format!("that is no JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(wrong("bad-request", "a message has to be a JSON object"));
    };
    let id = fields.remove("id").unwrap_or_default();
    let is_fine = match &id {
        Value::Null | Value::Number(_) => true,
        Value::String(text) => text.len() <= ID_BYTES_MAX,
        _ => false,
    };
    match is_fine {
        true => Ok(Wish { id, fields }),
        false => Err(wrong(
            "bad-request",
            "id has to be a number or a text of at most 64 bytes",
        )),
    }
}

/// Tells a client something, if it has not closed meanwhile.
fn tell<T>(conn: &mut Conn<'_, T>, op: &str, id: &Value, mut told: Value) {
    if let Value::Object(told) = &mut told {
        told.insert("op".to_owned(), op.into());
        if !id.is_null() {
            told.insert("id".to_owned(), id.clone());
        }
    }
    if conn.send(told.to_string()) == Err(SendError::QueueFull) {
        // It would wait for this answer for ever.
        let _ = conn.close(CloseCode::TRY_AGAIN_LATER, TOO_SLOW);
    }
}

fn refuse<T>(conn: &mut Conn<'_, T>, id: &Value, wrong: &Wrong) {
    let told = json!({ "code": wrong.code, "message": wrong.message });
    tell(conn, "error", id, told);
}

/// A message of a topic as clients get it.
pub fn envelope<'p>(published: &Published<'p>) -> Outgoing<'p> {
    // Those are as they are to be read.
    if published.topic.starts_with(PRESENCE.as_bytes()) {
        return published.message.into();
    }
    let mut told = json!({
        "op": "message",
        "topic": String::from_utf8_lossy(published.topic),
    });
    if let Some(position) = published.position {
        told["epoch"] = format!("{:x}", position.epoch).into();
        told["seq"] = position.number.into();
    }
    match published.message.text() {
        Some(text) => told["data"] = text.into(),
        None => told["base64"] = BASE64_STANDARD.encode(published.message.payload()).into(),
    }
    told.to_string().into()
}
