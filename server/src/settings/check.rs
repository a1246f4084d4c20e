//! What settings have to agree on, and what is legal and unwise.
//!
//! Knows: relations between settings. Refuses to know: how they were written.

use std::collections::BTreeMap;

use ringwire::{Address, config::ConfigError};

use super::{
    Settings,
    addresses::addresses,
    allowed::Allowed,
    finding::{Finding, Place},
    table::{setting, settings},
    value::Kind,
};

/// Proxies drop a connection that is silent for this long, most of them by default.
const PROXY_SILENCE_MS: u64 = 60_000;

const MINUTE_MS: u64 = 60_000;

/// Settings that the ring of a shard obeys, and the async API has no use for.
const OF_RINGS: &[&str] = &[
    "busy_poll_us",
    "recv_buffer_bytes",
    "recv_buffers",
    "recv_incremental",
    "send_in_place_bytes_min",
    "trace_stages",
];

/// Settings that are for what passes on shards.
const OF_SHARDS: &[&str] = &["record"];

/// Everything that is wrong, and then everything that is unwise.
pub fn check(settings: &Settings) -> Vec<Finding> {
    let faults = settings.config.faults();
    let mut findings: Vec<_> = faults
        .iter()
        .map(|fault| of_fault(settings, fault))
        .collect();
    findings.extend(of_engine(settings));
    findings.extend(of_addresses(settings));
    findings.extend(of_admin(settings));
    findings.extend(of_unix_mode(settings));
    findings.extend(of_proxies(settings));
    findings.extend(of_access(settings));
    findings.extend(of_routes(settings));
    findings.extend(of_compression(settings));
    #[cfg(feature = "tls")]
    findings.extend(of_tls(settings));
    findings.extend(unwise(settings));
    findings
}

/// A disagreement is said of whichever setting of those was given.
fn of_fault(settings: &Settings, fault: &ConfigError) -> Finding {
    let related = [
        "queue_high_bytes",
        "message_bytes_max",
        "compress_bytes_min",
    ];
    let key = fault.field();
    let given = |key: &&str| settings.is_given(key);
    let blamed = [key].into_iter().chain(related).find(given).unwrap_or(key);
    let kind = setting(key).map(|setting| setting.kind);
    let (mut bound, value) = (in_units(kind, fault.bound()), in_units(kind, fault.value()));
    for other in related {
        bound = bound.replace(other, &settings.name(other));
    }
    let by_default = match settings.is_given(key) {
        true => "",
        false => " by default",
    };
    let sentence = format!(
        "{} is {value}{by_default}, but it has to be {bound}",
        settings.name(key)
    );
    Finding::error(settings.place(blamed), sentence)
}

/// The same with its numbers in the largest units that say them whole.
fn in_units(kind: Option<Kind>, text: &str) -> String {
    let Some(kind) = kind else {
        return text.to_owned();
    };
    let word = |word: &str| match word.trim_end_matches(',').parse() {
        Ok(number) => kind.say_number(number) + &word[word.trim_end_matches(',').len()..],
        Err(_) => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn of_engine(settings: &Settings) -> Vec<Finding> {
    if settings.engine == "shard" {
        return Vec::new();
    }
    let without_meaning = OF_RINGS.iter().filter(|key| settings.is_given(key));
    let findings = without_meaning.map(|key| {
        let sentence = format!(
            "{} has no meaning with {} async, which receives and sends without a ring of ours; \
             leave it out",
            settings.name(key),
            settings.name("engine")
        );
        Finding::error(settings.place(key), sentence)
    });
    let mut findings: Vec<_> = findings.collect();
    let of_shards = OF_SHARDS.iter().filter(|key| settings.is_given(key));
    findings.extend(of_shards.map(|key| {
        let sentence = format!(
            "{} is for shards: with {} async nothing would be recorded",
            settings.name(key),
            settings.name("engine")
        );
        Finding::error(settings.place(key), sentence)
    }));
    findings
}

/// The addresses of a setting as they were written, each with what that is called.
fn written_addresses(settings: &Settings) -> Vec<(&'static str, &str)> {
    let plain = settings.listen.iter().map(|text| ("listen", text.as_str()));
    #[cfg(feature = "tls")]
    let plain = plain.chain(
        settings
            .tls
            .listen
            .iter()
            .map(|text| ("tls_listen", text.as_str())),
    );
    let admin = settings.admin_listen.iter();
    let admin = admin.map(|text| ("admin_listen", text.as_str()));
    plain.chain(admin).collect()
}

fn of_addresses(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeMap::new();
    for (key, text) in written_addresses(settings) {
        let name = settings.name(key);
        let meant = match addresses(text) {
            Ok(meant) => meant,
            Err(why) => {
                let sentence = format!("{name} is '{text}', but {why}");
                findings.push(Finding::error(settings.place(key), sentence));
                continue;
            }
        };
        for address in meant {
            if matches!(address, Address::Inet(inet) if inet.port() == 0) {
                // Each is another one.
                continue;
            }
            let address = address.to_string();
            let first = seen.insert(address.clone(), (key, text));
            let Some((first_key, first_text)) = first else {
                continue;
            };
            let sentence = if first_key != key {
                let first_name = settings.name(first_key);
                format!("'{address}' is in {first_name} and in {name}: choose one")
            } else if first_text == text {
                format!("{name} has '{text}' twice: name it once")
            } else {
                format!("{name} has '{first_text}' and '{text}', and both are {address}: keep one")
            };
            findings.push(Finding::error(settings.place(key), sentence));
            break;
        }
    }
    findings
}

/// Whether others than the users of this host, or than its owner, can connect to an address.
pub fn is_open(address: &Address) -> bool {
    match address {
        Address::Inet(inet) => !inet.ip().is_loopback(),
        // An abstract name has no owner and no mode.
        Address::Unix(path) => path.to_string_lossy().starts_with('@'),
    }
}

/// Whoever reaches the admin side can stop the server.
fn of_admin(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (name, place) = (
        settings.name("admin_listen"),
        settings.place("admin_listen"),
    );
    for text in &settings.admin_listen {
        // What is no address was said already.
        let meant = addresses(text).unwrap_or_default();
        if settings.admin_token_file.is_empty() && meant.iter().any(is_open) {
            let sentence = format!(
                "{name} is '{text}', where others can stop the server: name a loopback address \
                 such as 127.0.0.1:9002 or a Unix path, or have clients show a token \
                 (admin_token_file)"
            );
            findings.push(Finding::error(place.clone(), sentence));
        }
    }
    if settings.admin_listen.is_empty() && !settings.admin_token_file.is_empty() {
        let name = settings.name("admin_token_file");
        let sentence = format!(
            "{name} has no effect without admin_listen, or a socket of the service manager's that \
             is named admin"
        );
        findings.push(Finding::warning(
            settings.place("admin_token_file"),
            sentence,
        ));
    }
    findings
}

fn of_unix_mode(settings: &Settings) -> Option<Finding> {
    let mode = &settings.unix_mode;
    let has_path =
        |&(_, text): &(_, &str)| text.starts_with("unix:") && !text.starts_with("unix:@");
    if settings.unix_mode().is_some() && !written_addresses(settings).iter().any(has_path) {
        let sentence = format!(
            "{} has no effect without a Unix path to listen at: abstract addresses are open to \
             everybody on this host",
            settings.name("unix_mode")
        );
        return Some(Finding::error(settings.place("unix_mode"), sentence));
    }
    (!mode.is_empty() && settings.unix_mode().is_none()).then(|| {
        let sentence = format!(
            "{} is '{mode}', but it has to be an octal mode from 0 to 777, such as 660",
            settings.name("unix_mode")
        );
        Finding::error(settings.place("unix_mode"), sentence)
    })
}

fn of_proxies(settings: &Settings) -> Vec<Finding> {
    if let Err((key, error)) = settings.proxies() {
        let sentence = format!("{}: {error}", settings.name(key));
        return vec![Finding::error(settings.place(key), sentence)];
    }
    let lists = [
        ("proxy_protocol_from", &settings.proxy_protocol_from),
        ("forwarded_from", &settings.forwarded_from),
    ];
    let everybody = lists.into_iter().filter_map(|(key, networks)| {
        let all = networks.iter().find(|it| it.ends_with("/0"))?;
        let sentence = format!(
            "{} has {all}: everybody can say to be anybody; name the networks of the proxies",
            settings.name(key)
        );
        Some(Finding::warning(settings.place(key), sentence))
    });
    everybody.collect()
}

fn of_access(settings: &Settings) -> Vec<Finding> {
    let (name, place) = (
        settings.name("allow_origin"),
        settings.place("allow_origin"),
    );
    let mut findings = Vec::new();
    let mut everybody = None;
    for text in &settings.allow_origin {
        match Allowed::parse(text) {
            Err(error) => {
                let sentence = format!("{name} is '{text}', but {error}");
                findings.push(Finding::error(place.clone(), sentence));
            }
            Ok(allowed) if allowed.origin == "*" => everybody = Some(allowed),
            Ok(_) => {}
        }
    }
    if let Some(everybody) = everybody {
        let of_path = match &everybody.path {
            None => String::new(),
            Some(path) => format!(" at {path}"),
        };
        let sentence = format!(
            "{name} has *: pages of every origin may connect{of_path} with the cookies that a \
             browser has for this host; name the origins if cookies say who somebody is"
        );
        findings.push(Finding::warning(place, sentence));
    }
    findings
}

/// Keys of a route that say who may come in, and the value of `auth` without which they say
/// nothing.
const OF_AUTH: &[(&str, &str)] = &[
    ("auth_tokens_file", "token"),
    ("jwt_algorithms", "jwt"),
    ("jwt_audience", "jwt"),
    ("jwt_issuer", "jwt"),
    ("jwt_keys_file", "jwt"),
    ("jwt_leeway_ms", "jwt"),
];

/// What the keys of a route have to agree on. Files, hosts and paths are looked at as they are put
/// together.
/// Keys that only routes with topics have a use for.
const OF_TOPICS: &[&str] = &[
    "topic_prefix",
    "topic_publish",
    "topic_subscribe",
    "topic_presence",
    "topic_history_messages_max",
    "topic_history_bytes_max",
    "topic_history_ms_max",
    "topic_slow",
    "topic_backlog_messages_max",
    "topic_backlog_bytes_max",
];

fn of_routes(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for route in &settings.routes {
        for &(key, auth) in OF_AUTH {
            if route.is_given(key) && route.auth != auth {
                // Somebody believes that the route is closed.
                let sentence = format!("{key} has no effect without auth = '{auth}'");
                findings.push(Finding::error(route.place(key), sentence));
            }
        }
        if route.is_given("auth_from") && route.auth == "none" {
            let sentence = "auth_from has no effect without auth = 'token' or 'jwt'";
            findings.push(Finding::error(route.place("auth_from"), sentence));
        }
        for key in OF_TOPICS {
            if route.is_given(key) && route.application != "topics" {
                let sentence = format!("{key} has no effect without application = 'topics'");
                findings.push(Finding::error(route.place(key), sentence));
            }
        }
        let of_claims = [
            ("topic_publish", &route.topic_publish),
            ("topic_subscribe", &route.topic_subscribe),
        ];
        for (key, who) in of_claims {
            if who == "claims" && route.auth != "jwt" {
                let sentence = format!("{key} is 'claims', which needs auth = 'jwt'");
                findings.push(Finding::error(route.place(key), sentence));
            }
        }
        if route.application == "topics" && settings.engine != "shard" {
            let sentence = format!(
                "application is 'topics', which only {} shard serves",
                settings.name("engine")
            );
            findings.push(Finding::error(route.place("application"), sentence));
        }
        let longest = match route.message_bytes_max {
            0 => settings.config.message_bytes_max,
            bytes_max => bytes_max.min(settings.config.message_bytes_max),
        };
        let warnings = [
            (
                "auth_from",
                route.auth_from.iter().any(|it| it.starts_with("query:")),
                "auth_from has a query: what stands in a URL stands in logs of proxies and in \
                 histories as well; a cookie or a subprotocol does not",
            ),
            (
                "origins",
                route.origins.iter().any(|it| it == "*"),
                "origins has *: pages of every origin may connect with the cookies that a browser \
                 has for this host; name the origins if cookies say who somebody is",
            ),
            (
                "message_bytes_max",
                route.message_bytes_max > settings.config.message_bytes_max,
                "message_bytes_max is more than the server's, which ends longer messages first",
            ),
            (
                "bytes_per_second_max",
                route.bytes_per_second_max > 0 && route.bytes_per_second_max < longest,
                "bytes_per_second_max is less than the longest message may have, which ends its \
                 connection then; lower message_bytes_max as well",
            ),
            (
                "compress",
                route.is_given("compress") && route.compress && !settings.config.compress,
                "compress has no effect here while the server's compress is off",
            ),
        ];
        let warnings = warnings.into_iter().filter(|(_, is_so, _)| *is_so);
        let warnings =
            warnings.map(|(key, _, why)| Finding::warning(route.place(key), why.to_owned()));
        findings.extend(warnings);
    }
    findings.extend(of_topics_in_each_other(settings));
    findings.extend(of_paths_without_a_route(settings));
    findings
}

/// Routes of which one's topics are among those of the other. With the same prefix that is meant: a
/// path for those who publish, say, and another for those who read.
fn of_topics_in_each_other(settings: &Settings) -> Vec<Finding> {
    let all = || {
        settings
            .routes
            .iter()
            .filter(|it| it.application == "topics")
    };
    let findings = all().filter_map(|inner| {
        let prefix = &inner.topic_prefix;
        let mut others = all().map(|it| (&it.path, &it.topic_prefix));
        let (path, outer) = others.find(|it| it.1 != prefix && prefix.starts_with(&**it.1))?;
        let sentence = format!(
            "topic_prefix is '{prefix}', which begins with '{outer}' of {path}: who connects there \
             hears these topics as well, and publishes to them if clients may; give that route a \
             prefix of its own"
        );
        Some(Finding::warning(inner.place("topic_prefix"), sentence))
    });
    findings.collect()
}

/// Origins of paths at which nothing is served.
fn of_paths_without_a_route(settings: &Settings) -> Vec<Finding> {
    let served = |path: &str| match settings.routes.is_empty() {
        true => matches!(path, "/" | "/sink"),
        false => settings.routes.iter().any(|route| route.path == path),
    };
    let allowed = settings.allow_origin.iter();
    let paths = allowed.filter_map(|text| Allowed::parse(text).ok()?.path);
    let findings = paths.filter(|path| !served(path)).map(|path| {
        let sentence = format!(
            "{} has origins for {path}, but no route has this path",
            settings.name("allow_origin")
        );
        Finding::warning(settings.place("allow_origin"), sentence)
    });
    findings.collect()
}

fn of_compression(settings: &Settings) -> Vec<Finding> {
    if settings.config.compress {
        return Vec::new();
    }
    let keys = settings_of_compression();
    let findings = keys.filter(|key| settings.is_given(key)).map(|key| {
        let place = settings.place(key);
        let sentence = format!(
            "{} has no effect without {}",
            settings.name(key),
            match &place {
                Place::Flag(_) => "--compress",
                _ => "compress = true",
            }
        );
        match place {
            // In a file it may wait for compression to be turned on.
            Place::Flag(_) => Finding::error(place, sentence),
            place => Finding::warning(place, sentence),
        }
    });
    findings.collect()
}

fn settings_of_compression() -> impl Iterator<Item = &'static str> {
    let keys = settings().iter().map(|setting| setting.key);
    keys.filter(|key| key.starts_with("compress_") || key.starts_with("inflate_"))
}

#[cfg(feature = "tls")]
fn of_tls(settings: &Settings) -> Vec<Finding> {
    let tls = &settings.tls;
    let name = |key| settings.name(key);
    let mut findings = Vec::new();
    let mut error = |key: &str, sentence: String| {
        findings.push(Finding::error(settings.place(key), sentence));
    };
    let (certificates, keys) = (tls.cert.len(), tls.key.len());
    if tls.listen.is_empty() {
        let of_tls = ["tls_cert", "tls_key", "tls_client_ca", "tls_client_auth"];
        let given = of_tls.into_iter().find(|key| settings.is_given(key));
        if let Some(key) = given {
            let sentence = format!(
                "{} has no effect without {}: where is TLS to listen?",
                name(key),
                said(settings, key, "tls_listen")
            );
            error(key, sentence);
        }
        return findings;
    }
    if certificates == 0 {
        let sentence = format!(
            "{} needs a certificate: name it, and its key, with {} and {}",
            name("tls_listen"),
            said(settings, "tls_listen", "tls_cert"),
            said(settings, "tls_listen", "tls_key")
        );
        error("tls_listen", sentence);
    } else if certificates != keys {
        let sentence = format!(
            "there are {certificates} {} and {keys} {}; name one key for each certificate, in the \
             same order",
            name("tls_cert"),
            said(settings, "tls_cert", "tls_key")
        );
        error("tls_cert", sentence);
    }
    if tls.client_auth != "off" && tls.client_ca.is_empty() {
        let sentence = format!(
            "{} is {}, so {} has to name the authorities of clients",
            name("tls_client_auth"),
            tls.client_auth,
            said(settings, "tls_client_auth", "tls_client_ca")
        );
        error("tls_client_auth", sentence);
    }
    findings
}

/// A key that was not given, in the way in which another one was.
#[cfg(feature = "tls")]
fn said(settings: &Settings, given: &str, key: &str) -> String {
    match settings.place(given) {
        Place::Flag(_) => format!("--{}", key.replace('_', "-")),
        Place::Variable(_) => format!("RINGWIRE_{}", key.to_uppercase()),
        Place::Nowhere | Place::File { .. } => key.to_owned(),
    }
}

/// What is legal, and most likely not what was meant.
fn unwise(settings: &Settings) -> Vec<Finding> {
    let config = &settings.config;
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let rules: [(&str, bool, &str); 10] = [
        (
            "idle_timeout_ms",
            config.idle_timeout_ms == 0,
            "0 keeps a connection whose peer is gone for ever",
        ),
        (
            "ping_interval_ms",
            config.ping_interval_ms >= PROXY_SILENCE_MS,
            "most proxies drop a connection that is silent for 60s; less keeps it alive",
        ),
        (
            "ping_interval_ms",
            config.ping_interval_ms == 0,
            "0 pings nobody: proxies drop silent connections, and so does idle_timeout_ms",
        ),
        (
            "message_timeout_ms",
            config.message_timeout_ms == 0,
            "0 lets a peer keep the memory of a message that it never finishes",
        ),
        (
            "handshake_timeout_ms",
            config.handshake_timeout_ms > MINUTE_MS,
            "whoever connects and says nothing keeps a place for so long",
        ),
        (
            "drain_timeout_ms",
            config.drain_timeout_ms == 0,
            "0 cuts connections off when the server stops, without a closing handshake",
        ),
        (
            "message_bytes_max",
            config.message_bytes_max > 1 << 30,
            "a message is put together in memory, which one peer can fill with so much",
        ),
        (
            "shards",
            settings.shards > processors,
            "that is more than there are processors here, and each shard is one's work",
        ),
        (
            "legacy_hixie76",
            config.legacy_hixie76,
            "no browser since 2012 speaks it, and its clients cannot be pinged",
        ),
        (
            "log",
            settings.log == "trace",
            "trace has a line for everything that happens, and drops lines under load",
        ),
    ];
    let applies = rules
        .into_iter()
        .filter(|(key, is_so, _)| *is_so && settings.is_given(key));
    let findings = applies.map(|(key, _, why)| {
        let setting = setting(key);
        let value = setting.map_or_else(String::new, |it| it.kind.say(&it.get(settings)));
        let sentence = format!("{} is {value}: {why}", settings.name(key));
        Finding::warning(settings.place(key), sentence)
    });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use ringwire::Config;

    use super::{super::file, *};

    fn found(text: &str) -> Vec<String> {
        let (mut settings, mut findings) = (Settings::default(), Vec::new());
        file::read("it.toml", text, &mut settings, &mut findings);
        findings.extend(check(&settings));
        findings.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn the_defaults_are_right_and_wise() {
        assert_eq!(found(""), [""; 0]);
        assert_eq!(check(&Settings::default()), []);
        assert_eq!(Config::default().faults(), []);
    }

    #[test]
    fn what_disagrees_is_said_at_whichever_was_written() {
        assert_eq!(
            found("queue_high_bytes = 10\n"),
            [
                "it.toml:1:20: error: queue_low_bytes is 256KiB by default, but it has to be from \
              0 to 10, which is queue_high_bytes"
            ]
        );
    }

    #[test]
    fn an_address_is_named_once() {
        let twice =
            found("listen = ['127.0.0.1:80', '127.0.0.1:80', '127.0.0.1:0', '127.0.0.1:0']");
        assert_eq!(
            twice,
            ["it.toml:1:10: error: listen has '127.0.0.1:80' twice: name it once"]
        );
        assert_eq!(found("listen = 'nowhere'").len(), 1);
    }

    #[test]
    fn what_is_unwise_is_a_warning() {
        let warned = found(
            "ping_interval_ms = '5m'\nallow_origin = '*'\nlegacy_hixie76 = true\n\
             compress_level = 9\n",
        );
        assert_eq!(warned.len(), 4, "{warned:#?}");
        assert!(
            warned.iter().all(|line| line.contains("warning: ")),
            "{warned:#?}"
        );
    }
}
