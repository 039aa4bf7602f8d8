//! Time limits of requests that carry a body.

use std::time::{Duration, Instant};

use portcullis::serve::Server;

use crate::support::*;

/// The time for an answer counts from the last byte of the request.
#[tokio::test]
async fn an_upload_that_takes_longer_than_the_header_timeout_is_no_fault() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        let request = wire.request().await.unwrap();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{:02}", request.body.len())).await;
        wire.gone().await;
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let mut client = stack.connect().await;
    client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 12\r\n\r\n", target.path("/"))).await;
    // Drips, with one pause that is longer than the limit.
    for (n, pause) in [(4, T / 2), (4, T / 2), (4, T + T / 2)] {
        tokio::time::sleep(pause).await;
        client.send(&[b'x'; 4][..n]).await;
    }
    let seen = soon("the answer", client.response()).await;
    assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"12"[..]), "{}", seen.head);
}

#[tokio::test]
async fn a_client_that_stalls_its_upload_is_told_so_and_the_target_is_freed() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move { wire.gone().await }).await;
    let server = Server::builder().body_idle_timeout(T).linger(Duration::from_millis(200));
    let stack = Stack::start(Setup { server, ..Setup::default() }).await;
    let mut client = stack.connect().await;
    let started = Instant::now();
    client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 100\r\n\r\nsome", target.path("/"))).await;
    let seen = soon("the answer", client.response()).await;
    assert_eq!(seen.status(), 408, "{}", seen.head);
    // The server looks once a second.
    assert!(started.elapsed() < T + Duration::from_millis(1500), "{:?}", started.elapsed());
    until("the target's connection", PATIENCE, || target.open() == 0).await;
}

/// A target that takes the beginning of a large body and then nothing more.
#[tokio::test]
async fn a_target_that_stops_reading_runs_into_the_header_timeout() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        wire.head().await;
        tokio::time::sleep(PATIENCE).await;
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let client = stack.connect().await;
    let (read, mut write) = client.stream.into_split();
    let path = target.path("/");
    let upload = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let head = format!("POST {path} HTTP/1.1\r\nHost: p\r\nContent-Length: 60000000\r\n\r\n");
        let mut last = Instant::now();
        if write.write_all(head.as_bytes()).await.is_ok() {
            for _ in 0..600 {
                if !matches!(tokio::time::timeout(T / 2, write.write_all(&[b'x'; 100_000])).await, Ok(Ok(()))) {
                    break;
                }
                last = Instant::now();
            }
        }
        (write, last)
    });
    let mut answer = Vec::new();
    let reader = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
            read.readable().await.unwrap();
            match read.try_read(&mut piece) {
                Ok(0) => break,
                Ok(n) => answer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
        }
        Instant::now()
    };
    let ended = soon("the answer", reader).await;
    let (_write, stuck) = upload.await.unwrap();
    let took = ended.saturating_duration_since(stuck);
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 504") && text.contains("error=http_response_timeout"), "{text}");
    assert!(took <= T + SLACK, "{took:?}");
}

/// An answer that comes while the body is still on its way, and the connection after it.
#[tokio::test]
async fn an_answer_during_the_upload_leaves_no_connection_behind() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await;
        wire.gone().await;
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let mut client = stack.connect().await;
    client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 10\r\n\r\nfirst", target.path("/"))).await;
    let seen = soon("the answer", client.response()).await;
    assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"early"[..]));
    assert_eq!(target.open(), 1);
    client.send("after").await;
    until("the target's connection", T * 3, || target.open() == 0).await;
}

/// The same with a target that takes nothing of the rest.
#[tokio::test]
async fn a_rest_of_an_upload_that_nobody_takes_is_given_up() {
    let _alone = alone().await;
    let target = Target::new(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await;
        tokio::time::sleep(PATIENCE).await;
    })
    .await;
    let stack = Stack::start(Setup::default()).await;
    let files = open_files();
    let client = stack.connect().await;
    let (mut read, mut write) = client.stream.into_split();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let head = format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 60000000\r\n\r\n", target.path("/"));
    write.write_all(head.as_bytes()).await.unwrap();
    let upload = tokio::spawn(async move {
        while write.write_all(&[b'x'; 100_000]).await.is_ok() {}
        drop(write);
    });
    let mut piece = [0; 1024];
    let n = soon("the answer", read.read(&mut piece)).await.unwrap();
    assert!(piece[..n].starts_with(b"HTTP/1.1 200"));
    // The target cannot see it, for its queue is full; this side has let go of both connections.
    until("the client's connection", T * 6, || stack.server.stats().open == 0).await;
    soon("the upload's end", upload).await.unwrap();
    drop(read);
    // What is left is the target's end.
    until("descriptors", T, || open_files() <= files + 1).await;
}

mod over_http2 {
    //! The same towards a target that speaks HTTP/2.

    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use http::{Request, Response, Version};
    use http_body_util::{BodyExt as _, Full};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use portcullis::connect::GuardedConnector;
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer},
        },
    };

    use super::*;

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        assert_eq!(request.version(), Version::HTTP_2);
        if request.uri().path() == "/silent" {
            tokio::spawn(request.into_body().collect());
            std::future::pending::<()>().await;
            unreachable!();
        }
        let text = match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len().to_string(),
            Err(error) => format!("broken: {error}"),
        };
        Ok(Response::new(Full::new(text.into())))
    }

    async fn target() -> (Target, CertificateDer<'static>) {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let target = Target::new(move |wire| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(wire.stream).await else { return };
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            }
        })
        .await;
        (target, certified.cert.der().clone())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_time_for_an_answer_counts_from_the_last_byte() {
        let _alone = alone().await;
        let (target, root) = target().await;
        let connector = GuardedConnector::builder().extra_roots([root]);
        let stack = Stack::start(Setup { connector, ..Setup::default() }).await;
        let path = |path: &str| target.path(path).replace("http:", "https:");

        let mut client = stack.connect().await;
        client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: 12\r\n\r\n", path("/sum"))).await;
        for pause in [T / 2, T / 2, T + T / 2] {
            tokio::time::sleep(pause).await;
            client.send("xxxx").await;
        }
        let seen = soon("the answer", client.response()).await;
        assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"12"[..]), "{}", seen.head);

        for body in ["", "some"] {
            let mut client = stack.connect().await;
            let started = Instant::now();
            let head = format!("POST {} HTTP/1.1\r\nHost: p\r\nContent-Length: {}\r\n\r\n", path("/silent"), body.len());
            client.send(head + body).await;
            let seen = soon("the answer", client.response()).await;
            let took = started.elapsed();
            assert_eq!(
                (seen.status(), seen.field("proxy-status")),
                (504, Some("portcullis; error=http_response_timeout")),
                "{body}"
            );
            assert!(took > T / 2 && took < T + SLACK, "{took:?}");
        }

        // The client's own fault is not the target's: more than the limit, without saying so beforehand.
        let mut client = stack.connect().await;
        client.send(format!("POST {} HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n", path("/sum"))).await;
        let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
        let (mut read, mut write) = client.stream.into_split();
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let upload = tokio::spawn(async move {
            for _ in 0..80 {
                if write.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            write
        });
        let mut piece = [0; 1024];
        let n = soon("the answer", read.read(&mut piece)).await.unwrap();
        let text = String::from_utf8_lossy(&piece[..n]);
        assert!(text.starts_with("HTTP/1.1 413"), "{text}");
        upload.abort();
        // Those at rest have their time too.
        until("the target's connections", T * 4, || target.open() == 0).await;
    }
}
