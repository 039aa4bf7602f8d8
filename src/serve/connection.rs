//! One connection from its first byte to its last.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::BytesMut;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::{http1::UpgradeableConnection, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tower_service::Service;

use super::{
    body::RequestBody,
    direct::{self, Direct},
    drain::{Stage, Stages, TunnelGuard},
    flow::Flow,
    io::{Io, Stream, sniff},
    keeper::{Keeper, Verdict},
    proxy_protocol::{self, ProxyHeaderError},
    server::{H2Settings, Inner, PerConnection},
    service::{Adapter, Shared},
    stats::Counter,
    streams::{StreamExecutor, Streams},
};
use crate::{clock::moment, context::ConnectionInfo};

/// A place under the connection cap.
pub(super) struct Place {
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) alive: TunnelGuard,
}

pub(super) struct Connection {
    pub(super) inner: Arc<Inner>,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
}

/// What the first bytes have shown.
struct Opened {
    stream: Stream,
    prefix: BytesMut,
    h2: bool,
    info: ConnectionInfo,
}

impl Connection {
    pub(super) async fn run<S, B>(self, stream: TcpStream, service: S)
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Self { inner, peer, place } = self;
        let live = inner.settings.live();
        let Some(opened) = open_in_time(&inner, &live, stream, peer).await else { return };
        let flow = Arc::new(Flow::default());
        if opened.h2 {
            flow.without_framing();
        }
        let mut io = Box::new(Io::new(opened.stream, opened.prefix, Arc::clone(&flow), Some(place.permit)));
        let streams = opened.h2.then(Arc::<Streams>::default);
        let (info, stages, hsts) = (opened.info, Arc::clone(&inner.stages), inner.settings.hsts.clone());
        let shared = Arc::new(Shared { info, stages, hsts, streams: streams.clone() });
        let mut keeper = Keeper::new(Arc::clone(&flow), streams.clone(), Arc::clone(&live.times), Arc::clone(&inner.counters));
        let mut service = service;
        if streams.is_none() {
            let connection = direct::Connection::new(io, service, Arc::clone(&shared), Arc::clone(&flow), live.head_caps);
            let leave = |c: Pin<&mut direct::Connection<S, B>>| c.get_mut().leave();
            match drive(connection, leave, &mut keeper, &inner.stages).await {
                Some(Direct::HandOver { io: rest, service: same }) => (io, service) = (rest, same),
                Some(Direct::Broken) => {
                    inner.counters.add(Counter::Broken);
                    tracing::debug!(%peer, "connection broke off");
                    return;
                }
                Some(Direct::Ended) | None => return,
            }
        }
        let io = TokioIo::new(io);
        let adapter = Adapter::new(service, shared, flow);
        let end = match streams {
            None => {
                let connection = live.h1.serve_connection(io, adapter).with_upgrades();
                drive(connection, UpgradeableConnection::graceful_shutdown, &mut keeper, &inner.stages).await
            }
            Some(streams) => {
                let connection = h2_builder(&live.h2, &streams).serve_connection(io, adapter);
                let end = drive(connection, http2::Connection::graceful_shutdown, &mut keeper, &inner.stages).await;
                streams.abort_all();
                end
            }
        };
        if let Some(Err(error)) = end {
            let parse = error.is_parse();
            inner.counters.add(if parse { Counter::ParseErrors } else { Counter::Broken });
            tracing::debug!(%peer, %error, "connection ended");
        }
        drop(place.alive);
    }
}

fn h2_builder(settings: &H2Settings, streams: &Arc<Streams>) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor(Arc::clone(streams)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.header_list)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .keep_alive_interval(settings.ping_interval)
        .keep_alive_timeout(settings.ping_timeout)
        .enable_connect_protocol();
    builder
}

/// Everything before HTTP has the header time together, and is dropped when the drain begins: no request is in flight yet.
async fn open_in_time(inner: &Inner, live: &PerConnection, stream: TcpStream, peer: SocketAddr) -> Option<Opened> {
    let mut opening = pin!(tokio::time::timeout(live.times.header, open(inner, live, stream, peer)));
    let mut draining = pin!(inner.stages.reached(Stage::Draining));
    let opened = std::future::poll_fn(|cx| match opening.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => draining.as_mut().poll(cx).map(|()| None),
    })
    .await?;
    match opened {
        Ok(Ok(opened)) => Some(opened),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "connection not opened");
            None
        }
        Err(_) => {
            inner.counters.add(Counter::HeaderTimeouts);
            None
        }
    }
}

async fn open(inner: &Inner, live: &PerConnection, stream: TcpStream, peer: SocketAddr) -> io::Result<Opened> {
    let (mut stream, mut peer) = (stream, peer);
    if let Some(trusted) = &live.trusted_balancers {
        let told = if proxy_protocol::is_trusted(trusted, peer.ip()) {
            proxy_protocol::read(&mut stream).await
        } else {
            Err(ProxyHeaderError::Untrusted)
        };
        match told {
            Ok(client) => peer = client.unwrap_or(peer),
            Err(error) => {
                inner.counters.add(Counter::ProxyHeaderErrors);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
            }
        }
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &inner.settings.tls {
        let stream = tls.acceptor().accept(stream).await.inspect_err(|_| inner.counters.add(Counter::TlsFailures))?;
        let session = stream.get_ref().1;
        let h2 = session.alpn_protocol() == Some(b"h2");
        let certs = session.peer_certificates().map(|chain| chain.iter().map(|c| Box::from(c.as_ref())).collect());
        let info = ConnectionInfo::new(peer).with_tls(certs);
        return Ok(Opened { stream: Stream::Tls(Box::new(stream)), prefix: BytesMut::new(), h2, info });
    }
    let mut stream = Stream::Plain(stream);
    let (prefix, h2) = sniff(&mut stream).await?;
    Ok(Opened { stream, prefix, h2, info: ConnectionInfo::new(peer) })
}

/// Polls hyper's connection, the shutdown and the time-keeper in one task. `None`: the server ended it.
async fn drive<C: Future>(
    connection: C,
    goodbye: impl Fn(Pin<&mut C>),
    keeper: &mut Keeper,
    stages: &Stages,
) -> Option<C::Output> {
    let mut connection = pin!(connection);
    let mut changed = pin!(stages.changed());
    let mut seen = Stage::Running;
    let mut registered = false;
    let (mut polled, mut bye) = (false, false);
    let mut run = |cx: &mut std::task::Context<'_>| {
        let stage = stages.stage();
        if stage != seen {
            seen = stage;
            if stage == Stage::Cut {
                return Poll::Ready(None);
            }
            if polled {
                goodbye(connection.as_mut());
            } else {
                bye = true;
            }
            changed.set(stages.changed());
            registered = false;
        }
        // The task's waker stays the same for its life, so the notification is asked for once and not at every wake-up.
        if !registered {
            registered = changed.as_mut().poll(cx).is_pending();
            if !registered || stages.stage() != seen {
                cx.waker().wake_by_ref();
            }
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        polled = true;
        if std::mem::take(&mut bye) {
            // Behind the first poll: hyper closes a connection at once on which it has read nothing yet, not even what was put back for it.
            goodbye(connection.as_mut());
            cx.waker().wake_by_ref();
        }
        match keeper.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Verdict::Close) => Poll::Ready(None),
            Poll::Ready(Verdict::Goodbye) => {
                goodbye(connection.as_mut());
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    };
    std::future::poll_fn(|cx| {
        let _moment = moment::begin();
        run(cx)
    })
    .await
}
