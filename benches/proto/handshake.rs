//! The opening handshake: what a server does for each connection, step by step and as a whole, and
//! the client's half.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/settings.rs"]
mod settings;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::proto::handshake::{
    Answer, ClientRequest, HeadScanner, Proof, ReplyHeaders, Request, Upgrade, WsUrl,
    accept_key::ACCEPT_KEY_LEN, check_upgrade, encode_switching_protocols,
};

use common::{Answers, is_measured};

/// What a small client sends.
const SHORT: &str = "GET / HTTP/1.1\r\n\
    Host: 127.0.0.1:9001\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// What a browser sends.
const BROWSER: &str = "GET /chat?room=lobby HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/138.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=d41d8cd98f00b204e9800998ecf8427e; theme=dark; consent=1\r\n\
    Sec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

const REQUESTS: [(&str, &str); 2] = [("short", SHORT), ("browser", BROWSER)];

const HEAD_BYTES_MAX: usize = 8 * 1024;

const REPLY_HEADERS: ReplyHeaders<'static> = ReplyHeaders {
    date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
    server: Some("ringwire"),
};

/// Finds the end of the head, which arrives in pieces of at most this many bytes.
fn scan(head: &[u8], piece_bytes: usize) -> usize {
    let mut scanner = HeadScanner::new();
    for piece in head.chunks(piece_bytes) {
        let found = scanner.push(piece, HEAD_BYTES_MAX);
        if found.expect("a right head").is_some() {
            break;
        }
    }
    scanner.seen_bytes()
}

fn accept_key(upgrade: &Upgrade<'_>) -> [u8; ACCEPT_KEY_LEN] {
    match upgrade.proof() {
        Proof::AcceptKey(key) => key,
        Proof::Challenge(_) => panic!("the requests here are of RFC 6455"),
    }
}

/// Everything from the bytes of a request to the bytes of its answer.
fn whole(head: &[u8], reply: &mut Vec<u8>) {
    let len = scan(head, head.len());
    let request = Request::parse(&head[..len]).expect("a right request");
    let upgrade = check_upgrade(&request).expect("an opening handshake");
    reply.clear();
    encode_switching_protocols(reply, &accept_key(&upgrade), &Answer::new(), &REPLY_HEADERS);
}

fn server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("proto/handshake/server");
    let mut answers = Answers::default();
    for (name, text) in REQUESTS {
        let head = text.as_bytes();
        let mut reply = Vec::new();
        whole(head, &mut reply);
        answers.add("server", &reply);
        assert_eq!(scan(head, 1), head.len());

        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("scan", name), |bencher| {
            bencher.iter(|| scan(head, head.len()));
        });
        let half = head.len().div_ceil(2);
        group.bench_function(BenchmarkId::new("scan in two pieces", name), |bencher| {
            bencher.iter(|| scan(head, half));
        });
        group.bench_function(BenchmarkId::new("parse", name), |bencher| {
            bencher.iter(|| Request::parse(head).is_ok());
        });
        let request = Request::parse(head).expect("a right request");
        group.bench_function(BenchmarkId::new("check", name), |bencher| {
            bencher.iter(|| check_upgrade(&request).is_ok());
        });
        let upgrade = check_upgrade(&request).expect("an opening handshake");
        group.bench_function(BenchmarkId::new("accept key", name), |bencher| {
            bencher.iter(|| accept_key(&upgrade));
        });
        let key = accept_key(&upgrade);
        group.bench_function(BenchmarkId::new("reply", name), |bencher| {
            bencher.iter(|| {
                reply.clear();
                encode_switching_protocols(&mut reply, &key, &Answer::new(), &REPLY_HEADERS);
            });
        });
        group.bench_function(BenchmarkId::new("whole", name), |bencher| {
            bencher.iter(|| whole(head, &mut reply));
        });
        if !is_measured() {
            break;
        }
    }
    group.finish();
    answers.print("proto/handshake/server");
}

fn client(criterion: &mut Criterion) {
    let url = WsUrl::parse("ws://chat.example.com/chat?room=lobby").expect("a URL");
    let request = ClientRequest::new(url);
    let nonce = *b"the sample nonce";
    let mut head = Vec::new();
    let accept = request.encode(nonce, &mut head);
    let mut reply = Vec::new();
    whole(&head, &mut reply);

    let mut answers = Answers::default();
    answers.add("client", &head);
    answers.add("client", &reply);
    let checked = request.check_response(&reply, &accept);
    checked.expect("the server's answer is right");

    let mut group = criterion.benchmark_group("proto/handshake/client");
    group.throughput(Throughput::Elements(1));
    group.bench_function("request", |bencher| {
        bencher.iter(|| {
            head.clear();
            request.encode(nonce, &mut head)
        });
    });
    group.bench_function("check of the reply", |bencher| {
        bencher.iter(|| request.check_response(&reply, &accept).is_ok());
    });
    group.finish();
    answers.print("proto/handshake/client");
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = server, client
}
criterion_main!(benches);
