//! Time, injected wherever it decides something.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Where a decision reads the time.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Time since an arbitrary fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// The calendar time, for expiry dates and records.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks. Within one poll of a connection that `serve` drives, and below `AuditLayer` within one call or poll of the
/// service, time is read once and stands still: code that blocks there does not see it move. There a calendar that is set is noticed
/// within a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        if let Some(now) = moment::now() {
            return now.into_std().saturating_duration_since(*ORIGIN);
        }
        ORIGIN.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clocks")]
    fn wall(&self) -> SystemTime {
        if let Some(now) = moment::now() {
            return moment::wall(now, SystemTime::now);
        }
        SystemTime::now()
    }
}

pub(crate) mod moment {
    //! One look at the clock for each time that a connection's task runs.
    //!
    //! A task that is polled runs for microseconds, and in that time a request passes many layers that want to know the time. Within
    //! a [`Moment`] the first to ask reads the clock, and the others are told the same. The next one reads it anew, so whatever waits,
    //! even for another task, finds the time moved.

    use std::{
        cell::Cell,
        time::{Duration, SystemTime},
    };

    use tokio::time::Instant;

    /// How long the distance between the two clocks is believed before the calendar is read again.
    const BELIEVED: Duration = Duration::from_secs(1);

    thread_local! {
        static IN_POLL: Cell<bool> = const { Cell::new(false) };
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
        /// A moment, and what the calendar said then.
        static CALENDAR: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }

    /// Lasts until it is dropped, also when what is polled panics.
    #[derive(Debug)]
    pub(crate) struct Moment {
        /// It is not inside of another one, whose time it would share.
        own: bool,
    }

    impl Drop for Moment {
        #[inline]
        fn drop(&mut self) {
            if self.own {
                IN_POLL.set(false);
            }
        }
    }

    /// Begins one, to be held for a poll.
    #[inline]
    pub(crate) fn begin() -> Moment {
        let own = !IN_POLL.replace(true);
        if own {
            NOW.set(None);
        }
        Moment { own }
    }

    /// The time of this moment; `None` outside of one.
    #[inline]
    pub(super) fn now() -> Option<Instant> {
        IN_POLL.get().then(|| {
            NOW.get().unwrap_or_else(|| {
                let now = Instant::now();
                NOW.set(Some(now));
                now
            })
        })
    }

    /// The calendar time of a moment: within a second the two clocks keep their distance.
    #[inline]
    pub(super) fn wall(now: Instant, read: impl FnOnce() -> SystemTime) -> SystemTime {
        if let Some((then, wall)) = CALENDAR.get()
            && let Some(since) = now.checked_duration_since(then).filter(|since| *since < BELIEVED)
        {
            return wall + since;
        }
        let wall = read();
        CALENDAR.set(Some((now, wall)));
        wall
    }

    /// The time as tokio's timers see it.
    #[cfg(feature = "proxy")]
    pub(crate) fn tokio_now() -> Instant {
        now().unwrap_or_else(Instant::now)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::clock::{Clock as _, SystemClock};

        #[test]
        #[expect(clippy::disallowed_methods, reason = "real time has to pass")]
        fn time_stands_still_inside_of_a_poll_and_moves_between_polls() {
            let both = || (SystemClock.monotonic(), SystemClock.wall());
            let look = || {
                let _poll = begin();
                let first = both();
                let before = std::time::Instant::now();
                while before.elapsed() < Duration::from_millis(2) {}
                let inside = begin();
                assert_eq!(both(), first, "a poll inside of a poll");
                drop(inside);
                assert_eq!(both(), first);
                first
            };
            let (one, two) = (look(), look());
            assert!(two.0 >= one.0 + Duration::from_millis(2) && two.1 > one.1);
            let outside = SystemClock.monotonic();
            assert!(outside >= two.0 + Duration::from_millis(2));
            let panics = || {
                let _poll = begin();
                panic!("in a poll")
            };
            assert!(std::panic::catch_unwind(panics).is_err());
            assert!(SystemClock.monotonic() > outside, "the moment ended with the panic");
        }

        #[test]
        fn the_calendar_is_read_again_after_a_second() {
            let (start, day) = (Instant::now(), Duration::from_secs(86_400));
            let at = |ms| start + Duration::from_millis(ms);
            let set = |days| move || SystemTime::UNIX_EPOCH + day * days;
            let never = || panic!("read too often");
            let begun = SystemTime::UNIX_EPOCH + day;
            assert_eq!(
                [wall(at(0), set(1)), wall(at(0), never), wall(at(999), never)],
                [begun, begun, begun + Duration::from_millis(999)]
            );
            // Somebody has set it.
            assert_eq!(wall(at(1000), set(5)), SystemTime::UNIX_EPOCH + day * 5);
            // A moment before the last look has a look of its own.
            assert_eq!(wall(at(500), set(2)), SystemTime::UNIX_EPOCH + day * 2);
        }
    }
}

#[cfg(feature = "proxy")]
pub use timers::set_timer_runtime;

#[cfg(feature = "proxy")]
pub(crate) mod timers {
    //! Where the timers are that nearly always wait and nearly never ring.
    //!
    //! A runtime whose next timer is known sleeps with a time-out, for which the kernel sets up and takes down a timer of its
    //! own each time; one that has no timer just sleeps. With one request to a wake-up that is one to two percent of a request.

    use std::sync::OnceLock;

    use tokio::{
        runtime::Handle,
        time::{Instant, Sleep},
    };

    static RUNTIME: OnceLock<Handle> = OnceLock::new();

    /// Puts the timers of connections (idle, pace, response, and tunnel time-outs, sweeps of the pool) on another runtime than the
    /// one that serves them, for the whole process and from now on; the timers' owners are still polled where they were. Then
    /// the serving runtime sleeps without a time-out, which makes it a little cheaper to wake.
    ///
    /// `runtime` needs time enabled and somebody who drives it: a thread in `block_on` of a current-thread runtime is enough.
    /// It has to outlive whatever serves and forwards, because a timer of a runtime that was shut down panics. The clock of these
    /// timers cannot be paused for tests together with the serving runtime's.
    ///
    /// # Errors
    ///
    /// Gives the handle back if there is one already.
    pub fn set_timer_runtime(runtime: Handle) -> Result<(), Handle> {
        RUNTIME.set(runtime)
    }

    /// A timer that is expected to be dropped or moved before it rings.
    pub(crate) fn seldom(at: Instant) -> Sleep {
        let _inside = RUNTIME.get().map(Handle::enter);
        tokio::time::sleep_until(at)
    }
}

/// A clock that moves only when told to; for tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<(Duration, SystemTime)>>);

impl ManualClock {
    /// Starts at monotonic 1 hour and the given calendar time.
    #[must_use]
    pub fn new(wall: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((Duration::from_secs(3600), wall))))
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += by;
        now.1 += by;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }

    fn wall(&self) -> SystemTime {
        (**self).wall()
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wall(&self) -> SystemTime {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
