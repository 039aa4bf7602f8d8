//! Bytes both ways between a client and a target, for WebSocket and `CONNECT`.
//!
//! Nothing is re-framed: extensions, subprotocols, close codes and half-closes survive. One buffer a thread serves every tunnel of
//! that thread: what was read is written on at once, and only what the other side does not take is kept. So an idle tunnel holds no
//! buffer, a busy one moves large pieces, and a stalled reader holds at most one piece.

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

use super::frames::{FrameReader, Verdict, WebSocketLimits, close_frame};
use crate::context::{ClosedBy, Outcome, RecordHandle};

const PIECE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// Limits of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelLimits {
    pub(crate) idle: Duration,
    pub(crate) total: Option<Duration>,
    pub(crate) websocket: WebSocketLimits,
}

/// One direction.
struct Flow {
    kept: Vec<u8>,
    at: usize,
    bytes: u64,
    ended: bool,
    shut: bool,
    dirty: bool,
    frames: Option<FrameReader>,
    hold: Option<Pin<Box<Sleep>>>,
}

enum Step {
    Ended,
    Exceeded(u16),
}

impl Flow {
    fn new(early: Bytes, frames: Option<FrameReader>) -> Self {
        Self { kept: early.into(), at: 0, bytes: 0, ended: false, shut: false, dirty: false, frames, hold: None }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W, moved: &mut bool) -> Poll<io::Result<Step>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
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
                        if self.dirty {
                            ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                            self.dirty = false;
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(()) => *moved = true,
                }
                let data = buf.filled();
                if data.is_empty() {
                    self.ended = true;
                    continue;
                }
                if let Some(code) = self.take(cx, data, writer)? {
                    return Poll::Ready(Ok(Step::Exceeded(code)));
                }
            }
        })
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
            self.bytes += n as u64;
            self.dirty = true;
            *moved = true;
        }
        if !self.kept.is_empty() {
            self.kept = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn at_boundary(&self) -> bool {
        self.kept.is_empty() && self.frames.as_ref().is_none_or(FrameReader::at_boundary)
    }
}

static EPOCH: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// How a tunnel ended.
pub(crate) struct Ended {
    pub(crate) by: ClosedBy,
    pub(crate) outcome: Outcome,
    pub(crate) close_code: Option<u16>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Ended {
    pub(crate) fn note(&self, record: Option<&RecordHandle>) {
        if let Some(record) = record {
            record.with(|r| {
                r.bytes_in = self.bytes_in;
                r.bytes_out = self.bytes_out;
                r.closed_by = Some(self.by);
                r.close_code = self.close_code;
                r.outcome = self.outcome;
            });
        }
    }
}

/// Copies until both sides have ended, one fails, a limit is reached, or `closing` says that it has to end; it resolves to the
/// WebSocket close code to send.
#[expect(clippy::too_many_lines, reason = "one loop over two directions, read from top to bottom")]
pub(crate) async fn run<C, T, S>(
    mut client: C,
    mut target: T,
    early_from_target: Bytes,
    is_websocket: bool,
    limits: TunnelLimits,
    closing: S,
) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
    S: Future<Output = u16>,
{
    let frames = || is_websocket.then(|| FrameReader::new(limits.websocket));
    let mut up = Flow::new(Bytes::new(), frames());
    let mut down = Flow::new(early_from_target.clone(), frames());
    let mut early_stop = None;
    if let Some(Verdict::Stop(upto, code)) = down.frames.as_mut().map(|f| f.read(&early_from_target, Duration::ZERO)) {
        down.kept.truncate(upto);
        early_stop = Some(code);
    }
    drop(early_from_target);
    let start = Instant::now();
    let mut idle = IdleTimer::new(start, limits);
    let mut closing = std::pin::pin!(closing);
    let mut asked_to_close = early_stop;
    let (mut up_done, mut down_done) = (false, false);
    let mut first_end = None;

    let end = std::future::poll_fn(|cx| {
        loop {
            let mut moved = false;
            if asked_to_close.is_none()
                && let Poll::Ready(code) = closing.as_mut().poll(cx)
            {
                asked_to_close = Some(code);
                idle.cut(Duration::from_millis(500));
            }
            if let Some(code) = asked_to_close
                && down.at_boundary()
                && up.at_boundary()
            {
                return Poll::Ready(Stop::Close(code));
            }
            if !up_done {
                match up.poll(cx, &mut client, &mut target, &mut moved) {
                    Poll::Ready(Ok(Step::Ended)) => {
                        up_done = true;
                        first_end.get_or_insert(ClosedBy::Client);
                    }
                    Poll::Ready(Ok(Step::Exceeded(code))) => return Poll::Ready(Stop::Exceeded(code)),
                    Poll::Ready(Err(_)) => return Poll::Ready(Stop::Broken),
                    Poll::Pending => {}
                }
            }
            if !down_done {
                match down.poll(cx, &mut target, &mut client, &mut moved) {
                    Poll::Ready(Ok(Step::Ended)) => {
                        down_done = true;
                        first_end.get_or_insert(ClosedBy::Target);
                    }
                    Poll::Ready(Ok(Step::Exceeded(code))) => return Poll::Ready(Stop::Exceeded(code)),
                    Poll::Ready(Err(_)) => return Poll::Ready(Stop::Broken),
                    Poll::Pending => {}
                }
            }
            if up_done && down_done {
                return Poll::Ready(Stop::Both);
            }
            if moved {
                idle.touch();
            }
            if idle.poll(cx).is_ready() {
                return Poll::Ready(match asked_to_close {
                    Some(_) => Stop::Broken,
                    None => Stop::Idle,
                });
            }
            if asked_to_close.is_none() || !(down.at_boundary() && up.at_boundary()) {
                return Poll::Pending;
            }
        }
    })
    .await;

    let code_seen = |flow: &Flow| flow.frames.as_ref().and_then(|f| f.close_code);
    let close_code = code_seen(&up).or_else(|| code_seen(&down));
    let mut ended = Ended {
        by: first_end.unwrap_or(ClosedBy::Proxy),
        outcome: Outcome::Complete,
        close_code,
        bytes_in: up.bytes,
        bytes_out: down.bytes,
    };
    let ours = match end {
        Stop::Both => None,
        Stop::Broken => {
            ended.outcome = if asked_to_close.is_some() || first_end.is_none() && close_code.is_none() {
                Outcome::Aborted
            } else {
                Outcome::Complete
            };
            None
        }
        Stop::Exceeded(code) | Stop::Close(code) => Some(code),
        Stop::Idle => Some(1001),
    };
    if let Some(code) = ours {
        ended.by = ClosedBy::Proxy;
        ended.outcome = Outcome::Aborted;
        ended.close_code = Some(code);
        if is_websocket {
            let (to_client, to_target) = (close_frame(code, false), close_frame(code, true));
            let farewell = async {
                tokio::join!(say(&mut client, &to_client, down.at_boundary()), say(&mut target, &to_target, up.at_boundary()),)
            };
            let _ = tokio::time::timeout(Duration::from_millis(500), farewell).await;
        }
    }
    ended
}

/// Sends a close frame where one fits, and the end of the stream.
async fn say<W: AsyncWrite + Unpin>(side: &mut W, frame: &[u8], at_boundary: bool) {
    use tokio::io::AsyncWriteExt as _;
    if at_boundary && side.write_all(frame).await.is_err() {
        return;
    }
    let _ = side.shutdown().await;
}

enum Stop {
    Both,
    Broken,
    Idle,
    Exceeded(u16),
    Close(u16),
}

/// The idle and total time of a tunnel in one timer, wound up again only when it rings.
struct IdleTimer {
    sleep: Pin<Box<Sleep>>,
    last: Instant,
    idle: Duration,
    end: Option<Instant>,
}

impl IdleTimer {
    fn new(start: Instant, limits: TunnelLimits) -> Self {
        let end = limits.total.map(|total| start + total);
        let first = end.map_or(start + limits.idle, |end| end.min(start + limits.idle));
        Self { sleep: Box::pin(tokio::time::sleep_until(first)), last: start, idle: limits.idle, end }
    }

    fn touch(&mut self) {
        self.last = Instant::now();
    }

    /// Whatever happens, it rings in `left`.
    fn cut(&mut self, left: Duration) {
        let at = Instant::now() + left;
        self.end = Some(self.end.map_or(at, |end| end.min(at)));
        self.sleep.as_mut().reset(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let due = self.end.map_or(self.last + self.idle, |end| end.min(self.last + self.idle));
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}
