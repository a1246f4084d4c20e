//! Another user than the one who has started the server.
//!
//! Knows: how a user is named, looked up and become. Refuses to know: why, and when.
//!
//! The kernel keeps users for each thread, and so does this: a thread that does not change stays
//! what it was. Whoever was root cannot become it again: all three user numbers change.

use std::{
    ffi::CString,
    fmt, io,
    path::{Path, PathBuf},
    thread,
};

use nix::unistd::{self, Group, User};
use rustix::{
    fs::Access,
    process::geteuid,
    thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// A user and its groups, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As it was written.
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Identity {
    /// Looks up `USER` or `USER:GROUP`, by their names or numbers. Without a group it is in all
    /// those that the host's database has for the user, else in that one alone.
    ///
    /// # Errors
    ///
    /// Whom there is not, as the end of a sentence.
    pub fn find(text: &str) -> Result<Self, String> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let failed = |error: nix::Error| format!("users cannot be looked up: {error}");
        let user = User::from_name(name).map_err(failed)?;
        let user = match (user, name.parse::<u32>()) {
            (None, Ok(number)) => User::from_uid(number.into()).map_err(failed)?,
            (user, _) => user,
        };
        let user = user.ok_or_else(|| format!("there is no user '{name}' on this host"))?;
        let (gid, groups) = match group {
            None => {
                let known = CString::new(&*user.name).map_err(|error| error.to_string())?;
                let groups = unistd::getgrouplist(&known, user.gid).map_err(failed)?;
                (user.gid, groups)
            }
            Some(name) => {
                let group = Group::from_name(name).map_err(failed)?;
                let group = match (group, name.parse::<u32>()) {
                    (None, Ok(number)) => Group::from_gid(number.into()).map_err(failed)?,
                    (group, _) => group,
                };
                let group =
                    group.ok_or_else(|| format!("there is no group '{name}' on this host"))?;
                (group.gid, vec![group.gid])
            }
        };
        Ok(Self {
            name: text.to_owned(),
            uid: Uid::from_raw(user.uid.as_raw()),
            gid: Gid::from_raw(gid.as_raw()),
            groups: groups
                .into_iter()
                .map(|it| Gid::from_raw(it.as_raw()))
                .collect(),
        })
    }

    /// Whether it is who runs this already.
    pub fn is_ours(&self) -> bool {
        geteuid() == self.uid
    }

    /// Changes this thread, and those that it starts, to this user. The others stay what they are.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn become_it(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        Ok(())
    }

    /// Tries to become it, on a thread that ends then, and tells which of these files it cannot
    /// read, and in which of these folders it can remove nothing.
    ///
    /// # Errors
    ///
    /// Why nobody here can become it, as the end of a sentence.
    pub fn try_out(&self, files: &[PathBuf], folders: &[PathBuf]) -> Result<Misses, String> {
        let trying = || {
            self.become_it().map_err(|error| {
                format!("only root can change to another user, and this is not possible: {error}")
            })?;
            let lacks = |paths: &[PathBuf], access| -> Vec<PathBuf> {
                let lacking = |path: &&PathBuf| rustix::fs::access(&***path, access).is_err();
                paths.iter().filter(lacking).cloned().collect()
            };
            Ok(Misses {
                unreadable: lacks(files, Access::READ_OK),
                fixed: lacks(folders, Access::WRITE_OK | Access::EXEC_OK),
            })
        };
        let tried = thread::scope(|scope| {
            let thread = thread::Builder::new().name("user".to_owned());
            let thread = thread.spawn_scoped(scope, trying);
            let thread = thread.map_err(|error| format!("a thread cannot be started: {error}"))?;
            Ok::<_, String>(thread.join())
        });
        tried?.unwrap_or_else(|_| Err("it could not be tried".to_owned()))
    }

    /// Makes a file this user's. A link is not followed.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
    }
}

/// What a user cannot do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Files that it cannot read.
    pub unreadable: Vec<PathBuf>,
    /// Folders from which it can remove nothing.
    pub fixed: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_number_with_its_groups_or_another_one() {
        let root = Identity::find("root").unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        assert!(root.groups.contains(&root.gid));
        let by_number = Identity::find("0").unwrap();
        assert_eq!(by_number.uid, root.uid);
        let other = Identity::find("root:nogroup").or_else(|_| Identity::find("root:nobody"));
        let other = other.unwrap();
        assert_eq!(other.groups, [other.gid]);
        assert_ne!(other.gid, root.gid);
        assert_eq!(
            Identity::find("nobody-of-that-name").unwrap_err(),
            "there is no user 'nobody-of-that-name' on this host"
        );
        assert_eq!(
            Identity::find("root:no-such-group").unwrap_err(),
            "there is no group 'no-such-group' on this host"
        );
    }

    #[test]
    fn who_becomes_another_user_is_it_for_good_on_that_thread_alone() {
        if !geteuid().is_root() {
            return;
        }
        let nobody = Identity::find("nobody").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                nobody.become_it().unwrap();
                assert!(nobody.is_ours());
                assert!(Identity::find("root").unwrap().become_it().is_err());
                assert!(std::fs::read("/etc/shadow").is_err());
            });
        });
        assert!(geteuid().is_root());
        let files = ["/etc/shadow", "/etc/passwd"].map(PathBuf::from);
        let misses = nobody.try_out(&files, &["/".into(), "/tmp".into()]);
        let misses = misses.unwrap();
        assert_eq!(misses.unreadable, [PathBuf::from("/etc/shadow")]);
        assert_eq!(misses.fixed, [PathBuf::from("/")]);
        assert!(geteuid().is_root());
    }
}
