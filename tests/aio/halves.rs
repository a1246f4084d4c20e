//! Halves, streams and sinks.

use std::{future::poll_fn, pin::pin};

use futures_core::Stream;
use futures_sink::Sink;
use ringwire::{CloseCause, CloseCode, Config, SendError, aio};

use crate::host::{Host, echo, run};

#[test]
fn halves_work_in_two_tasks() {
    let host = Host::new(Config::default(), echo);
    run(async {
        let socket = aio::connect(&host.url()).await.unwrap();
        let (mut reader, writer) = socket.split();
        let sending = tokio::task::spawn_local(async move {
            // More than all buffers on the way hold: only if the other half reads, it ends.
            let payload = vec![1; 1 << 20];
            for _ in 0..64 {
                writer.send(&payload[..]).await.unwrap();
            }
            writer
        });
        for _ in 0..64 {
            assert_eq!(reader.next().await.unwrap().payload().len(), 1 << 20);
        }
        let writer = sending.await.unwrap();
        writer.close(CloseCode::NORMAL_CLOSURE, "").unwrap();
        assert!(reader.next().await.is_none());
        assert_eq!(
            reader.cause(),
            Some(CloseCause::Application(CloseCode::NORMAL_CLOSURE))
        );
        assert_eq!(writer.send("late").await, Err(SendError::Closed));
    });
}

#[test]
fn a_writer_outlives_its_reader_and_what_comes_is_thrown_away() {
    let host = Host::new(Config::default(), echo);
    run(async {
        let (reader, writer) = aio::connect(&host.url()).await.unwrap().split();
        drop(reader);
        for _ in 0..100 {
            writer.send(vec![1; 100_000]).await.unwrap();
            writer.flush().await.unwrap();
        }
        drop(writer);
        let context = aio::Context::current().unwrap();
        while context.connections() > 0 {
            tokio::task::yield_now().await;
        }
    });
    host.wait_for("echo of all messages", |stats| {
        stats.counts.messages_sent == 100 && stats.connections_open == 0
    });
}

#[test]
fn a_web_socket_is_a_stream_and_a_sink() {
    let host = Host::new(Config::default(), async |socket: aio::WebSocket| {
        let (reader, writer) = socket.split();
        let (mut reader, mut writer) = (pin!(reader), pin!(writer));
        while let Some(message) = poll_fn(|context| reader.as_mut().poll_next(context)).await {
            poll_fn(|context| Sink::<aio::OwnedMessage>::poll_ready(writer.as_mut(), context))
                .await
                .unwrap();
            writer.as_mut().start_send(message).unwrap();
        }
    });
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        let payload = vec![7; 300_000];
        for _ in 0..20 {
            let mut sink = pin!(&mut socket);
            poll_fn(|context| Sink::<Vec<u8>>::poll_ready(sink.as_mut(), context))
                .await
                .unwrap();
            sink.as_mut().start_send(payload.clone()).unwrap();
            poll_fn(|context| Sink::<Vec<u8>>::poll_flush(sink.as_mut(), context))
                .await
                .unwrap();
            let mut stream = pin!(&mut socket);
            let answer = poll_fn(|context| stream.as_mut().poll_next(context)).await;
            assert_eq!(answer.unwrap().payload(), &payload);
        }
        let mut sink = pin!(&mut socket);
        poll_fn(|context| Sink::<Vec<u8>>::poll_close(sink.as_mut(), context))
            .await
            .unwrap();
        assert!(socket.next().await.is_none());
    });
}
