//! A connection, from its first request to its last.

use std::{
    future::Future as _,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body::Frame;
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, ReadBuf},
    time::Instant,
};

use super::{
    super::{
        body::Body,
        error::{Error, Kind},
        pool::{Key, Pool},
        timer::LazyTimer,
    },
    Failed, HeadLimits, MAX_INTERIM,
    decode::{Decoder, Step},
    encode,
    head::{Head, HeadReader},
    upload::{Stop, Upload},
};
use crate::connect::ConnectedIo;

/// Room for a read at first, and the most that it grows to.
const READ: std::ops::RangeInclusive<usize> = 8 * 1024..=64 * 1024;

/// A connection with everything that belongs to it. Boxed wherever it moves.
pub(crate) struct H1 {
    io: ConnectedIo,
    limits: HeadLimits,
    /// Read and not yet handed on.
    buf: BytesMut,
    read_size: usize,
    reader: HeadReader,
    pub(super) upload: Upload,
    decoder: Decoder,
    keep_alive: bool,
    /// How long the target lets it rest, where it says so.
    rests: Option<Duration>,
    /// The answer was final before the body was asked for, or the socket refused the rest: no upload goes on.
    cut: bool,
    timer: LazyTimer,
    /// The longest silence in a response body.
    idle: Duration,
    /// The clock of a silence is running.
    silent: bool,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// When something of the exchange has moved last, roughly.
    pub(crate) active: Instant,
    /// What the connection may be used again for, once it has rested.
    pub(crate) key: Option<Key>,
    /// Where it rests when the body that is being read has ended.
    pub(crate) home: Option<Arc<Pool>>,
}

/// What one wait for a response head has to remember.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Wait {
    to_head: bool,
    /// The request asks for the connection's end.
    close: bool,
    /// A `100` is still waited for before the body goes.
    for_continue: bool,
    /// When something of the request has moved last.
    moved_at: Instant,
    first_poll: bool,
    /// A byte of an answer has come.
    answered: bool,
    interim: u32,
    interim_bytes: usize,
}

impl H1 {
    pub(crate) fn new(io: ConnectedIo, peer: SocketAddr, limits: &HeadLimits) -> Box<Self> {
        let active = Instant::now();
        Box::new(Self {
            io,
            limits: *limits,
            buf: BytesMut::new(),
            read_size: *READ.start(),
            reader: HeadReader::default(),
            upload: Upload::new(),
            decoder: Decoder::DONE,
            keep_alive: true,
            rests: None,
            cut: false,
            timer: LazyTimer::new(active + limits.timeout),
            idle: limits.timeout,
            silent: false,
            peer,
            active,
            key: None,
            home: None,
        })
    }

    /// Whether a connection at rest can take another request. A socket that was closed, or that sent bytes nobody asked for,
    /// cannot.
    pub(crate) fn is_usable(&mut self) -> bool {
        if !self.io.is_tls() {
            // Without a waker: nobody is to be woken for a connection at rest.
            return self.io.tcp().try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        }
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let io = &mut self.io;
        let read = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *io).poll_read(cx, &mut byte));
        // A task that has used up its budget would be told that there is nothing to read.
        let read = std::pin::pin!(tokio::task::unconstrained(read));
        read.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Whether the target may be about to close it. A clock is read only where the target has said when.
    pub(crate) fn is_stale(&self, since: Instant) -> bool {
        self.rests.is_some_and(|rests| since.elapsed() >= rests)
    }

    /// Whether the connection can rest after an exchange; it is ready for that then.
    pub(crate) fn rest(&mut self) -> bool {
        if self.rests == Some(Duration::ZERO) {
            return false;
        }
        if !(self.keep_alive && self.buf.is_empty() && self.decoder.is_done() && self.upload.is_done()) {
            return false;
        }
        if self.read_size > *READ.start() {
            self.trim();
        }
        true
    }

    /// Gives back the buffers, for a connection that rests for long.
    pub(crate) fn trim(&mut self) {
        self.buf = BytesMut::new();
        self.read_size = *READ.start();
        self.upload.trim();
    }

    /// Whether the request body is still under way.
    pub(crate) fn is_uploading(&self) -> bool {
        !self.upload.is_done()
    }

    /// Sends a request and waits for the head of the final response. Only the body is taken out of its place: the head is encoded
    /// from where it is, and can be sent again.
    pub(crate) async fn exchange(
        &mut self,
        place: &mut Request<Body>,
        authority: &HeaderValue,
        limits: &HeadLimits,
        start: Instant,
    ) -> Result<Head, Failed> {
        self.limits = *limits;
        let fail = |error| Failed { error, unsent: false, silent: false };
        // Without a body there is nothing to wait with (RFC 9110 §10.1.1).
        let expects = !place.body().is_empty() && place.headers().contains_key(header::EXPECT);
        let encoded = encode::request(self.upload.head(), place, authority, expects).map_err(fail)?;
        let body = (!place.body().is_empty()).then(|| std::mem::replace(place.body_mut(), Body::empty()));
        self.upload.start(body, encoded.framing, expects);
        // Until there is an answer that says otherwise.
        self.keep_alive = false;
        self.cut = false;
        self.reader.reset();
        let wait = if expects { self.limits.continue_wait.min(self.limits.timeout) } else { self.limits.timeout };
        self.timer.set(start + wait);
        let mut wait = Wait {
            to_head: *place.method() == Method::HEAD,
            close: encoded.close,
            for_continue: expects,
            moved_at: start,
            first_poll: true,
            answered: false,
            interim: 0,
            interim_bytes: 0,
        };
        let outcome = std::future::poll_fn(|cx| self.poll_head(&mut wait, place.headers_mut(), cx)).await;
        outcome.map_err(|error| {
            let silent = !wait.answered;
            let unsent = silent && error.kind() == Kind::Terminated;
            let back = if unsent { self.upload.take_unsent() } else { None };
            let unsent = back.is_some();
            if let Some(body) = back {
                *place.body_mut() = body;
            }
            Failed { error, unsent, silent }
        })
    }

    /// `sent` are the fields of the request. They stay until there is an answer: before that the request may be sent again.
    fn poll_head(&mut self, wait: &mut Wait, sent: &mut HeaderMap, cx: &mut Context<'_>) -> Poll<Result<Head, Error>> {
        let mut moved = false;
        loop {
            // By turns, so that an answer is seen while a fast upload runs.
            let mut wrote = false;
            if !self.upload.is_done() {
                match self.poll_upload_piece(cx) {
                    Poll::Ready(Ok(())) => wrote = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {}
                }
                moved |= self.upload.take_moved();
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Error::new(Kind::Terminated).with_detail("no response"))),
                Poll::Ready(Ok(_)) => {
                    wait.answered = true;
                    if let Some(head) = self.next_head(wait, sent)? {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Error::new(Kind::Terminated).with_detail(error.to_string())));
                }
                Poll::Pending if wrote && !self.upload.is_done() => {}
                Poll::Pending => break,
            }
        }
        if moved && !wait.first_poll {
            wait.moved_at = Instant::now();
        }
        wait.first_poll = false;
        while self.timer.poll(cx).is_ready() {
            let now = Instant::now();
            let timeout = self.limits.timeout;
            if std::mem::take(&mut wait.for_continue) {
                // The body may now go without a `100`.
                self.upload.held = false;
                self.timer.set(now + timeout);
                cx.waker().wake_by_ref();
            } else if self.upload.client_owes() {
                // A client that pauses its upload is not the target's fault.
                self.timer.set(now + timeout);
            } else if wait.moved_at + timeout > now {
                // The time for an answer counts from the last byte of the request.
                self.timer.set(wait.moved_at + timeout);
            } else {
                return Poll::Ready(Err(Error::new(Kind::HeadTimeout)));
            }
        }
        Poll::Pending
    }

    /// The final head, if it is complete. Interim ones before it are dropped.
    fn next_head(&mut self, wait: &mut Wait, sent: &mut HeaderMap) -> Result<Option<Head>, Error> {
        while !self.buf.is_empty() {
            let Some(head) = self.reader.take(&mut self.buf, &self.limits, wait.to_head, sent)? else { return Ok(None) };
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                self.begin_body(&head, wait.close);
                return Ok(Some(head));
            }
            if head.status == StatusCode::CONTINUE {
                self.upload.held = false;
            }
            wait.interim += 1;
            wait.interim_bytes += head.size;
            if wait.interim > MAX_INTERIM || wait.interim_bytes > self.limits.max_bytes.saturating_mul(4) {
                return Err(Error::new(Kind::HeadTooLarge).with_detail("interim responses without end"));
            }
        }
        Ok(None)
    }

    fn begin_body(&mut self, head: &Head, close: bool) {
        self.decoder = Decoder::new(head.framing);
        self.rests = head.rests;
        if self.upload.held {
            // Nobody has asked for the body, and whoever sends it must see that before the answer goes on.
            self.upload.held = false;
            self.upload.abandon();
            self.cut = true;
        }
        self.keep_alive = head.keep_alive && !close && !self.cut;
    }

    /// Goes on with the upload; an error only if the exchange is lost with it.
    fn poll_upload_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match ready!(self.upload.poll(&mut self.io, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stop::Body(error)) => Poll::Ready(Err(error)),
            Err(Stop::Socket) => {
                // An answer may lie in the socket all the same; if none does, reading says what has happened.
                self.upload.abandon();
                self.cut = true;
                self.keep_alive = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Goes on with the upload until it waits, or is done.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.upload.is_done() {
            ready!(self.poll_upload_piece(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, into a buffer that grows while reads fill it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        // From the front where nothing of it is in use any more: those bytes are still in the processor's cache.
        let from_front = self.buf.is_empty() && self.buf.try_reclaim(self.read_size);
        if !from_front && self.buf.capacity() - self.buf.len() < self.read_size / 2 {
            self.buf.reserve(self.read_size);
        }
        let room = self.buf.capacity() - self.buf.len();
        let n = ready!(pin!(self.io.read_buf(&mut self.buf)).poll(cx))?;
        if n == room {
            self.read_size = (self.read_size * 2).min(*READ.end());
        }
        Poll::Ready(Ok(n))
    }

    /// The response's body, if all of it has come with the head.
    pub(crate) fn whole_body(&mut self) -> Option<Bytes> {
        match self.decoder.remaining() {
            Some(left) => {
                let len = usize::try_from(left).ok().filter(|len| *len <= self.buf.len())?;
                self.decoder = Decoder::DONE;
                Some(if len == 0 { Bytes::new() } else { self.buf.split_to(len).freeze() })
            }
            None => self.whole_chunk(),
        }
    }

    /// One chunk, the last chunk, and no trailers.
    fn whole_chunk(&mut self) -> Option<Bytes> {
        if !self.buf.ends_with(b"0\r\n\r\n") {
            return None;
        }
        let mut decoder = self.decoder;
        let Ok(Step::Data { skip, len }) = decoder.step(&self.buf, &self.limits) else { return None };
        let rest = self.buf.get(skip + len..)?;
        let Ok(Step::End { skip: end, trailers: None }) = decoder.step(rest, &self.limits) else { return None };
        if end != rest.len() {
            return None;
        }
        self.decoder = Decoder::DONE;
        self.buf.advance(skip);
        let data = self.buf.split_to(len).freeze();
        self.buf.clear();
        Some(data)
    }

    /// Whether the body has been read to its end.
    pub(crate) fn body_is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// How much of the body is still to come, if that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// The next part of the body; `None` at its end.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.decoder.step(&self.buf, &self.limits) {
                Ok(Step::Data { skip, len }) => {
                    self.buf.advance(skip);
                    return Poll::Ready(Some(Ok(Frame::data(self.buf.split_to(len).freeze()))));
                }
                Ok(Step::End { skip, trailers }) => {
                    self.buf.advance(skip);
                    return Poll::Ready(trailers.map(|t| Ok(Frame::trailers(*t))));
                }
                Ok(Step::More { skip }) => self.buf.advance(skip),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.decoder.ends_with_stream() => {
                    self.decoder = Decoder::DONE;
                    self.keep_alive = false;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Error::new(Kind::Incomplete)))),
                Ok(_) => {}
                Err(error) => {
                    return Poll::Ready(Some(Err(Error::new(Kind::Terminated).with_detail(error.to_string()))));
                }
            }
        }
    }

    /// The same, with a limit on silence.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = self.poll_frame(cx) {
            self.silent = false;
            return Poll::Ready(frame);
        }
        if !self.silent {
            self.silent = true;
            self.active = Instant::now();
            self.timer.set(self.active + self.idle);
        }
        ready!(self.timer.poll(cx));
        Poll::Ready(Some(Err(Error::new(Kind::Idle))))
    }

    /// The longest silence from now on.
    pub(crate) fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
        self.silent = false;
    }

    /// Whether the rest of an upload still has somewhere to go after the response: both ends let the connection live.
    pub(super) fn has_tail(&self) -> bool {
        !self.cut && self.keep_alive && !self.upload.is_done()
    }

    /// Ready when the other end has closed, or says something nobody asked for.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read(cx).map(drop)
    }

    /// Gives up the HTTP part: the socket, and what was read beyond the response head.
    pub(crate) fn into_io(self) -> (ConnectedIo, Bytes) {
        (self.io, self.buf.freeze())
    }
}

#[cfg(test)]
impl H1 {
    pub(super) async fn io_readable(&self) {
        self.io.tcp().readable().await.unwrap();
    }

    /// Memory for what is read.
    pub(super) fn room(&self) -> usize {
        self.buf.capacity()
    }
}
