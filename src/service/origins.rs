//! Which pages may talk to a server.
//!
//! Knows a list of origins and what a browser wants to hear about it. Refuses to know paths, and
//! what is served.

use std::{fmt, str::FromStr};

use crate::{HandshakeError, HttpReply, Refusal, Request, proto::handshake::Origin};

/// A list of the origins whose pages are welcome (RFC 6455 section 10.2).
///
/// A browser lets any page open a WebSocket to any server, and sends the cookies of the server's
/// site along; only the server can refuse. Whoever recognises users by their cookies wants this
/// list:
///
/// ```
/// use ringwire::{Answer, Refusal, Remote, Service, Upgrade, service::Origins};
///
/// struct Chat {
///     origins: Origins,
/// }
///
/// impl Service for Chat {
///     type State = ();
///
///     fn on_handshake(
///         &mut self,
///         upgrade: &Upgrade<'_>,
///         _peer: Remote<'_>,
///         _answer: &mut Answer,
///     ) -> Result<(), Refusal> {
///         self.origins.check(upgrade.request())?;
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), ringwire::service::OriginError> {
/// let chat = Chat {
///     origins: Origins::default().allow("https://example.com")?.allow("https://*.example.com")?,
/// };
/// # Ok(())
/// # }
/// ```
///
/// What can be allowed:
///
/// | text | the pages of |
/// |---|---|
/// | `https://example.com` | this scheme, host and port; 443 here |
/// | `https://example.com:*` | this scheme and host, on every port |
/// | `https://*.example.com` | every host below `example.com`, but not itself |
/// | `same-origin` | the host and port that the request itself is for |
/// | `null` | files, sandboxed frames and other places without a name |
/// | `*` | everywhere |
///
/// `same-origin` trusts the `Host` header, as browsers do; without a port in it, as some proxies
/// pass it on, pages of every port of that host are welcome. By DNS rebinding, an attacker's page
/// can reach a server in a network that is not his with his own name in both headers; a list of
/// names is not deceived by that. The scheme is not compared, because a proxy may have taken TLS
/// off.
///
/// A request without `Origin` is not from a page of a current browser, and passes: this list
/// protects the users of browsers, and nobody from programs, which can send any origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Any,
    SameOrigin,
    /// `null`, which is no scheme, host and port.
    Null,
    Site {
        scheme: String,
        /// Below this host, with a dot before it, or this host.
        host: String,
        below: bool,
        port: Port,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Any,
    This(Option<u16>),
}

/// Not something that [`Origins`] can allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError {
    text: String,
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not an origin; write scheme://host or scheme://host:port without a path \
             (https://example.com), https://*.example.com for what is below it, same-origin, \
             null, or * for all",
            self.text
        )
    }
}

impl std::error::Error for OriginError {}

impl FromStr for Rule {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let error = || OriginError {
            text: text.to_owned(),
        };
        match text {
            "*" => return Ok(Self::Any),
            "same-origin" => return Ok(Self::SameOrigin),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        let (site, any_port) = match text.strip_suffix(":*") {
            Some(site) => (site, true),
            None => (text, false),
        };
        let (scheme, host) = site.split_once("://").ok_or_else(error)?;
        let (host, below) = match host.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (host, false),
        };
        let site = format!("{scheme}://{host}");
        let origin = Origin::parse(&site).ok_or_else(error)?;
        let host = origin.host().to_ascii_lowercase();
        let port = if any_port {
            Port::Any
        } else {
            Port::This(origin.port())
        };
        // An asterisk may stand in a host's name, and would be a mistake here.
        if host.contains('*') || below && host.starts_with('[') {
            return Err(error());
        }
        Ok(Self::Site {
            scheme: scheme.to_ascii_lowercase(),
            host: if below { format!(".{host}") } else { host },
            below,
            port,
        })
    }
}

impl Rule {
    fn matches(&self, text: &str, request: &Request<'_>) -> bool {
        let origin = Origin::parse(text);
        match (self, origin) {
            (Self::Any, _) => true,
            (Self::Null, _) => text == "null",
            (_, None) => false,
            (Self::SameOrigin, Some(origin)) => {
                request.host().is_some_and(|host| origin.is_of_host(host))
            }
            (
                Self::Site {
                    scheme,
                    host,
                    below,
                    port,
                },
                Some(origin),
            ) => {
                let sent = origin.host().to_ascii_lowercase();
                origin.scheme().eq_ignore_ascii_case(scheme)
                    && if *below {
                        sent.len() > host.len() && sent.ends_with(host.as_str())
                    } else {
                        sent == *host
                    }
                    && (*port == Port::Any || *port == Port::This(origin.port()))
            }
        }
    }
}

impl Origins {
    /// Every origin. This is what a server without a list does.
    pub fn any() -> Self {
        let rules = vec![Rule::Any];
        Self { rules }
    }

    /// Pages from the host and port that the request is for.
    pub fn same_origin() -> Self {
        let rules = vec![Rule::SameOrigin];
        Self { rules }
    }

    /// Allows one more origin, or several by a wildcard, as the type's page tells. Without any, no
    /// page is welcome.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn allow(mut self, origin: &str) -> Result<Self, OriginError> {
        self.rules.push(origin.parse()?);
        Ok(self)
    }

    /// Whether the page behind this request is welcome.
    pub fn allows(&self, request: &Request<'_>) -> bool {
        request
            .origin()
            .is_none_or(|origin| self.rules.iter().any(|rule| rule.matches(origin, request)))
    }

    /// Refuses a request whose page is not welcome. For use in
    /// [`on_handshake`](crate::Service::on_handshake), with `?`.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Forbidden`]: 403.
    pub fn check(&self, request: &Request<'_>) -> Result<(), HandshakeError> {
        if self.allows(request) {
            Ok(())
        } else {
            Err(HandshakeError::Forbidden)
        }
    }

    /// Whether a request is a preflight: a browser that asks, before it sends a page's request,
    /// whether it may (Fetch Standard, section 4.8).
    pub fn is_preflight(request: &Request<'_>) -> bool {
        request.method() == "OPTIONS"
            && request.origin().is_some()
            && request.header("access-control-request-method").is_some()
    }

    /// The answer to a preflight, by the same list: a welcome page may send `GET` with
    /// `Content-Type`. For use in [`on_http`](crate::Service::on_http).
    ///
    /// # Errors
    ///
    /// [`HandshakeError::Forbidden`]: 403.
    pub fn answer_preflight(&self, request: &Request<'_>) -> Result<HttpReply, Refusal> {
        self.check(request)?;
        let mut reply = HttpReply::new(204, "text/plain", &b""[..])
            .map_err(|_| HandshakeError::ServicePanicked)?;
        self.add_headers(request, &mut reply);
        tell(&mut reply, "Access-Control-Allow-Methods", "GET, HEAD");
        tell(&mut reply, "Access-Control-Allow-Headers", "content-type");
        Ok(reply)
    }

    /// Tells the browser that the page behind a request may read this reply to it, if it is
    /// welcome: with its cookies, unless all origins are. A page that is not welcome is told
    /// nothing, and its browser keeps the reply from it.
    pub fn add_headers(&self, request: &Request<'_>, reply: &mut HttpReply) {
        let Some(origin) = request.origin() else {
            return;
        };
        let is_listed = |rule: &Rule| *rule != Rule::Any && rule.matches(origin, request);
        if self.rules.iter().any(is_listed) {
            tell(reply, "Access-Control-Allow-Origin", origin);
            tell(reply, "Access-Control-Allow-Credentials", "true");
        } else if self.rules.contains(&Rule::Any) {
            tell(reply, "Access-Control-Allow-Origin", "*");
            return;
        }
        // A cache must not show one page what was meant for another.
        tell(reply, "Vary", "Origin");
    }
}

/// Adds a header of the Fetch Standard, section 3.3.
fn tell(reply: &mut HttpReply, name: &str, value: &str) {
    let added = reply.add_header(name, value);
    debug_assert_eq!(added, Ok(()), "an origin is visible ASCII");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, lines: &str) -> String {
        format!("{method} / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n")
    }

    fn allows(allowed: &[&str], origin: &str) -> bool {
        let mut origins = Origins::default();
        for text in allowed {
            origins = origins.allow(text).expect(text);
        }
        let head = head("GET", &format!("Origin: {origin}\r\n"));
        let request = Request::parse(head.as_bytes()).expect(origin);
        let allows = origins.allows(&request);
        let checked = origins.check(&request);
        let refused = Err(HandshakeError::Forbidden);
        assert_eq!(checked, if allows { Ok(()) } else { refused });
        allows
    }

    #[test]
    fn what_each_rule_allows_and_what_it_does_not() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "https://example.com",
                &[
                    "https://example.com",
                    "https://EXAMPLE.com",
                    "https://example.com:443",
                ],
                &[
                    "http://example.com",
                    "https://example.com:8443",
                    "https://www.example.com",
                    "https://example.com.evil.net",
                    "https://evilexample.com",
                    "null",
                ],
            ),
            (
                "HTTP://Example.com:8080",
                &["http://example.com:8080"],
                &["http://example.com", "https://example.com:8080"],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:3000"],
                &["https://localhost", "http://localhost.evil.net:3000"],
            ),
            (
                "https://*.example.com",
                &["https://www.example.com", "https://a.b.example.com"],
                &[
                    "https://example.com",
                    "https://.example.com",
                    "https://evilexample.com",
                    "https://www.example.com:8443",
                    "http://www.example.com",
                    "https://www.example.com.evil.net",
                ],
            ),
            (
                "https://*.example.com:*",
                &["https://www.example.com:8443"],
                &["https://example.com:8443"],
            ),
            (
                "http://[::1]:9001",
                &["http://[::1]:9001"],
                &["http://[::1]"],
            ),
            (
                "app://desk",
                &["app://desk"],
                &["app://desk:1", "app://other"],
            ),
            (
                "same-origin",
                &[
                    "http://example.com",
                    "https://example.com",
                    "http://example.com:8080",
                ],
                &["http://www.example.com", "http://com", "null"],
            ),
            ("null", &["null"], &["http://example.com", "nullable"]),
            ("*", &["null", "http://example.com", "file://"], &[]),
        ];
        for (rule, allowed, refused) in cases {
            for origin in *allowed {
                assert!(allows(&[rule], origin), "{rule} {origin}");
            }
            for origin in *refused {
                assert!(!allows(&[rule], origin), "{rule} {origin}");
            }
        }
        assert!(!allows(&[], "http://example.com"));
        let both = ["https://a.net", "same-origin"];
        assert!(allows(&both, "https://a.net") && allows(&both, "http://example.com"));
        assert!(!allows(&both, "https://b.net"));
    }

    #[test]
    fn a_request_without_an_origin_passes() {
        let head = head("GET", "");
        let request = Request::parse(head.as_bytes()).unwrap();
        assert!(Origins::default().allows(&request));
    }

    #[test]
    fn what_is_no_origin_is_said() {
        for text in [
            "",
            "example.com",
            "*.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://exa*mple.com",
            "https://*.*.example.com",
            "https://*.[::1]",
            "https://example.com/",
            "https://example.com/path",
            "https://example.com:port",
            "https://ex\u{e4}mple.com",
            "Same-Origin",
        ] {
            let error = Origins::default().allow(text).unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}' is not")), "{error}");
        }
    }

    #[test]
    fn a_preflight_is_answered_by_the_same_list() {
        let asks = "Access-Control-Request-Method: GET\r\n";
        let lines = format!("Origin: https://a.net\r\n{asks}");
        let head_of = |method: &str, lines: &str| head(method, lines);
        let listed = Origins::default().allow("https://a.net").unwrap();
        let options = head_of("OPTIONS", &lines);
        let request = Request::parse(options.as_bytes()).unwrap();
        assert!(Origins::is_preflight(&request));
        let reply = |origins: &Origins| origins.answer_preflight(&request);
        assert_eq!(reply(&listed).unwrap().status(), 204);
        assert_eq!(reply(&Origins::any()).unwrap().status(), 204);
        let refused = reply(&Origins::same_origin()).unwrap_err();
        assert_eq!(refused.status(), 403);
        for (method, lines) in [
            ("GET", &lines[..]),
            ("OPTIONS", asks),
            ("OPTIONS", "Origin: https://a.net\r\n"),
        ] {
            let head = head_of(method, lines);
            let request = Request::parse(head.as_bytes()).unwrap();
            assert!(!Origins::is_preflight(&request), "{method} {lines}");
        }
    }
}
