//! Starting in a wrong way, in a dozen and one more of different kinds: one sentence each, which
//! says what is wrong, where, and what to do, and a status that tells wrong settings from a host
//! that cannot do it now.

use std::{fs, net::TcpListener};

use crate::{
    guard::in_a_folder,
    serve::{Ringwire, command, output},
};

/// What is to be wrong.
struct Way<'w> {
    arguments: Vec<&'w str>,
    variable: Option<(&'w str, &'w str)>,
    status: i32,
    /// What is wrong, where it stands, and what to do.
    words: [&'w str; 3],
}

#[test]
fn wrong_starts_are_one_sentence_each() {
    in_a_folder(|folder| {
        let write = |name: &str, text: &str| {
            let path = folder.join(name).display().to_string();
            fs::write(&path, text).unwrap();
            path
        };
        let misspelt = write(
            "misspelt.toml",
            "listen = '127.0.0.1:0'\nidle_timeout = 3\n",
        );
        let place = format!("{misspelt}:2:1:");
        let keys = write(
            "keys.toml",
            "listen = '127.0.0.1:0'\n[[route]]\npath = '/'\nauth = 'jwt'\njwt_keys_file = \
             '/dev/null'\n",
        );
        let keys_place = format!("{keys}:5:17:");
        let empty = write("empty", "\n");
        let in_the_way = format!("unix:{}", write("file", "of somebody's"));
        let nowhere = format!("unix:{}", folder.join("no/folder").display());
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = busy.local_addr().map(|it| it.to_string()).unwrap();
        let here = ["--listen", "127.0.0.1:0"];
        let with = |more: &[&'static str]| [&here[..], more].concat();
        let tls = "--tls-listen 127.0.0.1:0 --tls-cert /no/chain.pem --tls-key /no/key.pem";
        let way = |arguments, status, words| Way {
            arguments,
            variable: None,
            status,
            words,
        };
        let ways = [
            way(
                vec!["--config", &misspelt],
                2,
                ["idle_timeout is no setting", &place, "is idle"],
            ),
            way(
                vec!["--config", "/no/such.toml"],
                2,
                [
                    "cannot read the settings",
                    "'/no/such.toml'",
                    "name another file with --config",
                ],
            ),
            way(
                with(&["--idle-timeout-ms", "30d"]),
                2,
                [
                    "'30d'",
                    "--idle-timeout-ms",
                    "has to be a number of milliseconds or a time",
                ],
            ),
            Way {
                variable: Some(("RINGWIRE_SHARDS", "many")),
                ..way(
                    here.to_vec(),
                    2,
                    ["'many'", "RINGWIRE_SHARDS", "has to be a number"],
                )
            },
            Way {
                variable: Some(("RUST_LOG", "ringwire=loud")),
                ..way(
                    here.to_vec(),
                    2,
                    ["ringwire=loud", "RUST_LOG", "has to be like"],
                )
            },
            way(
                vec!["--listen", "nowhere"],
                2,
                [
                    "is not an address",
                    "--listen is 'nowhere'",
                    "write IP:PORT",
                ],
            ),
            way(
                vec!["--listen", &busy],
                1,
                [
                    "Address already in use",
                    &busy,
                    "stop it, or choose another",
                ],
            ),
            way(
                vec!["--listen", &in_the_way],
                1,
                [
                    "something else than a socket",
                    &in_the_way,
                    "remove it, or choose another path",
                ],
            ),
            way(
                vec!["--listen", &nowhere],
                1,
                ["does not exist", &nowhere, "make it first"],
            ),
            way(
                with(&["--admin-listen", "0.0.0.0:0"]),
                2,
                [
                    "others can stop the server",
                    "--admin-listen is",
                    "name a loopback address",
                ],
            ),
            way(
                [
                    &with(&["--admin-listen", "127.0.0.1:0", "--admin-token-file"])[..],
                    &[&empty],
                ]
                .concat(),
                2,
                [
                    "there is no token in",
                    "--admin-token-file",
                    "write one a line",
                ],
            ),
            way(
                tls.split(' ').collect(),
                2,
                [
                    "cannot read '/no/chain.pem'",
                    "--tls-cert and",
                    "name other files",
                ],
            ),
            way(
                vec!["--config", &keys],
                2,
                ["'/dev/null'", &keys_place, "if it is a secret, say"],
            ),
        ];
        for Way {
            arguments,
            variable,
            status,
            words,
        } in ways
        {
            let mut command = command(&arguments);
            command.envs(variable);
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
            assert!(output.stdout.is_empty(), "{arguments:?}");
            assert!(said.starts_with("ringwire: "), "{arguments:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
            for word in words {
                assert!(said.contains(word), "{arguments:?}: no '{word}' in {said}");
            }
        }
    });
}

#[test]
fn a_check_says_all_that_is_wrong_at_once_and_ends_as_a_start_would() {
    in_a_folder(|folder| {
        let path = folder.join("ringwire.toml").display().to_string();
        let text = "listen = ['127.0.0.1:0', 'nowhere']\nidle_timeout = 3\n\
                    tls_listen = '127.0.0.1:0'\ntls_cert = '/no/chain.pem'\n\
                    tls_key = '/no/key.pem'\nuser = 'nobody-such'\n\
                    [[route]]\npath = 'rooms'\n[[route]]\npath = '/'\nauth = 'tokn'\n";
        fs::write(&path, text).unwrap();
        let (checked, said, _) = output(&["check", &path]);
        assert_eq!(checked.status.code(), Some(2));
        for (line, words) in [
            (1, "'nowhere' is not an address"),
            (2, "idle_timeout is no setting"),
            (4, "cannot read '/no/chain.pem'"),
            (6, "there is no user 'nobody-such'"),
            (8, "rooms"),
            (11, "auth is 'tokn'"),
        ] {
            let place = format!("{path}:{line}:");
            let is_said = |it: &str| it.starts_with(&place) && it.contains(words);
            assert!(said.lines().any(is_said), "{line} {words}: {said}");
        }
        assert!(said.contains("6 errors"), "{said}");
        let (served, _, _) = output(&["--config", &path]);
        assert_eq!(served.status.code(), Some(2));
    });
}

#[test]
fn the_greeting_names_what_is_served() {
    in_a_folder(|folder| {
        let path = folder.join("ringwire.toml").display().to_string();
        let greeted = |routes: &str| {
            fs::write(
                &path,
                format!("listen = '127.0.0.1:0'\nshards = 1\n{routes}"),
            )
            .unwrap();
            let mut command = command(&["--config", &path]);
            let mut words = String::new();
            let seen = std::cell::RefCell::new(&mut words);
            let ringwire = Ringwire::start_until(&mut command, |line| {
                seen.borrow_mut().push_str(line);
                line.starts_with("ringwire doctor")
            });
            drop(ringwire);
            words
        };
        let words = greeted("");
        assert!(words.contains(" echoes at, on 1 shard"), "{words}");
        assert!(words.contains("Open http://127.0.0.1:"), "{words}");
        let words = greeted("[[route]]\npath = '/{*topic}'\napplication = 'topics'\n");
        assert!(words.contains(" serves 1 route at, on 1 shard"), "{words}");
        assert!(
            !words.contains("Open") && words.contains("Ctrl-C stops it."),
            "{words}"
        );
        let words =
            greeted("[[route]]\npath = '/try'\napplication = 'page'\n[[route]]\npath = '/x'\n");
        assert!(words.contains(" serves 2 routes at"), "{words}");
        assert!(words.contains("/try in a browser"), "{words}");
    });
}
