//! What a person is told about settings: files that are broken, files that are unwise, flags and
//! variables, each word for word.
//!
//! Beside each file lies what `ringwire check` says of it. `RINGWIRE_GOLDEN=write` writes that
//! anew, to be read before it is committed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use rustix::process::Signal;

use crate::{
    common::{Peer, TEXT, request},
    guard::{guarded, in_a_folder},
    peer::until,
    serve::{ENGINES, LISTEN, Ringwire, command, output},
};

fn checked(file: &Path) -> Output {
    let mut check = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    check.current_dir(file.parent().unwrap());
    check.arg("check").arg(file.file_name().unwrap());
    check.output().unwrap()
}

/// Files that lie here, each with what is said of it.
#[cfg(all(feature = "aio", feature = "jwt", feature = "tls"))]
mod golden {
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/settings")
            .join(name)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_toml = |path: &PathBuf| path.extension().is_some_and(|it| it == "toml");
        let mut files: Vec<_> = entries.filter(is_toml).collect();
        files.sort();
        files
    }

    /// Each file is judged as the text beside it says. Returns how many there were.
    fn are_as_written(name: &str, code: i32) -> usize {
        let files = files(&folder(name));
        let mut differing = Vec::new();
        for file in &files {
            let output = checked(file);
            let said = String::from_utf8(output.stdout).unwrap();
            let golden = file.with_extension("txt");
            if std::env::var_os("RINGWIRE_GOLDEN").is_some_and(|it| it == "write") {
                fs::write(&golden, &said).unwrap();
            }
            let expected = fs::read_to_string(&golden).unwrap_or_default();
            if said != expected || output.status.code() != Some(code) {
                differing.push(format!("{}: {}\n{said}", file.display(), output.status));
            }
            let file_name = file.file_name().unwrap().to_str().unwrap();
            for line in said.lines().filter(|line| line.contains(": error: ")) {
                assert!(line.starts_with(&format!("{file_name}:")), "{line}");
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n"));
        files.len()
    }

    #[test]
    fn broken_files_are_told_from_right_ones() {
        guarded(|| assert!(are_as_written("broken", 2) >= 30));
    }

    #[test]
    fn unwise_files_are_warned_of() {
        guarded(|| assert!(are_as_written("unwise", 0) >= 10));
    }
}

#[test]
fn a_file_a_variable_and_a_flag_are_asked_in_this_order() {
    in_a_folder(|folder| {
        let path = folder.join("ringwire.toml");
        fs::write(
            &path,
            "listen = '127.0.0.1:0'\nserver_header = 'file'\nshards = 1\nring = 'epoll'\n",
        )
        .unwrap();
        let path = path.to_str().unwrap();
        let served = |change: &dyn Fn(&mut Command)| {
            let mut command = command(&["serve", "--config", path]);
            change(&mut command);
            let ringwire = Ringwire::start(&mut command);
            let mut peer = Peer::connect(&ringwire.addresses[0]);
            peer.write(request("/").as_bytes());
            let head = peer.read_head();
            drop(peer);
            ringwire.signal(Signal::TERM);
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
            head
        };
        assert!(served(&|_| ()).contains("\r\nServer: file\r\n"));
        let head = served(&|command| {
            command.env("RINGWIRE_SERVER_HEADER", "variable");
        });
        assert!(head.contains("\r\nServer: variable\r\n"), "{head}");
        let head = served(&|command| {
            command.env("RINGWIRE_SERVER_HEADER", "variable");
            command.args(["--server-header", "flag"]);
        });
        assert!(head.contains("\r\nServer: flag\r\n"), "{head}");
    });
}

#[test]
fn wrong_settings_end_with_status_2_in_the_words_that_were_written() {
    guarded(|| {
        for (arguments, expected) in [
            (
                &["--idle-timeout-ms", "soon"][..],
                "ringwire: error: --idle-timeout-ms is 'soon', but it has to be a number of \
                 milliseconds or a time such as 30s, from 0 to 24d\n",
            ),
            (
                &["--queue-high-bytes", "10"],
                "ringwire: error: queue_low_bytes is 256KiB by default, but it has to be from 0 to \
                 10, which is --queue-high-bytes\n",
            ),
            (
                &["--compress-level", "9"],
                "ringwire: error: --compress-level has no effect without --compress\n",
            ),
            (
                &["--config", "/nowhere/at/all.toml"],
                "ringwire: error: cannot read the settings in '/nowhere/at/all.toml': No such file \
                 or directory (os error 2); write them, or name another file with --config\n",
            ),
            (
                &["--set", "idel_timeout_ms=3"],
                "ringwire: error: --set idel_timeout_ms=3: idel_timeout_ms is no setting; is \
                 idle_timeout_ms meant? 'ringwire config reference' has them all\n",
            ),
        ] {
            let (output, stdout, stderr) = output(&[&LISTEN[..], arguments].concat());
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert_eq!(stdout, "");
            assert_eq!(stderr, expected);
        }
        let mut command = command(&LISTEN);
        command.env("RINGWIRE_SHARDS", "many");
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(
            stderr.starts_with("ringwire: error: RINGWIRE_SHARDS is 'many', but"),
            "{stderr}"
        );
    });
}

#[test]
fn what_is_unwise_is_in_the_log() {
    guarded(|| {
        let mut command = command(&LISTEN);
        command.args(["--shards", "1", "--ping-interval-ms", "5m"]);
        let ringwire = Ringwire::start(&mut command);
        ringwire.signal(Signal::TERM);
        let (status, log) = ringwire.wait();
        assert!(status.success(), "{log}");
        assert!(
            log.contains("--ping-interval-ms is 5m: most proxies drop"),
            "{log}"
        );
    });
}

#[test]
fn the_reference_and_the_schema_are_printed() {
    guarded(|| {
        let (output, reference, _) = output(&["config", "reference"]);
        assert!(output.status.success());
        assert!(reference.contains("### `idle_timeout_ms`\n"), "{reference}");
        let (output, schema, _) = self::output(&["config", "schema"]);
        assert!(output.status.success());
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
        assert_eq!(schema["properties"]["ring"]["default"], "auto");
    });
}

#[test]
fn the_files_that_the_readme_shows_are_right() {
    in_a_folder(|folder| {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let readme = fs::read_to_string(readme).unwrap();
        let blocks = readme.split("```toml\n").skip(1);
        let shown: Vec<_> = blocks
            .map(|block| block.split_once("```").unwrap().0)
            .collect();
        assert_eq!(shown.len(), 3);
        for shown in shown {
            let path = folder.join("ringwire.toml");
            fs::write(&path, shown).unwrap();
            let output = checked(&path);
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, "ringwire.toml is right\n");
            assert!(output.status.success());
        }
    });
}

/// Settings that can change do at SIGHUP, for those who are connected too, and nobody is dropped.
#[test]
fn settings_are_read_again_at_sighup() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let path = folder.join("ringwire.toml");
            let write = |more: &str| {
                let text =
                    format!("listen = '127.0.0.1:0'\nshards = 1\nengine = '{engine}'\n{more}");
                fs::write(&path, text).unwrap();
            };
            write("");
            let mut command = command(&["--config", path.to_str().unwrap()]);
            let ringwire = Ringwire::start(&mut command);
            let address = &ringwire.addresses[0];
            let mut lasting = Peer::open(address, "/");
            let mut longest = Peer::open(address, "/");
            lasting.echo("before");
            // What is wrong leaves everything as it is.
            write("message_bytes_max = 10\nidle_timeout = 3\n");
            ringwire.signal(Signal::HUP);
            until("it refuses", || {
                ringwire.log().contains("the settings stay as they were")
            });
            let log = ringwire.log();
            assert!(
                log.contains("ringwire.toml:5:1: error: idle_timeout is no setting"),
                "{log}"
            );
            lasting.echo("a long message");
            // What is right does not.
            write("message_bytes_max = 10\nbacklog = 64\n");
            ringwire.signal(Signal::HUP);
            until("it obeys", || {
                ringwire.log().contains("message_bytes_max is 10 now")
            });
            until("it says what it cannot do", || {
                let log = ringwire.log();
                log.contains("backlog is 64, which it cannot become while the server runs")
            });
            lasting.echo("short");
            longest.send(TEXT, b"eleven bytes");
            longest.expect_close(1009);
            drop(longest);
            let mut new = Peer::open(address, "/");
            new.echo("also short");
            new.close();
            lasting.echo("at last");
            lasting.close();
            ringwire.signal(Signal::TERM);
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
        });
    }
}
