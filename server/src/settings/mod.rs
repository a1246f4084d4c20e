//! How the binary serves: one table of settings, and whoever gives them values.
//!
//! Knows: the order in which defaults, a file, the environment and the command line are asked, and
//! where each value came from, so that what is wrong with it is said in the words that a person
//! wrote. Refuses to know: what is done with a setting.
//!
//! ```text
//!   table --> defaults < file < RINGWIRE_... < --flags, --set key=value --> check --> Settings
//!     |                                                                      |
//!     +--> reference, schema, help                                           +--> findings
//! ```
//!
//! A setting is added in one place: an entry of the library's [`Config`] or of [`table`].

mod addresses;
mod allowed;
mod check;
mod file;
mod finding;
mod flags;
mod reference;
mod route;
mod table;
mod value;

use std::collections::BTreeMap;

use ringwire::{Config, Proxies, ProxyError};

pub use addresses::addresses;
pub use allowed::Allowed;
pub use check::{check, is_open};
use file::ROUTE;
pub use finding::{Finding, Place};
pub use flags::{arguments, file_of, load, load_file, load_unchecked};
pub use reference::{in_force, reference, schema};
pub use route::RouteSettings;
pub use table::named_in;
use table::{Setting, settings};
use value::{Kind, Value, Written};

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the library obeys.
    pub config: Config,
    /// Addresses without TLS.
    pub listen: Vec<String>,
    /// What serves.
    pub engine: String,
    /// What it runs on.
    pub ring: String,
    /// Threads; 0: one for each processor.
    pub shards: u64,
    /// Each stays on a processor.
    pub pin: bool,
    /// Whether the server gives up what it does not need.
    pub sandbox: String,
    /// The user that the server becomes; empty: it stays who it is.
    pub user: String,
    /// What is logged.
    pub log: String,
    /// How lines of the log are written.
    pub log_format: String,
    /// A line for every connection's end.
    pub access_log: bool,
    /// The file that what clients send is recorded in, without payloads; empty: none.
    pub record: String,
    /// How long it may become.
    pub record_bytes_max: u64,
    /// Addresses of the admin side.
    pub admin_listen: Vec<String>,
    /// The file of tokens that its clients show; empty: they need none.
    pub admin_token_file: String,
    /// Who may connect to Unix paths, an octal number; empty: as the umask says.
    pub unix_mode: String,
    /// Networks of proxies that say whom they speak for.
    pub proxy_protocol_from: Vec<String>,
    /// Networks of proxies that say in requests whom they are for.
    pub forwarded_from: Vec<String>,
    /// In which header they say it.
    pub forwarded_header: String,
    /// Who may connect: `[PATH=]ORIGIN`.
    pub allow_origin: Vec<String>,
    /// Whose 101 is imitated; empty: nobody's.
    pub compat: String,
    /// What is served where; none: what is built in.
    pub routes: Vec<RouteSettings>,
    /// Certificates.
    #[cfg(feature = "tls")]
    pub tls: TlsSettings,
    /// Where values came from, of those that were given.
    given: BTreeMap<&'static str, Place>,
}

/// A setting that is not what it was.
pub struct Change {
    /// Which.
    pub key: &'static str,
    /// What it is, in words.
    pub value: String,
    /// It can change while the server runs.
    pub is_live: bool,
}

/// Where TLS listens, and with what.
#[cfg(feature = "tls")]
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Addresses.
    pub listen: Vec<String>,
    /// Files of certificates.
    pub cert: Vec<String>,
    /// The file of each one's key.
    pub key: Vec<String>,
    /// Whether clients have to show one.
    pub client_auth: String,
    /// Who has signed those; empty: nobody.
    pub client_ca: String,
    /// The oldest version.
    pub min_version: String,
}

#[cfg(feature = "tls")]
impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            cert: Vec::new(),
            key: Vec::new(),
            client_auth: "off".to_owned(),
            client_ca: String::new(),
            min_version: "1.2".to_owned(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config::default(),
            listen: Vec::new(),
            engine: "shard".to_owned(),
            ring: "auto".to_owned(),
            shards: 0,
            pin: true,
            sandbox: "off".to_owned(),
            user: String::new(),
            log: "info".to_owned(),
            log_format: "text".to_owned(),
            access_log: false,
            record: String::new(),
            record_bytes_max: 64 << 20,
            admin_listen: Vec::new(),
            admin_token_file: String::new(),
            unix_mode: String::new(),
            proxy_protocol_from: Vec::new(),
            forwarded_from: Vec::new(),
            forwarded_header: "x-forwarded-for".to_owned(),
            allow_origin: Vec::new(),
            compat: String::new(),
            routes: Vec::new(),
            #[cfg(feature = "tls")]
            tls: TlsSettings::default(),
            given: BTreeMap::new(),
        }
    }
}

/// A time as a person writes it, up to a day.
///
/// # Errors
///
/// What it has to be, as the end of a sentence.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let kind = Kind::Milliseconds(0, DAY_MS);
    match kind.value_of("", &Written::Text(text.to_owned())) {
        Ok(Value::Number(ms)) => Ok(ms),
        _ => Err(format!("it has to be {}", kind.allowed())),
    }
}

impl Settings {
    /// The mode of Unix paths. `None`: it has none, or is no mode.
    pub fn unix_mode(&self) -> Option<u32> {
        let mode = u32::from_str_radix(&self.unix_mode, 8).ok();
        mode.filter(|&mode| mode <= 0o777)
    }

    /// Whether the server gives up what it does not need.
    pub fn is_sandboxed(&self) -> bool {
        self.sandbox == "on"
    }

    /// The proxies that say whom they speak for.
    ///
    /// # Errors
    ///
    /// In which setting something is no network, and what.
    pub fn proxies(&self) -> Result<Proxies, (&'static str, ProxyError)> {
        let mut proxies = Proxies::default();
        for text in &self.proxy_protocol_from {
            let trusted = proxies.trust(text);
            proxies = trusted.map_err(|error| ("proxy_protocol_from", error))?;
        }
        for text in &self.forwarded_from {
            let trusted = proxies.trust_requests(text);
            proxies = trusted.map_err(|error| ("forwarded_from", error))?;
        }
        Ok(match self.forwarded_header.as_str() {
            "forwarded" => proxies.write_forwarded(),
            _ => proxies,
        })
    }

    /// Where the value of a setting came from.
    pub fn place(&self, key: &str) -> Place {
        self.given.get(key).cloned().unwrap_or_default()
    }

    /// Whether somebody gave it a value.
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains_key(key)
    }

    /// What a person calls it: by the flag, the variable or the key that was written.
    pub fn name(&self, key: &str) -> String {
        self.place(key).name_of(key)
    }

    /// Takes over what can change while the server runs: these settings stay those in force.
    /// Returns all that the others have otherwise.
    pub fn adopt(&mut self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for setting in settings() {
            if setting.is_live() {
                match other.given.get(setting.key) {
                    Some(place) => self.given.insert(setting.key, place.clone()),
                    None => self.given.remove(setting.key),
                };
            }
            let value = setting.get(other);
            if value == setting.get(self) {
                continue;
            }
            changes.push(Change {
                key: setting.key,
                value: match setting.kind.say(&value) {
                    empty if empty.is_empty() => "empty".to_owned(),
                    said => said,
                },
                is_live: setting.is_live(),
            });
            if setting.is_live() {
                // It is of its own kind.
                let _ = setting.put(self, value);
            }
        }
        if self.routes != other.routes {
            self.routes.clone_from(&other.routes);
            changes.push(Change {
                key: ROUTE,
                value: match self.routes.len() {
                    0 => "what is built in".to_owned(),
                    1 => "1 route".to_owned(),
                    count => format!("{count} routes"),
                },
                is_live: true,
            });
        }
        changes
    }

    /// Gives a setting the value that was written, if it can have that.
    fn give(&mut self, setting: &Setting, written: &Written, place: Place) -> Result<(), Finding> {
        let name = place.name_of(setting.key);
        let value = setting.kind.value_of(&name, written);
        let value = value.map_err(|sentence| Finding::error(place.clone(), sentence))?;
        if !setting.put(self, value) {
            let allowed = setting.kind.allowed();
            let sentence = format!("{name} is {written}, but it has to be {allowed}");
            return Err(Finding::error(place, sentence));
        }
        self.given.insert(setting.key, place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{table::setting, value::Value, *};

    #[test]
    fn what_is_given_is_kept_with_its_place() {
        let mut settings = Settings::default();
        let idle = setting("idle_timeout_ms").unwrap();
        let place = Place::Flag("--idle-timeout-ms".to_owned());
        let written = Written::Text("30s".to_owned());
        settings.give(idle, &written, place.clone()).unwrap();
        assert_eq!(settings.config.idle_timeout_ms, 30_000);
        assert_eq!(settings.place("idle_timeout_ms"), place);
        assert!(!settings.is_given("listen"));
    }

    #[test]
    fn a_value_out_of_bounds_is_named_as_it_was_written() {
        let mut settings = Settings::default();
        let idle = setting("idle_timeout_ms").unwrap();
        let place = Place::Flag("--idle-timeout-ms".to_owned());
        let written = Written::Text("25d".to_owned());
        let finding = settings.give(idle, &written, place).unwrap_err();
        assert_eq!(
            finding.to_string(),
            "error: --idle-timeout-ms is '25d', but it has to be a number of milliseconds or a \
             time such as 30s, from 0 to 24d"
        );
        assert_eq!(settings.config, Config::default());
    }

    #[test]
    fn what_needs_a_restart_is_another_value_until_there_is_one() {
        let (mut in_force, mut wanted) = (Settings::default(), Settings::default());
        wanted.config.idle_timeout_ms = 1;
        wanted.config.backlog = 2;
        wanted.ring = "epoll".to_owned();
        let keys = |changes: Vec<Change>| -> Vec<_> {
            changes.into_iter().map(|it| (it.key, it.is_live)).collect()
        };
        let (ring, backlog) = (("ring", false), ("backlog", false));
        let first = keys(in_force.adopt(&wanted));
        assert_eq!(first, [ring, ("idle_timeout_ms", true), backlog]);
        assert_eq!(keys(in_force.adopt(&wanted)), [ring, backlog]);
        assert_eq!(in_force.config.idle_timeout_ms, 1);
    }

    #[test]
    fn every_setting_keeps_what_it_is_given() {
        for setting in settings() {
            let mut settings = Settings::default();
            let value = match setting.get(&settings) {
                Value::Number(number) => Value::Number(number + 1),
                Value::Switch(on) => Value::Switch(!on),
                Value::Text(text) => Value::Text(text + "x"),
                Value::List(_) => Value::List(vec!["x".to_owned()]),
            };
            assert!(setting.put(&mut settings, value.clone()), "{}", setting.key);
            assert_eq!(setting.get(&settings), value, "{}", setting.key);
        }
    }
}
