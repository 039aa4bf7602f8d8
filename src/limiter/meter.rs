//! One stream's own allowance.

use std::time::Duration;

use super::{Quota, quota::nanos};

/// A quota for a single stream or tunnel: messages or bytes. It slows the stream down first (the reader waits, so the sender
/// feels the back-pressure) and closes it only when it would have to wait longer than it is ready to.
///
/// ```
/// use std::time::Duration;
/// use portcullis::limiter::{Meter, MeterVerdict, Quota};
///
/// let mut meter = Meter::new(Quota::per_second(10).burst(2), Duration::from_millis(150));
/// let now = Duration::from_secs(5);
/// assert_eq!(meter.charge(now, 2), MeterVerdict::Go);
/// assert_eq!(meter.charge(now, 1), MeterVerdict::Wait(Duration::from_millis(100)));
/// assert_eq!(meter.charge(now, 1), MeterVerdict::Close);
/// ```
#[derive(Clone, Debug)]
pub struct Meter {
    quota: Quota,
    patience: u64,
    tat: u64,
}

/// What is to be done with the message or bytes just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterVerdict {
    /// Pass it on.
    Go,
    /// Pass it on, and read nothing more for this long.
    Wait(Duration),
    /// Too much, for too long: close (WebSocket 1008).
    Close,
}

impl Meter {
    /// A meter that lets a stream wait up to `patience` at a time before it closes it.
    #[must_use]
    pub fn new(quota: Quota, patience: Duration) -> Self {
        Self { quota, patience: nanos(patience), tat: 0 }
    }

    /// Counts `cost` units at `now` (the clock's monotonic time).
    pub fn charge(&mut self, now: Duration, cost: u64) -> MeterVerdict {
        let now = nanos(now);
        let tat = self.tat.max(now).saturating_add(self.quota.cost_nanos(cost));
        let wait = tat.saturating_sub(now).saturating_sub(self.quota.tolerance_nanos());
        if wait > self.patience {
            return MeterVerdict::Close;
        }
        self.tat = tat;
        if wait == 0 { MeterVerdict::Go } else { MeterVerdict::Wait(Duration::from_nanos(wait)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_hold_the_rate() {
        let mut meter = Meter::new(Quota::per_second(1000).burst(100), Duration::from_secs(1));
        let (mut now, mut sent) = (Duration::from_secs(1), 0u64);
        while now < Duration::from_secs(11) {
            match meter.charge(now, 10) {
                MeterVerdict::Go => {}
                MeterVerdict::Wait(time) => now += time,
                MeterVerdict::Close => panic!("a reader that waits is never closed"),
            }
            sent += 10;
        }
        assert!((10_000..=10_110).contains(&sent), "{sent}");
    }

    #[test]
    fn a_reader_that_does_not_wait_is_closed() {
        let mut meter = Meter::new(Quota::per_second(10).burst(5), Duration::from_secs(2));
        let now = Duration::from_secs(1);
        let passed = (0..100).take_while(|_| meter.charge(now, 1) != MeterVerdict::Close).count();
        assert_eq!(passed, 25, "the burst and two seconds");
    }
}
