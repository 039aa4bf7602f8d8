//! Failed attempts, limited per client network before anything is hashed.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    clock::{Clock, SystemClock},
    limiter::SipKey,
    net::unwrap_mapped,
};

/// Decides whether a client may try a credential at all.
pub trait FailureGate: Send + Sync + 'static {
    /// Whether the client may try.
    ///
    /// # Errors
    /// How long it has to wait first.
    fn admit(&self, client: IpAddr) -> Result<(), Duration>;

    /// Notes that a credential of this client was wrong.
    fn failed(&self, client: IpAddr);
}

/// Slots in each of the two rows.
const SLOTS: usize = 4096;

/// Failed attempts in a table of fixed size: 64 KiB, whatever comes.
///
/// An IPv4 address counts alone, IPv6 by its /64. Each network has a slot in two rows under two keyed hashes and is held up only
/// when both are used up, so a neighbour in one slot does no harm. As long as no slot at all is used up, a client is admitted
/// after a look at one number.
pub struct FailureLimit {
    clock: Arc<dyn Clock>,
    burst: u32,
    every: Duration,
    /// Microseconds that an attempt takes up.
    step: u64,
    /// An attempt fits while the slot holds at most `burst - 1` others.
    room: u64,
    keys: [SipKey; 2],
    /// When the slot will be empty again, in microseconds of the monotonic clock.
    rows: [Box<[AtomicU64]>; 2],
    /// The latest time in any slot; 0 while nobody has failed.
    latest: AtomicU64,
}

impl FailureLimit {
    /// Twenty failed attempts at once, then one every three seconds.
    #[must_use]
    pub fn new() -> Self {
        Self::with(20, Duration::from_secs(3))
    }

    /// `burst` failed attempts at once, then one every `every`. A burst of 0 counts as 1.
    #[must_use]
    pub fn with(burst: u32, every: Duration) -> Self {
        let row = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        let (burst, step) = (burst.max(1), micros(every));
        Self {
            clock: Arc::new(SystemClock),
            burst,
            every,
            step,
            room: step.saturating_mul(u64::from(burst - 1)),
            keys: [SipKey::random(), SipKey::random()],
            rows: [row(), row()],
            latest: AtomicU64::new(0),
        }
    }

    /// Reads the time from another clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    fn slots(&self, client: IpAddr) -> impl Iterator<Item = &AtomicU64> {
        let network = network(client);
        self.keys.iter().zip(&self.rows).filter_map(move |(key, row)| {
            let [kind, bits] = network;
            let index = usize::try_from(key.start().word(kind).word(bits).finish() % SLOTS as u64).ok()?;
            row.get(index)
        })
    }

    /// How long this client has to wait.
    #[cold]
    fn wait(&self, client: IpAddr, now: u64) -> u64 {
        let waits = self.slots(client).map(|slot| slot.load(Ordering::Relaxed).saturating_sub(now).saturating_sub(self.room));
        waits.min().unwrap_or(0)
    }

    fn now(&self) -> u64 {
        micros(self.clock.monotonic())
    }
}

impl FailureGate for FailureLimit {
    fn admit(&self, client: IpAddr) -> Result<(), Duration> {
        let latest = self.latest.load(Ordering::Relaxed);
        if latest <= self.room {
            return Ok(());
        }
        let now = self.now();
        if latest.saturating_sub(now) <= self.room {
            return Ok(());
        }
        match self.wait(client, now) {
            0 => Ok(()),
            wait => Err(Duration::from_micros(wait)),
        }
    }

    fn failed(&self, client: IpAddr) {
        let (now, step) = (self.now(), self.step);
        let most = now.saturating_add(step.saturating_mul(u64::from(self.burst)));
        let later = |until: u64| until.max(now).saturating_add(step).min(most);
        for slot in self.slots(client) {
            let before = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(later(until)));
            self.latest.fetch_max(before.map_or(most, later), Ordering::Relaxed);
        }
    }
}

impl Default for FailureLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FailureLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureLimit").field("burst", &self.burst).field("every", &self.every).finish_non_exhaustive()
    }
}

/// An IPv4 address, or an IPv6 /64.
fn network(client: IpAddr) -> [u64; 2] {
    match unwrap_mapped(client) {
        IpAddr::V4(v4) => [4, u64::from(v4.to_bits())],
        IpAddr::V6(v6) => [6, u64::try_from(v6.to_bits() >> 64).unwrap_or(u64::MAX)],
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_network_has_its_burst_and_then_waits() {
        let clock = ManualClock::default();
        let gate = FailureLimit::with(3, Duration::from_secs(2)).clock(clock.clone());
        let (one, neighbour, other) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap(), "192.0.2.1".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(gate.admit(one), Ok(()));
            gate.failed(one);
        }
        assert_eq!(gate.admit(one), Err(Duration::from_secs(2)));
        assert_eq!(gate.admit(neighbour), Err(Duration::from_secs(2)), "the same /64");
        assert_eq!(gate.admit(other), Ok(()));
        clock.advance(Duration::from_secs(2));
        assert_eq!(gate.admit(one), Ok(()));
        gate.failed(one);
        assert_eq!(gate.admit(one), Err(Duration::from_secs(2)));
        for _ in 0..1000 {
            gate.failed(one);
        }
        assert_eq!(gate.admit(one), Err(Duration::from_secs(2)), "failures while held up do not add up");
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_families_do_not_mix() {
        let [v4, mapped, v6] = ["192.0.2.1", "::ffff:192.0.2.1", "0:0:c000:201::"].map(|t| t.parse().unwrap());
        let gate = FailureLimit::with(1, Duration::from_secs(2)).clock(ManualClock::default());
        gate.failed(mapped);
        assert_eq!((gate.admit(v4), gate.admit(mapped)), (Err(Duration::from_secs(2)), Err(Duration::from_secs(2))));
        assert_eq!(gate.admit(v6), Ok(()));
    }

    #[test]
    fn a_flood_of_networks_seldom_touches_others() {
        let gate = FailureLimit::with(5, Duration::from_secs(60)).clock(ManualClock::default());
        for net in 0..200_u32 {
            for _ in 0..10 {
                gate.failed(IpAddr::from((0x0A00_0000 + net).to_be_bytes()));
            }
        }
        let held = (0..10_000_u32).filter(|n| gate.admit(IpAddr::from((0xC000_0000 + n).to_be_bytes())).is_err()).count();
        assert!(held < 100, "{held} of 10000 strangers held up");
    }
}
