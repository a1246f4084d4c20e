//! Who may open a connection: tokens, and where clients have them.
//!
//! Knows: static tokens, and what clients are told. Refuses to know: routes. What a client has
//! shown as its token is in no log and in no reply.

#[cfg(feature = "jwt")]
mod jwt;

use std::str;

#[cfg(feature = "jwt")]
pub use jwt::{Claims, Jwts, algorithm};
use ringwire::{HandshakeError, Refusal, Request};

use crate::tokens::Tokens;

/// Where a client has its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
    Bearer,
    /// A cookie of this name.
    Cookie(String),
    /// The query's value of this name.
    Query(String),
    /// What follows this prefix in an offered subprotocol: pages can say nothing else.
    Subprotocol(String),
}

impl Source {
    /// Reads what a person writes.
    ///
    /// # Errors
    ///
    /// What it has to be, as the end of a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let named = text.split_once(':').filter(|(_, name)| !name.is_empty());
        match (text, named) {
            ("bearer", _) => Ok(Self::Bearer),
            (_, Some(("cookie", name))) => Ok(Self::Cookie(name.to_owned())),
            (_, Some(("query", name))) => Ok(Self::Query(name.to_owned())),
            (_, Some(("subprotocol", prefix))) => Ok(Self::Subprotocol(prefix.to_owned())),
            _ => Err("has to be bearer, cookie:NAME, query:NAME or subprotocol:PREFIX".to_owned()),
        }
    }

    fn token(&self, request: &Request<'_>) -> Option<String> {
        match self {
            Self::Bearer => {
                let value = str::from_utf8(request.header("authorization")?).ok()?;
                let (scheme, token) = value.split_once(' ')?;
                let is_bearer = scheme.eq_ignore_ascii_case("bearer");
                is_bearer.then(|| token.trim().to_owned())
            }
            Self::Cookie(name) => request.cookie(name).map(str::to_owned),
            Self::Query(name) => Some(request.query_value(name)?.into_owned()),
            Self::Subprotocol(prefix) => {
                let mut offered = request.subprotocols();
                let token = offered.find_map(|name| name.strip_prefix(prefix.as_str()))?;
                Some(token.to_owned())
            }
        }
    }
}

/// What a token has to be.
pub enum Proof {
    /// One of these.
    Tokens(Tokens),
    /// Signed, in time, and for us.
    #[cfg(feature = "jwt")]
    Jwt(Jwts),
}

/// Who somebody is, as far as a token tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name of the user.
    pub user: Option<String>,
    /// Patterns of topics to which he may publish.
    pub publish: Vec<String>,
    /// Patterns of topics to which he may subscribe.
    pub subscribe: Vec<String>,
}

/// Who may come in, and how they show it.
pub struct Auth {
    /// Where tokens are looked for, in this order.
    pub sources: Vec<Source>,
    /// What they have to be.
    pub proof: Proof,
}

/// Why somebody may not come in. It is for logs: the client learns only that it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no token where it could be.
    Missing,
    /// It is not what it has to be, for this reason.
    Wrong(&'static str),
}

impl Denied {
    /// The reason, for a log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "there is no token",
            Self::Wrong(reason) => reason,
        }
    }

    /// The 401, with what RFC 6750 (section 3) wants to be said.
    pub fn refusal(self) -> Refusal {
        let (body, challenge) = match self {
            Self::Missing => (
                "A token is needed here; connect with the one that you were given.\n",
                "Bearer realm=\"ringwire\"",
            ),
            Self::Wrong(_) => (
                "The token is not accepted here, or not any more; get another one.\n",
                "Bearer realm=\"ringwire\", error=\"invalid_token\"",
            ),
        };
        let refusal = Refusal::new(401, body).and_then(|mut refusal| {
            refusal.add_header("WWW-Authenticate", challenge)?;
            Ok(refusal)
        });
        refusal.unwrap_or_else(|_| HandshakeError::Forbidden.into())
    }
}

impl Auth {
    /// Whether whoever sends this request may come in. Returns who that is.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, request: &Request<'_>) -> Result<Identity, Denied> {
        let mut tokens = self.sources.iter().filter_map(|it| it.token(request));
        let token = tokens.next().ok_or(Denied::Missing)?;
        match &self.proof {
            Proof::Tokens(known) => match known.has(&token) {
                true => Ok(Identity::default()),
                false => Err(Denied::Wrong("it is none of the tokens")),
            },
            #[cfg(feature = "jwt")]
            Proof::Jwt(jwts) => jwts.check(&token),
        }
    }

    /// Whether a subprotocol that a client offers is its token.
    pub fn is_token(&self, subprotocol: &str) -> bool {
        self.sources.iter().any(|source| match source {
            Source::Subprotocol(prefix) => subprotocol.starts_with(prefix.as_str()),
            _ => false,
        })
    }
}
