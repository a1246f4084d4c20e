//! Both roles over TLS.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use ringwire::{
    CloseCause, CloseCode, Config, aio,
    client::Dial,
    tls::{ClientTls, ServerTls},
};

use crate::{
    authority::Authority,
    host::{WAIT, echo, run},
};

fn host(authority: &Authority) -> (aio::Server, String) {
    let pair = authority.issue(&["localhost"]);
    let tls = ServerTls::builder()
        .certificate(&pair.certificate, &pair.key)
        .load()
        .unwrap();
    let server = aio::Server::builder()
        .listen_tls("127.0.0.1:0", &tls)
        .threads(1)
        .pinned(false)
        .config(Config::default())
        .start(echo)
        .unwrap();
    let address = server.tls_addresses()[0].to_string();
    let port = address.rsplit(':').next().unwrap();
    let url = format!("wss://localhost:{port}/");
    (server, url)
}

fn dial(url: &str, authority: &Authority) -> Dial {
    let tls = ClientTls::builder().authorities(&authority.file).load();
    let mut dial = Dial::with_tls(url, &tls.unwrap()).unwrap();
    let port = dial.request.url().port().unwrap();
    dial.address = format!("127.0.0.1:{port}").parse().unwrap();
    dial
}

#[test]
fn messages_of_all_sizes_come_back_over_tls() {
    let authority = Authority::new();
    let (server, url) = host(&authority);
    run(async {
        let mut socket = aio::dial(dial(&url, &authority)).await.unwrap();
        let version = socket.with_tls(|tls| format!("{:?}", tls.version()));
        assert!(version.unwrap().contains("1"));
        for len in [0, 1, 125, 16_384, 100_000, 3 << 20] {
            let payload = vec![len as u8; len];
            socket.send(&payload[..]).await.unwrap();
            assert_eq!(socket.next().await.unwrap().payload(), payload);
        }
        for number in 0..1000_u32 {
            socket.feed(&number.to_be_bytes()[..]).await.unwrap();
        }
        for number in 0..1000_u32 {
            assert_eq!(socket.next().await.unwrap().payload(), number.to_be_bytes());
        }
        let closed = socket.close(CloseCode::NORMAL_CLOSURE, "").await;
        assert_eq!(closed, Ok(()));
    });
    server.handle().stop();
    let handle = server.handle();
    server.join().unwrap();
    let stats = handle.stats();
    assert_eq!(
        (stats.counts.tls_handshakes, stats.counts.tls_failures),
        (1, 0)
    );
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_dialled() {
    let authority = Authority::new();
    let (server, url) = host(&authority);
    let other = Authority::new();
    run(async {
        let error = aio::dial(dial(&url, &other)).await.unwrap_err();
        assert!(
            matches!(error, aio::OpenError::Ended(CloseCause::Tls(_))),
            "{error}"
        );
    });
    server.handle().stop();
    server.join().unwrap();
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let authority = Authority::new();
    let (server, _) = host(&authority);
    let mut stream = TcpStream::connect(server.tls_addresses()[0].to_string()).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    assert!(reply.contains("TLS port"), "{reply}");
    drop(stream);
    server.handle().stop();
    server.join().unwrap();
}
