//! Messages there and back, and what the opening handshake agrees on.

use ringwire::{
    Answer, CloseCode, Config, HandshakeError, MessageKind, Refusal, Remote, Upgrade, aio,
    client::{CompressionOffer, Dial},
};

use crate::host::{Host, echo, run};

async fn all_sizes(mut socket: aio::WebSocket) {
    for len in [0, 1, 125, 126, 5000, 65_535, 65_536, 1 << 20] {
        let payload = vec![b'x'; len];
        socket.send(&payload[..]).await.unwrap();
        let answer = socket.next_owned().await.unwrap();
        assert_eq!(
            (answer.kind(), answer.payload()),
            (MessageKind::Binary, &payload.clone().into())
        );
        let text = String::from_utf8(payload).unwrap();
        socket.send(text.as_str()).await.unwrap();
        let answer = socket.next().await.unwrap();
        assert_eq!(answer.text(), Some(text.as_str()));
    }
    let closed = socket.close(CloseCode::NORMAL_CLOSURE, "done").await;
    assert_eq!(closed, Ok(()));
}

#[test]
fn messages_of_all_sizes_come_back() {
    let host = Host::new(Config::default(), echo);
    run(async { all_sizes(aio::connect(&host.url()).await.unwrap()).await });
}

#[test]
fn compressed_messages_of_all_sizes_come_back() {
    let mut config = Config::default();
    config.compress = true;
    let host = Host::new(config, echo);
    run(async {
        let mut dial = Dial::to(&host.url()).unwrap();
        dial.request
            .offer_compression(CompressionOffer::default())
            .unwrap();
        all_sizes(aio::dial(dial).await.unwrap()).await;
    });
    host.wait_for("compressed messages", |stats| {
        stats.counts.compress_messages > 0 && stats.counts.inflate_messages > 0
    });
}

#[test]
fn many_messages_in_flight_come_back_in_order() {
    let host = Host::new(Config::default(), echo);
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        for number in 0..20_000_u32 {
            socket.feed(&number.to_be_bytes()[..]).await.unwrap();
        }
        for number in 0..20_000_u32 {
            let message = socket.next().await.unwrap();
            assert_eq!(message.payload(), number.to_be_bytes());
        }
    });
}

struct Choosy;

impl aio::Handler for Choosy {
    type State = String;

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<String, Refusal> {
        if upgrade.request().path() != "/chat" {
            return Err(HandshakeError::NotFound.into());
        }
        let wanted = upgrade.subprotocols().any(|name| name == "v2");
        if wanted {
            answer
                .choose_subprotocol(upgrade, "v2")
                .map_err(|_| HandshakeError::SubprotocolInvalid)?;
        }
        Ok(upgrade.request().path().to_owned())
    }

    async fn serve(&self, socket: aio::WebSocket, path: String) {
        assert_eq!(socket.subprotocol(), Some("v2"));
        socket.send(path).await.unwrap();
        socket.flush().await.unwrap();
    }
}

#[test]
fn a_handler_judges_requests_and_is_told_what_it_found() {
    let host = Host::new(Config::default(), Choosy);
    run(async {
        let mut dial = Dial::to(&format!("{}chat", host.url())).unwrap();
        dial.request.offer_subprotocol("v2").unwrap();
        let mut socket = aio::dial(dial).await.unwrap();
        assert_eq!(socket.subprotocol(), Some("v2"));
        assert_eq!(socket.next().await.unwrap().text(), Some("/chat"));
        assert!(socket.next().await.is_none());
        let refused = aio::connect(&host.url()).await.unwrap_err();
        assert!(refused.to_string().contains("404"), "{refused}");
    });
}

#[test]
fn a_stream_of_ones_own_is_accepted_beside_a_dialled_one() {
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let socket = aio::accept(stream.into_std().unwrap()).await.unwrap();
            echo(socket).await;
        });
        all_sizes(aio::connect(&url).await.unwrap()).await;
        server.await.unwrap();
        let context = aio::Context::current().unwrap();
        while context.connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
