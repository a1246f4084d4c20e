//! The command line and the environment.
//!
//! Knows: how a setting is typed. Refuses to know: what it means.

use std::{env, fs};

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

use super::{
    Settings, check, file,
    finding::{Finding, Place},
    table::{self, Setting, setting, settings},
    value::{Kind, Value, Written},
};

/// Names the file of settings.
const CONFIG_VARIABLE: &str = "RINGWIRE_CONFIG";

const CONFIG: &str = "config";
const SET: &str = "set";

/// The arguments of `ringwire serve`, one for each setting that a person types.
pub fn arguments() -> Vec<Arg> {
    let config = Arg::new(CONFIG)
        .long("config")
        .value_name("FILE")
        .help(format!(
            "Settings, in TOML; 'ringwire check FILE' looks at them [env: {CONFIG_VARIABLE}]"
        ));
    let set = Arg::new(SET)
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .help("Give any setting a value; 'ringwire config reference' has them all");
    let flags = settings().iter().filter_map(argument);
    [config, set].into_iter().chain(flags).collect()
}

fn argument(setting: &Setting) -> Option<Arg> {
    let argument = Arg::new(setting.key)
        .long(setting.flag_name()?)
        .help_heading(setting.group.heading());
    let meaning = in_flags(&setting.meaning);
    Some(match setting.kind {
        Kind::Switch if setting.is_on_by_default() => argument
            .action(ArgAction::SetTrue)
            .help(format!("Do not: {}", meaning)),
        Kind::Switch => argument.action(ArgAction::SetTrue).help(meaning),
        Kind::List => argument
            .action(ArgAction::Append)
            .value_name(setting.placeholder)
            .help(meaning),
        kind => {
            let default = kind.say(&setting.default());
            let default = match default.is_empty() {
                true => String::new(),
                false => format!(" [default: {default}]"),
            };
            let words = kind.words();
            let choices = match words.is_empty() {
                true => String::new(),
                false => format!(" [possible values: {}]", words.join(", ")),
            };
            argument
                .value_name(setting.placeholder)
                .help(format!("{meaning}{default}{choices}"))
        }
    })
}

/// The same with keys as flags, which is what a person types here.
fn in_flags(meaning: &str) -> String {
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = String::new();
    let mut rest = meaning;
    while let Some(start) = rest.find(is_key) {
        words += &rest[..start];
        rest = &rest[start..];
        let end = rest.find(|c| !is_key(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        // Keys of one word are words of the language as well.
        let flag = setting(word).filter(|_| word.contains('_'));
        match flag.and_then(Setting::flag_name) {
            Some(flag) => words += &format!("--{flag}"),
            None => words += word,
        }
        rest = &rest[end..];
    }
    words + rest
}

/// The file of settings that a command line or the environment names.
pub fn file_of(matches: &ArgMatches) -> Option<String> {
    let file = matches.get_one::<String>(CONFIG).cloned();
    file.or_else(|| env::var(CONFIG_VARIABLE).ok())
}

/// The settings as they were given, and what is wrong with each by itself.
fn read(matches: &ArgMatches) -> (Settings, Vec<Finding>) {
    let mut settings = Settings::default();
    let mut findings = Vec::new();
    if let Some(path) = file_of(matches) {
        load_file(&path, &mut settings, &mut findings);
    }
    load_variables(&mut settings, &mut findings);
    load_flags(matches, &mut settings, &mut findings);
    (settings, findings)
}

/// The settings of a command line, of the environment and of the file that they name, and what is
/// wrong or unwise about them.
///
/// # Errors
///
/// Findings, some of which are errors.
pub fn load(matches: &ArgMatches) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let (settings, mut findings) = read(matches);
    // What follows from several is looked at when each of them is right.
    if findings.iter().all(|finding| !finding.is_error()) {
        findings.extend(check(&settings));
    }
    if findings.iter().any(Finding::is_error) {
        return Err(findings);
    }
    Ok((settings, findings))
}

/// The settings as far as they can be read, for whoever only looks where the server's admin side
/// is: what is wrong is for the server to say.
///
/// # Errors
///
/// All that is wrong, when an admin side is not among what could be read.
pub fn load_unchecked(matches: &ArgMatches) -> Result<Settings, Vec<Finding>> {
    let (settings, findings) = read(matches);
    match settings.admin_listen.is_empty() && findings.iter().any(Finding::is_error) {
        true => Err(findings),
        false => Ok(settings),
    }
}

/// Reads the file of this name.
pub fn load_file(path: &str, settings: &mut Settings, findings: &mut Vec<Finding>) {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => file::read(path, &text, settings, findings),
            Err(error) => {
                let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count();
                let place = Place::File {
                    path: path.to_owned(),
                    line: line + 1,
                    column: 1,
                };
                findings.push(Finding::error(
                    place,
                    "this is not UTF-8, which TOML has to be",
                ));
            }
        },
        Err(error) => findings.push(Finding::error(
            Place::Flag("--config".to_owned()),
            format!(
                "cannot read the settings in '{path}': {error}; write them, or name another file \
                 with --config"
            ),
        )),
    }
}

fn load_variables(settings: &mut Settings, findings: &mut Vec<Finding>) {
    for setting in super::settings() {
        let name = setting.variable();
        let Some(value) = env::var_os(&name) else {
            continue;
        };
        let written = match value.into_string() {
            Ok(text) if setting.kind == Kind::List => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Written::List(items.map(str::to_owned).collect())
            }
            Ok(text) => Written::Text(text),
            Err(_) => Written::Other("something else than UTF-8"),
        };
        let given = settings.give(setting, &written, Place::Variable(name));
        findings.extend(given.err());
    }
}

fn load_flags(matches: &ArgMatches, settings: &mut Settings, findings: &mut Vec<Finding>) {
    for setting in super::settings() {
        let Some(flag) = setting.flag_name() else {
            continue;
        };
        if matches.value_source(setting.key) != Some(ValueSource::CommandLine) {
            continue;
        }
        let written = match setting.kind {
            Kind::Switch => Written::Switch(!setting.is_on_by_default()),
            Kind::List => {
                let items = matches
                    .get_many::<String>(setting.key)
                    .into_iter()
                    .flatten();
                Written::List(items.cloned().collect())
            }
            _ => Written::Text(matches.get_one(setting.key).cloned().unwrap_or_default()),
        };
        let given = settings.give(setting, &written, Place::Flag(format!("--{flag}")));
        findings.extend(given.err());
    }
    for text in matches.get_many::<String>(SET).into_iter().flatten() {
        let anywhere = || Place::Flag("--set".to_owned());
        let Some((key, value)) = text.split_once('=') else {
            let sentence = format!("--set is '{text}', but it has to be KEY=VALUE");
            findings.push(Finding::error(anywhere(), sentence));
            continue;
        };
        let key = key.trim();
        let Some(setting) = setting(key) else {
            let sentence = format!("--set {text}: {key} is no setting{}", table::guess(key));
            findings.push(Finding::error(anywhere(), sentence));
            continue;
        };
        let place = Place::Flag(format!("--set {key}"));
        let written = match setting.get(settings) {
            Value::List(mut items) if settings.place(key) == place => {
                items.push(value.to_owned());
                Written::List(items)
            }
            Value::List(_) => Written::List(vec![value.to_owned()]),
            _ => Written::Text(value.to_owned()),
        };
        let given = settings.give(setting, &written, place);
        findings.extend(given.err());
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn loaded(arguments: &[&str]) -> Result<Settings, Vec<String>> {
        let command = Command::new("ringwire").args(super::arguments());
        let matches = command.get_matches_from([&["ringwire"], arguments].concat());
        match load(&matches) {
            Ok((settings, _)) => Ok(settings),
            Err(findings) => Err(findings.iter().map(Finding::to_string).collect()),
        }
    }

    #[test]
    fn flags_give_values() {
        let settings = loaded(&[
            "--listen",
            "127.0.0.1:0",
            "--listen",
            "unix:/x",
            "--no-pin",
            "--compress",
            "--idle-timeout-ms",
            "1m",
            "--set",
            "mailbox_bytes_max=1MiB",
        ])
        .unwrap();
        assert_eq!(settings.listen, ["127.0.0.1:0", "unix:/x"]);
        assert!(!settings.pin && settings.config.compress);
        assert_eq!(settings.config.idle_timeout_ms, 60_000);
        assert_eq!(settings.config.mailbox_bytes_max, 1 << 20);
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_that_were_typed() {
        let found =
            loaded(&["--shards", "many", "--set", "idle=3", "--set", "nothing"]).unwrap_err();
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found[0].starts_with("error: --shards is 'many', but it has to be a number"));
        assert!(found[1].contains("--set idle=3: idle is no setting"));
        assert!(found[2].contains("has to be KEY=VALUE"));
    }

    #[test]
    fn every_setting_but_the_few_has_a_flag_of_its_own() {
        let mut names: Vec<_> = settings().iter().filter_map(Setting::flag_name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        let without = settings()
            .iter()
            .filter(|it| it.flag == table::Flag::None)
            .count();
        assert_eq!(count + without, settings().len());
    }

    #[test]
    fn the_help_names_flags_where_the_reference_names_keys() {
        let words = in_flags("up to server_header, as log says; no_such_key stays");
        assert_eq!(
            words,
            "up to --server-header, as log says; no_such_key stays"
        );
    }
}
