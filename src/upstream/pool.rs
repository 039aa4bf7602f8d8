//! Connections at rest, by what they were opened for.
//!
//! The key is scheme, host and port, the policy generation that judged the connection, and the principal it was opened for; never
//! the address. A policy swap therefore starts a new pool, and a framing fault of one principal's connection reaches nobody else.
//! All connections of an [`Upstream`](super::Upstream) share one TLS configuration, so that is part of the key by construction.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::time::Instant;

use super::{body::Body, h1::H1};
use crate::{clock::timers, net::Origin};

const SHARDS: usize = 16;

/// What a connection may be used again for.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    hash: u64,
    origin: Arc<Origin>,
    generation: u64,
    tenant: Option<Arc<str>>,
}

/// The same as a question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    hash: u64,
    origin: &'a Arc<Origin>,
    generation: u64,
    tenant: Option<&'a Arc<str>>,
}

impl<'a> KeyRef<'a> {
    pub(crate) fn new(origin: &'a Arc<Origin>, generation: u64, tenant: Option<&'a Arc<str>>) -> Self {
        let hash = hash(origin.connection_hash(), generation, tenant.map(AsRef::as_ref));
        Self { hash, origin, generation, tenant }
    }

    pub(crate) fn owned(self) -> Key {
        Key { hash: self.hash, origin: self.origin.clone(), generation: self.generation, tenant: self.tenant.cloned() }
    }
}

impl Key {
    fn matches(&self, other: &KeyRef<'_>) -> bool {
        self.hash == other.hash
            && self.generation == other.generation
            && self.tenant.as_ref() == other.tenant
            && (Arc::ptr_eq(&self.origin, other.origin)
                || (self.origin.scheme().is_secure() == other.origin.scheme().is_secure()
                    && self.origin.host() == other.origin.host()
                    && self.origin.port() == other.origin.port()))
    }

    fn by_ref(&self) -> KeyRef<'_> {
        KeyRef { hash: self.hash, origin: &self.origin, generation: self.generation, tenant: self.tenant.as_ref() }
    }
}

/// What the caller chooses, the origin, is hashed under a key of this process already; the rest is the operator's, and whatever
/// falls together is told apart by [`Key::matches`].
fn hash(origin: u64, generation: u64, tenant: Option<&str>) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (origin ^ generation).wrapping_mul(ODD);
    for byte in tenant.unwrap_or_default().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(ODD);
    }
    // The maps use the low bits, the choice of the shard the high ones.
    hash ^ (hash >> 32)
}

/// Keys of the maps are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type Map<T> = HashMap<u64, Vec<T>, BuildHasherDefault<AsItIs>>;

/// A connection at rest, with its key in it.
struct Idle {
    conn: Box<H1>,
    since: Instant,
}

impl Idle {
    fn matches(&self, key: &KeyRef<'_>) -> bool {
        self.conn.key.as_ref().is_some_and(|own| own.matches(key))
    }
}

struct Multiplexed {
    key: Key,
    sender: http2::SendRequest<Body>,
    peer: std::net::SocketAddr,
    used: Instant,
}

/// Limits of what rests in the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) per_key: usize,
    pub(crate) total: usize,
    pub(crate) timeout: Duration,
}

pub(crate) struct Pool {
    shards: [Mutex<Map<Idle>>; SHARDS],
    multiplexed: Mutex<Map<Multiplexed>>,
    idle: AtomicUsize,
    newest: AtomicU64,
    sweeping: AtomicBool,
    limits: PoolLimits,
    this: Weak<Self>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(crate) fn new(limits: PoolLimits) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            shards: Default::default(),
            multiplexed: Mutex::default(),
            idle: AtomicUsize::new(0),
            newest: AtomicU64::new(0),
            sweeping: AtomicBool::new(false),
            limits,
            this: this.clone(),
        })
    }

    fn shard(&self, hash: u64) -> &Mutex<Map<Idle>> {
        // The top bits, because the map inside uses the low ones.
        let index = (hash >> 60) as usize % SHARDS;
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    /// The connection that came to rest last, if one is usable. Dead ones found on the way are closed.
    pub(crate) fn take(&self, key: &KeyRef<'_>) -> Option<Box<H1>> {
        self.note_generation(key.generation);
        loop {
            let mut found = {
                let mut shard = lock(self.shard(key.hash));
                let list = shard.get_mut(&key.hash)?;
                let index = list.iter().rposition(|idle| idle.matches(key))?;
                list.swap_remove(index)
            };
            self.idle.fetch_sub(1, Ordering::Relaxed);
            if found.conn.is_usable() && !found.conn.is_stale(found.since) {
                return Some(found.conn);
            }
        }
    }

    /// Keeps a connection that has finished an exchange, unless it is full or superseded.
    pub(crate) fn put(&self, mut conn: Box<H1>) {
        let Some(Key { hash, generation, .. }) = conn.key else { return };
        if generation < self.newest.load(Ordering::Relaxed) || !conn.rest() {
            return;
        }
        if self.idle.fetch_add(1, Ordering::Relaxed) >= self.limits.total {
            self.idle.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        // No clock is read for it: a rest is about a minute long, and the body that has just ended was not.
        let since = conn.active;
        {
            let mut shard = lock(self.shard(hash));
            let list = shard.entry(hash).or_default();
            if list.len() >= self.limits.per_key {
                drop(shard);
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            list.push(Idle { conn, since });
        }
        self.ensure_sweeper();
    }

    pub(crate) fn take_multiplexed(&self, key: &KeyRef<'_>) -> Option<(http2::SendRequest<Body>, std::net::SocketAddr)> {
        self.note_generation(key.generation);
        let mut map = lock(&self.multiplexed);
        let list = map.get_mut(&key.hash)?;
        list.retain(|m| !m.sender.is_closed());
        let found = list.iter_mut().find(|m| m.key.matches(key))?;
        found.used = Instant::now();
        Some((found.sender.clone(), found.peer))
    }

    /// Takes a target's connection out of the pool: it did not answer in time and may be dead without a word, which pings alone
    /// do not notice while it rests. Requests under way go on.
    pub(crate) fn forget_multiplexed(&self, key: &KeyRef<'_>) {
        if let Some(list) = lock(&self.multiplexed).get_mut(&key.hash) {
            list.retain(|m| !m.key.matches(key));
        }
    }

    pub(crate) fn put_multiplexed(&self, key: Key, sender: http2::SendRequest<Body>, peer: std::net::SocketAddr) {
        let mut map = lock(&self.multiplexed);
        // One for each key; one that is replaced, or finds no place, ends with its last stream.
        let full = map.len() >= self.limits.total && !map.contains_key(&key.hash);
        if full || key.generation < self.newest.load(Ordering::Relaxed) {
            return;
        }
        let list = map.entry(key.hash).or_default();
        list.retain(|m| !m.key.matches(&key.by_ref()));
        list.push(Multiplexed { key, sender, peer, used: Instant::now() });
        drop(map);
        self.ensure_sweeper();
    }

    /// Number of connections at rest.
    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::Relaxed)
    }

    fn note_generation(&self, generation: u64) {
        if self.newest.load(Ordering::Relaxed) < generation && self.newest.fetch_max(generation, Ordering::Relaxed) < generation {
            self.sweep(Instant::now());
        }
    }

    /// Closes what is superseded, has rested too long, or was closed by its target.
    fn sweep(&self, now: Instant) {
        let newest = self.newest.load(Ordering::Relaxed);
        for shard in &self.shards {
            let mut closed = Vec::new();
            lock(shard).retain(|_, list| {
                let mut index = 0;
                while let Some(idle) = list.get_mut(index) {
                    let keep = idle.conn.key.as_ref().is_some_and(|key| key.generation >= newest)
                        && now.saturating_duration_since(idle.since) < self.limits.timeout
                        && idle.conn.is_usable()
                        && !idle.conn.is_stale(idle.since);
                    if keep {
                        idle.conn.trim();
                        index += 1;
                    } else {
                        closed.push(list.swap_remove(index));
                    }
                }
                !list.is_empty()
            });
            self.idle.fetch_sub(closed.len(), Ordering::Relaxed);
        }
        lock(&self.multiplexed).retain(|_, list| {
            list.retain(|m| {
                let rested = now.saturating_duration_since(m.used);
                m.key.generation >= newest && !m.sender.is_closed() && rested < self.limits.timeout
            });
            !list.is_empty()
        });
    }

    fn is_empty(&self) -> bool {
        self.idle() == 0 && lock(&self.multiplexed).is_empty()
    }

    /// One task sweeps while there is something at rest; it ends with the pool or when the pool is empty.
    fn ensure_sweeper(&self) {
        if self.sweeping.load(Ordering::Relaxed) || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let pool = self.this.clone();
        let period = (self.limits.timeout / 4).clamp(Duration::from_millis(100), Duration::from_secs(15));
        tokio::spawn(async move {
            loop {
                timers::seldom(Instant::now() + period).await;
                let Some(pool) = pool.upgrade() else { return };
                pool.sweep(Instant::now());
                if pool.is_empty() {
                    pool.sweeping.store(false, Ordering::Release);
                    // Something may have come to rest between the look and the note.
                    if pool.is_empty() || pool.sweeping.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
            }
        });
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle()).field("limits", &self.limits).finish_non_exhaustive()
    }
}
