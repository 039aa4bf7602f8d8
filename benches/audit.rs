//! What the audit costs a request: the same service bare, with records that go nowhere, and with records written as JSON lines to
//! a file that forgets.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::wrong_self_convention
)]

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use portcullis::{
    audit::{AuditLayer, AuditSink, JsonFormat, JsonLinesSink},
    context::{ConnectionInfo, Record, RequestContext},
};
use tower::{Layer, Service, service_fn};

fn request() -> Request<Empty<Bytes>> {
    let mut request = Request::get("/proxy/https://mcp.example.com/mcp").body(Empty::new()).unwrap();
    let peer = std::net::SocketAddr::from(([192, 0, 2, 7], 4711));
    RequestContext::of_mut(request.extensions_mut()).set_connection(ConnectionInfo::new(peer));
    request
}

/// One exchange to its end, without a runtime: nothing here ever waits.
fn exchange<S, B>(service: &mut S)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let _ = service.poll_ready(&mut cx);
    let std::task::Poll::Ready(Ok(response)) = pin!(service.call(request())).poll(&mut cx) else { return };
    let mut body = pin!(response.into_body());
    while body.as_mut().poll_frame(&mut cx).is_ready_and(|f| f.is_some()) {}
}

trait ReadyAnd<T> {
    fn is_ready_and(self, f: impl FnOnce(T) -> bool) -> bool;
}

impl<T> ReadyAnd<T> for std::task::Poll<T> {
    fn is_ready_and(self, f: impl FnOnce(T) -> bool) -> bool {
        match self {
            Self::Ready(value) => f(value),
            Self::Pending => false,
        }
    }
}

async fn answer<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

fn audit(c: &mut Criterion) {
    let mut group = c.benchmark_group("audit");
    group.bench_function("bare", |b| {
        let mut service = service_fn(answer::<Empty<Bytes>>);
        b.iter(|| exchange(&mut service));
    });
    group.bench_function("to nowhere", |b| {
        let mut service = AuditLayer::new(()).layer(service_fn(answer));
        b.iter(|| exchange(&mut service));
    });
    group.bench_function("to a file", |b| {
        let sink = JsonLinesSink::builder().bound(1 << 20).writer(std::io::sink()).unwrap();
        let mut service = AuditLayer::new(sink).layer(service_fn(answer));
        b.iter(|| exchange(&mut service));
    });
    group.bench_function("format", |b| {
        let (format, record, mut line) = (JsonFormat::new(), Record::default(), Vec::new());
        b.iter(|| {
            line.clear();
            format.write(&record, &mut line);
        });
    });
    group.bench_function("sink alone", |b| {
        let sink = JsonLinesSink::builder().bound(1 << 20).writer(std::io::sink()).unwrap();
        b.iter(|| sink.record(&Record::default()));
    });
    group.finish();
}

criterion_group!(benches, audit);
criterion_main!(benches);
