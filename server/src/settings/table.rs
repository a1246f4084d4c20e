//! Every setting of the binary, one entry each: keys of files, flags, variables of the environment,
//! the reference, the schema and the check all come from here.
//!
//! Knows: the settings of the library's [`Config`], of which none is named here, and those that
//! only the binary has. Refuses to know: where values come from.

use std::sync::LazyLock;

use ringwire::config::{self, Config};

use crate::log::LEVELS;

use super::{
    Settings,
    value::{Kind, Value, meant},
};

/// How a setting is typed on a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `--key`, with a value unless it is a switch; `--no-key` for a switch that is on.
    Own,
    /// `--set key=value` only: few people ever type it.
    None,
}

/// Under which heading it is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Where the server listens, and on what it runs.
    Serving,
    /// Certificates.
    #[cfg(feature = "tls")]
    Tls,
    /// What those see and do who run it.
    Operation,
    /// Who may connect.
    Access,
    /// What peers may use.
    Limits,
    /// permessage-deflate.
    Compression,
    /// What can be told to run faster or smaller.
    Tuning,
}

impl Group {
    /// Its heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            #[cfg(feature = "tls")]
            Self::Tls => "TLS",
            Self::Operation => "Operation",
            Self::Access => "Access",
            Self::Limits => "Limits",
            Self::Compression => "Compression",
            Self::Tuning => "Tuning",
        }
    }
}

/// One setting.
pub struct Setting {
    /// Its name in a file.
    pub key: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What stands for a value in the help.
    pub placeholder: &'static str,
    /// How it is typed.
    pub flag: Flag,
    /// Where it is explained.
    pub group: Group,
    /// What it means.
    pub meaning: String,
    access: Access,
}

enum Access {
    Config(&'static config::Field),
    Own {
        is_live: bool,
        get: fn(&Settings) -> Value,
        put: fn(&mut Settings, Value),
    },
}

impl Setting {
    /// Its value.
    pub fn get(&self, settings: &Settings) -> Value {
        match &self.access {
            Access::Own { get, .. } => get(settings),
            Access::Config(field) => match field.get(&settings.config) {
                config::Value::Number(number) => Value::Number(number),
                config::Value::Switch(on) => Value::Switch(on),
                config::Value::Text(text) => Value::Text(text.unwrap_or_default()),
                _ => Value::Text(String::new()),
            },
        }
    }

    /// Sets it to a value of its kind, whether that is within its bounds or not. Returns whether
    /// there is room for it.
    pub fn put(&self, settings: &mut Settings, value: Value) -> bool {
        let field = match &self.access {
            Access::Own { put, .. } => {
                put(settings, value);
                return true;
            }
            Access::Config(field) => field,
        };
        let value = match value {
            Value::Number(number) => config::Value::Number(number),
            Value::Switch(on) => config::Value::Switch(on),
            Value::Text(text) => config::Value::Text((!text.is_empty()).then_some(text)),
            Value::List(_) => return false,
        };
        field.put(&mut settings.config, value)
    }

    /// Whether it can change while the server runs, at SIGHUP.
    pub const fn is_live(&self) -> bool {
        match self.access {
            Access::Config(field) => field.is_live,
            Access::Own { is_live, .. } => is_live,
        }
    }

    /// Its default.
    pub fn default(&self) -> Value {
        self.get(&Settings::default())
    }

    /// The switch is on unless it is turned off.
    pub fn is_on_by_default(&self) -> bool {
        self.default() == Value::Switch(true)
    }

    /// The flag, without its two dashes, if it has one.
    pub fn flag_name(&self) -> Option<String> {
        let name = self.key.replace('_', "-");
        match self.flag {
            Flag::None => None,
            Flag::Own if self.is_on_by_default() => Some(format!("no-{name}")),
            Flag::Own => Some(name),
        }
    }

    /// The variable of the environment.
    pub fn variable(&self) -> String {
        format!("RINGWIRE_{}", self.key.to_uppercase())
    }
}

/// Settings of the library that few people type.
const UNTYPED: &[&str] = &[
    "mailbox_bytes_max",
    "mailbox_messages_max",
    "message_empty_fragments_max",
    "message_kept_bytes_max",
    "send_kept_bytes_max",
    "shard_queue_high_bytes",
];

const fn placeholder(kind: Kind) -> &'static str {
    match kind {
        Kind::Count(..) => "N",
        Kind::Bytes(..) => "BYTES",
        Kind::Milliseconds(..) => "MS",
        Kind::Microseconds(..) => "US",
        Kind::Switch => "",
        Kind::Text | Kind::Choice(_) | Kind::List => "TEXT",
    }
}

fn group_of(key: &str) -> Group {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    if begins(&["compress", "inflate"]) {
        Group::Compression
    } else if begins(&[
        "recv_",
        "send_",
        "mailbox_",
        "message_kept",
        "busy_",
        "backlog",
    ]) {
        Group::Tuning
    } else if begins(&["drain_", "trace_"]) {
        Group::Operation
    } else if begins(&["legacy", "server_header", "date_header"]) {
        Group::Access
    } else {
        Group::Limits
    }
}

fn of_library(field: &'static config::Field) -> Setting {
    let kind = field.kind.into();
    let lines = field.meaning.lines().map(str::trim);
    let meaning = lines.collect::<Vec<_>>().join(" ").replace('`', "");
    Setting {
        key: field.name,
        kind,
        placeholder: placeholder(kind),
        flag: match UNTYPED.contains(&field.name) {
            true => Flag::None,
            false => Flag::Own,
        },
        group: group_of(field.name),
        meaning: meaning.trim().to_owned(),
        access: Access::Config(field),
    }
}

macro_rules! is_live {
    (live) => {
        true
    };
    (fixed) => {
        false
    };
}

macro_rules! own {
    ($(
        $key:ident: $kind:expr, $placeholder:literal, $group:ident, $when:ident, $at:expr, $to:expr,
            $meaning:literal;
    )*) => {
        vec![$(Setting {
            key: stringify!($key),
            kind: $kind,
            placeholder: $placeholder,
            flag: Flag::Own,
            group: Group::$group,
            meaning: $meaning.to_owned(),
            access: Access::Own {
                is_live: is_live!($when),
                get: $at,
                put: $to,
            },
        },)*]
    };
}

/// A setting that is a number, a switch, a text or a list of [`Settings`] itself.
macro_rules! at {
    ($kind:ident, $($field:ident).+) => {
        |settings| Value::$kind(settings.$($field).+.clone())
    };
}

macro_rules! to {
    ($kind:ident, $($field:ident).+) => {
        |settings, value| {
            if let Value::$kind(value) = value {
                settings.$($field).+ = value;
            }
        }
    };
}

/// What a server runs on.
pub const ENGINES: &[&str] = &[
    "shard",
    #[cfg(feature = "aio")]
    "async",
];

const RINGS: &[&str] = &["auto", "uring", "epoll"];

fn of_binary() -> Vec<Setting> {
    own! {
        listen: Kind::List, "ADDRESS", Serving, fixed, at!(List, listen), to!(List, listen),
            "Listen here: IP:PORT, [IPV6]:PORT, NAME:PORT, :PORT for all addresses of this host, \
             unix:/path or unix:@name. Repeat it for several; port 0 lets the kernel choose \
             [default: 127.0.0.1:9001, unless there is a tls_listen]";
        engine: Kind::Choice(ENGINES), "ENGINE", Serving, fixed,
            at!(Text, engine), to!(Text, engine),
            "What serves: shards on rings of their own, or the async API on tokio-uring (on epoll: \
             on tokio), to compare and for kernels from 5.15 on";
        ring: Kind::Choice(RINGS), "RING", Serving, fixed, at!(Text, ring), to!(Text, ring),
            "What it runs on. auto: io_uring where this host allows it, else epoll, with a warning \
             that says why and what to do; uring: io_uring, or no start; epoll: epoll, on every \
             kernel since 4.18";
        shards: Kind::Count(0, 1024), "N", Serving, fixed, at!(Number, shards), to!(Number, shards),
            "Shards, one thread and one ring each; 0: one for each processor that the process has \
             the time of, by its quota as well";
        pin: Kind::Switch, "", Serving, fixed, at!(Switch, pin), to!(Switch, pin),
            "Keep each shard on one processor";
        unix_mode: Kind::Text, "MODE", Serving, fixed, at!(Text, unix_mode), to!(Text, unix_mode),
            "The octal mode of Unix paths, in a file in quotes: '660' lets the group connect as \
             well. Without one the umask decides. Abstract addresses (unix:@name) have no mode";
        proxy_protocol_from: Kind::List, "NETWORK", Serving, fixed,
            at!(List, proxy_protocol_from), to!(List, proxy_protocol_from),
            "A network of proxies (10.0.0.0/8, ::1, or unix for Unix sockets) whose connections \
             begin with a header of the PROXY protocol, version 1 or 2, which names the client. \
             Connections from there without it are refused; nobody else is believed. Repeat it for \
             several";
        forwarded_from: Kind::List, "NETWORK", Serving, fixed,
            at!(List, forwarded_from), to!(List, forwarded_from),
            "A network of proxies (as above) that add the client's address to forwarded_header. \
             Limits by address count that client. Each proxy has to add it itself (nginx: \
             $proxy_add_x_forwarded_for), or clients can name any address. Repeat it for several";
        forwarded_header: Kind::Choice(&["x-forwarded-for", "forwarded"]), "HEADER", Serving,
            fixed, at!(Text, forwarded_header), to!(Text, forwarded_header),
            "The header that the proxies of forwarded_from write. Only this one is read: a proxy \
             passes the other one on as a client has written it";
        user: Kind::Text, "USER[:GROUP]", Operation, fixed, at!(Text, user), to!(Text, user),
            "Become this user once the addresses are bound and everything is read, when root has \
             started it. Without a group it gets all of the user's. Unix paths become the user's; \
             it has to be able to read certificates, keys and tokens, or a reload is refused, and \
             to write to the folders of Unix paths, or these stay behind at the end";
        sandbox: Kind::Choice(&["off", "on"]), "WHEN", Operation, fixed,
            at!(Text, sandbox), to!(Text, sandbox),
            "on: give up what serving does not take. No new privileges; system calls of a list \
             alone (seccomp), where others fail with EPERM; and files that a reload reads again, \
             in the folders that they lie in at the start, with the folders of Unix paths \
             (Landlock): no other file, no program, no TCP connection to anywhere. Where the \
             kernel has less, a warning says what is missing";
        log: Kind::Choice(LEVELS), "LEVEL", Operation, live, at!(Text, log), to!(Text, log),
            "What to write to standard error. Nothing waits for it: lines that are not read in \
             time, or cannot be written, are dropped and counted";
        log_format: Kind::Choice(&["text", "json"]), "FORMAT", Operation, fixed,
            at!(Text, log_format), to!(Text, log_format),
            "How lines of the log are written: text for people, or json, an object a line, for \
             programs";
        access_log: Kind::Switch, "", Operation, live, at!(Switch, access_log),
            to!(Switch, access_log),
            "Write a line when a connection ends, at the level info: who it was, what was asked \
             for and answered, how much went both ways, for how long, and why it ended. It costs \
             some memory for each connection";
        record: Kind::Text, "FILE", Operation, fixed, at!(Text, record), to!(Text, record),
            "Record here when connections open and close, and when messages of which kind and size \
             come, for 'loadgen replay'; never what is in them. The file is written anew with each \
             start. Nobody waits for it: what cannot be recorded is counted";
        record_bytes_max: Kind::Bytes(1 << 10, 1 << 40), "BYTES", Operation, fixed,
            at!(Number, record_bytes_max), to!(Number, record_bytes_max),
            "How long the file of record may become: a message takes about four bytes. What comes \
             after that is counted";
        admin_listen: Kind::List, "ADDRESS", Operation, fixed, at!(List, admin_listen),
            to!(List, admin_listen),
            "Have an admin side here: metrics, health, connections, reload, drain. A loopback \
             address or a Unix path; any other only with admin_token_file. Repeat it for several";
        admin_token_file: Kind::Text, "FILE", Operation, live, at!(Text, admin_token_file),
            to!(Text, admin_token_file),
            "The tokens of the admin side, one a line: its clients have to show one \
             (Authorization: Bearer TOKEN), but for /healthz and /readyz";
        allow_origin: Kind::List, "[PATH=]ORIGIN", Access, live, at!(List, allow_origin),
            to!(List, allow_origin),
            "Let pages of this origin open connections, and no others but those of further ones; \
             without any, all may. https://example.com, https://*.example.com for what is below \
             it, http://localhost:* for every port, same-origin, null, or * for all; \
             /sink=https://example.com for one path alone. Others get a 403. Programs that send no \
             Origin are let in. The built-in page is same-origin";
        compat: Kind::Choice(&["", "kaazing"]), "SERVER", Access, live, at!(Text, compat),
            to!(Text, compat),
            "Answer opening handshakes as a server of old did, for clients that compare the reply \
             with a recording. kaazing: the gateway behind echo.websocket.org in 2012, with its \
             reason phrase, its order of headers and the origin in Access-Control headers; its \
             name is up to server_header";
    }
}

#[cfg(feature = "tls")]
fn of_tls() -> Vec<Setting> {
    own! {
        tls_listen: Kind::List, "ADDRESS", Tls, fixed, at!(List, tls.listen), to!(List, tls.listen),
            "Listen here for wss://: an address as for listen. Repeat it for several";
        tls_cert: Kind::List, "FILE", Tls, fixed, at!(List, tls.cert), to!(List, tls.cert),
            "A certificate and its chain, a PEM file. Repeat it for several: a client gets the one \
             for the name it asks for, or the first. SIGHUP reads all files again";
        tls_key: Kind::List, "FILE", Tls, fixed, at!(List, tls.key), to!(List, tls.key),
            "The key of each tls_cert, in the same order: a PEM file";
        tls_client_auth: Kind::Choice(&["off", "optional", "required"]), "WHEN", Tls, fixed,
            at!(Text, tls.client_auth), to!(Text, tls.client_auth),
            "Whether clients have to show a certificate that an authority of tls_client_ca has \
             signed";
        tls_client_ca: Kind::Text, "FILE", Tls, fixed, at!(Text, tls.client_ca),
            to!(Text, tls.client_ca),
            "The authorities of client certificates, a PEM file";
        tls_min_version: Kind::Choice(&["1.2", "1.3"]), "VERSION", Tls, fixed,
            at!(Text, tls.min_version),
            to!(Text, tls.min_version),
            "The oldest version of TLS that is spoken";
    }
}

static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut settings = of_binary();
    #[cfg(feature = "tls")]
    settings.extend(of_tls());
    settings.extend(Config::fields().iter().map(of_library));
    // As they are explained; within a group in the order of the table.
    settings.sort_by_key(|setting| setting.group);
    settings
});

/// All settings, by group.
pub fn settings() -> &'static [Setting] {
    &SETTINGS
}

/// What somebody who has written this key may have meant: the end of a sentence.
pub fn guess(key: &str) -> String {
    // `idle_timeout` for `idle_timeout_ms`.
    let unitless = SETTINGS.iter().find(|setting| {
        let rest = setting.key.strip_prefix(key);
        rest.is_some_and(|rest| matches!(rest, "_ms" | "_us" | "_bytes" | "_max" | "_bytes_max"))
    });
    let guess = match unitless {
        Some(setting) => format!("; is {} meant?", setting.key),
        None => meant(key, SETTINGS.iter().map(|setting| setting.key)),
    };
    let guess = if guess.is_empty() { "." } else { &guess };
    format!("{guess} 'ringwire config reference' has them all")
}

/// The settings that a sentence speaks of, by their keys or flags. Keys of one word are words of
/// the language as well.
pub fn named_in(sentence: &str) -> Vec<&'static str> {
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words = sentence.split(|c| !is_key(c));
    let keys = words.map(|word| word.trim_start_matches('-').replace('-', "_"));
    keys.filter(|key| key.contains('_'))
        .filter_map(|key| setting(&key))
        .map(|it| it.key)
        .collect()
}

/// The setting of this key.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
