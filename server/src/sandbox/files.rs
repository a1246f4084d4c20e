//! Files and ports that are left to the server: `landlock(7)`.
//!
//! Knows: which of them settings name, and how the kernel is told. Refuses to know: what is in
//! them. What is not named here cannot be opened any more, by whichever call, `io_uring`'s as well.
//!
//! A file that is to be read again is most often another one then: renewed certificates are put in
//! place of the old ones, or a link is turned to them. So it is their folders that stay readable,
//! the one that is named and the one where a link leads to. A folder that is not for the server
//! alone, such as `/etc`, does not: there it is the file itself, as it is at the start.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Component, Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};
use ringwire::Address;

use crate::settings::{self, Settings};

/// What is asked for; an older kernel gives less.
const ASKED_FOR: ABI = ABI::V7;

/// The Linux that has all of it.
const COMPLETE_SINCE: &str = "6.12";

/// Read by the C library when it looks names up, and by this server when it is asked how it is, or
/// how much memory there is.
const OF_THE_HOST: &[&str] = &[
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/proc",
    "/sys/fs/cgroup",
];

/// A folder that has fewer names than this above it is everybody's.
const OWN_FOLDER_DEPTH: usize = 2;

/// What a server needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files that a reload reads again.
    pub files: Vec<PathBuf>,
    /// Folders, and files that lie in none of their own, that can be read.
    readable: BTreeSet<PathBuf>,
    /// Files that lie in a folder that is not for the server alone.
    pub in_the_open: Vec<PathBuf>,
    /// Paths of its sockets.
    pub sockets: Vec<PathBuf>,
    /// TCP ports that it listens on.
    ports: BTreeSet<u16>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restricted {
    /// All that was asked for.
    Fully,
    /// What this kernel can.
    Partly,
    /// Nothing: the kernel has no Landlock, or it is not turned on.
    No(LandlockStatus),
}

impl Restricted {
    /// What is missing, if something is, as a part of a sentence.
    pub fn lack(self) -> Option<String> {
        match self {
            Self::Fully => None,
            Self::Partly => Some(format!(
                "Linux is older than {COMPLETE_SINCE}, whose Landlock also forbids to connect, to \
                 signal, or to use devices"
            )),
            Self::No(LandlockStatus::NotEnabled) => Some(
                "files can be opened as before, because Landlock is not turned on (the kernel's \
                 parameter lsm= has to name landlock)"
                    .to_owned(),
            ),
            Self::No(_) => Some(
                "files can be opened as before, because this kernel has no Landlock (Linux 5.13 or \
                 newer, CONFIG_SECURITY_LANDLOCK)"
                    .to_owned(),
            ),
        }
    }
}

impl Needs {
    /// What a server needs with these settings, which were checked, from this file of settings, and
    /// for these addresses without TLS.
    pub fn of(settings: &Settings, config: Option<&str>, plain: &[&str]) -> Self {
        let mut files: Vec<&str> = config.into_iter().collect();
        files.push(&settings.admin_token_file);
        for route in &settings.routes {
            files.extend([&*route.auth_tokens_file, &*route.jwt_keys_file]);
        }
        #[cfg(feature = "tls")]
        {
            files.extend(settings.tls.cert.iter().map(String::as_str));
            files.extend(settings.tls.key.iter().map(String::as_str));
            files.push(&settings.tls.client_ca);
        }
        let mut needs = Self::default();
        for file in files.into_iter().filter(|it| !it.is_empty()) {
            needs.read(Path::new(file));
        }
        #[cfg(feature = "tls")]
        let secure = settings.tls.listen.iter();
        #[cfg(not(feature = "tls"))]
        let secure = [].iter();
        let others = secure.chain(&settings.admin_listen).map(String::as_str);
        for text in plain.iter().copied().chain(others) {
            // What is no address was said already.
            for address in settings::addresses(text).unwrap_or_default() {
                match address {
                    Address::Inet(inet) => {
                        needs.ports.insert(inet.port());
                    }
                    Address::Unix(path) if path.to_string_lossy().starts_with('@') => {}
                    Address::Unix(path) => needs.sockets.push(path),
                }
            }
        }
        needs
    }

    fn read(&mut self, file: &Path) {
        self.files.push(file.to_owned());
        let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        for folder in [folder_of(file), folder_of(&real)] {
            let whole = fs::canonicalize(&folder).unwrap_or(folder);
            let depth = whole
                .components()
                .filter(|it| matches!(it, Component::Normal(_)))
                .count();
            if depth >= OWN_FOLDER_DEPTH {
                self.readable.insert(whole);
            } else {
                self.readable.insert(real.clone());
                self.in_the_open.push(file.to_owned());
            }
        }
        self.in_the_open.dedup();
    }

    /// The folders that its sockets lie in.
    pub fn socket_folders(&self) -> Vec<PathBuf> {
        let folders: BTreeSet<_> = self.sockets.iter().map(|it| folder_of(it)).collect();
        folders.into_iter().collect()
    }

    /// Leaves these, and nothing else, to this thread and to those that it starts.
    ///
    /// # Errors
    ///
    /// When the kernel has what it takes and refuses all the same.
    pub fn restrict_this_thread(&self) -> Result<Restricted, RulesetError> {
        let mut scope = BitFlags::from(Scope::Signal);
        // Where a service manager listens may have no path.
        if !env::var("NOTIFY_SOCKET").is_ok_and(|it| it.starts_with('@')) {
            scope |= Scope::AbstractUnixSocket;
        }
        let mut net = BitFlags::from(AccessNet::ConnectTcp);
        // Of a port that the kernel chooses, only the first shard asks by the number 0.
        let are_ports_known = !self.ports.contains(&0);
        if are_ports_known {
            net |= AccessNet::BindTcp;
        }
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(ASKED_FOR))?
            .handle_access(net)?
            .scope(scope)?
            .create()?;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        for path in OF_THE_HOST {
            rules = allow(rules, Path::new(path), reading)?;
        }
        // A panic tells where in the program it was.
        if let Ok(program) = env::current_exe() {
            rules = allow(rules, &program, AccessFs::ReadFile.into())?;
        }
        for path in &self.readable {
            rules = allow(rules, path, AccessFs::ReadFile.into())?;
        }
        let making = AccessFs::ReadDir | AccessFs::MakeSock | AccessFs::RemoveFile;
        for folder in self.socket_folders() {
            rules = allow(rules, &folder, making)?;
        }
        for &port in self.ports.iter().filter(|_| are_ports_known) {
            rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
        let restricted = rules.restrict_self()?;
        Ok(match restricted.ruleset {
            RulesetStatus::FullyEnforced => Restricted::Fully,
            RulesetStatus::PartiallyEnforced => Restricted::Partly,
            RulesetStatus::NotEnforced => Restricted::No(restricted.landlock),
        })
    }

    /// Where files can be read, for a person.
    pub fn said(&self) -> String {
        let paths = self.readable.iter().map(|it| it.display().to_string());
        paths.collect::<Vec<_>>().join(", ")
    }
}

/// A path that is not there needs no leave.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(open) = PathFd::new(path) else {
        return Ok(rules);
    };
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(ASKED_FOR),
    };
    rules.add_rule(PathBeneath::new(open, access))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_stay_readable_but_those_that_are_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, live) = (folder.path().join("archive"), folder.path().join("live"));
        fs::create_dir(&archive).unwrap();
        fs::create_dir(&live).unwrap();
        fs::write(archive.join("chain1.pem"), "").unwrap();
        std::os::unix::fs::symlink("../archive/chain1.pem", live.join("chain.pem")).unwrap();
        let mut needs = Needs::default();
        needs.read(&live.join("chain.pem"));
        assert_eq!(needs.readable, BTreeSet::from([archive, live]));
        assert!(needs.in_the_open.is_empty());
        let mut needs = Needs::default();
        needs.read(Path::new("/etc/passwd"));
        assert_eq!(needs.readable, BTreeSet::from(["/etc/passwd".into()]));
        assert_eq!(needs.in_the_open, [PathBuf::from("/etc/passwd")]);
    }

    #[test]
    fn addresses_are_ports_to_bind_and_folders_of_sockets() {
        let mut settings = Settings::default();
        settings.admin_listen = vec!["unix:/run/a/d".to_owned()];
        let plain = ["127.0.0.1:81", "unix:/run/a/b", "unix:@c"];
        let needs = Needs::of(&settings, None, &plain);
        assert_eq!(needs.ports, BTreeSet::from([81]));
        assert_eq!(needs.socket_folders(), [PathBuf::from("/run/a")]);
    }
}
