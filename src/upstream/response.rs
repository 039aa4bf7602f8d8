//! Response bodies from a target.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::mpsc, time::Instant};

use super::{
    body::without_forbidden_trailers,
    error::{Error, Kind as ErrorKind},
    h1::{H1, relay},
    pool::Pool,
    timer::LazyTimer,
};

/// A response body that streams from the target. Dropping it aborts the exchange at once; reading it to its end returns the
/// connection to the pool.
pub struct UpstreamBody {
    kind: Kind,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum Kind {
    Empty,
    /// All of it has come with the head.
    Full(Bytes),
    /// HTTP/1.1: the connection is polled from here.
    Inline(Box<H1>),
    /// HTTP/2, or a connection that a task of its own drives.
    Driven(Box<Driven>),
}

struct Driven {
    source: Source,
    timer: LazyTimer,
    idle: Duration,
}

enum Source {
    Http2(Incoming),
    /// What is left, if that is known.
    Relay(mpsc::Receiver<relay::Part>, Option<u64>),
}

impl UpstreamBody {
    fn new(kind: Kind) -> Self {
        Self { kind, end: None }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Kind::Empty)
    }

    /// The body of the response whose head has just come, at `now`. Its connection rests at home when it has ended, or is closed
    /// if it has none.
    pub(crate) fn of_connection(mut conn: Box<H1>, home: Option<&Arc<Pool>>, idle: Duration, now: Instant) -> Self {
        conn.active = now;
        let whole = conn.whole_body();
        if let Some(bytes) = whole {
            if conn.is_uploading() {
                relay::rest(conn, idle);
            } else if let Some(home) = home {
                home.put(conn);
            }
            return Self::new(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) });
        }
        if conn.is_uploading() {
            let left = conn.remaining();
            return Self::driven(Source::Relay(relay::both(conn, idle), left), idle);
        }
        conn.set_idle(idle);
        conn.home = home.cloned();
        Self::new(Kind::Inline(conn))
    }

    pub(crate) fn http2(incoming: Incoming, idle: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        Self::driven(Source::Http2(incoming), idle)
    }

    fn driven(source: Source, idle: Duration) -> Self {
        let timer = LazyTimer::new(Instant::now() + idle);
        Self::new(Kind::Driven(Box::new(Driven { source, timer, idle })))
    }

    /// Whether all of it is here.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Full(_))
    }

    /// Ends the stream when the future is ready: for event streams, whose readers come back by themselves.
    pub(crate) fn end_on(&mut self, end: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.end = Some(end);
    }

    /// Nothing may arrive for that long, or the stream ends with an error. Comments on event streams count as arrivals.
    pub fn set_idle_timeout(&mut self, idle: Duration) {
        let idle = idle.min(super::FOREVER);
        match &mut self.kind {
            Kind::Empty | Kind::Full(_) => {}
            Kind::Inline(conn) => conn.set_idle(idle),
            Kind::Driven(driven) => {
                driven.idle = idle;
                driven.timer.set(Instant::now() + idle);
            }
        }
    }

    /// The body has been read to its end: its connection rests, or is closed.
    fn finish(&mut self) {
        if let Kind::Inline(mut conn) = mem::replace(&mut self.kind, Kind::Empty)
            && let Some(pool) = conn.home.take()
        {
            pool.put(conn);
        }
    }
}

impl Driven {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.source {
            Source::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map(|f| f.map(|f| f.map_err(|e| Error::from_hyper(&e)))),
            Source::Relay(parts, left) => parts.poll_recv(cx).map(|part| {
                // A channel that closes without a word is no end.
                let part = part.unwrap_or_else(|| Some(Err(Error::new(ErrorKind::Incomplete))));
                if let (Some(Ok(frame)), Some(left)) = (&part, left) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, |d| d.len() as u64));
                }
                part
            }),
        };
        if frame.is_pending() {
            ready!(self.timer.poll(cx));
            return Poll::Ready(Some(Err(Error::new(ErrorKind::Idle))));
        }
        self.timer.set(Instant::now() + self.idle);
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http2(incoming) => incoming.is_end_stream(),
            Source::Relay(_, left) => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http2(incoming) => incoming.size_hint(),
            Source::Relay(_, left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl HttpBody for UpstreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            this.kind = Kind::Empty;
            this.end = None;
            return Poll::Ready(None);
        }
        let frame = match &mut this.kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Full(bytes) => {
                let frame = Frame::data(mem::take(bytes));
                this.kind = Kind::Empty;
                return Poll::Ready(Some(Ok(frame)));
            }
            Kind::Inline(conn) => {
                let frame = ready!(conn.poll_body(cx));
                if matches!(frame, None | Some(Ok(_))) && conn.body_is_done() {
                    this.finish();
                }
                frame
            }
            Kind::Driven(driven) => ready!(driven.poll_frame(cx)),
        };
        if !matches!(frame, Some(Ok(_))) {
            this.kind = Kind::Empty;
        }
        Poll::Ready(frame.map(|f| f.map(without_forbidden_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Inline(conn) => conn.body_is_done(),
            Kind::Driven(driven) => driven.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Inline(conn) => conn.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Driven(driven) => driven.size_hint(),
        }
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("end", &self.is_end_stream()).finish_non_exhaustive()
    }
}
