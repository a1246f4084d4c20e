//! What the server gives up once it has what it needs: its user, files, system calls.
//!
//! Knows: the order, and what is said where a host cannot do it. Refuses to know: what a server
//! needs, and how a kernel is told.
//!
//! ```text
//!   settings and certificates are read, the admin side is bound
//!        |     the other user and the list of calls are tried, on threads that end then
//!        |     main: files. Threads that begin from here on have that too
//!   addresses are bound, shards begin, each with its ring
//!        |     each shard: user and calls, before it takes a connection
//!        |     main: user and calls. Threads that begin from here on have both too
//!   serving: the log's thread begins, then those that look after everything
//! ```
//!
//! Each of these the kernel keeps for a thread by itself. The invariant: whatever thread there is
//! while the server serves has given up all three.

mod calls;
mod files;
mod user;

use std::thread;

use ringwire::Address;
use rustix::process::geteuid;

use crate::settings::Settings;
use calls::Filter;
use files::Needs;
pub use user::Identity;

/// What a server is left.
pub struct Sandbox {
    needs: Needs,
    is_walled: bool,
    user: Option<Identity>,
    filter: Option<Filter>,
    /// What this host cannot do.
    lacks: Vec<String>,
}

impl Sandbox {
    /// Finds out what these settings, which were checked, leave to a server that has read this file
    /// of settings and listens at these addresses without TLS. Nothing is given up yet.
    ///
    /// # Errors
    ///
    /// Why the server cannot be the user that is named, as a sentence.
    pub fn new(settings: &Settings, config: Option<&str>, plain: &[&str]) -> Result<Self, String> {
        let needs = Needs::of(settings, config, plain);
        let user = match settings.user.as_str() {
            "" => None,
            text => {
                let named = |why| format!("{} is '{text}', but {why}", settings.name("user"));
                let user = Identity::find(text).map_err(named)?;
                match user.is_ours() {
                    true => None,
                    false => {
                        try_out(&user, &needs).map_err(named)?;
                        Some(user)
                    }
                }
            }
        };
        let is_walled = settings.is_sandboxed();
        let mut lacks = Vec::new();
        let filter = match is_walled {
            true => tried_filter().map_err(|lack| lacks.push(lack)).ok(),
            false => None,
        };
        Ok(Self {
            needs,
            is_walled,
            user,
            filter,
            lacks,
        })
    }

    /// Leaves this thread, and those that it starts, the files that a server needs. Returns what is
    /// to be said of that, in sentences, once somebody serves.
    ///
    /// # Errors
    ///
    /// What went wrong, as a sentence.
    pub fn restrict_files(&self) -> Result<Vec<String>, String> {
        // It is looked up once, in a file that belongs to root even where the process does not.
        let _ = rustix::param::page_size();
        if !self.is_walled {
            return Ok(Vec::new());
        }
        let restricted = self.needs.restrict_this_thread();
        let restricted = restricted
            .map_err(|error| format!("files cannot be restricted (Landlock): {error}"))?;
        let mut said = Vec::new();
        let lacks = restricted.lack().into_iter().chain(self.lacks.clone());
        let lacks: Vec<_> = lacks.collect();
        if !lacks.is_empty() {
            said.push(format!("the sandbox is not complete: {}", lacks.join("; ")));
        }
        if geteuid().is_root() && self.user.is_none() {
            let sentence = "the sandbox holds root: name another user for it (user)";
            said.push(sentence.to_owned());
        }
        said.extend(self.needs.in_the_open.iter().map(|file| {
            format!(
                "'{}' does not lie in a folder of the server's own: a reload can read this very \
                 file again, but none that is put in its place",
                file.display()
            )
        }));
        Ok(said)
    }

    /// Makes Unix paths the other user's: it is who listens there.
    pub fn give_paths<'a>(&self, addresses: impl Iterator<Item = &'a Address>) {
        let Some(user) = &self.user else {
            return;
        };
        for address in addresses {
            // Those of a service manager's are not among them.
            if let Address::Unix(path) = address
                && self.needs.sockets.contains(path)
                && let Err(error) = user.give(path)
            {
                tracing::warn!("'{}' stays root's, not {user}'s: {error}", path.display());
            }
        }
    }

    /// Changes this thread, and those that it starts, to the other user, and leaves them the system
    /// calls that a server needs.
    ///
    /// # Errors
    ///
    /// What the kernel said to what it did not mind when it was tried, as a sentence.
    pub fn confine_this_thread(&self) -> Result<(), String> {
        if let Some(user) = &self.user {
            let changed = user.become_it();
            changed.map_err(|error| format!("a thread cannot become {user}: {error}"))?;
        }
        match self.filter.as_ref().map(Filter::restrict_this_thread) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(format!("system calls cannot be restricted: {error}")),
        }
    }

    /// What can be read in it, as a sentence for somebody who has asked for something else.
    pub fn said(&self) -> Option<String> {
        self.is_walled.then(|| {
            format!(
                "with sandbox = 'on' files are read in {}, where they were at the start; others \
                 take a restart",
                self.needs.said()
            )
        })
    }
}

/// Tries what cannot be taken back, and says what will not work as this user.
fn try_out(user: &Identity, needs: &Needs) -> Result<(), String> {
    let misses = user.try_out(&needs.files, &needs.socket_folders())?;
    for file in misses.unreadable {
        tracing::warn!(
            "{user} cannot read '{}', which root has read: a reload will be refused; give the file \
             to its group (chgrp, chmod 640)",
            file.display()
        );
    }
    for folder in misses.fixed {
        tracing::info!(
            "{user} cannot remove its sockets from '{}': they stay behind at the end, and the next \
             start takes them over",
            folder.display()
        );
    }
    Ok(())
}

/// The filter, if this kernel takes it.
///
/// # Errors
///
/// What is missing then, as a part of a sentence.
fn tried_filter() -> Result<Filter, String> {
    let tried = || {
        let filter = Filter::new().map_err(|error| error.to_string())?;
        filter
            .restrict_this_thread()
            .map_err(|error| error.to_string())?;
        Ok::<_, String>(filter)
    };
    let thread = thread::Builder::new()
        .name("filter".to_owned())
        .spawn(tried);
    let tried = thread.map_err(|error| error.to_string()).and_then(|it| {
        let outcome = it.join();
        outcome.unwrap_or_else(|_| Err("it could not be tried".to_owned()))
    });
    tried.map_err(|error| format!("system calls are not restricted (seccomp): {error}"))
}

#[cfg(test)]
mod tests;
