//! A server that has given up its user, files and system calls: it serves and reloads as before,
//! and what it has given up is gone on every thread.
//!
//! All other tests can be run in it as well: the servers that they start take `RINGWIRE_SANDBOX=on`
//! from the environment.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::process::{Signal, geteuid};

use crate::{
    admin::{ask_with, metrics},
    common::Peer,
    guard::in_a_folder,
    peer::until,
    serve::{ENGINES, Ringwire, command, output},
};

/// What the kernel says of each thread of a process, by its name.
fn threads(pid: u32) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let told = tasks.filter_map(|task| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let fields: BTreeMap<_, _> = status
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some((fields["Name"].clone(), fields))
    });
    told.collect()
}

/// The user that `/etc/passwd` has by this name.
fn number_of(user: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with(&format!("{user}:")));
    line.unwrap().split(':').nth(2).unwrap().parse().unwrap()
}

fn reload(ringwire: &Ringwire) -> (u16, String) {
    let reply = ask_with(&ringwire.admin[0], "POST /reload", "", "");
    (reply.status, reply.body)
}

fn serves_and_reloads_and_every_thread_is_confined(engine: &str, ring: &str, folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    };
    write("tokens", "a\n");
    // Only shards record.
    let is_recording = engine == "shard";
    let record = match is_recording {
        true => format!("record = '{}'\n", path("recording")),
        false => String::new(),
    };
    let settings = |more: &str| {
        format!(
            "engine = '{engine}'\nring = '{ring}'\nshards = 2\nsandbox = 'on'\n\
             listen = ['127.0.0.1:0', 'unix:{}']\nadmin_listen = 'unix:{}'\n{record}{more}\n\
             [[route]]\npath = '/'\n",
            path("socket"),
            path("admin")
        )
    };
    let is_root = geteuid().is_root();
    let user = if is_root { "user = 'nobody'\n" } else { "" };
    write("ringwire.toml", &settings(user));
    let mut command = command(&["--config", &path("ringwire.toml")]);
    let ringwire = Ringwire::start(&mut command);
    let echoes = || {
        for address in &ringwire.addresses {
            let mut peer = Peer::open(address, "/");
            peer.echo("inside");
            peer.close();
        }
    };
    echoes();
    // It is asked for what makes a thread of its own.
    let reply = ask_with(&ringwire.admin[0], "GET /connections", "", "");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let counts = metrics(&ringwire.admin[0]);
    assert!(counts["process_open_fds"] > 0.0 && counts["process_resident_memory_bytes"] > 0.0);
    let threads = threads(ringwire.pid());
    let recording = is_recording.then_some("recording");
    let names = [
        "ringwire",
        "log",
        "ringwire-0",
        "ringwire-1",
        "control",
        "signals",
        "reload",
    ];
    for name in names.into_iter().chain(recording) {
        assert!(
            threads.iter().any(|(it, _)| it == name),
            "{name}: {threads:?}"
        );
    }
    let nobody = number_of("nobody");
    for (name, status) in &threads {
        // What the kernel starts for a ring runs no code of ours.
        if name.starts_with("iou-") {
            continue;
        }
        assert_eq!(status["Seccomp"], "2", "{name}");
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
        if is_root {
            let ids = [nobody; 4].map(|id| id.to_string()).join("\t");
            assert_eq!(status["Uid"], ids, "{name}");
            assert_eq!(status["CapEff"], "0000000000000000", "{name}");
            assert_eq!(status["CapPrm"], "0000000000000000", "{name}");
        }
    }
    if is_root {
        for name in ["socket", "admin"] {
            assert_eq!(
                fs::metadata(folder.join(name)).unwrap().uid(),
                nobody,
                "{name}"
            );
        }
    }
    // What takes the place of a file is read, and what lies elsewhere is not.
    write(
        "next.toml",
        &settings(&format!("{user}idle_timeout_ms = '50s'")),
    );
    fs::rename(folder.join("next.toml"), folder.join("ringwire.toml")).unwrap();
    let (status, said) = reload(&ringwire);
    assert!(
        status == 200 && said.contains("idle_timeout_ms is 50s now"),
        "{said}"
    );
    let elsewhere = format!("{user}admin_token_file = '/etc/hostname'");
    write("ringwire.toml", &settings(&elsewhere));
    let (status, said) = reload(&ringwire);
    assert_eq!(status, 422, "{said}");
    let hint = format!("files are read in {}, where they were", folder.display());
    assert!(
        said.contains("Permission denied") && said.contains(&hint),
        "{said}"
    );
    write(
        "ringwire.toml",
        &settings(&format!("{user}admin_token_file = '{}'", path("tokens"))),
    );
    let (status, said) = reload(&ringwire);
    assert!(
        status == 200 && said.contains("admin_token_file is"),
        "{said}"
    );
    echoes();
    ringwire.signal(Signal::TERM);
    let (status, log) = ringwire.wait();
    assert!(status.success() && !log.contains("not complete"), "{log}");
    assert!(!log.contains("the sandbox holds root"), "{log}");
    for name in ["socket", "admin"] {
        assert!(!folder.join(name).exists(), "{name} is removed");
    }
}

#[test]
fn a_server_in_a_sandbox_serves_and_reloads_and_every_thread_is_confined() {
    for engine in ENGINES {
        for ring in ["auto", "epoll"] {
            in_a_folder(|folder| {
                serves_and_reloads_and_every_thread_is_confined(engine, ring, folder);
            });
        }
    }
}

#[test]
fn a_user_that_cannot_be_is_said_in_one_sentence_and_one_that_reads_less_in_the_log() {
    in_a_folder(|folder| {
        let (output, _, stderr) = output(&["--listen", "127.0.0.1:0", "--user", "nobody-such"]);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!(
            stderr,
            "ringwire: --user is 'nobody-such', but there is no user 'nobody-such' on this host\n"
        );
        if !geteuid().is_root() {
            let (output, _, stderr) = self::output(&["--listen", "127.0.0.1:0", "--user", "root"]);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(
                stderr.contains("only root can change to another user"),
                "{stderr}"
            );
            return;
        }
        let tokens = folder.join("tokens");
        fs::write(&tokens, "a\n").unwrap();
        fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
        let listen = format!("unix:{}", folder.join("socket").display());
        let mut command = command(&["--listen", &listen, "--user", "nobody"]);
        command.args(["--admin-listen", "127.0.0.1:0", "--admin-token-file"]);
        command.arg(&tokens);
        let ringwire = Ringwire::start(&mut command);
        until("it is said", || {
            ringwire.log().contains("a reload will be refused")
        });
        assert!(
            ringwire.log().contains("cannot remove its sockets from"),
            "{}",
            ringwire.log()
        );
        // Without the sandbox it is the other user all the same.
        let nobody = number_of("nobody").to_string();
        for (name, status) in threads(ringwire.pid()) {
            assert!(
                status["Uid"].starts_with(&nobody),
                "{name}: {}",
                status["Uid"]
            );
        }
        ringwire.signal(Signal::TERM);
        assert!(ringwire.wait().0.success());
    });
}
