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
use tokio::time::Instant;

use super::{
    body::without_forbidden_trailers,
    error::{Error, Kind as ErrorKind},
    h1::{H1, LazyTimer},
    pool::{Key, Pool},
};

/// A response body that streams from the target. Dropping it aborts the exchange at once; reading it to its end returns the
/// connection to the pool.
pub struct UpstreamBody {
    kind: Kind,
    idle: Duration,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

enum Kind {
    Empty,
    /// HTTP/1.1: the connection is polled from here, and holds the body.
    Inline(Box<H1>),
    /// HTTP/2, or a connection that a task of its own drives.
    Driven(Box<Driven>),
}

struct Driven {
    incoming: Incoming,
    timer: LazyTimer,
}

impl UpstreamBody {
    pub(crate) fn empty() -> Self {
        Self { kind: Kind::Empty, idle: Duration::ZERO, end: None }
    }

    /// `now` is the moment of the head.
    pub(crate) fn inline(
        incoming: Incoming,
        mut conn: Box<H1>,
        (home, key): (Arc<Pool>, Key),
        idle: Duration,
        now: Instant,
    ) -> Self {
        if conn.is_uploading() {
            tokio::spawn(conn.run(idle));
            return Self::driven(incoming, idle);
        }
        if incoming.is_end_stream() {
            conn.active = now;
            home.put(key, conn);
            return Self::empty();
        }
        conn.home = Some((home, key));
        Self::alone(incoming, conn, idle, now)
    }

    /// A body whose connection is closed at its end.
    pub(crate) fn alone(incoming: Incoming, mut conn: Box<H1>, idle: Duration, now: Instant) -> Self {
        conn.set_idle_deadline(now, idle);
        conn.incoming = Some(incoming);
        Self { kind: Kind::Inline(conn), idle, end: None }
    }

    pub(crate) fn driven(incoming: Incoming, idle: Duration) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let timer = LazyTimer::new(Instant::now() + idle);
        Self { kind: Kind::Driven(Box::new(Driven { incoming, timer })), idle, end: None }
    }

    /// Ends the stream when the future is ready: for event streams, whose readers come back by themselves.
    pub(crate) fn end_on(&mut self, end: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.end = Some(end);
    }

    /// Nothing may arrive for that long, or the stream ends with an error. Comments on event streams count as arrivals.
    pub fn set_idle_timeout(&mut self, idle: Duration) {
        self.idle = idle;
        let now = Instant::now();
        match &mut self.kind {
            Kind::Empty => {}
            Kind::Inline(conn) => conn.set_idle_deadline(now, idle),
            Kind::Driven(driven) => driven.timer.set(now + idle),
        }
    }

    fn incoming(&self) -> Option<&Incoming> {
        match &self.kind {
            Kind::Empty => None,
            Kind::Inline(conn) => conn.incoming.as_ref(),
            Kind::Driven(driven) => Some(&driven.incoming),
        }
    }

    /// The body has been read to its end: its connection rests, or is closed.
    fn finish(&mut self) {
        if let Kind::Inline(mut conn) = mem::replace(&mut self.kind, Kind::Empty)
            && let Some((pool, key)) = conn.home.take()
        {
            conn.incoming = None;
            pool.put(key, conn);
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
            Kind::Inline(conn) => {
                let frame = ready!(conn.poll_body(cx));
                match &frame {
                    Some(Ok(_)) if conn.incoming.as_ref().is_some_and(|i| !i.is_end_stream()) => {
                        conn.set_idle_deadline(Instant::now(), this.idle);
                    }
                    Some(Ok(_)) | None => this.finish(),
                    Some(Err(_)) => {}
                }
                frame
            }
            Kind::Driven(driven) => match Pin::new(&mut driven.incoming).poll_frame(cx) {
                Poll::Ready(frame) => {
                    if matches!(frame, Some(Ok(_))) {
                        driven.timer.set(Instant::now() + this.idle);
                    }
                    frame.map(|f| f.map_err(|e| Error::from_hyper(&e)))
                }
                Poll::Pending => {
                    ready!(driven.timer.poll(cx));
                    Some(Err(Error::new(ErrorKind::Idle)))
                }
            },
        };
        if !matches!(frame, Some(Ok(_))) {
            this.kind = Kind::Empty;
        }
        Poll::Ready(frame.map(|f| f.map(without_forbidden_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").field("end", &self.is_end_stream()).finish_non_exhaustive()
    }
}
