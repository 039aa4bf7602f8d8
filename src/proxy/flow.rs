//! One direction of a tunnel: what was read is written on, and looked at on its way.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    frames::{FrameReader, Verdict},
    ping::PongFilter,
};

const PIECE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// One direction.
pub(super) struct Flow {
    pub(super) kept: Vec<u8>,
    at: usize,
    /// How many of the kept bytes are a Ping of ours. It is put in only where nothing else is kept, so they are the first ones.
    own: usize,
    pub(super) bytes: u64,
    pub(super) ended: bool,
    shut: bool,
    dirty: bool,
    pub(super) frames: Option<FrameReader>,
    hold: Option<Pin<Box<Sleep>>>,
    /// Keeps the answers to our Pings back, from the first Ping on.
    pub(super) pongs: Option<Box<PongFilter>>,
    pub(super) signs: Signs,
}

/// The signs of life that decide about our Pings.
#[derive(Default)]
pub(super) struct Signs {
    /// Since the last look: bytes were read; an answer was among them.
    pub(super) heard: bool,
    pub(super) answered: bool,
    /// The last poll ended because the reader had nothing more, and for no other reason.
    pub(super) listening: bool,
    /// How many Pings and Pongs had passed at the last look.
    pub(super) pings: u32,
    pub(super) pongs: u32,
}

pub(super) enum Step {
    Ended,
    Exceeded(u16),
}

impl Flow {
    pub(super) fn new(early: Bytes, frames: Option<FrameReader>) -> Self {
        Self {
            kept: early.into(),
            at: 0,
            own: 0,
            bytes: 0,
            ended: false,
            shut: false,
            dirty: false,
            frames,
            hold: None,
            pongs: None,
            signs: Signs::default(),
        }
    }

    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut bool,
    ) -> Poll<io::Result<Step>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        self.signs.listening = false;
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                ready!(self.poll_write_kept(cx, writer, moved))?;
                if self.ended {
                    if !self.shut {
                        ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                        self.shut = true;
                    }
                    return Poll::Ready(Ok(Step::Ended));
                }
                if let Some(hold) = &mut self.hold {
                    ready!(hold.as_mut().poll(cx));
                    self.hold = None;
                }
                let mut buf = ReadBuf::new(scratch);
                match Pin::new(&mut *reader).poll_read(cx, &mut buf)? {
                    Poll::Pending => {
                        self.signs.listening = true;
                        if self.dirty {
                            ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                            self.dirty = false;
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(()) => {}
                }
                let data = buf.filled();
                let mut rest = Vec::new();
                let data = if data.is_empty() {
                    self.ended = true;
                    *moved = true;
                    rest.extend_from_slice(self.pongs.as_mut().map(|p| p.release()).unwrap_or_default());
                    &rest
                } else {
                    self.signs.heard = true;
                    self.without_answers(data, &mut rest)
                };
                if data.is_empty() {
                    continue;
                }
                *moved = true;
                if let Some(code) = self.take(cx, data, writer)? {
                    return Poll::Ready(Ok(Step::Exceeded(code)));
                }
            }
        })
    }

    /// What of the bytes that were read is for the other end.
    fn without_answers<'a>(&mut self, data: &'a [u8], rest: &'a mut Vec<u8>) -> &'a [u8] {
        let Some(pongs) = &mut self.pongs else { return data };
        let (data, answered) = pongs.filter(data, rest);
        self.signs.answered |= answered;
        data
    }

    /// Passes on what was just read; returns a close code if it must not pass.
    fn take<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, data: &[u8], writer: &mut W) -> io::Result<Option<u16>> {
        let mut data = data;
        let mut stop = None;
        if let Some(frames) = &mut self.frames {
            let now = if frames.is_metered() { Instant::now().duration_since(*EPOCH) } else { Duration::ZERO };
            if let Verdict::Stop(upto, code) = frames.read(data, now) {
                data = data.get(..upto).unwrap_or_default();
                stop = Some(code);
            }
            self.hold = frames.delay().map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        let mut written = 0;
        while written < data.len() {
            match Pin::new(&mut *writer).poll_write(cx, data.get(written..).unwrap_or_default())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => written += n,
                Poll::Pending => break,
            }
        }
        self.dirty = true;
        self.bytes += written as u64;
        if written < data.len() {
            self.kept = data.get(written..).unwrap_or_default().to_vec();
            self.at = 0;
        }
        Ok(stop)
    }

    fn poll_write_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.at..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += n;
            let own = n.min(self.own);
            self.own -= own;
            self.bytes += (n - own) as u64;
            self.dirty = true;
            *moved |= n > own;
        }
        if !self.kept.is_empty() {
            self.kept = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn at_boundary(&self) -> bool {
        self.kept.is_empty() && self.frames.as_ref().is_none_or(FrameReader::at_boundary)
    }

    /// Whether a Ping of ours is still to be written.
    pub(super) fn is_injecting(&self) -> bool {
        self.own > 0
    }

    /// Puts a Ping between two frames: only [`Self::at_boundary`].
    pub(super) fn inject(&mut self, frame: Vec<u8>) {
        self.own = frame.len();
        self.kept = frame;
        self.at = 0;
    }
}

static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
