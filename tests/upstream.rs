//! The guarded client by itself: TLS, HTTP/2 and redirects, on real sockets.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tests fail by panicking, and measure real time"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    connect::GuardedConnector,
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::Target,
    rejection::RejectionKind,
    resolve::FixedResolver,
    upstream::{Body, Redirects, Upstream},
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};

struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<String>>>,
    root: CertificateDer<'static>,
}

/// Speaks HTTP/2 or HTTP/1.1 over TLS as `origin.example`, or HTTP/1.1 in the clear, and answers by path.
async fn server(tls: Option<&'static [&'static [u8]]>) -> Server {
    let key = rcgen::generate_simple_self_signed(["origin.example".to_owned()]).unwrap();
    let root = key.cert.der().clone();
    let acceptor = tls.map(|protocols| {
        let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![root.clone()], secret.into()).unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (count, log) = (connections.clone(), seen.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let (acceptor, log) = (acceptor.clone(), log.clone());
            let answer = service_fn(move |request| answer(request, addr, log.clone()));
            tokio::spawn(async move {
                let Some(acceptor) = acceptor else {
                    return drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                };
                let Ok(stream) = acceptor.accept(stream).await else { return };
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
                } else {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                }
            });
        }
    });
    Server { addr, connections, seen, root }
}

async fn answer(
    request: Request<Incoming>,
    addr: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let credentials = ["authorization", "cookie", "x-key"].iter().filter(|n| request.headers().contains_key(**n)).count();
    let line = format!("{} {path} {credentials}", request.method());
    let version = request.version();
    let body = request.into_body().collect().await.map_or(0, |b| b.to_bytes().len());
    log.lock().unwrap().push(format!("{line} {body}"));
    let mut response = Response::new(Full::new(Bytes::from(format!("{version:?}"))));
    let port = addr.port();
    let location = match path.as_str() {
        "/relative" => Some((302, "end".to_owned())),
        "/foreign" => Some((302, format!("http://other.example:{port}/back"))),
        "/back" => Some((307, format!("http://origin.example:{port}/end"))),
        "/see" => Some((303, "/end".to_owned())),
        "/keep" => Some((308, "/end".to_owned())),
        "/inside" => Some((302, "http://10.0.0.1/".to_owned())),
        "/metadata" => Some((302, "http://169.254.169.254/latest/".to_owned())),
        "/down" => Some((302, format!("http://origin.example:{port}/end"))),
        "/round" => Some((301, "/round".to_owned())),
        _ => None,
    };
    if let Some((status, location)) = location {
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("location", location.parse().unwrap());
    }
    Ok(response)
}

fn client(server: &Server) -> Upstream {
    let loopback = Exception::any_host(["127.0.0.1/32"]).unwrap();
    let policy = PolicyHandle::new(EgressPolicy::builder().with_exception(loopback).build().unwrap());
    let connector = GuardedConnector::builder()
        .resolver(FixedResolver::new(["127.0.0.1".parse().unwrap()]))
        .extra_roots([server.root.clone()])
        .build()
        .unwrap();
    Upstream::builder(policy, connector).build()
}

async fn get(client: &Upstream, url: &str, redirects: &Redirects) -> Result<(StatusCode, String), portcullis::upstream::Error> {
    let request = Request::get(url).header("authorization", "Bearer x").header("cookie", "a=b").header("x-key", "k");
    let response = client.fetch(request.body(Body::empty()).unwrap(), redirects).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[tokio::test]
async fn alpn_chooses_and_http2_connections_are_shared_by_one_principal_only() {
    let origin = server(Some(&[b"h2", b"http/1.1"])).await;
    let client = client(&origin);
    let target = Target::parse(&format!("https://origin.example:{}/x", origin.addr.port())).unwrap();
    let permit = client.policy().permit(&target).unwrap();
    let send = async |tenant: Option<&Arc<str>>| {
        let (response, info) = client.send(&permit, tenant, Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(info.addr, origin.addr);
        response.into_body().collect().await.unwrap();
        info.reused
    };
    assert!(!send(None).await);
    assert!(send(None).await);
    assert!(!send(Some(&"someone".into())).await, "another principal has another connection");
    assert_eq!(origin.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn http_1_over_tls_is_pooled() {
    let origin = server(Some(&[b"http/1.1"])).await;
    let client = client(&origin);
    let url = format!("https://origin.example:{}/x", origin.addr.port());
    for _ in 0..3 {
        let (status, version) = get(&client, &url, &Redirects::none()).await.unwrap();
        assert_eq!((status, version.as_str()), (StatusCode::OK, "HTTP/1.1"));
    }
    assert_eq!(origin.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let origin = server(Some(&[b"h2"])).await;
    let client = client(&origin);
    let error =
        get(&client, &format!("https://elsewhere.example:{}/", origin.addr.port()), &Redirects::none()).await.unwrap_err();
    let rejection = error.into_rejection();
    assert_eq!((rejection.kind(), rejection.proxy_status()), (RejectionKind::TlsFailed, "tls_certificate_error"));
    assert!(origin.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn redirects_are_returned_unless_asked_for() {
    let origin = server(None).await;
    let client = client(&origin);
    let base = format!("http://origin.example:{}", origin.addr.port());
    assert_eq!(get(&client, &format!("{base}/relative"), &Redirects::none()).await.unwrap().0, 302);
    assert_eq!(get(&client, &format!("{base}/relative"), &Redirects::follow(1)).await.unwrap().0, 200);
    assert!(get(&client, &format!("{base}/round"), &Redirects::follow(5)).await.is_err());
    assert_eq!(origin.seen.lock().unwrap().len(), 3 + 6);
}

#[tokio::test]
async fn cve_2023_32681_and_cve_2024_28849_credentials_are_dropped_for_good_once_the_origin_is_left() {
    let origin = server(None).await;
    let client = client(&origin);
    let redirects = Redirects::follow(3);
    get(&client, &format!("http://origin.example:{}/foreign", origin.addr.port()), &redirects).await.unwrap();
    assert_eq!(*origin.seen.lock().unwrap(), ["GET /foreign 3 0", "GET /back 0 0", "GET /end 0 0"]);
}

#[tokio::test]
async fn every_hop_goes_through_the_whole_guard() {
    let origin = server(None).await;
    let client = client(&origin);
    for path in ["/inside", "/metadata"] {
        let error = get(&client, &format!("http://origin.example:{}{path}", origin.addr.port()), &Redirects::follow(3))
            .await
            .unwrap_err();
        assert!(error.is_denied(), "{path}: {error}");
    }
    let origin = server(Some(&[b"http/1.1"])).await;
    let client = self::client(&origin);
    let error =
        get(&client, &format!("https://origin.example:{}/down", origin.addr.port()), &Redirects::follow(3)).await.unwrap_err();
    assert!(!error.is_denied() && error.to_string().contains("https to http"), "{error}");
}

#[tokio::test]
async fn methods_and_bodies_over_redirects() {
    let origin = server(None).await;
    let client = client(&origin);
    let base = format!("http://origin.example:{}", origin.addr.port());
    for (path, status) in [("/see", 200), ("/foreign", 200), ("/keep", 308)] {
        let request =
            Request::builder().method(Method::POST).uri(format!("{base}{path}")).body(Body::from(Bytes::from("hello"))).unwrap();
        let response = client.fetch(request, &Redirects::follow(3)).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
    assert_eq!(
        *origin.seen.lock().unwrap(),
        ["POST /see 0 5", "GET /end 0 0", "POST /foreign 0 5", "GET /back 0 0", "GET /end 0 0", "POST /keep 0 5"]
    );
}
