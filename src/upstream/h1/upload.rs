//! A request on its way out: the head, and the body as its sender delivers it.
//!
//! At most three times [`TOGETHER`] and one large piece are held, so nothing is taken from the sender faster than the socket takes
//! it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::{
    super::{
        body::{Body, UploadError, classify},
        error::{Error, Kind},
    },
    encode::{Framing, broken},
};
use crate::wire::{self, Outbox, TOGETHER};

/// Why an upload cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// The socket takes no more. The other end may have answered all the same.
    Socket,
    /// The body is not what was promised, or its sender has failed: the other end must not take it for whole.
    Body(Error),
}

/// The state of one request.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Upload {
    out: Outbox,
    /// What is not yet read of the body.
    body: Option<Body>,
    framing: Framing,
    /// The body is not asked for yet: the target is to say `100` first.
    pub(super) held: bool,
    /// There is something that `flush` has not seen.
    unflushed: bool,
    /// The body was asked for more, and its sender has not delivered yet.
    client_owes: bool,
    /// Something of the request has moved since the last look.
    moved: bool,
    /// Something of the request was written.
    begun: bool,
    /// Something was taken out of the body.
    touched: bool,
    /// A body that nothing was taken out of, of a request that could not be written.
    spare: Option<Body>,
}

impl Upload {
    pub(super) fn new() -> Self {
        Self {
            out: Outbox::default(),
            body: None,
            framing: Framing::Length(0),
            held: false,
            unflushed: false,
            client_owes: false,
            moved: false,
            begun: false,
            touched: false,
            spare: None,
        }
    }

    /// Where the next request's head is put. Nothing of another request may follow it, whatever became of that one.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        self.out.clear();
        self.out.small()
    }

    /// Begins with the head that was put there.
    pub(super) fn start(&mut self, body: Option<Body>, framing: Framing, held: bool) {
        self.body = body;
        self.framing = framing;
        self.held = held;
        self.unflushed = true;
        self.client_owes = false;
        self.moved = false;
        self.begun = false;
        self.touched = false;
        self.spare = None;
    }

    /// Whether everything is with the socket.
    #[inline]
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && !self.unflushed && self.out.is_empty()
    }

    /// The body, if nothing of the request has gone anywhere.
    pub(super) fn take_unsent(&mut self) -> Option<Body> {
        if self.begun || self.touched {
            return None;
        }
        Some(self.spare.take().or_else(|| self.body.take()).unwrap_or_else(Body::empty))
    }

    /// Nothing more is sent; whoever delivers the body sees that it is not read.
    pub(super) fn abandon(&mut self) {
        self.spare = self.body.take().filter(|_| !self.begun && !self.touched);
        self.out.clear();
        self.unflushed = false;
    }

    /// Whether there is a rest that the target does not take.
    pub(super) fn is_stuck(&self) -> bool {
        !self.is_done() && !self.client_owes
    }

    /// Whether the body's sender is the one that is waited for.
    pub(super) fn client_owes(&self) -> bool {
        self.client_owes && self.body.is_some()
    }

    /// Whether anything has moved since the last call.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Gives back large memory.
    pub(super) fn trim(&mut self) {
        if self.out.small().capacity() > TOGETHER {
            self.out = Outbox::default();
        }
    }

    /// One piece further: ready when it was written, or everything was.
    pub(super) fn poll<W: AsyncWrite + Unpin>(&mut self, io: &mut W, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.body.is_some() && !self.held {
            self.fill(cx).map_err(Stop::Body)?;
        }
        if !self.out.is_empty() {
            ready!(self.out.poll_write(io, cx)).map_err(|_| Stop::Socket)?;
            self.begun = true;
            self.moved = true;
            self.unflushed = true;
            if !self.out.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.body.is_some() && !self.client_owes && !self.held {
                return Poll::Ready(Ok(()));
            }
        } else if !self.unflushed {
            return if self.body.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        ready!(Pin::new(io).poll_flush(cx)).map_err(|_| Stop::Socket)?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Takes pieces of the body until there is enough to write, the body ends, or its sender has no more for now.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while self.out.has_room(2 * TOGETHER) {
            let Some(body) = &mut self.body else { return Ok(()) };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                self.client_owes = true;
                return Ok(());
            };
            self.client_owes = false;
            self.moved = true;
            self.touched = true;
            match frame.map(|f| f.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.push(data)?,
                Some(Ok(Err(frame))) => self.finish(frame.into_trailers().ok().as_ref())?,
                Some(Err(error)) => return Err(classify(error.as_ref()).into()),
                None => self.finish(None)?,
            }
        }
        Ok(())
    }

    fn push(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        if let Framing::Length(left) = &mut self.framing {
            *left = left.checked_sub(data.len() as u64).ok_or_else(|| broken("the body is longer than its length"))?;
            if *left == 0 {
                // All that was promised: nobody has to ask for the end.
                self.body = None;
            }
            self.out.put(data, b"");
        } else {
            wire::chunk_size(self.out.small(), data.len());
            self.out.put(data, b"\r\n");
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Error> {
        self.body = None;
        match self.framing {
            // There is no place for trailers.
            Framing::Length(0) => Ok(()),
            Framing::Length(_) => Err(broken("the body is shorter than its length")),
            Framing::Chunked => {
                wire::last_chunk(self.out.small(), trailers.into_iter().flatten());
                Ok(())
            }
        }
    }
}

impl From<UploadError> for Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge => Self::new(Kind::RequestTooLarge),
            UploadError::Rejected(rejection) => Self::rejected(*rejection),
            UploadError::Broken(text) => Self::new(Kind::RequestBroken).with_detail(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{self, IoSlice},
    };

    use proptest::prelude::*;

    use super::*;

    /// Delivers frames; `None` is a pause.
    struct Frames(VecDeque<Option<Frame<Bytes>>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "beside a frame that is not ready")]
    fn data(piece: &[u8]) -> Option<Frame<Bytes>> {
        Some(Frame::data(Bytes::copy_from_slice(piece)))
    }

    fn upload(frames: Vec<Option<Frame<Bytes>>>, framing: Framing) -> Upload {
        let mut upload = Upload::new();
        upload.head().extend_from_slice(b"head\r\n\r\n");
        upload.start(Some(Body::stream(Frames(frames.into()))), framing, false);
        upload
    }

    /// A socket that takes so much a write, and forgets nothing.
    struct Socket {
        step: usize,
        got: Vec<u8>,
        writes: usize,
        /// Takes nothing every other time.
        stutters: bool,
        full: bool,
    }

    impl Socket {
        fn new(step: usize) -> Self {
            Self { step, got: Vec::new(), writes: 0, stutters: false, full: false }
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(mut self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            if self.stutters {
                self.full = !self.full;
                if self.full {
                    return Poll::Pending;
                }
            }
            let before = self.got.len();
            for buf in bufs {
                let n = buf.len().min(self.step - (self.got.len() - before));
                self.got.extend_from_slice(&buf[..n]);
            }
            self.writes += 1;
            Poll::Ready(Ok(self.got.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn run(upload: Upload, step: usize) -> Result<Socket, Stop> {
        run_on(upload, Socket::new(step))
    }

    fn run_on(mut upload: Upload, mut socket: Socket) -> Result<Socket, Stop> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while !upload.is_done() {
            if let Poll::Ready(Err(stop)) = upload.poll(&mut socket, &mut cx) {
                return Err(stop);
            }
        }
        Ok(socket)
    }

    #[test]
    fn a_head_and_a_small_body_are_one_write() {
        let socket = run(upload(vec![data(b"hel"), data(b"lo")], Framing::Length(5)), usize::MAX).unwrap();
        assert_eq!((socket.got.as_slice(), socket.writes), (&b"head\r\n\r\nhello"[..], 1));
        let socket = run(upload(vec![data(b"hello")], Framing::Chunked), usize::MAX).unwrap();
        assert_eq!((socket.got.as_slice(), socket.writes), (&b"head\r\n\r\n5\r\nhello\r\n0\r\n\r\n"[..], 1));
    }

    /// The body is over, and its last bytes are not with the socket yet.
    #[test]
    fn what_a_full_socket_has_not_taken_is_not_done() {
        for framing in [Framing::Length(5), Framing::Chunked] {
            let mut upload = upload(vec![None, data(b"hello")], framing);
            let mut socket = Socket::new(usize::MAX);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = upload.poll(&mut socket, &mut cx);
            assert_eq!(socket.got, b"head\r\n\r\n");
            (socket.stutters, socket.full) = (true, false);
            assert!(upload.poll(&mut socket, &mut cx).is_pending());
            assert!(!upload.is_done());
            let socket = run_on(upload, socket).unwrap();
            assert!(socket.got.windows(5).any(|w| w == b"hello"));
        }
    }

    #[test]
    fn a_head_does_not_wait_for_a_body_that_waits() {
        let socket = run(upload(vec![None, data(b"hello")], Framing::Length(5)), usize::MAX).unwrap();
        assert_eq!((socket.got.as_slice(), socket.writes), (&b"head\r\n\r\nhello"[..], 2));
    }

    #[test]
    fn too_much_and_too_little_are_errors_and_never_a_clean_end() {
        for (framing, frames) in [
            (Framing::Length(4), vec![data(b"hello")]),
            (Framing::Length(6), vec![data(b"hello")]),
            (Framing::Length(1), vec![]),
            (Framing::Length(6), vec![data(b"hello"), Some(Frame::trailers(HeaderMap::new()))]),
        ] {
            match run(upload(frames, framing), usize::MAX) {
                Err(Stop::Body(error)) => assert_eq!(error.kind(), Kind::RequestBroken),
                _ => panic!("{framing:?}"),
            }
        }
    }

    #[test]
    fn a_large_piece_is_not_copied() {
        let piece = Bytes::from(vec![b'x'; 100_000]);
        let mut upload = upload(vec![Some(Frame::data(piece.clone()))], Framing::Chunked);
        let mut socket = Socket::new(10);
        let _ = upload.poll(&mut socket, &mut Context::from_waker(std::task::Waker::noop()));
        assert_eq!(upload.out.pieces()[1].as_ptr(), piece.as_ptr());
        assert!(upload.out.small().capacity() < 2 * TOGETHER);
    }

    #[test]
    fn trailers_follow_the_last_chunk_without_what_does_not_belong_there() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        trailers.insert("content-length", "9".parse().unwrap());
        let socket = run(upload(vec![data(b"a"), Some(Frame::trailers(trailers))], Framing::Chunked), 3).unwrap();
        assert_eq!(socket.got, b"head\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
    }

    #[test]
    fn a_body_that_is_held_is_not_touched() {
        let mut upload = upload(vec![data(b"hello")], Framing::Length(5));
        upload.held = true;
        let mut socket = Socket::new(usize::MAX);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while upload.poll(&mut socket, &mut cx).is_ready() {}
        assert_eq!(socket.got, b"head\r\n\r\n");
        assert!(!upload.is_done() && !upload.touched);
        upload.held = false;
        while !upload.is_done() {
            assert!(matches!(upload.poll(&mut socket, &mut cx), Poll::Ready(Ok(()))));
        }
        assert_eq!(socket.got, b"head\r\n\r\nhello");
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_order_however_little_the_socket_takes(
            sizes in prop::collection::vec(prop_oneof![4 => 0usize..50, 1 => 4000usize..9000, 1 => Just(usize::MAX)], 0..8),
            step in prop_oneof![1usize..20, 100usize..10_000, Just(usize::MAX)],
            chunked in any::<bool>(),
            stutters in any::<bool>(),
        ) {
            let mut all = Vec::new();
            let frames: Vec<_> = sizes.iter().map(|n| (*n != usize::MAX).then(|| {
                let piece: Vec<u8> = (0..*n).map(|i| u8::try_from((i * 7 + n) % 251).unwrap()).collect();
                all.extend_from_slice(&piece);
                Frame::data(Bytes::from(piece))
            })).collect();
            let framing = if chunked { Framing::Chunked } else { Framing::Length(all.len() as u64) };
            let got = run_on(upload(frames, framing), Socket { stutters, ..Socket::new(step) }).unwrap().got;
            let body = got.strip_prefix(b"head\r\n\r\n").unwrap();
            if chunked {
                let mut decoder = super::super::decode::Decoder::new(super::super::head::Framing::Chunked);
                let (mut read, mut at) = (Vec::new(), 0);
                loop {
                    match decoder.step(&body[at..], &super::super::tests::LIMITS).unwrap() {
                        super::super::decode::Step::Data { skip, len } => {
                            read.extend_from_slice(&body[at + skip..at + skip + len]);
                            at += skip + len;
                        }
                        super::super::decode::Step::End { skip, .. } => {
                            prop_assert_eq!(at + skip, body.len());
                            break;
                        }
                        super::super::decode::Step::More { .. } => panic!("no end"),
                    }
                }
                prop_assert_eq!(read, all);
            } else {
                prop_assert_eq!(body, all.as_slice());
            }
        }
    }
}
