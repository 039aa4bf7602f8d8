//! The connector on loopback sockets: peer check, deadlines, TLS by name.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    connect::{ConnectError, Connected, Dial, Dialing, GuardedConnector, GuardedConnectorBuilder, RecordingDialer},
    egress::{ApprovedAddr, EgressPermit, EgressPolicy, Exception, PolicyHandle},
    net::{Name, Target},
    rejection::RejectionKind,
    resolve::{Answers, FixedResolver, MapResolver, Resolve, ResolveError, Resolving},
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig, crypto,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::{block_on, builder, ip, sock};

fn loopback() -> EgressPolicy {
    builder().with_exception(Exception::any_host(["127.0.0.0/8", "::1"]).unwrap()).build().unwrap()
}

fn permit(url: &str) -> EgressPermit {
    PolicyHandle::new(loopback()).permit(&Target::parse(url).unwrap()).unwrap()
}

fn connector() -> GuardedConnectorBuilder {
    GuardedConnector::builder().resolver(FixedResolver::new([ip("127.0.0.1")]))
}

fn kind(result: Result<Connected, ConnectError>) -> (RejectionKind, &'static str) {
    let rejection = result.unwrap_err().into_rejection();
    (rejection.kind(), rejection.proxy_status())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

#[tokio::test]
async fn a_plain_connection_carries_bytes() {
    let (listener, addr) = listener().await;
    let server = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let mut connected =
        connector().build().unwrap().connect(&permit(&format!("http://name.example:{}/", addr.port())), false).await.unwrap();
    assert_eq!((connected.peer, connected.is_h2, connected.io.is_tls()), (addr, false, false));
    assert!(connected.io.tcp().nodelay().unwrap());
    connected.io.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    connected.io.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    server.await.unwrap();
}

/// Connects to somewhere else than it is told.
#[derive(Debug)]
struct Liar(SocketAddr);

impl Dial for Liar {
    fn dial(&self, _: ApprovedAddr) -> Dialing<'_> {
        Box::pin(TcpStream::connect(self.0))
    }
}

#[tokio::test]
async fn rule_9_a_stream_that_leads_elsewhere_is_dropped_before_a_byte() {
    let (listener, elsewhere) = listener().await;
    let connector = connector().dialer(Liar(elsewhere)).build().unwrap();
    for url in ["http://name.example:8080/", "https://name.example:8443/", &format!("http://127.0.0.2:{}/", elsewhere.port())] {
        let error = connector.connect(&permit(url), false).await.unwrap_err();
        assert_eq!(error.denial().map(|d| d.reason().as_str()), Some("peer"), "{url}");
        let mut read = Vec::new();
        listener.accept().await.unwrap().0.read_to_end(&mut read).await.unwrap();
        assert!(read.is_empty(), "{url}");
    }
}

/// Counts, and never comes back.
#[derive(Clone, Debug, Default)]
struct BlackHole(Arc<AtomicUsize>);

impl Dial for BlackHole {
    fn dial(&self, _: ApprovedAddr) -> Dialing<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn rule_8_four_attempts_inside_one_deadline() {
    let hole = BlackHole::default();
    let many = (1..=9).map(|i| ip(&format!("127.0.0.{i}")));
    let connector = GuardedConnector::builder().resolver(FixedResolver::new(many)).dialer(hole.clone()).build().unwrap();
    let permit = permit("http://name.example/");
    let started = tokio::time::Instant::now();
    assert_eq!(kind(connector.connect(&permit, false).await), (RejectionKind::ConnectTimeout, "connection_timeout"));
    assert_eq!(hole.0.load(Ordering::Relaxed), 4);
    assert_eq!(started.elapsed().as_secs(), 5);
    let plan: Vec<_> = (1..=4).map(|i| sock(&format!("127.0.0.{i}:80"))).collect();
    assert_eq!(connector.plan(&permit).await.unwrap(), plan);
}

#[derive(Debug)]
struct Never;

impl Resolve for Never {
    fn resolve<'a>(&'a self, _: &'a Name) -> Resolving<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn the_look_up_has_a_deadline_of_its_own() {
    let dialer = RecordingDialer::default();
    let connector =
        GuardedConnector::builder().resolver(Never).dialer(dialer.clone()).dns_timeout(Duration::from_secs(2)).build().unwrap();
    let started = tokio::time::Instant::now();
    let error = connector.connect(&permit("http://name.example/"), false).await.unwrap_err();
    assert!(error.is_dns() && error.is_timeout() && !error.is_denied());
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!(dialer.dials(), []);
}

/// Answers once; a second question is a mistake.
#[derive(Debug, Default)]
struct Once(AtomicUsize);

impl Resolve for Once {
    fn resolve<'a>(&'a self, _: &'a Name) -> Resolving<'a> {
        let first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
        let answer = if first {
            Ok(Answers::new(vec![ip("127.0.0.2"), ip("127.0.0.1")], Duration::ZERO))
        } else {
            Err(ResolveError::Timeout)
        };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn the_next_address_is_tried_without_a_second_look_up() {
    let (listener, addr) = listener().await;
    let connector = GuardedConnector::builder().resolver(Once::default()).build().unwrap();
    // Nothing listens on 127.0.0.2.
    let connected = connector.connect(&permit(&format!("http://name.example:{}/", addr.port())), false).await.unwrap();
    assert_eq!(connected.peer, addr);
    drop(listener);
    let refused = crate::connector::connector()
        .build()
        .unwrap()
        .connect(&permit(&format!("http://127.0.0.1:{}/", addr.port())), false)
        .await;
    assert_eq!(kind(refused), (RejectionKind::ConnectFailed, "connection_refused"));
}

#[test]
fn cve_2026_44578_the_same_permit_and_judge_serve_websockets_and_connect() {
    let policy = PolicyHandle::new(EgressPolicy::default());
    for authority in
        ["127.0.0.1:443", "[::1]:8443", "169.254.169.254:80", "localhost:443", "0x7f.1:8080", "[::ffff:10.0.0.1]:443"]
    {
        let target = Target::parse_connect(authority).unwrap();
        assert!(policy.permit(&target).is_err(), "{authority}");
    }
    let dialer = RecordingDialer::default();
    let resolver = MapResolver::default().with("private.example", [ip("10.0.0.1")]).with("good.example", [ip("8.8.8.8")]);
    let connector = GuardedConnector::builder().resolver(resolver).dialer(dialer.clone()).build().unwrap();
    let targets = [
        Target::parse("ws://private.example/"),
        Target::parse("wss://private.example/"),
        Target::parse_connect("private.example:443"),
        Target::parse_connect("good.example:443"),
        Target::parse("wss://good.example/"),
        Target::parse("wss://missing.example/"),
    ];
    for target in targets {
        let permit = policy.permit(&target.unwrap()).unwrap();
        assert!(block_on(connector.connect(&permit, true)).is_err());
    }
    assert_eq!(dialer.dials(), [sock("8.8.8.8:443"); 2]);
}

/// A TLS server for these names; it tells what ALPN was agreed on.
async fn tls_server(names: &[&str]) -> (SocketAddr, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let der = cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let sni = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
                let _ = stream.write_all(sni.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (addr, der)
}

#[tokio::test]
async fn tls_is_verified_by_name_and_alpn_is_agreed_on() {
    let (addr, root) = tls_server(&["name.example", "127.0.0.1"]).await;
    let port = addr.port();
    let connector = connector().extra_roots([root]).build().unwrap();
    for (http1_only, want) in [(false, true), (true, false)] {
        let mut connected = connector.connect(&permit(&format!("https://NAME.example.:{port}/")), http1_only).await.unwrap();
        assert!(connected.is_h2 == want && connected.io.is_tls() && connected.peer == addr);
        let mut sni = String::new();
        connected.io.read_to_string(&mut sni).await.unwrap();
        assert_eq!(sni, "name.example");
    }
    let mut literal = connector.connect(&permit(&format!("wss://127.0.0.1:{port}/")), true).await.unwrap();
    let mut sni = String::new();
    literal.io.read_to_string(&mut sni).await.unwrap();
    assert_eq!(sni, "none");
    let wrong = connector.connect(&permit(&format!("https://other.example:{port}/")), false).await;
    assert_eq!(kind(wrong), (RejectionKind::TlsFailed, "tls_certificate_error"));
    let untrusted =
        crate::connector::connector().build().unwrap().connect(&permit(&format!("https://name.example:{port}/")), false).await;
    assert_eq!(kind(untrusted), (RejectionKind::TlsFailed, "tls_certificate_error"));
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_nothing() {
    let (listener, addr) = listener().await;
    let url = format!("https://name.example:{}/", addr.port());
    let server = tokio::spawn(async move {
        let mut first = listener.accept().await.unwrap().0;
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let second = listener.accept().await.unwrap().0;
        drop(second);
        let _third = listener.accept().await.unwrap().0;
        std::future::pending::<()>().await;
        drop(first);
    });
    let connector = connector().connect_timeout(Duration::from_millis(300)).build().unwrap();
    assert_eq!(kind(connector.connect(&permit(&url), false).await), (RejectionKind::TlsFailed, "tls_protocol_error"));
    assert_eq!(kind(connector.connect(&permit(&url), false).await), (RejectionKind::TlsFailed, "connection_terminated"));
    assert_eq!(kind(connector.connect(&permit(&url), false).await), (RejectionKind::ConnectTimeout, "connection_timeout"));
    server.abort();
}

#[test]
fn io_errors_have_their_proxy_status() {
    #[derive(Debug)]
    struct Fails(io::ErrorKind);
    impl Dial for Fails {
        fn dial(&self, _: ApprovedAddr) -> Dialing<'_> {
            Box::pin(std::future::ready(Err(self.0.into())))
        }
    }
    for (error, want) in [
        (io::ErrorKind::ConnectionRefused, "connection_refused"),
        (io::ErrorKind::HostUnreachable, "destination_ip_unroutable"),
        (io::ErrorKind::NetworkUnreachable, "destination_ip_unroutable"),
        (io::ErrorKind::ConnectionReset, "connection_terminated"),
        (io::ErrorKind::TimedOut, "connection_timeout"),
    ] {
        let connector = connector().dialer(Fails(error)).build().unwrap();
        let result = block_on(connector.connect(&permit("http://name.example/"), false));
        assert_eq!(kind(result).1, want, "{error}");
    }
}
