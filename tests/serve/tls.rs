//! TLS on the listener: certificates of both sides, and their exchange while the server runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::serve::{ClientAuth, Server, Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    },
};

use crate::support::{Running, read_to_end, short};

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    fn files(&self) -> TlsFiles {
        let (cert, key) = self.issue("localhost");
        TlsFiles::new(cert.pem(), key.serialize_pem())
    }

    fn client(&self, alpn: &[&str], cert: Option<(rcgen::Certificate, KeyPair)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.der().to_vec())).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match cert {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => builder
                .with_client_auth_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
                .unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

async fn connect(server: &Running, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    connector.connect(ServerName::try_from("localhost").unwrap(), server.connect().await).await
}

async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn alpn_hsts_and_other_certificates_while_it_runs() {
    let (ca, next) = (Ca::new(), Ca::new());
    let tls = Tls::new(&ca.files()).unwrap();
    let server = Running::start(short().tls(tls.clone()).hsts(Duration::from_secs(3600))).await;
    let mut stream = connect(&server, &ca.client(&["http/1.1"], None)).await.unwrap();
    let text = get(&mut stream, "/").await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("strict-transport-security: max-age=3600\r\n"), "{text}");

    let stream = connect(&server, &ca.client(&["h2", "http/1.1"], None)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = || Request::get("https://localhost/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);

    // Other certificates: new connections see them, the open one goes on.
    assert!(tls.swap(&TlsFiles::new("nonsense", "nonsense")).is_err());
    assert!(connect(&server, &ca.client(&[], None)).await.is_ok());
    tls.swap(&next.files()).unwrap();
    assert!(connect(&server, &ca.client(&[], None)).await.is_err());
    assert!(connect(&server, &next.client(&[], None)).await.is_ok());
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn client_certificates() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let tls = Tls::new(&ca.files().client_ca(ca.0.pem(), auth)).unwrap();
        let server = Running::start(short().tls(tls)).await;
        let certs = async |cert| {
            let mut stream = connect(&server, &ca.client(&[], cert)).await?;
            get(&mut stream, "/certs").await
        };
        assert!(certs(Some(ca.issue("client"))).await.unwrap().ends_with("\r\n\r\n1"));
        assert!(certs(Some(foreign.issue("client"))).await.is_err());
        assert_eq!(certs(None).await.is_ok_and(|text| text.ends_with("\r\n\r\n0")), without);
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut() {
    let server = Running::start(short().tls(Tls::new(&Ca::new().files()).unwrap())).await;
    let mut stream = server.connect().await;
    stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap();
    let started = Instant::now();
    assert_eq!(read_to_end(&mut stream).await.0, "");
    let took = started.elapsed();
    assert!(took > Duration::from_millis(400) && took < Duration::from_secs(1), "{took:?}");
}

/// The last bytes wait in the TLS session for a reader that is slower than the server; then there is silence.
#[tokio::test]
async fn a_slow_reader_who_has_caught_up_is_no_stalled_one() {
    let ca = Ca::new();
    let builder = short().write_idle_timeout(Duration::from_secs(2));
    let server = Running::start(builder.tls(Tls::new(&ca.files()).unwrap())).await;
    let mut stream = connect(&server, &ca.client(&[], None)).await.unwrap();
    stream.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut tail, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let n = stream.read(&mut piece).await.expect("the connection was cut");
        if n == 0 {
            break;
        }
        tail.extend_from_slice(&piece[..n]);
        tail.drain(..tail.len().saturating_sub(100));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(tail.ends_with(b"last words\r\n0\r\n\r\n"), "{}", String::from_utf8_lossy(&tail));
    assert_eq!(server.server.stats().write_stalls, 0);
}

#[tokio::test]
async fn an_early_answer_survives_tls_too() {
    let ca = Ca::new();
    let server = Running::start(Server::builder().tls(Tls::new(&ca.files()).unwrap())).await;
    let mut stream = connect(&server, &ca.client(&[], None)).await.unwrap();
    stream.write_all(b"POST /413 HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let upload = async {
        for _ in 0..30 {
            write.write_all(&[b'x'; 30_000]).await?;
        }
        write.flush().await
    };
    let mut bytes = Vec::new();
    let (sent, received) = tokio::join!(upload, read.read_to_end(&mut bytes));
    assert!(bytes.starts_with(b"HTTP/1.1 413"), "{sent:?} {received:?} {}", String::from_utf8_lossy(&bytes));
    assert!(received.is_ok() && sent.is_ok(), "{sent:?} {received:?}");
}
