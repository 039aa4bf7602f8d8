//! The time-keeper of one connection: it looks when the connection's task is about to sleep, and owns the connection's only
//! timer, which is moved only when it would ring too late. A request that is answered at once costs no timer operation.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::{
    flow::{Flow, Phase},
    pace::{Pace, PaceLimit},
    stats::{Counter, Counters},
    streams::Streams,
};
use crate::clock::{moment::tokio_now, timers};

/// How often an upload, or an HTTP/2 connection with open streams, is looked at.
const TICK: Duration = Duration::from_secs(1);

/// The times of one connection.
#[derive(Clone, Debug)]
pub(super) struct Times {
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) linger: Duration,
    pub(super) read: PaceLimit,
    pub(super) write: PaceLimit,
}

/// What the time-keeper asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Say goodbye (HTTP/2), then close.
    Goodbye,
    /// Close.
    Close,
}

#[derive(Debug)]
pub(super) struct Keeper {
    flow: Arc<Flow>,
    streams: Option<Arc<Streams>>,
    times: Arc<Times>,
    counters: Arc<Counters>,
    sleep: Option<Pin<Box<Sleep>>>,
    key: (Phase, u32),
    since: Instant,
    read: Pace,
    write: Pace,
    said_goodbye: bool,
}

impl Keeper {
    pub(super) fn new(flow: Arc<Flow>, streams: Option<Arc<Streams>>, times: Arc<Times>, counters: Arc<Counters>) -> Self {
        let since = Instant::now();
        Self {
            flow,
            streams,
            times,
            counters,
            sleep: None,
            key: (Phase::Idle, 0),
            since,
            read: Pace::default(),
            write: Pace::default(),
            said_goodbye: false,
        }
    }

    /// Looks at the connection before its task sleeps. `Pending` has arranged for the next look.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Verdict> {
        if let Some(streams) = self.streams.as_ref().filter(|_| !self.flow.write_blocked()) {
            streams.round_ended(cx.waker());
        }
        let next = if self.streams.is_some() { self.look_h2() } else { self.look_h1() };
        match next {
            Err(verdict) => Poll::Ready(verdict),
            Ok(None) => Poll::Pending,
            Ok(Some(at)) => {
                self.arm(cx, at);
                Poll::Pending
            }
        }
    }

    fn arm(&mut self, cx: &mut Context<'_>, at: Instant) {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(timers::seldom(at)));
        let fresh = sleep.deadline() == at;
        if sleep.deadline() > at || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        } else if !fresh {
            return;
        }
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn look_h1(&mut self) -> Result<Option<Instant>, Verdict> {
        let phase = self.flow.phase();
        let blocked = self.flow.write_blocked();
        if !blocked {
            self.write.release();
        }
        let timed = match phase {
            Phase::Upgraded => false,
            Phase::Busy => blocked || self.flow.body_open(),
            Phase::Idle | Phase::Head | Phase::Lingering => true,
        };
        if !timed {
            return Ok(None);
        }
        let now = tokio_now();
        let key = (phase, self.flow.requests());
        if key != self.key {
            // The first head has to be complete within the header time from the connection's start.
            if key.1 != 0 || phase == Phase::Lingering {
                self.since = now;
            }
            self.key = key;
            self.read = Pace::from(self.flow.bytes_in());
        }
        let mut next = None;
        if blocked {
            next = self.look_at_writes(now)?;
            // While the socket takes nothing nobody asks the reply's body, which would know that its time is over.
            if let Some(at) = self.flow.deadline() {
                if now >= at {
                    self.counters.add(Counter::Overdue);
                    return Err(Verdict::Close);
                }
                next = Some(next.map_or(at, |n| n.min(at)));
            }
        } else if let Some((limit, counter)) = match phase {
            Phase::Idle if key.1 == 0 => Some((self.times.header, Counter::HeaderTimeouts)),
            Phase::Idle => Some((self.times.keep_alive, Counter::IdleCloses)),
            Phase::Head => Some((self.times.header, Counter::HeaderTimeouts)),
            Phase::Lingering => Some((self.times.linger, Counter::LingerTimeouts)),
            Phase::Busy | Phase::Upgraded => None,
        } {
            let at = self.since + limit;
            if now >= at {
                self.counters.add(counter);
                return Err(Verdict::Close);
            }
            next = Some(at);
        }
        if phase == Phase::Busy && self.flow.body_open() {
            let at = now + self.look_at_body(now).min(TICK);
            next = Some(next.map_or(at, |n| n.min(at)));
        }
        Ok(next)
    }

    fn look_at_writes(&mut self, now: Instant) -> Result<Option<Instant>, Verdict> {
        let Ok(next) = self.write.observe(&self.times.write, now, true, self.flow.bytes_out()) else {
            self.counters.add(Counter::WriteStalls);
            self.flow.stall();
            return Err(Verdict::Close);
        };
        Ok(next.map(|n| now + n))
    }

    fn look_at_body(&mut self, now: Instant) -> Duration {
        let (waited, bytes) = (self.flow.body_waited(), self.flow.bytes_in());
        if let Ok(next) = self.read.observe(&self.times.read, now, waited, bytes) {
            return next.unwrap_or(TICK);
        }
        if !self.flow.body_timed_out() {
            self.counters.add(Counter::BodyStalls);
            self.flow.time_out_body();
        }
        TICK
    }

    fn look_h2(&mut self) -> Result<Option<Instant>, Verdict> {
        let now = tokio_now();
        let mut next = None;
        if self.flow.write_blocked() {
            next = self.look_at_writes(now)?;
        } else {
            self.write.release();
        }
        let active = self.streams.as_ref().map_or(0, |s| s.active());
        let at = if self.flow.phase() == Phase::Lingering {
            self.enter((Phase::Lingering, 0), now);
            self.since + self.times.linger
        } else if active > 0 {
            self.enter((Phase::Busy, 0), now);
            if now >= self.since + TICK {
                self.since = now;
                if let Some(streams) = &self.streams {
                    let swept = streams.sweep(now, &self.times.read, &self.times.write);
                    self.counters.add_many(Counter::BodyStalls, swept.stalled);
                    self.counters.add_many(Counter::WriteStalls, swept.reset);
                    self.counters.add_many(Counter::Overdue, swept.overdue);
                }
            }
            self.since + TICK
        } else {
            let requests = self.flow.requests();
            if requests != 0 {
                self.enter((Phase::Idle, requests), now);
            }
            self.since + if requests == 0 { self.times.header } else { self.times.keep_alive }
        };
        if active == 0 && now >= at {
            self.since = now;
            self.counters.add(if self.flow.requests() == 0 { Counter::HeaderTimeouts } else { Counter::IdleCloses });
            if self.said_goodbye || self.flow.requests() == 0 || self.key.0 == Phase::Lingering {
                return Err(Verdict::Close);
            }
            self.said_goodbye = true;
            return Err(Verdict::Goodbye);
        }
        Ok(Some(next.map_or(at, |n| n.min(at))))
    }

    fn enter(&mut self, key: (Phase, u32), now: Instant) {
        if self.key != key {
            self.key = key;
            self.since = now;
        }
    }
}
