//! An HTTP/1.1 connection that is polled by whoever uses it.

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    body::Body,
    drive::Shared,
    error::{Error, Kind},
    pool::{Key, Pool},
};
use crate::connect::ConnectedIo;

/// What a target may send and how long it may take until its final header section is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// From the last byte of the request to the last byte of the header section.
    pub(crate) timeout: Duration,
    /// Size of one header section, in bytes.
    pub(crate) max_bytes: usize,
    /// Number of fields.
    pub(crate) max_count: usize,
    /// How long an `Expect: 100-continue` is waited on before the body is sent anyway (RFC 9110 §10.1.1).
    pub(crate) continue_wait: Duration,
}

/// Longest standstill of an upload whose answer is complete already: nobody waits for it any more.
const MAX_TAIL: Duration = Duration::from_secs(30);

/// How long before the end that the target announces a connection is not used again: a request that crosses with the close is lost,
/// and one that is not idempotent must not be sent twice.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// What a target says about how long it keeps a connection at rest: `Keep-Alive: timeout=5, max=100`, in seconds. No standard has
/// it, and most servers send it.
fn announced_rest(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = value.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("timeout") { value.trim().parse().ok() } else { None }
    })?;
    Some(Duration::from_secs(seconds).saturating_sub(KEEP_ALIVE_MARGIN))
}

/// A socket that counts what is read, so that endless interim responses are noticed.
#[derive(Debug)]
pub(crate) struct Counted {
    io: ConnectedIo,
    shared: Arc<Shared>,
}

impl Counted {
    pub(crate) fn into_inner(self) -> ConnectedIo {
        self.io
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.shared.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// One timer that is only moved when it has to ring earlier, or when it has rung too early.
#[derive(Debug)]
pub(crate) struct LazyTimer {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl LazyTimer {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), deadline }
    }

    pub(crate) fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(deadline);
        }
    }

    /// Ready once the deadline has passed; a timer that rang for an older deadline is wound up again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
    }
}

/// A connection with everything that belongs to it.
pub(crate) struct H1 {
    tx: http1::SendRequest<Body>,
    conn: http1::Connection<TokioIo<Counted>, Body>,
    shared: Arc<Shared>,
    waker: Waker,
    timer: LazyTimer,
    max_head_bytes: u64,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// When something of the exchange has moved last.
    pub(crate) active: Instant,
    /// How long the target lets it rest, where it says so.
    rests: Option<Duration>,
    /// The response body that is being read. Here, because what a body holds is moved by every layer it passes.
    pub(crate) incoming: Option<Incoming>,
    /// Where the connection rests when that body has ended.
    pub(crate) home: Option<(Arc<Pool>, Key)>,
}

/// Why an exchange gave no response.
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Nothing of the request has been written, and it is back with the caller.
    pub(crate) unsent: bool,
    /// Not a byte of an answer was seen.
    pub(crate) silent: bool,
}

impl H1 {
    pub(crate) async fn handshake(io: ConnectedIo, peer: SocketAddr, limits: &HeadLimits) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let io = TokioIo::new(Counted { io, shared: shared.clone() });
        let (tx, conn) = http1::Builder::new()
            .max_headers(limits.max_count)
            .max_header_size(limits.max_bytes)
            .max_buf_size(limits.max_bytes.max(64 * 1024) * 2)
            .handshake(io)
            .await
            .map_err(|e| Error::from_hyper(&e))?;
        let waker = Waker::from(shared.clone());
        let active = Instant::now();
        let timer = LazyTimer::new(active + limits.timeout);
        Ok(Self {
            active,
            rests: None,
            tx,
            conn,
            shared,
            waker,
            timer,
            max_head_bytes: limits.max_bytes as u64 * 4,
            peer,
            incoming: None,
            home: None,
        })
    }

    /// Whether a connection at rest can take another request. A socket that was closed, or that sent bytes nobody asked for,
    /// cannot.
    pub(crate) fn is_usable(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        let usable = self.conn.poll_without_shutdown(&mut cx).is_pending() && self.tx.is_ready();
        self.shared.rest();
        usable
    }

    /// Whether the target may be about to close it. A clock is read only where the target has said when.
    pub(crate) fn is_stale(&self, since: Instant) -> bool {
        self.rests.is_some_and(|rests| since.elapsed() >= rests)
    }

    /// Puts the connection to rest after an exchange; whether it can be kept.
    pub(crate) fn rest(&mut self) -> bool {
        if self.rests == Some(Duration::ZERO) {
            return false;
        }
        if !self.tx.is_ready() {
            return self.is_usable();
        }
        self.shared.rest();
        !self.tx.is_closed()
    }

    /// Whether the target has answered for good without asking for the body: the connection serves nothing else.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::Relaxed)
    }

    /// Whether the request body is still under way.
    pub(crate) fn is_uploading(&self) -> bool {
        self.shared.uploading.load(Ordering::Relaxed)
    }

    /// Sends a request and waits for the head of the final response. The request is taken out of its place only here, because
    /// every future on the way would carry a copy of it.
    pub(crate) async fn exchange(
        &mut self,
        place: &mut Request<Body>,
        limits: &HeadLimits,
        start: Instant,
    ) -> Result<Response<Incoming>, Failed> {
        // Without a body there is nothing to wait with (RFC 9110 §10.1.1).
        let expects = place.headers().contains_key(http::header::EXPECT) && !place.body().is_empty();
        let mut request = super::take(place).map(|body| {
            let uploading = !body.is_empty();
            self.shared.reset(uploading, expects);
            if uploading { body.watched(self.shared.clone()) } else { body }
        });
        if expects {
            let shared = self.shared.clone();
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    shared.continue_received.store(true, Ordering::Relaxed);
                }
            });
        } else {
            request.headers_mut().remove(http::header::EXPECT);
        }
        let started_at = self.shared.read.load(Ordering::Relaxed);
        let wait = if expects { limits.continue_wait.min(limits.timeout) } else { limits.timeout };
        self.timer.set(start + wait);
        let mut response = pin!(self.tx.try_send_request(request));
        let (conn, shared, timer, waker) = (&mut self.conn, &self.shared, &mut self.timer, &self.waker);
        let max_head_bytes = self.max_head_bytes;

        let outcome = std::future::poll_fn(|cx| {
            shared.enter(cx);
            let mut inner = Context::from_waker(waker);
            let mut unseen = Context::from_waker(Waker::noop());
            let mut rounds = 0;
            loop {
                let ended = conn.poll_without_shutdown(&mut inner).is_ready();
                if let Poll::Ready(result) = response.as_mut().poll(&mut unseen) {
                    shared.leave_ready();
                    return Poll::Ready(result.map_err(|mut e| {
                        let unsent = e.take_message();
                        (Error::from_hyper(&e.into_error()), unsent)
                    }));
                }
                if ended {
                    shared.leave_ready();
                    return Poll::Ready(Err((Error::new(Kind::Terminated), None)));
                }
                let interim = shared.read.load(Ordering::Relaxed) - started_at;
                if interim > max_head_bytes {
                    shared.leave_ready();
                    return Poll::Ready(Err((Error::new(Kind::HeadTooLarge), None)));
                }
                if timer.poll(&mut inner).is_ready() {
                    // The body may now go without a `100`, or the upload is not over: the clock starts at its last byte.
                    let waiting = shared.await_continue.swap(false, Ordering::Relaxed);
                    let due = if waiting { Some(Instant::now() + limits.timeout) } else { shared.due(limits.timeout) };
                    if let Some(due) = due {
                        timer.set(due);
                        continue;
                    }
                    shared.leave_ready();
                    return Poll::Ready(Err((Error::new(Kind::HeadTimeout), None)));
                }
                rounds += 1;
                if rounds == 8 || !shared.take_woken() {
                    shared.leave(cx);
                    return Poll::Pending;
                }
            }
        })
        .await;
        let unasked =
            self.shared.await_continue.swap(false, Ordering::Relaxed) && !self.shared.continue_received.load(Ordering::Relaxed);
        if unasked && outcome.is_ok() {
            self.shared.abandoned.store(true, Ordering::Relaxed);
            // The connection lets its body know before anybody answers the client.
            let _ = self.conn.poll_without_shutdown(&mut Context::from_waker(&self.waker));
        }
        if let Ok(response) = &outcome {
            self.rests = announced_rest(response.headers());
        }
        outcome.map_err(|(error, message)| {
            let silent = self.shared.read.load(Ordering::Relaxed) == started_at;
            let unsent = message.is_some();
            if let Some(message) = message {
                *place = message;
            }
            Failed { error: self.shared.blame(error), unsent, silent }
        })
    }

    /// Polls the body of the response together with the connection that it comes from.
    ///
    /// The timer set by [`Self::set_idle_deadline`] rings here.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        let Self { incoming: Some(incoming), conn, shared, waker, timer, .. } = self else { return Poll::Ready(None) };
        shared.enter(cx);
        let mut inner = Context::from_waker(waker);
        let mut unseen = Context::from_waker(Waker::noop());
        let mut rounds = 0;
        loop {
            for step in 0..2 {
                if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(&mut unseen) {
                    shared.leave_ready();
                    return Poll::Ready(frame.map(|f| f.map_err(|e| shared.blame(Error::from_hyper(&e)))));
                }
                if step == 0 && conn.poll_without_shutdown(&mut inner).is_ready() {
                    // The connection has ended and left in the channel whatever there was; an unfinished body errs there.
                    let last = Pin::new(&mut *incoming).poll_frame(&mut unseen);
                    shared.leave_ready();
                    return match last {
                        Poll::Ready(frame) => Poll::Ready(frame.map(|f| f.map_err(|e| shared.blame(Error::from_hyper(&e))))),
                        Poll::Pending => Poll::Ready(Some(Err(Error::new(Kind::Incomplete)))),
                    };
                }
            }
            if timer.poll(&mut inner).is_ready() {
                shared.leave_ready();
                return Poll::Ready(Some(Err(Error::new(Kind::Idle))));
            }
            rounds += 1;
            if rounds == 8 || !shared.take_woken() {
                shared.leave(cx);
                return Poll::Pending;
            }
        }
    }

    /// Nothing may move for that long from now on.
    pub(crate) fn set_idle_deadline(&mut self, now: Instant, idle: Duration) {
        self.active = now;
        self.timer.set(now + idle);
    }

    /// Gives up the HTTP part: the socket, and what was read beyond the response head.
    pub(crate) fn into_io(self) -> (ConnectedIo, Bytes) {
        let parts = self.conn.into_parts();
        (parts.io.into_inner().into_inner(), parts.read_buf)
    }

    /// Runs the connection on its own until the exchange is over, for a response that arrives while the request is still being
    /// sent: then neither direction may wait for the other. A target that takes nothing of the rest for `idle` loses it.
    pub(crate) async fn run(self: Box<Self>, idle: Duration) {
        let Self { tx, mut conn, shared, .. } = *self;
        // Without its sender the connection closes after this exchange; with it, it would wait here for another one.
        drop(tx);
        let idle = idle.min(MAX_TAIL);
        let moved = || (shared.sent.load(Ordering::Relaxed), shared.read.load(Ordering::Relaxed));
        let mut ended = pin!(std::future::poll_fn(|cx| conn.poll_without_shutdown(cx)));
        loop {
            let before = moved();
            if tokio::time::timeout(idle, ended.as_mut()).await.is_ok() || (moved() == before && shared.upload_is_stuck()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_targets_say_about_rest() {
        let said = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", http::HeaderValue::from_static(value));
            announced_rest(&headers).map(|rest| rest.as_secs())
        };
        assert_eq!([said("timeout=5"), said("max=100, Timeout = 60"), said("timeout=0")], [Some(4), Some(59), Some(0)]);
        assert_eq!([said("max=100"), said("timeout=soon"), said("timeout=-1"), said("timeout")], [None; 4]);
        assert_eq!(announced_rest(&HeaderMap::new()), None);
    }
}
