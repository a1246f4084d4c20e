//! `application = "topics"`: whoever connects subscribes to what its path names, and what it sends
//! is published there.
//!
//! Knows: how a path becomes a topic, and who may do what. Refuses to know: who else subscribes,
//! and how a message reaches them.

use std::{borrow::Cow, str, sync::Arc};

use percent_encoding::percent_decode_str;
use ringwire::{
    CloseCode, Conn, HandshakeError, HttpReply, Message, PublishError, Refusal, Request,
    SubscribeError, Turn,
    topics::{
        Position, Resumed, Since, SlowPolicy, TopicOptions,
        name::{self, Reach},
    },
};
use serde_json::json;

use super::{
    auth::Identity,
    session::{PROTOCOL, Session},
};
use crate::settings::RouteSettings;

/// What the hole in the path is called that names the topic.
pub const HOLE: &str = "topic";

/// The client for pages, as the last segment of a path.
const MODULE_PATH: &str = "topics.js";

const MODULE: &str = include_str!("topics.js");

const PAGE: &str = include_str!("topics.html");

/// Nothing from outside, and nothing but the page and the module beside it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                           script-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; \
                           img-src data:; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// The answer to a plain GET at a path that names a topic: the module, or a page that uses it.
///
/// # Errors
///
/// Where no topic is named.
pub fn reply(in_path: Option<&str>) -> Result<HttpReply, Refusal> {
    let in_path = in_path.ok_or(HandshakeError::UpgradeRequired)?;
    let (content_type, body) = match in_path {
        MODULE_PATH => ("text/javascript; charset=utf-8", MODULE),
        _ => ("text/html; charset=utf-8", PAGE),
    };
    let reply = HttpReply::new(200, content_type, body.as_bytes()).and_then(|mut reply| {
        reply.add_header("Content-Security-Policy", PAGE_POLICY)?;
        reply.add_header("Cache-Control", "no-cache")?;
        Ok(reply)
    });
    reply.map_err(|_| HandshakeError::ServicePanicked.into())
}

/// What stands before the name of a topic in that of the topic that tells who comes and goes there.
/// Patterns that begin with a wildcard do not match it.
pub const PRESENCE: &str = "$presence.";

/// Who may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Clients,
    Nobody,
    /// Whoever has a claim that says so.
    Claims,
}

/// What a route says of topics.
#[derive(Debug)]
pub struct Rules {
    prefix: String,
    publishers: Who,
    subscribers: Who,
    /// Whether clients may be told who comes and goes, and by name.
    presence: Option<Named>,
    options: TopicOptions,
}

/// Whether users are told of by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Not,
    ByName,
}

/// Why somebody may not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden(pub &'static str);

/// What one connection may do.
#[derive(Clone, Debug)]
pub struct Rights {
    rules: Arc<Rules>,
    identity: Arc<Identity>,
}

/// A connection that subscribes to what its path names, and publishes there what it says.
#[derive(Debug)]
pub struct Topic {
    rights: Rights,
    pattern: Box<[u8]>,
    since: Option<Since>,
    is_seen: bool,
}

/// What a connection at a route with topics has.
#[derive(Debug)]
pub enum Listener {
    /// One topic, and plain messages.
    Plain(Topic),
    /// Many, in JSON.
    Session(Session),
}

impl Rules {
    /// Those of a route, which was checked.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which key.
    pub fn new(settings: &RouteSettings) -> Result<Self, (&'static str, String)> {
        let holes = [format!("{{{HOLE}}}"), format!("{{*{HOLE}}}")];
        let has_hole = holes.iter().any(|hole| settings.path.contains(hole));
        if !has_hole && settings.path.contains('{') {
            let sentence = format!(
                "path is '{}', but with application = 'topics' it has to name the topic: \
                 /topics/{{topic}}, or /topics/{{*topic}} for topics of several segments",
                settings.path
            );
            return Err(("path", sentence));
        }
        let prefix = settings.topic_prefix.as_str();
        let names = prefix.strip_suffix('.').map(str::as_bytes);
        let is_prefix = prefix.is_empty() || names.is_some_and(|it| name::check_name(it).is_ok());
        if !is_prefix {
            let sentence = format!(
                "topic_prefix is '{prefix}', but it has to be segments with a dot behind each, as \
                 in 'chat.' or 'eu.prices.'"
            );
            return Err(("topic_prefix", sentence));
        }
        let mut options = TopicOptions::default();
        options.slow = match settings.topic_slow.as_str() {
            "conflate" => SlowPolicy::Conflate,
            "drop-newest" => SlowPolicy::DropNewest,
            "drop-oldest" => SlowPolicy::DropOldest,
            _ => SlowPolicy::Disconnect,
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        options.backlog_messages_max = size(settings.topic_backlog_messages_max);
        options.backlog_bytes_max = size(settings.topic_backlog_bytes_max);
        options.history_messages_max = size(settings.topic_history_messages_max);
        options.history_bytes_max = size(settings.topic_history_bytes_max);
        options.history_ms_max = settings.topic_history_ms_max;
        let who = |text: &str| match text {
            "nobody" => Who::Nobody,
            "claims" => Who::Claims,
            _ => Who::Clients,
        };
        Ok(Self {
            prefix: prefix.to_owned(),
            publishers: who(&settings.topic_publish),
            subscribers: who(&settings.topic_subscribe),
            presence: match settings.topic_presence.as_str() {
                "counts" => Some(Named::Not),
                "users" => Some(Named::ByName),
                _ => None,
            },
            options,
        })
    }

    /// The topics of the route, and how they are treated.
    pub fn of_server(&self) -> (String, TopicOptions) {
        (format!("{}>", self.prefix), self.options)
    }

    /// What a client is that comes with this in the place of the topic.
    ///
    /// # Errors
    ///
    /// Why it is not let in.
    pub fn listen(
        self: &Arc<Self>,
        request: &Request<'_>,
        in_path: Option<&str>,
        speaks_json: bool,
        identity: Identity,
    ) -> Result<Listener, Refusal> {
        let rights = Rights {
            rules: self.clone(),
            identity: Arc::new(identity),
        };
        let pattern = in_path.map(|in_path| self.pattern(in_path)).transpose()?;
        let since = since_of(request)?;
        match pattern {
            Some((pattern, _)) if speaks_json => {
                let since = since.unwrap_or(Since::Now);
                Ok(Listener::Session(Session::new(
                    rights,
                    Some((pattern, since)),
                )))
            }
            None if speaks_json => Ok(Listener::Session(Session::new(rights, None))),
            Some((pattern, reach)) => {
                if let Err(Forbidden(why)) = rights.may_subscribe(&pattern) {
                    return Err(refusal(403, format!("Not here: {why}.\n")));
                }
                if since.is_some() && (!self.has_history() || reach == Reach::Several) {
                    let why = "since and last are for one topic that keeps messages \
                               (topic_history_messages_max).\n";
                    return Err(refusal(400, why.to_owned()));
                }
                Ok(Listener::Plain(Topic {
                    rights,
                    pattern,
                    since,
                    is_seen: false,
                }))
            }
            None => Err(refusal(
                400,
                format!("Only clients of the subprotocol {PROTOCOL} can connect here.\n"),
            )),
        }
    }

    /// What stands in a path, as a pattern.
    fn pattern(&self, in_path: &str) -> Result<(Box<[u8]>, Reach), Refusal> {
        let in_path = in_path.trim_end_matches('/');
        let segments = match in_path.contains('/') {
            true => Cow::Owned(in_path.replace('/', ".")),
            false => Cow::Borrowed(in_path),
        };
        let mut pattern = self.prefix.clone().into_bytes();
        pattern.extend(percent_decode_str(&segments));
        match name::check_pattern(&pattern) {
            Ok(reach) => Ok((pattern.into(), reach)),
            Err(error) => Err(refusal(400, format!("The path names no topic: {error}.\n"))),
        }
    }

    /// Whether messages are kept.
    pub const fn has_history(&self) -> bool {
        self.options.has_history()
    }
}

fn refusal(status: u16, sentence: String) -> Refusal {
    Refusal::new(status, sentence).unwrap_or_else(|_| HandshakeError::TargetInvalid.into())
}

/// `?since=POSITION` or `?last=COUNT`.
fn since_of(request: &Request<'_>) -> Result<Option<Since>, Refusal> {
    if let Some(position) = request.query_value("since") {
        let position = position.parse::<Position>();
        let position = position.map_err(|error| refusal(400, format!("since: {error}.\n")))?;
        return Ok(Some(Since::After(position)));
    }
    let last = request.query_value("last").map(|last| last.parse::<u64>());
    let last = last.transpose();
    let last = last.map_err(|_| refusal(400, "last has to be a number.\n".to_owned()))?;
    Ok(last.map(Since::Last))
}

impl Rights {
    fn has_prefix(&self, topic: &[u8]) -> Result<(), Forbidden> {
        let prefix = self.rules.prefix.as_bytes();
        match topic.strip_prefix(prefix) {
            Some(rest) if !rest.is_empty() && !topic.starts_with(b"$") => Ok(()),
            _ => Err(Forbidden("it is none of the topics of this path")),
        }
    }

    fn is_granted(&self, who: Who, topic: &[u8], grants: &[String]) -> Result<(), Forbidden> {
        let is_granted = match who {
            Who::Clients => true,
            Who::Nobody => return Err(Forbidden("clients publish nothing here")),
            Who::Claims => grants
                .iter()
                .any(|grant| name::covers(grant.as_bytes(), topic)),
        };
        match is_granted {
            true => Ok(()),
            false => Err(Forbidden("the token has no claim for it")),
        }
    }

    /// Whether it may publish to this topic.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_publish(&self, topic: impl AsRef<[u8]>) -> Result<(), Forbidden> {
        let topic = topic.as_ref();
        self.has_prefix(topic)?;
        self.is_granted(self.rules.publishers, topic, &self.identity.publish)
    }

    /// Whether it may subscribe to this.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_subscribe(&self, pattern: impl AsRef<[u8]>) -> Result<(), Forbidden> {
        let pattern = pattern.as_ref();
        self.has_prefix(pattern)?;
        self.is_granted(self.rules.subscribers, pattern, &self.identity.subscribe)
    }

    /// Whether it may be told who comes and goes there.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn may_see(&self, topic: &str) -> Result<(), Forbidden> {
        match self.rules.presence {
            None => Err(Forbidden(
                "nobody is told here who comes and goes (topic_presence)",
            )),
            Some(_) if name::check_name(topic.as_bytes()).is_err() => Err(Forbidden(
                "who comes and goes is told of one topic, without wildcards",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Whether messages are kept.
    pub fn has_history(&self) -> bool {
        self.rules.has_history()
    }

    /// Tells those who have asked for it that somebody has come or gone.
    pub fn tell_of(&self, turn: &mut Turn<'_>, what: &str, topic: &str) {
        let mut told = json!({
            "op": what,
            "topic": topic,
            "subscribers": turn.subscribers(topic),
        });
        if self.rules.presence == Some(Named::ByName)
            && let Some(user) = &self.identity.user
        {
            told["user"] = user.as_str().into();
        }
        // Of what nobody has room for, the next one tells the count.
        let _ = turn.publish(format!("{PRESENCE}{topic}"), told.to_string());
    }
}

impl Topic {
    /// The connection is open.
    fn open<T>(&mut self, conn: &mut Conn<'_, T>) {
        let subscribed = match self.since {
            Some(since) => conn.subscribe_since(&self.pattern, since),
            None => conn.subscribe(&self.pattern).map(drop),
        };
        if let Err(error) = subscribed {
            let code = match error {
                SubscribeError::TooMany => CloseCode::POLICY_VIOLATION,
                _ => CloseCode::TRY_AGAIN_LATER,
            };
            let _ = conn.close(code, "there is no room for a subscription");
            return;
        }
        if let Ok(topic) = str::from_utf8(&self.pattern)
            && self.rights.may_see(topic).is_ok()
        {
            self.is_seen = true;
            self.rights.tell_of(&mut conn.turn(), "joined", topic);
        }
    }

    /// A message came from the client.
    fn publish<T>(&self, conn: &mut Conn<'_, T>, message: Message<'_>) {
        let is_name = name::check_name(&self.pattern).is_ok();
        let (code, reason) = match self.rights.may_publish(&self.pattern) {
            _ if !is_name => (
                CloseCode::POLICY_VIOLATION,
                "a message is published to one topic, without wildcards",
            ),
            Err(Forbidden(why)) => (CloseCode::POLICY_VIOLATION, why),
            Ok(()) => match conn.publish(&self.pattern, message) {
                Ok(()) => return,
                // It would not know which of its messages was lost.
                Err(PublishError::Full) => (
                    CloseCode::TRY_AGAIN_LATER,
                    "messages come faster than their subscribers can be given them",
                ),
                Err(_) => (CloseCode::INTERNAL_ERROR, "not published"),
            },
        };
        let _ = conn.close(code, reason);
    }
}

impl Listener {
    /// The connection is open.
    pub fn open<T>(&mut self, conn: &mut Conn<'_, T>) {
        match self {
            Self::Plain(topic) => topic.open(conn),
            Self::Session(session) => session.open(conn),
        }
    }

    /// A message came from the client.
    pub fn hear<T>(&mut self, conn: &mut Conn<'_, T>, message: Message<'_>) {
        match self {
            Self::Plain(topic) => topic.publish(conn, message),
            Self::Session(session) => session.hear(conn, message),
        }
    }

    /// It is known what comes of a wish for earlier messages.
    pub fn resumed<T>(&mut self, conn: &mut Conn<'_, T>, topic: &[u8], resumed: &Resumed) {
        match self {
            // It has no words for it.
            Self::Plain(_) => {}
            Self::Session(session) => session.resumed(conn, topic, resumed),
        }
    }

    /// The connection is gone.
    pub fn close(self, turn: &mut Turn<'_>) {
        match self {
            Self::Plain(topic) => {
                if let (true, Ok(name)) = (topic.is_seen, str::from_utf8(&topic.pattern)) {
                    topic.rights.tell_of(turn, "left", name);
                }
            }
            Self::Session(session) => session.close(turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(change: impl FnOnce(&mut RouteSettings)) -> Result<Rules, (&'static str, String)> {
        let mut settings = RouteSettings::built_in("/topics/{*topic}", "topics");
        change(&mut settings);
        Rules::new(&settings)
    }

    #[test]
    fn a_path_becomes_a_topic_below_the_prefix() {
        let rules = rules(|settings| settings.topic_prefix = "eu.prices.".to_owned()).unwrap();
        assert_eq!(rules.of_server().0, "eu.prices.>");
        let everybody = Rights {
            rules: Arc::new(rules),
            identity: Arc::default(),
        };
        let rules = &everybody.rules;
        for (path, pattern, reach) in [
            ("gold", "eu.prices.gold", Reach::One),
            ("gold/spot", "eu.prices.gold.spot", Reach::One),
            ("gold/spot/", "eu.prices.gold.spot", Reach::One),
            ("g%c3%b6ld%20", "eu.prices.g\u{f6}ld ", Reach::One),
            ("*", "eu.prices.*", Reach::Several),
            ("%3E", "eu.prices.>", Reach::Several),
        ] {
            let found = rules.pattern(path).unwrap();
            assert_eq!(found, (pattern.as_bytes().into(), reach), "{path}");
            assert_eq!(everybody.may_subscribe(pattern), Ok(()));
        }
        for path in ["a//b", "a..b", ">/a", "/"] {
            let refusal = rules.pattern(path);
            assert_eq!(refusal.map_err(|it| it.status()), Err(400), "{path}");
        }
        for topic in [
            "",
            "eu.prices.",
            "us.prices.gold",
            "$presence.eu.prices.gold",
            ">",
        ] {
            assert!(everybody.may_publish(topic).is_err(), "{topic}");
            assert!(everybody.may_subscribe(topic).is_err(), "{topic}");
        }
    }

    #[test]
    fn claims_say_who_may_do_what() {
        let change = |settings: &mut RouteSettings| {
            settings.topic_publish = "claims".to_owned();
            settings.topic_subscribe = "claims".to_owned();
        };
        let rights = Rights {
            rules: Arc::new(rules(change).unwrap()),
            identity: Arc::new(Identity {
                user: None,
                publish: vec!["chat.*".to_owned()],
                subscribe: vec!["chat.>".to_owned(), "news".to_owned()],
            }),
        };
        for (topic, publishes, subscribes) in [
            ("chat.a", true, true),
            ("chat.a.b", false, true),
            ("chat.*", false, true),
            ("chat.>", false, true),
            (">", false, false),
            ("news", false, true),
            ("prices", false, false),
        ] {
            let is_name = name::check_name(topic.as_bytes()).is_ok();
            let may_publish = is_name && rights.may_publish(topic).is_ok();
            assert_eq!(may_publish, publishes, "{topic}");
            assert_eq!(rights.may_subscribe(topic).is_ok(), subscribes, "{topic}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_of_its_key() {
        let wrong = rules(|settings| settings.path = "/topics/{room}".to_owned()).unwrap_err();
        assert_eq!(wrong.0, "path");
        for prefix in ["chat", ".", "a..", "*."] {
            let wrong = rules(|settings| settings.topic_prefix = prefix.to_owned());
            let (key, sentence) = wrong.unwrap_err();
            assert_eq!(key, "topic_prefix");
            assert!(sentence.starts_with(&format!("topic_prefix is '{prefix}', but")));
        }
    }
}
