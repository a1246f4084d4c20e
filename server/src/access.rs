//! The access log: a line for every connection's end, and for those who were turned away.
//!
//! Knows: what is remembered of a connection for its line, and how many refusals are told of.
//! Refuses to know: who comes in, and where lines go.
//!
//! What a peer has sent is written as a text that is escaped: a line of the log stays one line. A
//! query may be a secret, so that only that there is one is said. Refusals cost whoever is refused
//! next to nothing, so that few of them are told of in a second; the next line says how many were
//! not.

use std::{
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ringwire::{Answer, CloseCause, ConnId, Remote, Request, Tally};

/// Under this name filters find it (`RUST_LOG=ringwire::access=info`).
const TARGET: &str = "ringwire::access";

/// Refusals that are told of in a second.
const REFUSALS_MAX: u32 = 10;

/// Who writes it.
#[derive(Debug, Default)]
pub struct AccessLog {
    is_on: AtomicBool,
    refusals: Mutex<Sample>,
}

/// How many were told of lately.
#[derive(Debug, Default)]
struct Sample {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Sample {
    /// Whether another one is told of, and how many were not since the last one.
    fn takes(&mut self, now: Instant) -> Option<u64> {
        let is_new = |since| now.duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(is_new) {
            self.since = Some(now);
            self.told = 0;
        }
        if self.told >= REFUSALS_MAX {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// Who asks: the other end, and whom that speaks for.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The other end of the connection, or whom the PROXY protocol names.
    pub peer: Remote<'a>,
    /// Whom a proxy has named in the request.
    pub forwarded: Option<IpAddr>,
}

/// What is remembered of a connection until it ends.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    peer: Box<str>,
    forwarded: Option<IpAddr>,
    host: Box<str>,
    path: Box<str>,
    user: Option<Box<str>>,
    subprotocol: Option<Box<str>>,
    /// What has passed.
    pub tally: Tally,
}

/// The path, and whether there is a query.
fn path_of(request: &Request<'_>) -> String {
    match request.query() {
        None => request.path().to_owned(),
        Some(_) => format!("{}?...", request.path()),
    }
}

/// The header as it is, or as much of it as is text.
fn host_of(request: &Request<'_>) -> String {
    request.host().unwrap_or_default().to_owned()
}

impl AccessLog {
    /// Writes lines from here on, or does not.
    pub fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// What is to be remembered of a connection that is about to open, if there is to be a line.
    pub fn record(
        &self,
        client: Client<'_>,
        request: &Request<'_>,
        answer: &Answer,
        user: Option<String>,
    ) -> Option<Record> {
        self.is_on().then(|| Record {
            began: Instant::now(),
            peer: client.peer.to_string().into(),
            forwarded: client.forwarded,
            host: host_of(request).into(),
            path: path_of(request).into(),
            user: user.map(Into::into),
            subprotocol: answer.subprotocol().map(Into::into),
            tally: Tally::default(),
        })
    }

    /// A request was answered, which opens no connection.
    pub fn answered(&self, client: Client<'_>, request: &Request<'_>, status: u16) {
        if self.is_on() {
            tracing::info!(
                target: TARGET,
                peer = %client.peer,
                forwarded = client.forwarded.map(tracing::field::display),
                method = request.method(),
                host = host_of(request),
                path = path_of(request),
                status,
                "request answered"
            );
        }
    }

    /// A request was refused, whether all lines are written or not.
    pub fn refused(&self, client: Client<'_>, request: &Request<'_>, status: u16, reason: &str) {
        let takes = {
            let mut sample = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            sample.takes(Instant::now())
        };
        let Some(untold) = takes else { return };
        tracing::info!(
            target: TARGET,
            peer = %client.peer,
            forwarded = client.forwarded.map(tracing::field::display),
            method = request.method(),
            host = host_of(request),
            path = path_of(request),
            status,
            reason,
            untold = (untold > 0).then_some(untold),
            "request refused"
        );
    }
}

impl Record {
    /// The connection has ended.
    pub fn end(&self, id: ConnId, cause: &CloseCause) {
        let Tally {
            messages_received,
            payload_bytes_received,
            messages_sent,
            payload_bytes_sent,
        } = self.tally;
        tracing::info!(
            target: TARGET,
            connection = %id,
            peer = &*self.peer,
            forwarded = self.forwarded.map(tracing::field::display),
            host = &*self.host,
            path = &*self.path,
            status = 101,
            user = self.user.as_deref(),
            subprotocol = self.subprotocol.as_deref(),
            messages_received,
            bytes_received = payload_bytes_received,
            messages_sent,
            bytes_sent = payload_bytes_sent,
            seconds = self.began.elapsed().as_secs_f64(),
            cause = cause.to_string(),
            "connection ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_of_in_part_and_counted() {
        let mut sample = Sample::default();
        let began = Instant::now();
        let told = (0..1000).filter_map(|_| sample.takes(began)).count();
        assert_eq!(told, REFUSALS_MAX as usize);
        let later = began + Duration::from_secs(1);
        assert_eq!(sample.takes(later), Some(1000 - u64::from(REFUSALS_MAX)));
        assert_eq!(sample.takes(later), Some(0));
    }
}
