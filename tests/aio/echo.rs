use ringwire::{CloseCode, MessageKind, aio};

async fn echo(mut socket: aio::WebSocket) {
    let writer = socket.writer();
    while let Some(message) = socket.next().await {
        if writer.send(message).await.is_err() {
            break;
        }
    }
}

fn serve() -> (aio::Server, String) {
    let server = aio::Server::builder()
        .listen("127.0.0.1:0")
        .threads(1)
        .start(echo)
        .unwrap();
    let url = format!("ws://{}/", server.addresses()[0]);
    (server, url)
}

#[test]
fn messages_of_all_sizes_come_back() {
    let (server, url) = serve();
    tokio_uring::start(async {
        let mut socket = aio::connect(&url).await.unwrap();
        for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let payload = vec![b'x'; len];
            socket.send(&payload[..]).await.unwrap();
            let answer = socket.next_owned().await.unwrap();
            assert_eq!(
                (answer.kind(), answer.payload().len()),
                (MessageKind::Binary, len)
            );
            let text = String::from_utf8(payload).unwrap();
            socket.send(text.as_str()).await.unwrap();
            let answer = socket.next().await.unwrap();
            assert_eq!(answer.text(), Some(text.as_str()));
        }
        socket
            .close(CloseCode::NORMAL_CLOSURE, "done")
            .await
            .unwrap();
    });
    server.handle().stop();
    server.join().unwrap();
}
