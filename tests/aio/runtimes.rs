//! In which runtimes connections work, and what is said in the others.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
    thread,
};

use ringwire::{CloseCode, Config, RingKind, StartError, aio};

use crate::host::{Host, current_thread, echo, in_time};

/// More than the socket buffers of both sides hold.
const MUCH: usize = 12 << 20;

/// As `#[tokio::main]` has it.
fn several_threads() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// A server and a client in one runtime, without a task of the application's: what does not fit
/// into a socket, and what is left of a connection, is up to tasks of ours.
async fn talk() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let socket = aio::accept(stream.into_std().unwrap()).await.unwrap();
        echo(socket).await;
    };
    let ask = async {
        let mut socket = aio::connect(&url).await.unwrap();
        let writer = socket.writer();
        let payload = bytes::Bytes::from(vec![7; MUCH]);
        for _ in 0..2 {
            writer.send(payload.clone()).await.unwrap();
        }
        for _ in 0..2 {
            assert_eq!(socket.next().await.unwrap().payload(), &payload[..]);
        }
        socket.close(CloseCode::NORMAL_CLOSURE, "").await.unwrap();
        drop(socket);
    };
    in_time(async { tokio::join!(serve, ask) }).await;
    gone().await;
}

/// Waits until the connections of this thread are seen off.
async fn gone() {
    let context = aio::Context::current().unwrap();
    in_time(async {
        while context.connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn a_current_thread_runtime_does_as_it_is() {
    current_thread().block_on(talk());
    tokio::task::LocalSet::new().block_on(&current_thread(), talk());
    tokio_uring::start(talk());
    let options = tokio::runtime::LocalOptions::default();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .build_local(options)
        .unwrap()
        .block_on(talk());
    aio::block_on(talk()).unwrap();
}

#[test]
fn a_runtime_of_several_threads_does_in_local() {
    several_threads().block_on(aio::local(async {
        talk().await;
        // Tasks of the application's are on this thread as well.
        tokio::task::spawn_local(talk()).await.unwrap();
    }));
}

#[test]
fn a_runtime_of_several_threads_says_what_to_do_without() {
    let refused = |error: aio::OpenError| {
        assert!(
            matches!(error, aio::OpenError::NoHome(aio::NoHome::SeveralThreads)),
            "{error}"
        );
        assert!(
            error.to_string().contains("ringwire::aio::local"),
            "{error}"
        );
    };
    let runtime = several_threads();
    let url = "ws://127.0.0.1:1/";
    refused(runtime.block_on(aio::connect(url)).unwrap_err());
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    refused(runtime.block_on(aio::accept(ours)).unwrap_err());
    let set = tokio::task::LocalSet::new();
    refused(set.block_on(&runtime, aio::connect(url)).unwrap_err());
    // Behind the end of a place there is none any more.
    runtime.block_on(aio::local(async {}));
    refused(runtime.block_on(aio::connect(url)).unwrap_err());
}

#[test]
fn without_a_runtime_an_error_says_so() {
    let connecting = pin!(aio::connect("ws://127.0.0.1:1/"));
    let polled = connecting.poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Err(error)) = polled else {
        panic!("{polled:?}");
    };
    assert!(matches!(
        error,
        aio::OpenError::NoHome(aio::NoHome::NoRuntime)
    ));
    assert!(
        error.to_string().contains("ringwire::aio::block_on"),
        "{error}"
    );
    assert!(aio::Context::new(Config::default()).is_err());
}

#[test]
fn runtimes_of_one_thread_have_connections_of_their_own() {
    let host = Host::new(Config::default(), echo);
    let (first, second) = (current_thread(), current_thread());
    let mut before = first.block_on(aio::connect(&host.url())).unwrap();
    let mut after = second.block_on(aio::connect(&host.url())).unwrap();
    for (runtime, socket) in [(&first, &mut before), (&second, &mut after)] {
        runtime.block_on(in_time(async {
            socket.send("hello").await.unwrap();
            assert_eq!(socket.next().await.unwrap().text(), Some("hello"));
            assert_eq!(aio::Context::current().unwrap().connections(), 1);
        }));
    }
    drop(first);
    second.block_on(in_time(async {
        after.send("still there").await.unwrap();
        assert_eq!(after.next().await.unwrap().text(), Some("still there"));
    }));
    // The runtime of this one is gone.
    drop(before);
}

#[test]
fn what_outlives_its_runtime_does_no_harm() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        // It reads nothing, so that its peer's queue stays full.
        let _ = poll_fn(|_| Poll::<()>::Pending).await;
        socket.next().await;
    });
    let runtime = current_thread();
    let socket = runtime.block_on(aio::connect(&host.url())).unwrap();
    let writer = socket.writer();
    runtime
        .block_on(in_time(writer.send(vec![0; MUCH])))
        .unwrap();
    drop(runtime);
    let sent = futures_done(writer.send("more"));
    assert!(sent.is_none_or(|sent| sent.is_ok() || sent.is_err()));
    drop(socket);
    drop(writer);
    // The same inside of a place that has ended.
    let runtime = several_threads();
    let socket = runtime.block_on(aio::local(async {
        let socket = aio::connect(&host.url()).await.unwrap();
        socket.writer().send(vec![0; MUCH]).await.unwrap();
        socket
    }));
    drop(socket);
}

/// The output of a future that is polled once.
fn futures_done<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn a_runtime_that_another_thread_goes_on_with_leaves_connections_alone() {
    let host = Host::new(Config::default(), echo);
    let runtime = current_thread();
    let mut socket = runtime.block_on(aio::connect(&host.url())).unwrap();
    thread::scope(|scope| {
        // The deadline of the connections is due soon after, and wakes the task that keeps it.
        let on_another_thread = || {
            runtime.block_on(async {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            });
        };
        scope.spawn(on_another_thread).join().unwrap();
    });
    runtime.block_on(in_time(async {
        socket.send("hello").await.unwrap();
        assert_eq!(socket.next().await.unwrap().text(), Some("hello"));
    }));
}

#[test]
fn servers_run_on_what_they_are_told() {
    for ring in [RingKind::Epoll, RingKind::Uring] {
        let builder = aio::Server::builder().listen("127.0.0.1:0").threads(2);
        let server = builder.pinned(false).ring(ring).start(echo).unwrap();
        assert_eq!(server.ring(), ring);
        let url = format!("ws://{}/", server.addresses()[0]);
        aio::block_on(in_time(async {
            let mut socket = aio::connect(&url).await.unwrap();
            socket.send("hello").await.unwrap();
            assert_eq!(socket.next().await.unwrap().text(), Some("hello"));
        }))
        .unwrap();
        server.handle().stop();
        server.join().unwrap();
    }
    let started = aio::Server::builder().ring(RingKind::Epoll).start(echo);
    assert!(matches!(started, Err(StartError::NoAddress)));
}
