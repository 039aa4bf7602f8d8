//! Permits, and what holds them.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

const SHARDS: usize = 32;

/// What runs: a count in all, and one for each key that has something running.
#[derive(Debug, Default)]
pub(super) struct Running {
    total: AtomicUsize,
    keys: [Mutex<HashMap<u64, usize, BuildHasherDefault<Hashed>>>; SHARDS],
}

/// The keys are hashes already, made with a random key.
#[derive(Debug, Default)]
pub(super) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Which of the two limits was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Key,
    Total,
}

impl Running {
    fn shard(&self, hash: u64) -> &Mutex<HashMap<u64, usize, BuildHasherDefault<Hashed>>> {
        // The map itself uses the top and the low bits.
        let shard = usize::try_from(hash >> 32).unwrap_or(0) % SHARDS;
        self.keys.get(shard).unwrap_or(&self.keys[0])
    }

    /// Takes a permit: of the key, if there is one, and of the total.
    pub(super) fn take(self: &Arc<Self>, key: Option<NonZeroU64>, per_key: usize, total: usize) -> Result<Held, Full> {
        if let Some(hash) = key.map(NonZeroU64::get) {
            let mut keys = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
            let running = keys.entry(hash).or_insert(0);
            if *running >= per_key {
                if *running == 0 {
                    keys.remove(&hash);
                }
                return Err(Full::Key);
            }
            *running += 1;
        }
        let more = |n: usize| (n < total).then_some(n + 1);
        if self.total.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            self.give_back(key);
            return Err(Full::Total);
        }
        // From here on a drop gives back what was taken.
        Ok(Held { running: Arc::clone(self), key })
    }

    /// Gives a key's permit back.
    fn give_back(&self, key: Option<NonZeroU64>) {
        let Some(hash) = key.map(NonZeroU64::get) else { return };
        let mut keys = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut running) = keys.entry(hash) {
            *running.get_mut() -= 1;
            if *running.get() == 0 {
                running.remove();
            }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Acquire)
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.iter().map(|keys| keys.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// One permit that is taken.
#[derive(Debug)]
pub(super) struct Held {
    running: Arc<Running>,
    key: Option<NonZeroU64>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.running.total.fetch_sub(1, Ordering::AcqRel);
        self.running.give_back(self.key);
    }
}

/// A share in a request's permits. They are given back when the last clone is dropped, so a tunnel keeps one to its end.
///
/// Several layers may each have added theirs: a permit holds all of them.
#[derive(Clone)]
pub struct Permit {
    _share: Arc<Share>,
}

/// Kept for its drop.
struct Share {
    _held: Held,
    _outer: Option<Permit>,
}

impl Permit {
    pub(super) fn new(held: Held, outer: Option<Self>) -> Self {
        Self { _share: Arc::new(Share { _held: held, _outer: outer }) }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// What a running request holds: its own permit, a share in one that a tunnel may hold as well, or none. Two words: it lies in the
/// future and in the body.
#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop")]
pub(super) enum Hold {
    Own(Held),
    Shared(Option<Permit>),
}

impl Hold {
    pub(super) const NONE: Self = Self::Shared(None);
}

pin_project! {
    /// A body that holds a permit until it ends.
    #[derive(Debug)]
    pub struct PermitBody<B> {
        #[pin]
        inner: B,
        hold: Hold,
    }
}

impl<B> PermitBody<B> {
    pub(super) fn new(inner: B, hold: Hold) -> Self {
        Self { inner, hold }
    }
}

impl<B: Body<Data = Bytes>> Body for PermitBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *this.hold = Hold::NONE;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
