//! `[[route]]`: what is served at a path, to whom, and within which limits.
//!
//! Knows: the keys of a route, one entry each. Refuses to know: how a request finds its route.

use std::collections::BTreeMap;

use super::{
    finding::{Finding, Place},
    value::{Kind, Value, Written, meant},
};

/// What can be served at a path.
pub const APPLICATIONS: &[&str] = &["echo", "sink", "page", "health", "topics"];

/// Who may publish.
const PUBLISHERS: &[&str] = &["clients", "nobody", "claims"];

/// Who may subscribe.
const SUBSCRIBERS: &[&str] = &["clients", "claims"];

/// What others learn of subscribers.
const PRESENCE: &[&str] = &["off", "counts", "users"];

/// What is done with a subscriber that is behind.
const SLOW: &[&str] = &["disconnect", "drop-oldest", "drop-newest", "conflate"];

/// Who may come in.
const AUTH: &[&str] = &[
    "none",
    "token",
    #[cfg(feature = "jwt")]
    "jwt",
];

/// One key of a route.
pub struct Key {
    /// Its name in a file.
    pub key: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What it means.
    pub meaning: &'static str,
    get: fn(&RouteSettings) -> Value,
    put: fn(&mut RouteSettings, Value),
}

impl Key {
    /// Its default.
    pub fn default(&self) -> Value {
        (self.get)(&RouteSettings::default())
    }
}

/// Makes the keys: a field of [`RouteSettings`], its default and an entry of the table from each.
macro_rules! keys {
    ($($key:ident: $variant:ident($type:ty) = $default:expr, $kind:expr, $meaning:literal;)*) => {
        /// One route.
        #[derive(Clone, Debug)]
        pub struct RouteSettings {
            $(#[doc = $meaning] pub $key: $type,)*
            /// Where it begins.
            place: Place,
            /// Where values came from, of those that were given.
            given: BTreeMap<&'static str, Place>,
        }

        impl Default for RouteSettings {
            fn default() -> Self {
                Self {
                    $($key: $default,)*
                    place: Place::Nowhere,
                    given: BTreeMap::new(),
                }
            }
        }

        /// Every key of a route.
        pub const KEYS: &[Key] = &[$(Key {
            key: stringify!($key),
            kind: $kind,
            meaning: $meaning,
            get: |route| Value::$variant(route.$key.clone()),
            put: |route, value| {
                if let Value::$variant(value) = value {
                    route.$key = value;
                }
            },
        },)*];
    };
}

keys! {
    path: Text(String) = String::new(), Kind::Text,
        "The path that it serves, as it stands in the URL. {name} stands for one segment or a part \
         of it, {*name} for the rest of the path, which is not empty: /rooms/{room}, /{*rest}. \
         What is written out wins over what is left open";
    host: List(Vec<String>) = Vec::new(), Kind::List,
        "The hosts that it serves, without ports: chat.example.com, or *.example.com for all below \
         it; without any, every host. A path is looked for at the host by its name, then below \
         another, then at routes for every host";
    application: Text(String) = "echo".to_owned(), Kind::Choice(APPLICATIONS),
        "What is served. echo: messages come back, as what they were or as ?encoding=text or \
         ?encoding=binary says; sink: they are counted; page: an echo, and the page that talks to \
         it for browsers; health: 200 and ok for GET, HEAD and OPTIONS, for whoever asks whether \
         the server is there; topics: whoever connects subscribes to the topic that {topic} in the \
         path stands for, and what it sends goes to all who do (engine shard)";
    origins: List(Vec<String>) = Vec::new(), Kind::List,
        "Whose pages may connect here, instead of allow_origin: as there, without a path";
    subprotocols: List(Vec<String>) = Vec::new(), Kind::List,
        "The subprotocols spoken here. The first of the client's offer that is in this list is \
         chosen, whatever the order here; if none is, the connection has none. Without a list, the \
         client's first one is chosen";
    compress: Switch(bool) = true, Kind::Switch,
        "Agree to compression here, if the server does";
    message_bytes_max: Number(u64) = 0, Kind::Bytes(0, 1 << 40),
        "The longest message here, if that is less than the server's. 0: the server's. For those \
         who connect from then on";
    connections_max: Number(u64) = 0, Kind::Count(0, u32::MAX as u64),
        "The most connections here at a time, over all shards; more are answered 503. 0: as many \
         as the server has room for. At a reload who is there keeps his place while host and path \
         stay";
    messages_per_second_max: Number(u64) = 0, Kind::Count(0, 1_000_000_000),
        "The most messages that one connection may send here in a second, and at once after it has \
         sent none for a second. One that sends more is closed with 1008. 0: any number";
    bytes_per_second_max: Number(u64) = 0, Kind::Bytes(0, 1 << 40),
        "The same in bytes of their payload: a longer message is one too many by itself";
    topic_prefix: Text(String) = String::new(), Kind::Text,
        "What stands before the topic in the path, so that routes have topics of their own: chat. \
         or eu.prices.";
    topic_publish: Text(String) = "clients".to_owned(), Kind::Choice(PUBLISHERS),
        "Who publishes to topics of this route. clients: what a client sends is published to the \
         topic that it has connected to; nobody: a client that sends something is closed with \
         1008; claims: whoever's JSON Web Token has a claim publish with a list of patterns one of \
         which fits, as in \"publish\": [\"chat.*\"]. The admin side publishes in any case";
    topic_subscribe: Text(String) = "clients".to_owned(), Kind::Choice(SUBSCRIBERS),
        "Who subscribes to topics of this route. clients: everybody; claims: whoever's JSON Web \
         Token has a claim subscribe with a list of patterns one of which covers what is asked for";
    topic_presence: Text(String) = "off".to_owned(), Kind::Choice(PRESENCE),
        "Whether clients that speak ringwire.topics.v1 may ask to be told who comes and goes. off: \
         no; counts: how many subscribe; users: also the names that tokens have (sub). What a \
         crowd that comes and goes costs grows with its square";
    topic_history_messages_max: Number(u64) = 0, Kind::Count(0, 1 << 32),
        "The most messages of one topic that are kept for who was away. With them each message has \
         a number, and ?last=10 or ?since=POSITION behind the path, or since and last of \
         ringwire.topics.v1, bring earlier ones. 0: none";
    topic_history_bytes_max: Number(u64) = 1 << 20, Kind::Bytes(1, 1 << 40),
        "The most bytes of one topic's messages that are kept; what all take is limited by \
         topic_history_bytes_max of the server";
    topic_history_ms_max: Number(u64) = 0, Kind::Milliseconds(0, 31_536_000_000),
        "For how long a message is kept. 0: as long as there is room";
    topic_slow: Text(String) = "disconnect".to_owned(), Kind::Choice(SLOW),
        "What is done when more waits for a subscriber than may. disconnect: it is closed with \
         1013; drop-oldest, drop-newest: messages are left out; conflate: a message takes the \
         place of one of the same topic that still waits, however few wait";
    topic_backlog_messages_max: Number(u64) = 4096, Kind::Count(1, 1 << 32),
        "The most messages of topics that wait for one subscriber: 16 bytes of memory each, beside \
         the message itself, which all share";
    topic_backlog_bytes_max: Number(u64) = 4 << 20, Kind::Bytes(1, 1 << 40),
        "The most bytes of messages that wait for one subscriber";
    auth: Text(String) = "none".to_owned(), Kind::Choice(AUTH),
        "Who may open a connection. none: everybody; token: whoever has one of auth_tokens_file; \
         jwt: whoever has a JSON Web Token (RFC 7519) that a key of jwt_keys_file has signed. \
         Others are answered 401. Only opening handshakes are asked, once: who is in stays though \
         the token expires, and plain HTTP is answered to everybody";
    auth_from: List(Vec<String>) = vec!["bearer".to_owned()], Kind::List,
        "Where clients have their token, in the order in which is looked: bearer (the header \
         Authorization), cookie:NAME, query:NAME, or subprotocol:PREFIX (an offered subprotocol \
         that begins so; the client has to offer another one as well, which is chosen)";
    auth_tokens_file: Text(String) = String::new(), Kind::Text,
        "A file of tokens, one a line; lines that begin with # are comments. SIGHUP reads it again";
    jwt_keys_file: Text(String) = String::new(), Kind::Text,
        "The keys that tokens are signed with: a JWK set (RFC 7517) or public keys in PEM; or, if \
         jwt_algorithms names HS256, a secret as it is but for a line's end. SIGHUP reads it again";
    jwt_algorithms: List(Vec<String>) = Vec::new(), Kind::List,
        "The algorithms that are accepted, of HS256, RS256, ES256 and EdDSA. Without any, those \
         that the keys are for";
    jwt_audience: List(Vec<String>) = Vec::new(), Kind::List,
        "Tokens have to be for one of these (aud). Without any, tokens that are for somebody are \
         refused, as RFC 7519 asks for";
    jwt_issuer: List(Vec<String>) = Vec::new(), Kind::List,
        "Tokens have to be from one of these (iss). Without any, from whomever the keys are";
    jwt_leeway_ms: Number(u64) = 30_000, Kind::Milliseconds(0, 600_000),
        "How far the clock of whoever signs may be off when exp and nbf are checked. Parts of a \
         second are cut off. Tokens without exp are refused";
}

/// Wherever it stands.
impl PartialEq for RouteSettings {
    fn eq(&self, other: &Self) -> bool {
        KEYS.iter().all(|key| (key.get)(self) == (key.get)(other))
    }
}

impl RouteSettings {
    /// A route that begins here.
    pub fn at(place: Place) -> Self {
        Self {
            place,
            ..Self::default()
        }
    }

    /// A route that nobody wrote.
    pub fn built_in(path: &str, application: &str) -> Self {
        Self {
            path: path.to_owned(),
            application: application.to_owned(),
            ..Self::default()
        }
    }

    /// Where the value of a key came from, or the route.
    pub fn place(&self, key: &str) -> Place {
        self.given.get(key).unwrap_or(&self.place).clone()
    }

    /// The line of the file at which it begins; 0: it stands in none.
    pub const fn line(&self) -> usize {
        self.place.line()
    }

    /// Whether there is such a key.
    pub fn is_known(key: &str) -> bool {
        KEYS.iter().any(|known| known.key == key)
    }

    /// Whether somebody gave it a value.
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// Gives a key the value that was written.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn give(&mut self, key: &str, written: &Written, place: Place) -> Result<(), Finding> {
        let Some(known) = KEYS.iter().find(|known| known.key == key) else {
            let guess = match meant(key, KEYS.iter().map(|known| known.key)) {
                none if none.is_empty() => ".".to_owned(),
                guess => guess,
            };
            let sentence = format!(
                "{key} is no key of a route{guess} 'ringwire config reference' has them all"
            );
            return Err(Finding::error(place, sentence));
        };
        let value = known.kind.value_of(known.key, written);
        let value = value.map_err(|sentence| Finding::error(place.clone(), sentence))?;
        (known.put)(self, value);
        self.given.insert(known.key, place);
        Ok(())
    }
}
