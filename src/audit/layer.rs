use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tower_layer::Layer;

use super::{AuditSink, service::Audit};
use crate::{
    clock::{Clock, SystemClock},
    context::{CloseInTime, CloseRecord, Outcome, Record},
};

/// Records every request into a sink. See the [module](crate::audit).
pub struct AuditLayer<T, C = SystemClock>(pub(super) Arc<Shared<T, C>>);

impl<T: AuditSink> AuditLayer<T> {
    /// Records into `sink`.
    #[must_use]
    pub fn new(sink: T) -> Self {
        Self::with_clock(sink, SystemClock)
    }
}

impl<T: AuditSink, C: Clock> AuditLayer<T, C> {
    /// The same with another clock.
    #[must_use]
    pub fn with_clock(sink: T, clock: C) -> Self {
        Self(Arc::new(Shared { sink, ids: Ids::new(), closed: AtomicU64::new(0), clock }))
    }

    /// How many requests and tunnels have not ended.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.0.ids.given().saturating_sub(self.0.closed.load(Relaxed))
    }

    /// The sink.
    #[must_use]
    pub fn sink(&self) -> &T {
        &self.0.sink
    }
}

impl<T, C> Clone for AuditLayer<T, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T, C> fmt::Debug for AuditLayer<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditLayer(..)")
    }
}

impl<S, T, C> Layer<S> for AuditLayer<T, C> {
    type Service = Audit<S, T, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Audit::new(inner, Arc::clone(&self.0))
    }
}

pub(super) struct Shared<T, C> {
    sink: T,
    ids: Ids,
    closed: AtomicU64,
    clock: C,
}

impl<T, C: Clock> Shared<T, C> {
    /// Opens a record: its id and its arrival.
    pub(super) fn open(&self, record: &mut Record) {
        record.arrived = self.clock.monotonic();
        record.started = Some(self.clock.wall());
        record.request_id = self.ids.next();
    }
}

impl<T: AuditSink, C: Clock> CloseInTime for Shared<T, C> {
    fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

impl<T: AuditSink, C: Clock> CloseRecord for Shared<T, C> {
    fn close(&self, record: &mut Record) {
        self.closed.fetch_add(1, Relaxed);
        if record.duration.is_none() {
            record.duration = Some(self.now().saturating_sub(record.arrived));
        }
        if record.outcome == Outcome::Open {
            record.outcome = if record.tunnel { Outcome::Complete } else { Outcome::ClientGone };
        }
        self.sink.record(record);
    }
}

/// Request ids: a counter under two keyed bijections, so that an id neither repeats nor tells how busy the server is.
#[derive(Debug)]
struct Ids {
    keys: [u64; 2],
    given: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        let key = || getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15);
        Self { keys: [key(), key()], given: AtomicU64::new(0) }
    }

    fn given(&self) -> u64 {
        self.given.load(Relaxed)
    }

    fn next(&self) -> u128 {
        let n = self.given.fetch_add(1, Relaxed);
        let [a, b] = self.keys;
        (u128::from(mix(n ^ a)) << 64) | u128::from(mix(n.wrapping_add(b)))
    }
}

/// The finaliser of `SplitMix64`: a bijection.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let ids = Ids::new();
        let seen: HashSet<u128> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(seen.len(), 10_000);
    }
}
