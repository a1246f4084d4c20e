//! Answering the opening handshake.
//!
//! Knows: heads that come whole or in pieces, who is asked about a request, and what is written in
//! answer. Refuses to know: how a head is parsed or written, and when bytes come and go.

use std::{borrow::Cow, net::SocketAddr};

use super::{
    Link, Remote, Shared, Stage,
    proxied::{Header, NoHeader, Said},
};
use crate::proto::{
    Limits, Sink, Version,
    deflate::Agreed,
    handshake::{
        Answer, ClientRequest, Content, HandshakeError, HeadScanner, HttpReply, Proof, Refusal,
        ReplyHeaders, Request, Response, Upgrade, check_upgrade, encode_http_reply, encode_refusal,
        encode_switching_protocols,
    },
    hixie,
};
use crate::ring::PeerAddress;

/// Who is asked about requests.
pub trait Judge {
    /// What is kept for a connection that was accepted.
    type State;

    /// Whether a client may open a connection.
    ///
    /// # Errors
    ///
    /// The refusal that it gets.
    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Self::State, Refusal>;

    /// The reply to a plain HTTP request.
    ///
    /// # Errors
    ///
    /// The refusal in place of one.
    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal>;
}

/// What is there of a head that has not come whole.
#[derive(Debug)]
pub struct Opening {
    /// Where the head ends.
    scanner: HeadScanner,
    /// What it takes beside that. Boxed, because most heads come in one piece and to a server.
    rest: Option<Box<OpeningRest>>,
}

/// What few opening handshakes need.
#[derive(Debug, Default)]
struct OpeningRest {
    /// What a proxy says before the head, and has said.
    proxied: Option<Proxied>,
    /// The bytes so far, if they span receives.
    head: Vec<u8>,
    /// The request that a client sent, to check the response against.
    client: Option<ClientOpening>,
    /// Interim responses that came before the final one.
    interim: u32,
}

/// Interim responses that a client passes over. One after the other, without end, they would hold a
/// connection as long as the handshake may take.
const INTERIM_MAX: u32 = 16;

/// What a trusted proxy says of a connection.
#[derive(Debug)]
enum Proxied {
    /// Its header has not come whole.
    Awaited(Header),
    /// It speaks for whoever is there.
    For(SocketAddr),
}

/// A client's opening handshake that waits for its response.
#[derive(Debug)]
pub struct ClientOpening {
    /// What was asked.
    pub request: Box<ClientRequest>,
    /// The `Sec-WebSocket-Accept` to expect.
    pub accept_key: [u8; 28],
}

/// A head, and how many of the bytes that came last belong to it.
pub type WholeHead<'b> = (Cow<'b, [u8]>, usize);

impl Opening {
    /// A client's request is to come.
    pub const fn of_server() -> Self {
        Self {
            scanner: HeadScanner::new(),
            rest: None,
        }
    }

    /// The response to this request is to come.
    pub fn of_client(client: ClientOpening) -> Self {
        let rest = OpeningRest {
            client: Some(client),
            ..OpeningRest::default()
        };
        Self {
            rest: Some(Box::new(rest)),
            ..Self::of_server()
        }
    }

    /// A trusted proxy is to say whom it speaks for, and a client's request is to come behind that.
    pub fn of_proxied() -> Self {
        let rest = OpeningRest {
            proxied: Some(Proxied::Awaited(Header::default())),
            ..OpeningRest::default()
        };
        Self {
            rest: Some(Box::new(rest)),
            ..Self::of_server()
        }
    }

    /// A client's request is to come from there, as a trusted proxy has said.
    pub fn on_behalf_of(source: SocketAddr) -> Self {
        let rest = OpeningRest {
            proxied: Some(Proxied::For(source)),
            ..OpeningRest::default()
        };
        Self {
            rest: Some(Box::new(rest)),
            ..Self::of_server()
        }
    }

    /// Whether what comes next is a proxy's header.
    pub fn awaits_proxy(&self) -> bool {
        let proxied = self.rest.as_ref().and_then(|rest| rest.proxied.as_ref());
        matches!(proxied, Some(Proxied::Awaited(_)))
    }

    /// Takes bytes of a proxy's header. Returns what it says once it is whole.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn push_proxied(&mut self, bytes: &[u8]) -> Result<Option<Said>, NoHeader> {
        let Some(rest) = &mut self.rest else {
            return Err(NoHeader);
        };
        let Some(Proxied::Awaited(header)) = &mut rest.proxied else {
            return Err(NoHeader);
        };
        let said = header.push(bytes)?;
        if let Some(said) = said {
            rest.proxied = said.source.map(Proxied::For);
        }
        Ok(said)
    }

    /// Where the client is, if a trusted proxy has said so.
    pub fn source(&self) -> Option<PeerAddress> {
        match self.rest.as_ref()?.proxied.as_ref()? {
            Proxied::For(source) => Some(PeerAddress::Inet(*source)),
            Proxied::Awaited(_) => None,
        }
    }

    /// Bytes of memory that a head takes of which not all has come.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| match &rest.proxied {
            Some(Proxied::Awaited(header)) => header.held_bytes(),
            _ => rest.head.capacity(),
        })
    }

    /// What a client asked for.
    pub fn client(&self) -> Option<&ClientOpening> {
        self.rest.as_ref()?.client.as_ref()
    }

    /// Takes bytes of a head. Returns it once it is whole: a client's is the final response.
    ///
    /// # Errors
    ///
    /// As [`HeadScanner::push`].
    pub fn push<'b>(
        &mut self,
        bytes: &'b [u8],
        head_bytes_max: usize,
    ) -> Result<Option<WholeHead<'b>>, HandshakeError> {
        let mut passed = 0;
        loop {
            let Some((head, used)) = self.push_head(&bytes[passed..], head_bytes_max)? else {
                return Ok(None);
            };
            passed += used;
            if !self.passes_over(&head) {
                return Ok(Some((head, passed)));
            }
        }
    }

    /// Whether another response is to come after this one.
    fn passes_over(&mut self, head: &[u8]) -> bool {
        let Some(rest) = self.rest.as_mut().filter(|rest| rest.client.is_some()) else {
            return false;
        };
        let is_interim = Response::parse(head).is_ok_and(|response| response.is_interim());
        if !is_interim || rest.interim == INTERIM_MAX {
            return false;
        }
        rest.interim += 1;
        self.scanner = HeadScanner::new();
        true
    }

    fn push_head<'b>(
        &mut self,
        bytes: &'b [u8],
        head_bytes_max: usize,
    ) -> Result<Option<WholeHead<'b>>, HandshakeError> {
        let Some(found) = self.scanner.push(bytes, head_bytes_max)? else {
            let rest = self.rest.get_or_insert_default();
            rest.head.extend_from_slice(bytes);
            return Ok(None);
        };
        let gathered = self
            .rest
            .as_mut()
            .map(|rest| std::mem::take(&mut rest.head));
        let head = match gathered {
            Some(mut head) if !head.is_empty() => {
                head.extend_from_slice(&bytes[..found]);
                Cow::Owned(head)
            }
            _ => Cow::Borrowed(&bytes[..found]),
        };
        Ok(Some((head, found)))
    }
}

/// What a judge said to a request.
#[derive(Debug)]
pub enum Judged<'r, T> {
    /// A connection.
    Accepted {
        /// What was asked for.
        upgrade: Upgrade<'r>,
        /// What was chosen.
        answer: Answer,
        /// What is kept for it.
        state: T,
    },
    /// Something for a browser.
    Http(HttpReply),
    /// No connection.
    Refused(Refusal),
    /// No connection, for want of this. Nobody was asked.
    Overloaded(Lack),
}

/// What a server has too little of for one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Memory: the ledger is nearly full.
    Memory,
    /// Places, or descriptors for them.
    Places,
    /// Patience with the address that it comes from.
    Address,
}

impl Lack {
    /// What it is told.
    pub const fn error(self) -> HandshakeError {
        match self {
            Self::Memory | Self::Places => HandshakeError::Overloaded,
            Self::Address => HandshakeError::TooManyFromAddress,
        }
    }
}

/// What is known of opening handshakes before anybody is asked.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// Clients of hixie-76 may connect.
    legacy_hixie76: bool,
    /// Why there can be no other connection.
    lack: Option<Lack>,
}

/// Asks a judge about a request. It is application code: what it may reach must not be borrowed.
pub fn judge<'r, J: Judge>(
    request: &'r Request<'_>,
    peer: Remote<'_>,
    judge: &mut J,
    admission: Admission,
) -> Judged<'r, J::State> {
    if !request.is_upgrade() {
        if request.has_lost_upgrade() {
            return Judged::Refused(HandshakeError::UpgradeDropped.into());
        }
        return match judge.on_http(request, peer.away_from_door()) {
            Ok(reply) => Judged::Http(reply),
            Err(refusal) => Judged::Refused(refusal),
        };
    }
    let checked = if admission.legacy_hixie76 && hixie::is_opening(request) {
        hixie::check_opening(request)
    } else {
        check_upgrade(request)
    };
    let upgrade = match checked {
        Ok(upgrade) => upgrade,
        Err(error) => return Judged::Refused(error.into()),
    };
    if let Some(lack) = admission.lack {
        return Judged::Overloaded(lack);
    }
    let mut answer = Answer::new();
    match judge.on_handshake(&upgrade, peer, &mut answer) {
        Ok(state) => Judged::Accepted {
            upgrade,
            answer,
            state,
        },
        Err(refusal) => Judged::Refused(refusal),
    }
}

/// What is written in answer to a request.
#[derive(Debug)]
pub enum Reply<T> {
    /// A connection.
    Accepted {
        /// What proves that the handshake was understood.
        proof: Proof,
        /// What was chosen.
        answer: Answer,
        /// The compression that both sides want.
        agreed: Option<Agreed>,
        /// What is kept for it.
        state: T,
    },
    /// Something for a browser.
    Http(HttpReply),
    /// No connection.
    Refused(Refusal),
}

/// What a connection is after its request was answered.
#[derive(Debug)]
pub enum Opened<T> {
    /// Open.
    Open(T),
    /// It is so once the eight bytes of hixie-76 have come: [`Stage::Challenged`].
    Challenged(T),
    /// It ends after the reply.
    Ends,
}

impl Shared {
    /// What is known of opening handshakes now, of a connection that lacks this, or nothing.
    pub fn admission(&self, lack: Option<Lack>) -> Admission {
        let lack = lack.or_else(|| self.refuses_connections().then_some(Lack::Memory));
        Admission {
            legacy_hixie76: self.config.legacy_hixie76,
            lack,
        }
    }

    /// The reply to what a judge said.
    pub fn reply_to<T>(&mut self, judged: Judged<'_, T>) -> Reply<T> {
        match judged {
            Judged::Accepted {
                upgrade,
                answer,
                state,
            } => {
                // Hixie-76 has no extensions.
                let compresses = self.config.compress
                    && upgrade.version() == Version::Rfc6455
                    && !answer.refuses_compression();
                let agreed = compresses.then(|| self.codec.agree(upgrade.extensions()));
                Reply::Accepted {
                    proof: upgrade.proof(),
                    answer,
                    agreed: agreed.flatten(),
                    state,
                }
            }
            Judged::Http(reply) => Reply::Http(reply),
            Judged::Refused(refusal) => Reply::Refused(refusal),
            Judged::Overloaded(lack) => {
                match lack {
                    Lack::Memory => self.counts.memory_refusals += 1,
                    Lack::Places => self.counts.places_refusals += 1,
                    // It was counted at the door.
                    Lack::Address => {}
                }
                Reply::Refused(lack.error().into())
            }
        }
    }
}

impl Link {
    /// Writes the answer to a request.
    pub fn answer<T>(
        &mut self,
        request: &Request<'_>,
        reply: Reply<T>,
        shared: &mut Shared,
    ) -> Opened<T> {
        let content = Content::for_method(request.method());
        if let Reply::Accepted { answer, .. } = &reply
            && let Some(bytes_max) = answer.message_bytes_max()
        {
            let limits = shared.limits;
            self.rare.set_limits(Limits {
                message_bytes_max: bytes_max.min(limits.message_bytes_max),
                ..limits
            });
        }
        match reply {
            Reply::Accepted {
                proof: Proof::AcceptKey(accept_key),
                mut answer,
                agreed,
                state,
            } => {
                if let Some(agreed) = agreed {
                    answer.agree_on(agreed);
                    self.endpoint.compress(&mut shared.codec, &agreed);
                }
                self.write_head(shared, |scratch, headers| {
                    encode_switching_protocols(scratch, &accept_key, &answer, headers);
                });
                Opened::Open(state)
            }
            Reply::Accepted {
                proof: Proof::Challenge(challenge),
                answer,
                state,
                ..
            } => {
                let is_secure = self.rare.tls().is_some();
                self.write_head(shared, |scratch, headers| {
                    hixie::encode_head(scratch, request, is_secure, &answer, headers);
                });
                self.stage = Stage::Challenged(Box::new(challenge));
                Opened::Challenged(state)
            }
            Reply::Http(reply) => {
                shared.counts.http_requests += 1;
                self.write_head(shared, |scratch, headers| {
                    encode_http_reply(scratch, &reply, headers, content);
                });
                Opened::Ends
            }
            Reply::Refused(refusal) => {
                self.refuse_request(request, &refusal, shared);
                Opened::Ends
            }
        }
    }

    /// Writes why a request is refused, which is counted as what it is: an opening handshake or
    /// plain HTTP.
    pub fn refuse_request(
        &mut self,
        request: &Request<'_>,
        refusal: &Refusal,
        shared: &mut Shared,
    ) {
        let content = Content::for_method(request.method());
        if request.is_upgrade() || request.has_lost_upgrade() {
            return self.refuse(refusal, content, shared);
        }
        shared.counts.http_requests += 1;
        self.write_refusal(refusal, content, shared);
    }

    /// Writes why an opening handshake is refused, or a head of which nobody knows what it was to
    /// be.
    pub fn refuse(&mut self, refusal: &Refusal, content: Content, shared: &mut Shared) {
        shared.counts.handshakes_refused += 1;
        self.write_refusal(refusal, content, shared);
    }

    fn write_refusal(&mut self, refusal: &Refusal, content: Content, shared: &mut Shared) {
        self.write_head(shared, |scratch, headers| {
            encode_refusal(scratch, refusal, headers, content);
        });
    }

    fn write_head(
        &mut self,
        shared: &mut Shared,
        encode: impl FnOnce(&mut Vec<u8>, &ReplyHeaders<'_>),
    ) {
        let config = &shared.config;
        let headers = ReplyHeaders {
            date: config.date_header.then(|| shared.date.at(shared.now)),
            server: config.server_header.as_deref(),
        };
        shared.scratch.clear();
        encode(&mut shared.scratch, &headers);
        self.outbox(&mut shared.arena).write(&shared.scratch);
    }

    /// Takes bytes that follow the head of a hixie-76 handshake. Returns how many of them belong to
    /// it once it is proven.
    pub fn receive_challenge(&mut self, bytes: &[u8], shared: &mut Shared) -> Option<usize> {
        let Stage::Challenged(challenge) = &mut self.stage else {
            return None;
        };
        let (used, answer) = challenge.push(bytes)?;
        self.outbox(&mut shared.arena).write(&answer);
        self.endpoint = crate::proto::Endpoint::hixie76();
        Some(used)
    }

    /// Writes a client's opening handshake, whose answer comes next.
    pub fn ask(&mut self, request: Box<ClientRequest>, shared: &mut Shared) {
        shared.scratch.clear();
        let accept_key = request.encode(shared.keys.nonce(), &mut shared.scratch);
        self.outbox(&mut shared.arena).write(&shared.scratch);
        let client = ClientOpening {
            request,
            accept_key,
        };
        self.stage = Stage::Opening(Opening::of_client(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::handshake::WsUrl;

    const FINAL: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";

    fn client() -> Opening {
        let url = WsUrl::parse("ws://a/").unwrap();
        Opening::of_client(ClientOpening {
            request: Box::new(ClientRequest::new(url)),
            accept_key: [0; 28],
        })
    }

    /// What is found when these bytes come in pieces of so many.
    fn found(opening: &mut Opening, bytes: &[u8], piece: usize) -> Option<(Vec<u8>, usize)> {
        let mut before = 0;
        for piece in bytes.chunks(piece) {
            if let Some((head, used)) = opening.push(piece, 200).unwrap() {
                return Some((head.into_owned(), before + used));
            }
            before += piece.len();
        }
        None
    }

    #[test]
    fn interim_responses_are_passed_over_in_pieces_of_any_length() {
        for count in [0, 1, 2, INTERIM_MAX as usize] {
            let mut bytes = HINTS.repeat(count);
            bytes.extend_from_slice(FINAL);
            let len = bytes.len();
            bytes.extend_from_slice(b"\x81\x00");
            for piece in 1..=bytes.len() {
                let found = found(&mut client(), &bytes, piece);
                assert_eq!(found, Some((FINAL.to_vec(), len)), "{count} in {piece}");
            }
        }
    }

    #[test]
    fn interim_responses_come_to_an_end() {
        let bytes = HINTS.repeat(INTERIM_MAX as usize + 1);
        let found = found(&mut client(), &bytes, 1000).unwrap();
        assert_eq!(found, (HINTS.to_vec(), bytes.len()));
    }

    #[test]
    fn a_server_reads_one_head() {
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let found = found(&mut Opening::of_server(), request, 3).unwrap();
        assert_eq!(found, (request.to_vec(), request.len()));
    }
}
