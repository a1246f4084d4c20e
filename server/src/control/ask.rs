//! `ringwire reload`: asks the admin side of a running server.
//!
//! Knows: where the settings say that it is, and what its answer means for the status of the end.
//! Refuses to know: what a reload does.

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
    process::ExitCode,
    time::Duration,
};

use clap::ArgMatches;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use ringwire::Address;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use crate::{
    serve::WRONG_USAGE,
    settings::{self, Settings},
    tokens::Tokens,
};

/// How long a server has to answer: it reads files.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks, prints what came of it, and says so in its status: 0 for what was applied, 1 for what was
/// not, 2 when there is nobody to ask.
///
/// # Errors
///
/// When nothing can be printed.
pub fn reload(matches: &ArgMatches, out: &mut impl io::Write) -> io::Result<ExitCode> {
    let settings = match settings::load_unchecked(matches) {
        Ok(settings) => settings,
        Err(findings) => {
            for finding in findings {
                writeln!(out, "ringwire: {finding}")?;
            }
            // The server would say the same of them.
            return Ok(ExitCode::FAILURE);
        }
    };
    match ask(&settings) {
        Ok((status, words)) => {
            write!(out, "{words}")?;
            Ok(match status {
                StatusCode::OK => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            })
        }
        Err(sentence) => {
            writeln!(out, "ringwire: {sentence}")?;
            Ok(ExitCode::from(WRONG_USAGE))
        }
    }
}

/// # Errors
///
/// A sentence about why nobody has answered.
fn ask(settings: &Settings) -> Result<(StatusCode, String), String> {
    let Some(text) = settings.admin_listen.first() else {
        return Err(format!(
            "there is no {} to ask at: name the file that the server was started with (--config) \
             or its admin side, or send the server SIGHUP",
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
    let Some(address) = addresses.first() else {
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
    let runtime = runtime.map_err(|error| error.to_string())?;
    let asking = async {
        let mut answered = Err("there is no token to show".to_owned());
        for token in tokens {
            answered = post(address, token.as_deref()).await;
            // The file may have new ones, which the server is only to read.
            if !matches!(answered, Ok((StatusCode::UNAUTHORIZED, _))) {
                break;
            }
        }
        answered
    };
    let asked = runtime.block_on(async { timeout(PATIENCE, asking).await });
    asked
        .unwrap_or_else(|_| Err(format!("it has not answered for {} s", PATIENCE.as_secs())))
        .map_err(|error| {
            format!("the admin side at {address} cannot be asked: {error}; does the server run?")
        })
        .and_then(|(status, words)| match status {
            StatusCode::UNAUTHORIZED => Err(format!(
                "the server knows none of these tokens any more: send it SIGHUP; it says: {words}"
            )),
            _ => Ok((status, words)),
        })
}

async fn post(address: &Address, token: Option<&str>) -> Result<(StatusCode, String), String> {
    match address {
        Address::Inet(inet) => {
            let stream = TcpStream::connect(inet).await;
            post_over(TokioIo::new(stream.map_err(in_words)?), token).await
        }
        Address::Unix(path) => {
            let stream = connect_unix(path).map_err(in_words)?;
            post_over(TokioIo::new(stream), token).await
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

async fn post_over<S>(stream: S, token: Option<&str>) -> Result<(StatusCode, String), String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(stream).await.map_err(in_words)?;
    let mut request = Request::post("/reload").header(header::HOST, "ringwire");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(in_words)?;
    // What goes wrong with it shows in the request.
    tokio::spawn(connection);
    let reply = sender.send_request(request).await.map_err(in_words)?;
    let status = reply.status();
    let body = reply.into_body().collect().await.map_err(in_words)?;
    let words = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, words))
}
