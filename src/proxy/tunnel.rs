//! Bytes both ways between a client and a target, for WebSocket and `CONNECT`.
//!
//! Nothing is re-framed: extensions, subprotocols, close codes and half-closes survive. One buffer a thread serves every tunnel of
//! that thread: what was read is written on at once, and only what the other side does not take is kept. So an idle tunnel holds no
//! buffer, a busy one moves large pieces, and a stalled reader holds at most one piece. Pings of our own go between two frames.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

use super::{
    flow::{Flow, Step},
    frames::{FrameReader, Verdict, WebSocketLimits, close_frame},
    ping::{Action, End, News, WebSocketPing},
};
use crate::{
    clock::timers,
    context::{ClosedBy, Outcome, RecordHandle},
};

/// Limits of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelLimits {
    pub(crate) idle: Duration,
    pub(crate) total: Option<Duration>,
    pub(crate) websocket: WebSocketLimits,
    pub(crate) ping: Option<WebSocketPing>,
}

/// Our Pings to both ends, with one timer that is wound up again only when it rings or would ring too late.
struct Pinger {
    sleep: Pin<Box<Sleep>>,
    client: End,
    target: End,
}

enum Pinged {
    Nothing,
    /// A flow has something to write.
    Sent,
    Unanswered,
}

impl Pinger {
    fn new(settings: WebSocketPing, now: Instant) -> Self {
        Self {
            sleep: Box::pin(timers::seldom(Instant::now() + settings.interval)),
            client: End::new(settings, false, now),
            target: End::new(settings, true, now),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, up: &mut Flow, down: &mut Flow) -> Pinged {
        // After a Close frame nothing may follow (RFC 6455 §5.5.1); the idle time ends such a tunnel.
        if [&*up, &*down].iter().any(|flow| flow.frames.as_ref().is_none_or(|f| f.close_code.is_some())) {
            return Pinged::Nothing;
        }
        loop {
            let now = Instant::now();
            let mut next = None;
            for look in [look(&mut self.client, up, down, now), look(&mut self.target, down, up, now)] {
                match look {
                    Look::Sent => return Pinged::Sent,
                    Look::Lost => return Pinged::Unanswered,
                    Look::Wait(at) => next = Some(next.map_or(at, |next: Instant| next.min(at))),
                    Look::Nothing => {}
                }
            }
            let Some(next) = next else { return Pinged::Nothing };
            if self.sleep.deadline() > next || self.sleep.is_elapsed() {
                self.sleep.as_mut().reset(next);
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Pinged::Nothing;
            }
        }
    }
}

enum Look {
    Sent,
    Lost,
    Wait(Instant),
    /// The end cannot be asked. What can change that moves a flow, and that is looked at.
    Nothing,
}

/// Looks at one end: `from` it bytes come, `to` it they go.
fn look(end: &mut End, from: &mut Flow, to: &mut Flow, now: Instant) -> Look {
    if from.ended || to.ended {
        return Look::Nothing;
    }
    let asked = to.frames.as_ref().map_or(0, |f| f.pings);
    let replies = from.frames.as_ref().map_or(0, |f| f.pongs);
    let news = News {
        heard: mem::take(&mut from.signs.heard) || !from.signs.listening,
        answered: mem::take(&mut from.signs.answered) || replies != from.signs.pongs,
        asked: asked != to.signs.pings,
        sending: to.is_injecting(),
    };
    from.signs.pongs = replies;
    to.signs.pings = asked;
    match end.look(now, news) {
        Action::Wait(at) => Look::Wait(at),
        Action::Lost => Look::Lost,
        Action::Ping if !to.at_boundary() => Look::Nothing,
        Action::Ping => {
            if let (None, Some(frames)) = (&from.pongs, &from.frames) {
                from.pongs = Some(Box::new(end.filter(frames.position())));
            }
            to.inject(end.ping(now));
            Look::Sent
        }
    }
}

/// How a tunnel ended.
pub(crate) struct Ended {
    pub(crate) by: ClosedBy,
    pub(crate) outcome: Outcome,
    pub(crate) close_code: Option<u16>,
    /// Why the proxy ended it, where the code alone does not say it.
    pub(crate) reason: Option<&'static str>,
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
                r.reason = self.reason.or(r.reason);
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
    let mut pinger = limits.ping.filter(|_| is_websocket).map(|settings| Pinger::new(settings, start));
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
            if asked_to_close.is_none()
                && let Some(pinger) = &mut pinger
            {
                match pinger.poll(cx, &mut up, &mut down) {
                    Pinged::Nothing => {}
                    Pinged::Sent => continue,
                    Pinged::Unanswered => return Poll::Ready(Stop::Unanswered),
                }
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
        reason: None,
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
        Stop::Unanswered => {
            ended.reason = Some("ping_unanswered");
            Some(1011)
        }
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
    Unanswered,
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
        Self { sleep: Box::pin(timers::seldom(first)), last: start, idle: limits.idle, end }
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
