//! A client of the admin side of a running server.
//!
//! Knows: where settings say that it is, and which token it wants. Refuses to know: what it is
//! asked for.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{self as unix, SocketAddr},
        },
    },
    path::Path,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use ringwire::Address;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use crate::{
    settings::{self, Settings},
    tokens::Tokens,
};

/// The longest answer: the counts of a thousand shards.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Who asks.
pub struct Client {
    address: Address,
    tokens: Vec<Option<String>>,
    /// The one of them that was welcome.
    known: usize,
    runtime: runtime::Runtime,
}

impl Client {
    /// Where these settings say that a server's admin side is, with the tokens that they name.
    ///
    /// # Errors
    ///
    /// Why nobody can be asked, as a sentence.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let Some(text) = settings.admin_listen.first() else {
            return Err(format!(
                "there is no {} to ask at: name the file that the server was started with \
                 (--config) or its admin side, or send the server SIGHUP",
                settings.name("admin_listen")
            ));
        };
        let mut addresses = settings::addresses(text)?;
        // What listens everywhere listens here as well.
        for address in &mut addresses {
            if let Address::Inet(inet) = address
                && inet.ip().is_unspecified()
            {
                inet.set_ip(match inet.ip() {
                    std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                });
            }
        }
        let Some(address) = addresses.into_iter().next() else {
            return Err(format!("'{text}' is no address"));
        };
        let tokens = match settings.admin_token_file.as_str() {
            "" => vec![None],
            path => Tokens::read(Path::new(path))?
                .into_each()
                .map(Some)
                .collect(),
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            address,
            tokens,
            known: 0,
            runtime: runtime.map_err(in_words)?,
        })
    }

    /// Where it asks.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Asks, with one token after the other as long as none is known there. The answer has so long.
    ///
    /// # Errors
    ///
    /// Why there is no answer, as the end of a sentence.
    pub fn ask(
        &mut self,
        method: &Method,
        path: &str,
        patience: Duration,
    ) -> Result<(StatusCode, String), String> {
        let asking = async {
            let mut answered = Err("there is no token to show".to_owned());
            for _ in 0..self.tokens.len() {
                let token = self.tokens[self.known].as_deref();
                answered = ask_at(&self.address, method, path, token).await;
                // The file may have new ones, which the server is only to read.
                if !matches!(answered, Ok((StatusCode::UNAUTHORIZED, _))) {
                    break;
                }
                self.known = (self.known + 1) % self.tokens.len();
            }
            answered
        };
        let asked = self
            .runtime
            .block_on(async { timeout(patience, asking).await });
        asked.unwrap_or_else(|_| Err(format!("it has not answered for {} s", patience.as_secs())))
    }
}

async fn ask_at(
    address: &Address,
    method: &Method,
    path: &str,
    token: Option<&str>,
) -> Result<(StatusCode, String), String> {
    match address {
        Address::Inet(inet) => {
            let stream = TcpStream::connect(inet).await;
            ask_over(TokioIo::new(stream.map_err(in_words)?), method, path, token).await
        }
        Address::Unix(at) => {
            let stream = connect_unix(at).map_err(in_words)?;
            ask_over(TokioIo::new(stream), method, path, token).await
        }
    }
}

/// Connects to a path, or to the abstract name behind an `@` (`unix(7)`).
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let address = match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let stream = unix::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn in_words(error: impl ToString) -> String {
    error.to_string()
}

async fn ask_over<S>(
    stream: S,
    method: &Method,
    path: &str,
    token: Option<&str>,
) -> Result<(StatusCode, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(in_words)?;
    let request = Request::builder().method(method).uri(path);
    let mut request = request.header(header::HOST, "localhost");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(in_words)?;
    // What goes wrong with it shows in the request.
    tokio::spawn(connection);
    let reply = sender.send_request(request).await.map_err(in_words)?;
    let status = reply.status();
    let body = Limited::new(reply.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(in_words)?;
    let words = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, words))
}
