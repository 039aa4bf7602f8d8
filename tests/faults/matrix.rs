//! Twelve faults of a target times four kinds of requests.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::{connect::GuardedConnector, rejection::RejectionKind, resolve::HickoryResolver};
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncWriteExt as _, net::UdpSocket};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    BlackHole,
    ResetMidHeader,
    ResetMidBody,
    StallBeforeHeader,
    StallMidBody,
    HalfOpen,
    SlowDrip,
    Garbage,
    TlsFailure,
    DnsStall,
    DnsFailure,
}

const FAULTS: [Fault; 12] = [
    Fault::Refused,
    Fault::BlackHole,
    Fault::ResetMidHeader,
    Fault::ResetMidBody,
    Fault::StallBeforeHeader,
    Fault::StallMidBody,
    Fault::HalfOpen,
    Fault::SlowDrip,
    Fault::Garbage,
    Fault::TlsFailure,
    Fault::DnsStall,
    Fault::DnsFailure,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Post,
    Events,
    WebSocket,
}

const KINDS: [Kind; 4] = [Kind::Get, Kind::Post, Kind::Events, Kind::WebSocket];

/// What the client has to see.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// This row of the refusal table; the Proxy-Status error if it is finer than the table's.
    Row(RejectionKind, Option<&'static str>),
    /// The answer that had begun breaks off.
    Broken,
    /// The tunnel ends, with this close code if any.
    Tunnel(Option<u16>),
}

impl Fault {
    /// What the client sees, and whether that takes a time limit to pass.
    fn want(self, kind: Kind) -> (Want, bool) {
        let row = |kind| Want::Row(kind, None);
        match self {
            Self::Refused => (row(RejectionKind::ConnectFailed), false),
            Self::BlackHole => (row(RejectionKind::ConnectTimeout), true),
            Self::ResetMidHeader | Self::HalfOpen => (row(RejectionKind::ConnectionTerminated), false),
            Self::ResetMidBody if kind == Kind::WebSocket => (Want::Tunnel(None), false),
            Self::ResetMidBody => (Want::Broken, false),
            Self::StallMidBody if kind == Kind::WebSocket => (Want::Tunnel(Some(1001)), true),
            Self::StallMidBody => (Want::Broken, true),
            Self::StallBeforeHeader | Self::SlowDrip => (row(RejectionKind::HeaderTimeout), true),
            Self::Garbage => (row(RejectionKind::BadResponse), false),
            Self::TlsFailure => (Want::Row(RejectionKind::TlsFailed, Some("tls_certificate_error")), false),
            Self::DnsStall => (row(RejectionKind::DnsTimeout), true),
            Self::DnsFailure => (row(RejectionKind::DnsFailed), false),
        }
    }
}

/// All twelve, each at a place of its own.
struct Faults {
    targets: Vec<(Fault, Target)>,
    refused: SocketAddr,
    black_hole: (SocketAddr, Vec<Socket>),
    tls: Target,
}

impl Faults {
    async fn start() -> Self {
        let mut targets = Vec::new();
        for fault in FAULTS {
            targets.push((fault, Target::new(move |wire| misbehave(fault, wire)).await));
        }
        Self { targets, refused: nobody(), black_hole: black_hole(), tls: self_signed().await }
    }

    fn url(&self, fault: Fault) -> String {
        match fault {
            Fault::Refused => format!("http://{}", self.refused),
            Fault::BlackHole => format!("http://{}", self.black_hole.0),
            Fault::TlsFailure => format!("https://{}", self.tls.addr),
            Fault::DnsStall => "http://stall.example".into(),
            Fault::DnsFailure => "http://broken.example".into(),
            _ => format!("http://{}", self.targets.iter().find(|(f, _)| *f == fault).unwrap().1.addr),
        }
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A listener that accepts nothing and whose queue is full: the kernel drops what knocks.
fn black_hole() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..16 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let connected = filler.connect_timeout(&addr.into(), Duration::from_millis(100));
        sockets.push(filler);
        if connected.is_err() {
            return (addr, sockets);
        }
    }
    panic!("the queue of {addr} does not fill");
}

async fn self_signed() -> Target {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Target::new(move |wire| {
        let acceptor = acceptor.clone();
        async move {
            assert!(acceptor.accept(wire.stream).await.is_err(), "the certificate was trusted");
        }
    })
    .await
}

/// A name server: silent for names with `stall`, SERVFAIL for the others.
async fn name_server() -> (SocketAddr, tokio::task::AbortHandle) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut query).await {
            if n < 12 || query[..n].windows(5).any(|w| w == b"stall") {
                continue;
            }
            query[2] |= 0x80;
            query[3] = 0x82;
            let _ = socket.send_to(&query[..n], from).await;
        }
    });
    (addr, task.abort_handle())
}

async fn misbehave(fault: Fault, mut wire: Wire) {
    let Some(request) = wire.request().await else { return };
    let upgrade = field(&request.head, "upgrade").is_some();
    let begin = if upgrade {
        format!("{SWITCH}\u{2}\u{5}early")
    } else if request.head.contains("text/event-stream") {
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n".to_owned()
    } else {
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nearly".to_owned()
    };
    match fault {
        Fault::ResetMidHeader => {
            wire.send("HTTP/1.1 200 OK\r\nContent-Le").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            wire.reset();
        }
        Fault::ResetMidBody => {
            wire.send(begin).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            wire.reset();
        }
        Fault::StallMidBody => {
            wire.send(begin).await;
            wire.gone().await;
        }
        Fault::HalfOpen => {
            let _ = wire.stream.shutdown().await;
            wire.gone().await;
        }
        Fault::SlowDrip => {
            wire.send("HTTP/1.1 200 OK\r\nX-Drip: ").await;
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if wire.stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
        }
        Fault::Garbage => {
            wire.send(b"\x16\x03\x01\x02\0 garbage \xff\xfe\r\n\r\n").await;
            wire.gone().await;
        }
        _ => wire.gone().await,
    }
}

fn request(kind: Kind, path: &str) -> Vec<u8> {
    match kind {
        Kind::Get => format!("GET {path} HTTP/1.1\r\nHost: proxy\r\n\r\n").into_bytes(),
        Kind::Post => {
            let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 50000\r\n\r\n").into_bytes();
            bytes.resize(bytes.len() + 50_000, b'x');
            bytes
        }
        Kind::Events => format!("GET {path} HTTP/1.1\r\nHost: proxy\r\nAccept: text/event-stream\r\n\r\n").into_bytes(),
        Kind::WebSocket => handshake(path).into_bytes(),
    }
}

/// One cell: an error text, or how long it took.
async fn cell(proxy: SocketAddr, url: String, fault: Fault, kind: Kind, exposed: bool) -> Result<Duration, String> {
    let mut client = Wire::connect(proxy).await;
    let started = Instant::now();
    client.send(request(kind, &format!("/proxy/{url}/{fault:?}"))).await;
    let Ok(seen) = tokio::time::timeout(PATIENCE, client.response()).await else { return Err("hangs".into()) };
    let took = started.elapsed();
    let (want, waits) = fault.want(kind);
    let status = seen.field("proxy-status").unwrap_or("none").to_owned();
    let bad = |why: &str| Err(format!("{why}: {} {status:?} {}", seen.status(), String::from_utf8_lossy(&seen.body)));
    match want {
        Want::Row(row, finer) => {
            let error = match row {
                RejectionKind::ConnectFailed | RejectionKind::DnsFailed | RejectionKind::TlsFailed if !exposed => {
                    "destination_unavailable"
                }
                _ => finer.unwrap_or_else(|| row.proxy_status()),
            };
            if seen.status() != row.status().as_u16() || !status.ends_with(&format!("; error={error}")) {
                return bad(&format!("not {} with {error}", row.status()));
            }
            let problem = serde_json::from_slice::<serde_json::Value>(&seen.body);
            if !seen.complete || problem.is_err() || seen.field("content-type") != Some("application/problem+json") {
                return bad("not a whole problem document");
            }
        }
        Want::Broken => {
            let begun: &[u8] = if kind == Kind::Events { b"data: 1\n\n" } else { b"early" };
            if seen.status() != 200 || seen.body != begun {
                return bad("what had come was not passed on");
            }
            if seen.complete {
                return bad("it looks whole");
            }
        }
        Want::Tunnel(code) => {
            if seen.status() != 101 || !seen.body.starts_with(b"\x02\x05early") {
                return bad("no tunnel");
            }
            if seen.close_code() != code {
                return bad(&format!("closed with {:?}", seen.close_code()));
            }
        }
    }
    // What needs no time limit to pass has none to wait for, but the machine may be busy.
    if waits && took < T.saturating_sub(Duration::from_millis(50)) {
        bad(&format!("too early, after {took:?}"))
    } else {
        Ok(took)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_ends_in_time_with_the_documented_answer() {
    let _alone = alone().await;
    let panics = Arc::new(AtomicUsize::new(0));
    let (count, hook) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        count.fetch_add(1, Ordering::SeqCst);
        hook(info);
    }));
    let (dns, dns_task) = name_server().await;
    let faults = Faults::start().await;
    for exposed in [false, true] {
        let resolver = HickoryResolver::builder().servers([dns]).deadline(T * 2).build().unwrap();
        let mut stack = Stack::start(Setup {
            connector: GuardedConnector::builder().connect_timeout(T).dns_timeout(T).resolver(resolver),
            service: if exposed {
                |b| b.stream_idle_timeout(T).tunnel_idle_timeout(T).expose_errors(true)
            } else {
                |b| b.stream_idle_timeout(T).tunnel_idle_timeout(T)
            },
            ..Setup::default()
        })
        .await;
        // The resolver keeps one connection to its server, from the first question on.
        cell(stack.addr, faults.url(Fault::DnsFailure), Fault::DnsFailure, Kind::Get, exposed).await.unwrap();
        let (files, tasks) = (open_files(), alive_tasks());
        let cells = FAULTS.iter().flat_map(|f| KINDS.map(|k| (*f, k)));
        let mut running = Vec::new();
        for (fault, kind) in cells {
            let work = cell(stack.addr, faults.url(fault), fault, kind, exposed);
            running.push((fault, kind, tokio::spawn(work)));
        }
        let (mut table, mut bad) = (String::new(), 0);
        for (fault, kind, work) in running {
            let mut result = work.await.unwrap();
            // One that is late among the others is asked once more on its own: the machine may be busy.
            if result.as_ref().is_ok_and(|took| *took > T + SLACK) {
                result = cell(stack.addr, faults.url(fault), fault, kind, exposed).await;
            }
            let limit = T + SLACK;
            let line = match &result {
                Ok(took) if *took <= limit => format!("ok   {took:?}"),
                Ok(took) => format!("LATE {took:?} of {limit:?}"),
                Err(why) => format!("BAD  {why}"),
            };
            bad += usize::from(!line.starts_with("ok"));
            writeln!(table, "{fault:>18?} x {kind:<10?} {line}").unwrap();
        }
        assert_eq!(bad, 0, "exposed: {exposed}\n{table}");
        println!("{table}");
        until("idle connections", PATIENCE, || stack.upstream.idle_connections() == 0).await;
        until("permits", PATIENCE, || stack.permits.running() == 0).await;
        until("connections", PATIENCE, || stack.server.stats().open == 0 && stack.server.tunnels().is_empty()).await;
        let started = Instant::now();
        while open_files() > files || alive_tasks() > tasks {
            let (f, t) = (open_files(), alive_tasks());
            assert!(started.elapsed() < PATIENCE / 2, "descriptors {files} -> {f}, tasks {tasks} -> {t}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stack.stop();
        assert!(stack.ended().await.is_clean());
    }
    dns_task.abort();
    assert_eq!(panics.load(Ordering::SeqCst), 0, "something has panicked");
    let _ = std::panic::take_hook();
}
