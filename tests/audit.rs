//! One record a request, whatever becomes of it; sinks that never block; a documented line.

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
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use portcullis::{
    audit::{AuditLayer, AuditRequestBody, AuditSink, ChannelSink, Filter, JsonFormat, JsonLinesSink, Records, Summary},
    clock::ManualClock,
    context::{ClientAddr, ClosedBy, ConnectionInfo, McpCall, Outcome, Record, RecordHandle, RequestContext},
    net::Target,
    rejection::{Rejection, RejectionKind},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

type Body = BoxBody<Bytes, io::Error>;
type In = AuditRequestBody<Full<Bytes>>;

fn body(text: &'static str) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

fn frames(frames: Vec<io::Result<&'static str>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames.into_iter().map(|f| f.map(|t| Frame::data(Bytes::from(t)))))).boxed()
}

fn request(text: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::post("/proxy/http://t.example/x?proxy_token=s3cret").body(Full::new(Bytes::from(text))).unwrap();
    let peer = SocketAddr::from(([192, 0, 2, 7], 4711));
    RequestContext::of_mut(request.extensions_mut()).set_connection(ConnectionInfo::new(peer));
    request
}

/// Runs one request and returns the record that came of it.
async fn one<F, R>(answer: F, use_body: impl AsyncFnOnce(Body)) -> Record
where
    F: Fn(Request<In>) -> R + Clone,
    R: Future<Output = Result<Response<Body>, Infallible>>,
{
    let (sink, mut records) = ChannelSink::new(10);
    let response = AuditLayer::new(sink).layer(service_fn(answer)).oneshot(request("question")).await.unwrap();
    use_body(response.into_body().boxed()).await;
    only(&mut records)
}

fn only(records: &mut Records) -> Record {
    let record = records.try_recv().expect("a record");
    assert!(records.try_recv().is_err(), "more than one record");
    record
}

fn handle(request: &Request<In>) -> RecordHandle {
    RequestContext::of(request.extensions()).and_then(RequestContext::record).unwrap().clone()
}

#[tokio::test]
async fn a_complete_exchange() {
    let answer = |request: Request<In>| async {
        request.into_body().collect().await.unwrap();
        Ok(Response::new(body("answer!")))
    };
    let record = one(answer, async |body: Body| drop(body.collect().await)).await;
    assert_eq!(record.outcome, Outcome::Complete);
    assert_eq!((record.bytes_in, record.bytes_out), (8, 7));
    assert_eq!((record.method, record.status), (Some(Method::POST), Some(StatusCode::OK)));
    assert_eq!(record.client.unwrap().ip().to_string(), "192.0.2.7");
    assert!(record.duration.unwrap() >= record.head_after.unwrap() && record.started.is_some() && record.request_id != 0);
}

#[tokio::test]
async fn a_body_of_known_length_is_complete_with_its_last_byte() {
    // hyper drops such a body without asking for the end.
    let answer = |_| async { Ok(Response::new(body("answer!"))) };
    let record = one(answer, async |mut body: Body| drop(body.frame().await)).await;
    assert_eq!((record.outcome, record.bytes_out), (Outcome::Complete, 7));
}

#[tokio::test]
async fn a_client_that_leaves_during_the_body() {
    let answer = |_| async { Ok(Response::new(frames(vec![Ok("one"), Ok("two")]))) };
    let record = one(answer, async |mut body: Body| drop(body.frame().await)).await;
    assert_eq!((record.outcome, record.bytes_out), (Outcome::ClientGone, 3));
}

#[tokio::test]
async fn a_target_that_fails_during_the_body() {
    let answer = |_| async { Ok(Response::new(frames(vec![Ok("one"), Err(io::ErrorKind::ConnectionReset.into())]))) };
    let record = one(answer, async |body: Body| drop(body.collect().await)).await;
    assert_eq!((record.outcome, record.bytes_out), (Outcome::UpstreamFailed, 3));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head() {
    let (sink, mut records) = ChannelSink::new(10);
    let service = AuditLayer::new(sink).layer(service_fn(|request: Request<In>| async move {
        let _request = request;
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    }));
    let call = tokio::time::timeout(Duration::from_millis(20), service.oneshot(request("")));
    assert!(call.await.is_err());
    let record = only(&mut records);
    assert_eq!((record.outcome, record.status), (Outcome::ClientGone, None));
}

#[tokio::test]
async fn refusals_and_failures_carry_their_reason() {
    for (kind, outcome) in [
        (RejectionKind::Denied, Outcome::Refused),
        (RejectionKind::Saturated, Outcome::Refused),
        (RejectionKind::ConnectTimeout, Outcome::Failed),
        (RejectionKind::Misconfigured, Outcome::Failed),
    ] {
        let answer = move |_| async move {
            let rejection = Rejection::new(kind).with_reason("address_denied").with_detail("10.0.0.1 is private");
            Ok(rejection.into_response::<Body>().map(|b| b.map_err(io::Error::other).boxed()))
        };
        let record = one(answer, async |body: Body| drop(body.collect().await)).await;
        assert_eq!((record.outcome, record.status), (outcome, Some(kind.status())));
        assert_eq!(record.reason, Some("address_denied"));
        assert_eq!(record.detail.as_deref(), Some("10.0.0.1 is private"));
        assert_eq!(record.proxy_status, Some(kind.proxy_status()));
    }
}

#[tokio::test]
async fn a_tunnel_is_recorded_when_it_ends() {
    let clock = ManualClock::default();
    let (sink, mut records) = ChannelSink::new(10);
    let kept: Arc<Mutex<Option<RecordHandle>>> = Arc::default();
    let slot = Arc::clone(&kept);
    let service = AuditLayer::with_clock(sink, clock.clone()).layer(service_fn(move |request: Request<In>| {
        *slot.lock().unwrap() = Some(handle(&request));
        async { Ok::<_, Infallible>(Response::builder().status(101).body(body("")).unwrap()) }
    }));
    let response = service.oneshot(request("")).await.unwrap();
    drop(response);
    assert!(records.try_recv().is_err(), "recorded before its end");
    clock.advance(Duration::from_secs(90));
    let tunnel = kept.lock().unwrap().take().unwrap();
    tunnel.with(|r| {
        (r.bytes_in, r.bytes_out, r.close_code, r.closed_by) = (10, 20, Some(1000), Some(ClosedBy::Client));
    });
    drop(tunnel);
    let record = only(&mut records);
    assert!(record.tunnel);
    assert_eq!(record.outcome, Outcome::Complete);
    assert_eq!(record.duration, Some(Duration::from_secs(90)));
    assert_eq!((record.bytes_in, record.bytes_out, record.close_code), (10, 20, Some(1000)));
}

#[tokio::test]
async fn a_head_request_is_complete_without_a_body() {
    let (sink, mut records) = ChannelSink::new(10);
    let service =
        AuditLayer::new(sink).layer(service_fn(|_: Request<In>| async { Ok::<_, Infallible>(Response::new(body("answer!"))) }));
    let mut request = request("");
    *request.method_mut() = Method::HEAD;
    drop(service.oneshot(request).await.unwrap());
    let record = only(&mut records);
    assert_eq!((record.outcome, record.bytes_out), (Outcome::Complete, 0));
}

/// A record with every field filled in, some of them with text that would like to break out of its line.
fn full_record() -> Record {
    let mut r = Record::default();
    r.started = Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1_800_000_000_123_456));
    r.duration = Some(Duration::from_micros(12_345));
    r.head_after = Some(Duration::from_micros(2_001));
    r.request_id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
    r.client = Some(ClientAddr::new("2001:db8::1".parse().unwrap(), "10.0.0.1:9000".parse().unwrap(), true));
    r.token = Some("ci\n{\"forged\":true}".into());
    r.method = Some(Method::POST);
    r.path = Some("/proxy/https://mcp.example.com/mcp?proxy_token=s3cret".parse().unwrap());
    r.target = Some(Target::parse("https://mcp.example.com:8443/a%20b?key=s3cret").unwrap());
    r.status = Some(StatusCode::BAD_GATEWAY);
    r.reason = Some("connect_failed");
    r.proxy_status = Some("connection_refused");
    r.detail = Some("refused: \u{1b}[31m\r\n\u{2028}\"x\"".into());
    r.dialed = Some("192.0.2.1:8443".parse().unwrap());
    r.reused = true;
    r.bytes_in = 120;
    r.bytes_out = 4_000_000_000;
    let mut call = McpCall::default();
    call.method = Some("tools/call".into());
    call.name = Some("echo\u{7}".into());
    r.mcp = Some(call.into());
    r.close_code = Some(1009);
    r.closed_by = Some(ClosedBy::Proxy);
    r.tunnel = true;
    r.outcome = Outcome::Failed;
    r
}

#[test]
fn the_documented_line() {
    let mut line = Vec::new();
    JsonFormat::new().write(&full_record(), &mut line);
    let text = String::from_utf8(line).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.ends_with("}\n") && !text.trim_end().contains(|c: char| c.is_control()));
    assert!(!text.contains("s3cret"));
    insta::assert_snapshot!(text.trim_end(), @r##"{"time":"2027-01-15T08:00:00.123456Z","request_id":"0123456789abcdef0123456789abcdef","outcome":"failed","duration_ms":12.345,"head_ms":2.001,"client":"2001:db8::1","peer":"10.0.0.1:9000","token":"ci\n{\"forged\":true}","method":"POST","scheme":"https","host":"mcp.example.com","port":8443,"path":"/a%20b","status":502,"reason":"connect_failed","proxy_status":"connection_refused","detail":"refused: \u001b[31m\r\n\u2028\"x\"","dialed":"192.0.2.1:8443","reused":true,"bytes_in":120,"bytes_out":4000000000,"mcp_method":"tools/call","mcp_name":"echo\u0007","tunnel":true,"close_code":1009,"closed_by":"proxy"}"##);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["token"], "ci\n{\"forged\":true}");
    // Each field that can be written is in the documented table, and the other way round.
    let docs = include_str!("../src/audit/mod.rs");
    let mut documented: Vec<&str> = docs
        .lines()
        .filter(|l| l.starts_with("//! | `"))
        .flat_map(|l| l.split('|').nth(1).unwrap().split(',').map(|n| n.trim().trim_matches('`')))
        .collect();
    documented.sort_unstable();
    let mut written: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).chain(["request_path"]).collect();
    written.sort_unstable();
    assert_eq!(documented, written);
}

#[test]
fn a_request_without_a_target_shows_its_own_path_but_never_its_query() {
    let mut record = Record::default();
    record.path = Some("/health?proxy_token=s3cret".parse().unwrap());
    let mut line = Vec::new();
    JsonFormat::new().with_query(true).write(&record, &mut line);
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(value["request_path"], "/health");
}

/// A writer that stands still until it is told to go on.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<(bool, Vec<u8>)>, Condvar)>);

impl Gate {
    fn open(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
    }
}

impl Write for Gate {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |s| !s.0).unwrap();
        state.1.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_slow_disk_blocks_nobody_and_losses_are_written_down() {
    let gate = Gate::default();
    let sink = JsonLinesSink::builder().bound(100).writer(gate.clone()).unwrap();
    let started = Instant::now();
    for _ in 0..50_000 {
        sink.record(&Record::default());
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let dropped = sink.dropped();
    assert!(dropped >= 49_000, "{dropped}");
    assert!(!sink.flush(Duration::from_millis(20)), "the writer stands still");
    gate.open();
    assert!(sink.flush(Duration::from_secs(5)));
    sink.record(&Record::default());
    drop(sink);
    let summary = Summary::read(gate.text().as_bytes(), &Filter::new()).unwrap();
    assert_eq!(summary.dropped, dropped);
    let written: u64 = summary.groups.values().map(|t| t.requests).sum();
    assert_eq!(written + dropped, 50_001);
    assert_eq!(summary.unreadable, 0);
}

#[test]
fn the_writer_wakes_up_after_a_quiet_time() {
    let gate = Gate::default();
    gate.open();
    let sink = JsonLinesSink::builder().writer(gate.clone()).unwrap();
    for n in 1..=3 {
        // Longer than the writer's patience.
        std::thread::sleep(Duration::from_millis(200));
        sink.record(&Record::default());
        let started = Instant::now();
        while gate.text().lines().count() < n {
            assert!(started.elapsed() < Duration::from_secs(5), "record {n} was not written");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_moved_file_is_opened_again() {
    let dir = std::env::temp_dir().join(format!("audit-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (path, moved) = (dir.join("audit.jsonl"), dir.join("audit.jsonl.1"));
    let sink = JsonLinesSink::builder().file(&path).unwrap();
    sink.record(&full_record());
    assert!(sink.flush(Duration::from_secs(5)));
    std::fs::rename(&path, &moved).unwrap();
    sink.reopen();
    sink.record(&full_record());
    assert!(sink.flush(Duration::from_secs(5)));
    for path in [&path, &moved] {
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_summary_answers_who_reached_what() {
    let mut text = Vec::new();
    let format = JsonFormat::new();
    let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for i in 0..10u64 {
        let mut r = Record::default();
        r.started = Some(base + Duration::from_secs(i * 60));
        r.token = Some(if i % 2 == 0 { "ci".into() } else { "dev".into() });
        r.client = Some(ClientAddr::new("192.0.2.1".parse().unwrap(), "192.0.2.1:1".parse().unwrap(), false));
        r.target = Some(Target::parse("https://a.example.com/x").unwrap());
        (r.bytes_in, r.bytes_out, r.outcome) = (1, 10, Outcome::Complete);
        if i == 4 {
            (r.outcome, r.reason) = (Outcome::Refused, Some("address_denied"));
        }
        format.write(&r, &mut text);
    }
    text.extend_from_slice(b"{\"time\":\"x\",\"audit_dropped\":3}\n\nnot json\n{\"a\":1}\n{\"request_id\":");
    let key = |token: &str| (token.to_owned(), "a.example.com:443".to_owned());
    let all = Summary::read(&text[..], &Filter::new()).unwrap();
    assert_eq!((all.lines, all.unreadable, all.dropped), (14, 3, 3));
    let ci = &all.groups[&key("ci")];
    assert_eq!((ci.requests, ci.refused, ci.bytes_in, ci.bytes_out), (5, 1, 5, 50));
    assert_eq!(ci.reasons["address_denied"], 1);
    assert!(ci.first < ci.last);
    assert!(all.to_string().contains("ci -> a.example.com:443"));

    let count = |filter: Filter| Summary::read(&text[..], &filter).unwrap().groups.values().map(|t| t.requests).sum::<u64>();
    assert_eq!(count(Filter::new().token("dev")), 5);
    assert_eq!(count(Filter::new().target("Example.com")), 10);
    assert_eq!(count(Filter::new().target("ample.com")), 0);
    assert_eq!(count(Filter::new().since(base + Duration::from_secs(300))), 5);
    assert_eq!(count(Filter::new().since(base + Duration::from_secs(300)).until(base + Duration::from_secs(420))), 2);
}
