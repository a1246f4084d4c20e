//! `application = "topics"`: whoever connects subscribes to what its path names, and what it sends
//! is published there.
//!
//! Knows: how a path becomes a topic, and who may publish. Refuses to know: who else subscribes,
//! and how a message reaches them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use ringwire::{
    CloseCode, Conn, HandshakeError, Message, PublishError, Refusal, SubscribeError,
    topics::{SlowPolicy, TopicOptions, name},
};

use crate::settings::RouteSettings;

/// What the hole in the path is called that names the topic.
pub const HOLE: &str = "topic";

/// What a route says of topics.
#[derive(Debug)]
pub struct Rules {
    prefix: String,
    clients_publish: bool,
    options: TopicOptions,
}

/// What a connection has subscribed to, and whether it may publish there.
#[derive(Debug)]
pub struct Topic {
    pattern: Box<[u8]>,
    publishes: bool,
}

impl Rules {
    /// Those of a route, which was checked.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which key.
    pub fn new(settings: &RouteSettings) -> Result<Self, (&'static str, String)> {
        let holes = [format!("{{{HOLE}}}"), format!("{{*{HOLE}}}")];
        if !holes.iter().any(|hole| settings.path.contains(hole)) {
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
        Ok(Self {
            prefix: prefix.to_owned(),
            clients_publish: settings.topic_publish == "clients",
            options,
        })
    }

    /// The topics of the route, and how they are treated.
    pub fn of_server(&self) -> (String, TopicOptions) {
        (format!("{}>", self.prefix), self.options)
    }

    /// What a client subscribes to whose path has this in the place of the topic.
    pub fn topic(&self, in_path: &str) -> Result<Topic, Refusal> {
        let in_path = in_path.trim_end_matches('/');
        let segments = match in_path.contains('/') {
            true => Cow::Owned(in_path.replace('/', ".")),
            false => Cow::Borrowed(in_path),
        };
        let mut pattern = self.prefix.clone().into_bytes();
        pattern.extend(percent_decode_str(&segments));
        let reach = name::check_pattern(&pattern).map_err(|error| {
            let sentence = format!("The path names no topic: {error}.\n");
            Refusal::new(400, sentence).unwrap_or_else(|_| HandshakeError::TargetInvalid.into())
        })?;
        Ok(Topic {
            pattern: pattern.into(),
            publishes: self.clients_publish && reach == name::Reach::One,
        })
    }
}

impl Topic {
    /// The connection is open.
    pub fn open<T>(&self, conn: &mut Conn<'_, T>) {
        if let Err(error) = conn.subscribe(&self.pattern) {
            let code = match error {
                SubscribeError::TooMany => CloseCode::POLICY_VIOLATION,
                _ => CloseCode::TRY_AGAIN_LATER,
            };
            let _ = conn.close(code, "there is no room for a subscription");
        }
    }

    /// A message came from the client.
    pub fn publish<T>(&self, conn: &mut Conn<'_, T>, message: Message<'_>) {
        let (code, reason) = if !self.publishes {
            (CloseCode::POLICY_VIOLATION, "clients publish nothing here")
        } else {
            match conn.publish(&self.pattern, message) {
                Ok(()) => return,
                // It would not know which of its messages was lost.
                Err(PublishError::Full) => (
                    CloseCode::TRY_AGAIN_LATER,
                    "messages come faster than their subscribers can be given them",
                ),
                Err(_) => (CloseCode::INTERNAL_ERROR, "not published"),
            }
        };
        let _ = conn.close(code, reason);
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
        for (path, pattern, publishes) in [
            ("gold", "eu.prices.gold", true),
            ("gold/spot", "eu.prices.gold.spot", true),
            ("gold/spot/", "eu.prices.gold.spot", true),
            ("g%c3%b6ld%20", "eu.prices.g\u{f6}ld ", true),
            ("*", "eu.prices.*", false),
            ("%3E", "eu.prices.>", false),
        ] {
            let topic = rules.topic(path).unwrap();
            assert_eq!(topic.pattern, pattern.as_bytes().into(), "{path}");
            assert_eq!(topic.publishes, publishes, "{path}");
        }
        for path in ["a//b", "a..b", ">/a", "/"] {
            let refusal = rules.topic(path).map(|topic| topic.publishes);
            assert_eq!(refusal.map_err(|it| it.status()), Err(400), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_of_its_key() {
        let wrong = rules(|settings| settings.path = "/topics".to_owned()).unwrap_err();
        assert_eq!(wrong.0, "path");
        for prefix in ["chat", ".", "a..", "*."] {
            let wrong = rules(|settings| settings.topic_prefix = prefix.to_owned());
            let (key, sentence) = wrong.unwrap_err();
            assert_eq!(key, "topic_prefix");
            assert!(sentence.starts_with(&format!("topic_prefix is '{prefix}', but")));
        }
    }
}
