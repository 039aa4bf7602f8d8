//! SIGTERM: what is in flight ends well, and nothing that was taken is lost.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use crate::{
    support::{Proxy, usual},
    wire::{KEY, Message, SWITCH, Target, Wire, field, soon, until},
};

const DRAIN: Duration = Duration::from_secs(5);

/// What the target was asked for by ordinary requests.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<HashSet<usize>>>);

impl Asked {
    fn has(&self, id: usize) -> bool {
        self.0.lock().unwrap().contains(&id)
    }
}

/// Takes its time for `/work/<id>`, says how much it got, sends events, echoes the bytes of tunnels, or never answers.
async fn target(asked: Asked) -> Target {
    Target::new(move |mut wire| {
        let asked = asked.clone();
        async move {
            while let Some(request) = wire.request().await {
                let path = request.head.split(' ').nth(1).unwrap();
                if request.field("upgrade").is_some() {
                    wire.send(SWITCH).await;
                    return wire.echo().await;
                } else if path == "/events" {
                    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
                    return wire.gone().await;
                } else if path == "/silent" {
                    return wire.gone().await;
                }
                let text = if let Some(id) = path.strip_prefix("/work/") {
                    let number = id.parse().unwrap();
                    asked.0.lock().unwrap().insert(number);
                    tokio::time::sleep(Duration::from_millis(20 + number as u64 * 7 % 80)).await;
                    format!("done {id}")
                } else {
                    format!("{} bytes", request.body.len())
                };
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).await;
            }
        }
    })
    .await
}

/// How an ordinary request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    /// There was no connection.
    Refused,
    /// The connection ended without a byte of an answer.
    Closed,
    /// Anything else: a part of an answer, or a wrong one.
    Broken,
}

struct Traffic {
    addr: SocketAddr,
    fields: String,
    path: String,
    next: AtomicUsize,
    ends: Mutex<Vec<(usize, End)>>,
}

impl Traffic {
    fn new(proxy: &Proxy, target: &Target) -> Arc<Self> {
        Arc::new(Self {
            addr: proxy.addr,
            fields: proxy.fields(),
            path: target.path("/work/"),
            next: AtomicUsize::new(0),
            ends: Mutex::default(),
        })
    }

    /// One request; `wire` is empty where the next one needs another connection.
    async fn ask(&self, wire: &mut Option<Wire>) -> End {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        if wire.is_none() {
            *wire = match TcpStream::connect(self.addr).await {
                Ok(stream) => Some(Wire::new(stream)),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => None,
                Err(error) => panic!("{error}"),
            };
        }
        let end = match wire {
            None => End::Refused,
            Some(open) => {
                open.send(format!("GET {}{id} HTTP/1.1\r\n{}\r\n", self.path, self.fields)).await;
                let seen = soon("an answer", open.response()).await;
                let keeps = !seen.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
                let nothing = seen.head.is_empty() && open.buf.is_empty();
                let whole = seen.complete && seen.status() == 200 && seen.body == format!("done {id}").as_bytes();
                if !whole || !keeps {
                    *wire = None;
                }
                match (whole, nothing) {
                    (true, _) => End::Answered,
                    (false, true) => End::Closed,
                    (false, false) => End::Broken,
                }
            }
        };
        self.ends.lock().unwrap().push((id, end));
        end
    }

    /// A hundred requests a second on connections of their own, and about as many on ten that are kept, until none is taken.
    fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let (me, mut tasks) = (self.clone(), Vec::new());
        tasks.push(tokio::spawn(async move {
            let refused = Arc::new(Notify::new());
            let mut running = JoinSet::new();
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = refused.notified() => break,
                }
                let (me, refused) = (me.clone(), refused.clone());
                running.spawn(async move {
                    if me.ask(&mut None).await == End::Refused {
                        refused.notify_one();
                    }
                });
            }
            while let Some(ended) = running.join_next().await {
                ended.unwrap();
            }
        }));
        for _ in 0..10 {
            let me = self.clone();
            tasks.push(tokio::spawn(async move {
                let mut wire = None;
                let mut tick = tokio::time::interval(Duration::from_millis(100));
                while me.ask(&mut wire).await != End::Refused {
                    tick.tick().await;
                }
            }));
        }
        tasks
    }
}

/// Opens a tunnel and sees that it works; then waits for its end. Returns what came after the echo, and when the end came.
async fn websocket(addr: SocketAddr, head: String, open: Arc<AtomicUsize>) -> (Message, Instant) {
    let mut wire = Wire::connect(addr).await;
    wire.send(head).await;
    let head = soon("a tunnel", wire.head()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    wire.send(b"\x82\x85\0\0\0\0hello").await;
    while wire.buf.len() < 11 {
        assert!(wire.fill().await, "the echo");
    }
    wire.buf.clear();
    open.fetch_add(1, Ordering::SeqCst);
    soon("the tunnel's end", wire.gone()).await;
    (Message { head, body: wire.buf, complete: true }, Instant::now())
}

async fn events(addr: SocketAddr, head: String, open: Arc<AtomicUsize>) -> (String, Instant) {
    let mut wire = Wire::connect(addr).await;
    wire.send(head).await;
    let head = soon("events", wire.head()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && field(&head, "content-type") == Some("text/event-stream"), "{head}");
    open.fetch_add(1, Ordering::SeqCst);
    soon("the events' end", wire.gone()).await;
    (String::from_utf8_lossy(&wire.buf).into_owned(), Instant::now())
}

/// Sends its body in pieces for three seconds.
async fn upload(addr: SocketAddr, head: String, open: Arc<AtomicUsize>) -> Message {
    let mut wire = Wire::connect(addr).await;
    wire.send(head).await;
    open.fetch_add(1, Ordering::SeqCst);
    for _ in 0..30 {
        wire.send([b'x'; 1000]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    soon("the upload's answer", wire.response()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_nothing_that_was_taken() {
    let asked = Asked::default();
    let target = target(asked.clone()).await;
    let config = format!("drain = \"5s\"\n{}[limits]\nper_token = \"off\"\n[audit]\npath = \"-\"\n", usual(&[target.addr]));
    let mut proxy = Proxy::start(&config).await;
    let (addr, fields) = (proxy.addr, proxy.fields());
    assert_eq!(proxy.get("/ready").await.status, 200);

    let open = Arc::<AtomicUsize>::default();
    let upgrade = format!(
        "GET {} HTTP/1.1\r\n{fields}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\r\n",
        target.path("/ws")
    );
    let sockets: Vec<_> = (0..200).map(|_| tokio::spawn(websocket(addr, upgrade.clone(), open.clone()))).collect();
    let listen = format!("GET {} HTTP/1.1\r\n{fields}Accept: text/event-stream\r\n\r\n", target.path("/events"));
    let streams: Vec<_> = (0..20).map(|_| tokio::spawn(events(addr, listen.clone(), open.clone()))).collect();
    until("tunnels and streams", Duration::from_secs(20), || open.load(Ordering::SeqCst) == 220).await;
    let post = format!("POST {} HTTP/1.1\r\n{fields}Content-Length: 30000\r\n\r\n", target.path("/upload"));
    let traffic = Traffic::new(&proxy, &target);
    let tasks = traffic.start();
    // A probe that has begun: what it is told once nobody can connect any more.
    let mut probe = Wire::connect(addr).await;
    probe.send("GET /ready HTTP/1.1\r\n").await;
    until("traffic", Duration::from_secs(20), || traffic.ends.lock().unwrap().len() >= 300).await;

    let uploads: Vec<_> = (0..5).map(|_| tokio::spawn(upload(addr, post.clone(), open.clone()))).collect();
    until("uploads", Duration::from_secs(20), || open.load(Ordering::SeqCst) == 225).await;

    proxy.terminate();
    let told = Instant::now();
    // Listeners close at once. The listener's end is the sign that the drain has begun.
    while TcpStream::connect(addr).await.is_ok() {
        assert!(told.elapsed() < Duration::from_secs(1), "still listening");
    }
    let closed = told.elapsed();
    probe.send(format!("Host: {addr}\r\n\r\n")).await;
    let ready = soon("the probe", probe.response()).await;
    assert_eq!((ready.status(), ready.field("connection")), (503, Some("close")), "{}", ready.head);

    let mut slowest = Duration::ZERO;
    for socket in sockets {
        let (seen, when) = socket.await.unwrap();
        assert_eq!(seen.close_code(), Some(1001), "{:?}", seen.body);
        slowest = slowest.max(when.saturating_duration_since(told));
    }
    assert!(slowest < Duration::from_secs(1), "1001 after {slowest:?}");
    for stream in streams {
        let (text, when) = stream.await.unwrap();
        assert!(text.ends_with("0\r\n\r\n"), "a stream ends, it is not cut: {text}");
        assert!(when.saturating_duration_since(told) < Duration::from_secs(1));
    }
    for upload in uploads {
        let seen = upload.await.unwrap();
        assert_eq!((seen.status(), seen.body.as_slice()), (200, &b"30000 bytes"[..]), "{}", seen.head);
    }
    for task in tasks {
        task.await.unwrap();
    }
    let status = soon("the process's end", proxy.child.wait()).await.unwrap();
    let took = told.elapsed();
    proxy.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < DRAIN + Duration::from_secs(1), "{took:?}");
    assert!(proxy.stderr.lock().unwrap().contains("stopped\n"), "something was cut: {}", proxy.stderr.lock().unwrap());

    let ends = std::mem::take(&mut *traffic.ends.lock().unwrap());
    let audit = proxy.stdout.lock().unwrap().clone();
    let count = |end| ends.iter().filter(|(_, e)| *e == end).count();
    let known = |id: usize| asked.has(id) || audit.contains(&format!("/work/{id}\""));
    let lost: Vec<_> = ends.iter().filter(|(id, end)| *end == End::Broken || *end == End::Closed && known(*id)).collect();
    let (answered, refused, shut) = (count(End::Answered), count(End::Refused), count(End::Closed));
    println!(
        "{answered} answered, {refused} refused, {shut} on connections that were closed unread; listener {closed:?}, tunnels {slowest:?}, \
         exit {took:?}"
    );
    assert!(lost.is_empty(), "{lost:?} of {}", ends.len());
    assert_eq!(ends.len(), answered + refused + shut);
    assert!(answered >= 300 && refused > 0, "{answered} answered, {refused} refused");
    until("the target's connections", Duration::from_secs(5), || target.open() == 0).await;
}

#[tokio::test]
async fn what_never_ends_is_cut_at_the_drain_time() {
    let target = target(Asked::default()).await;
    let mut proxy = Proxy::start(&format!("drain = \"1s\"\n{}", usual(&[target.addr]))).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(format!("GET {} HTTP/1.1\r\n{}\r\n", target.path("/silent"), proxy.fields())).await;
    until("the target", Duration::from_secs(10), || target.open() == 1).await;
    let told = Instant::now();
    proxy.terminate();
    let status = proxy.child.wait().await.unwrap();
    let took = told.elapsed();
    assert_eq!((status.code(), proxy.ended().await.code()), (Some(0), Some(0)));
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(2), "{took:?}");
    assert!(proxy.stderr.lock().unwrap().contains("what had not ended in time was cut"));
    soon("the connection's end", wire.gone()).await;
}
