//! Whether a peer that we wait for moves at all, and fast enough.

use std::time::Duration;

use tokio::time::Instant;

/// How slow a peer may be while this server waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PaceLimit {
    /// Longest wait without a single byte.
    pub(super) idle: Option<Duration>,
    /// Fewest bytes a second, averaged over `window` of waiting.
    pub(super) rate: Option<u32>,
    pub(super) window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    Idle,
    TooSlow,
}

/// Only time in which the peer is waited for counts: an upload that our own side holds back is not slow.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, bool)>,
    bytes: u64,
    stalled: Duration,
    window_time: Duration,
    window_bytes: u64,
}

impl Pace {
    /// Starts with `total` bytes counted already.
    pub(super) fn from(total: u64) -> Self {
        Self { bytes: total, ..Self::default() }
    }

    /// The peer is not waited for at the moment.
    pub(super) fn release(&mut self) {
        self.last = None;
    }

    /// Looks at the peer: `blocked` says whether we wait for it now, `total` counts its bytes so far. Returns when to look
    /// again at the latest.
    pub(super) fn observe(
        &mut self,
        limit: &PaceLimit,
        now: Instant,
        blocked: bool,
        total: u64,
    ) -> Result<Option<Duration>, Stall> {
        let waited = match self.last {
            Some((at, true)) => now.saturating_duration_since(at),
            _ => Duration::ZERO,
        };
        self.last = Some((now, blocked));
        let moved = total.saturating_sub(self.bytes);
        self.bytes = total;
        self.stalled = if moved > 0 { Duration::ZERO } else { self.stalled + waited };
        self.window_time += waited;
        self.window_bytes += moved;
        if limit.idle.is_some_and(|idle| self.stalled >= idle) {
            return Err(Stall::Idle);
        }
        let mut next = limit.idle.map(|idle| idle.saturating_sub(self.stalled));
        if let Some(rate) = limit.rate {
            if self.window_time >= limit.window {
                let least = u128::from(rate) * self.window_time.as_millis() / 1000;
                if u128::from(self.window_bytes) < least {
                    return Err(Stall::TooSlow);
                }
                self.window_time = Duration::ZERO;
                self.window_bytes = 0;
            }
            let left = limit.window.saturating_sub(self.window_time);
            next = Some(next.map_or(left, |n| n.min(left)));
        }
        Ok(if blocked { next } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PaceLimit = PaceLimit { idle: Some(Duration::from_secs(10)), rate: Some(100), window: Duration::from_secs(30) };

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn silence_is_idle_after_the_limit_and_not_before() {
        let (mut pace, t) = (Pace::default(), Instant::now());
        assert_eq!(pace.observe(&LIMIT, t, true, 0), Ok(Some(Duration::from_secs(10))));
        assert_eq!(pace.observe(&LIMIT, at(t, 9), true, 0), Ok(Some(Duration::from_secs(1))));
        assert_eq!(pace.observe(&LIMIT, at(t, 10), true, 0), Err(Stall::Idle));
    }

    #[test]
    fn a_dripping_peer_is_too_slow_after_one_window() {
        let (mut pace, t) = (Pace::default(), Instant::now());
        let mut verdicts = (0..=6u64).map(|i| pace.observe(&LIMIT, at(t, i * 5), true, i * 10));
        assert!(verdicts.by_ref().take(6).all(|v| v.is_ok()));
        assert_eq!(verdicts.next(), Some(Err(Stall::TooSlow)));
    }

    #[test]
    fn time_that_we_hold_the_peer_back_does_not_count() {
        let (mut pace, t) = (Pace::default(), Instant::now());
        for i in 0..20 {
            assert_eq!(pace.observe(&LIMIT, at(t, i * 100), false, 0), Ok(None));
        }
        assert!(pace.observe(&LIMIT, at(t, 2000), true, 0).is_ok());
        assert!(pace.observe(&LIMIT, at(t, 2009), true, 0).is_ok());
    }

    #[test]
    fn a_fast_peer_passes_window_after_window() {
        let (mut pace, t) = (Pace::default(), Instant::now());
        for i in 0..100u64 {
            assert!(pace.observe(&LIMIT, at(t, i * 5), true, i * 500).is_ok(), "{i}");
        }
    }
}
