//! The store in memory: of a fixed size, and exact about everybody who is limited.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Ask, Batch, Decision, Key, LimitStore, MAX_POLICIES, OwnedAsk, PolicyId, Quota,
    quota::nanos,
    sip::SipKey,
    table::{Table, WAYS},
};

mod locked;
#[cfg(test)]
mod tests;

use locked::{Coarse, Locked, lock};

/// Cells of [`MemoryStore::default`]: 2^20, which is 16 MiB once every page has been touched.
pub const DEFAULT_CELLS: usize = 1 << 20;

const SHARDS: usize = 64;
/// Cells of a shard from which on its memory comes from the system, page by page as it is touched, and is not zeroed by `calloc`:
/// 128 KiB, glibc's threshold.
const LAZY: usize = 8 * 1024;
/// Shards that even a store has whose shards are smaller than that.
const FEW: usize = 8;
/// One cell in so many is set aside for coarser keys.
const COARSE_PART: usize = 16;
/// Policies that have a last cell of their own.
const OVERFLOWS: usize = 64;

/// A limit store of fixed size. Clones share the cells.
///
/// * A cell takes 16 bytes, whatever the key; memory that no key has touched is not resident.
/// * The hash of a key is keyed with random bytes, so nobody can aim at another's bucket.
/// * A key without a cell gets one that is free or has run out. If its two buckets hold none, it is counted under its coarser
///   forms, and at last in one cell for the whole policy. It then shares a single quota with others who came too late, until
///   the pressure is over. A key that has a cell keeps it until its quota is whole again.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    shards: Box<[Mutex<Table>]>,
    /// Locked last, and only under pressure.
    coarse: Mutex<Coarse>,
    sip: SipKey,
}

impl MemoryStore {
    /// A store of about `cells` cells (at least 32), of 16 bytes each.
    #[must_use]
    pub fn bounded(cells: usize) -> Self {
        let cells = cells.max(4 * WAYS);
        let coarse = cells / COARSE_PART;
        let own = cells - coarse;
        let most = (own / (8 * WAYS)).next_power_of_two().min(FEW);
        let shards = (1 << (own / LAZY).max(1).ilog2()).clamp(most, SHARDS);
        let shards = (0..shards).map(|_| Mutex::new(Table::new(own / shards))).collect();
        let coarse = Mutex::new(Coarse { table: Table::new(coarse), overflow: Vec::new(), folded: 0 });
        Self(Arc::new(Inner { shards, coarse, sip: SipKey::random() }))
    }

    /// How many cells there are in all.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.0.shards.iter().map(|s| lock(s).cells()).sum::<usize>() + lock(&self.0.coarse).table.cells()
    }

    /// How many cells are in use: their quota is not whole. Reads the whole table; for statistics.
    #[must_use]
    pub fn live(&self, now: Duration) -> usize {
        let now = nanos(now);
        self.0.shards.iter().map(|s| lock(s).live(now)).sum::<usize>() + lock(&self.0.coarse).table.live(now)
    }

    /// How many decisions had to be made under a coarser key so far. If it grows, the store is too small.
    #[must_use]
    pub fn folded(&self) -> u64 {
        lock(&self.0.coarse).folded
    }

    /// Decides one request of `cost` units under one policy, and takes them if they are there.
    #[must_use]
    pub fn check(&self, policy: &PolicyId, quota: Quota, key: &Key, cost: u64, now: Duration) -> Decision {
        self.0.check(policy.hash(), &quota, key, cost, nanos(now))
    }

    /// What a request of `cost` units would be told; takes nothing.
    #[must_use]
    pub fn peek(&self, policy: &PolicyId, quota: Quota, key: &Key, cost: u64, now: Duration) -> Decision {
        let now = nanos(now);
        let hash = self.0.hash(policy.hash(), key, 0);
        let mut locked = self.0.lock_one(hash);
        let place = locked.place(0, policy.hash(), key, hash, now);
        quota.decide(locked.tat(place), now, cost).0
    }

    /// Takes `cost` units whether or not they are there: a debt that later requests wait for.
    pub fn charge(&self, policy: &PolicyId, quota: Quota, key: &Key, cost: u64, now: Duration) {
        let now = nanos(now);
        let hash = self.0.hash(policy.hash(), key, 0);
        let mut locked = self.0.lock_one(hash);
        let place = locked.place(0, policy.hash(), key, hash, now);
        let tat = quota.charge(locked.tat(place), now, cost);
        locked.write(place, hash, tat);
    }

    /// What was noted of a key says of a request; takes nothing, and knows nothing of coarser keys.
    #[cfg(feature = "redis")]
    pub(crate) fn noted(&self, policy: &PolicyId, quota: Quota, key: &Key, cost: u64, now: Duration) -> Decision {
        let (hash, now) = (self.0.hash(policy.hash(), key, 0), nanos(now));
        let table = self.0.shards.get(self.0.shard(hash)).map(lock);
        let tat = table.and_then(|table| table.find(hash, now)).map_or(0, |cell| cell.tat);
        quota.decide(tat, now, cost).0
    }

    /// Notes what another store knows of a key. Where there is no room, it is not noted.
    #[cfg(feature = "redis")]
    pub(crate) fn note(&self, policy: &PolicyId, key: &Key, tat: Duration, now: Duration) {
        let (hash, now) = (self.0.hash(policy.hash(), key, 0), nanos(now));
        let Some(mut table) = self.0.shards.get(self.0.shard(hash)).map(lock) else { return };
        if let Some(cell) = table.find(hash, now).filter(|cell| nanos(tat) > cell.tat.max(now)) {
            table.put(cell, hash, nanos(tat));
        }
    }

    /// Decides a request under several policies: if one refuses and is not a shadow, none takes.
    pub fn check_all(&self, batch: &mut Batch<'_>, now: Duration) {
        let now = nanos(now);
        let inner = &*self.0;
        if let Some(ask) = batch.only() {
            ask.decision = Some(inner.check(ask.policy.hash(), &ask.quota, &ask.key, ask.cost, now));
            return;
        }
        let mut hashes = [0u64; MAX_POLICIES];
        for (slot, ask) in hashes.iter_mut().zip(batch.iter()) {
            *slot = inner.hash(ask.policy.hash(), &ask.key, 0);
        }
        let mut locked = inner.lock_all(hashes.get(..batch.len()).unwrap_or_default());
        let mut undo = [const { None }; MAX_POLICIES];
        let mut tats = [0u64; MAX_POLICIES];
        for (((ask, hash), undo), tat) in batch.iter_mut().zip(hashes).zip(&mut undo).zip(&mut tats) {
            let guard = locked.index(inner.shard(hash));
            let Ask { policy, key, quota, cost, .. } = ask;
            let place = locked.place(guard, policy.hash(), key, hash, now);
            *tat = locked.tat(place);
            let (decision, next) = quota.decide(*tat, now, *cost);
            if decision.allowed() && next > now {
                *undo = locked.write(place, hash, next);
            }
            ask.decision = Some(decision);
        }
        if !batch.allowed() {
            // Backwards, because two questions may have met in one cell.
            for before in undo.into_iter().rev().flatten() {
                locked.undo(before);
            }
            // What the others have left is what they had before.
            for (ask, tat) in batch.iter_mut().zip(tats) {
                if ask.decision.is_some_and(|d| d.allowed()) {
                    ask.decision = Some(ask.quota.decide(tat, now, 0).0);
                }
            }
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::bounded(DEFAULT_CELLS)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("shards", &self.0.shards.len()).finish_non_exhaustive()
    }
}

impl Inner {
    #[inline]
    fn hash(&self, policy: u64, key: &Key, level: u8) -> u64 {
        key.hash(level, self.sip.start().word(policy))
    }

    fn shard(&self, hash: u64) -> usize {
        usize::try_from(hash >> 58).unwrap_or(0) & (self.shards.len() - 1)
    }

    /// Decides under one policy, in the key's own cell if it has or gets one.
    #[inline]
    fn check(&self, policy: u64, quota: &Quota, key: &Key, cost: u64, now: u64) -> Decision {
        let hash = self.hash(policy, key, 0);
        if let Some(mutex) = self.shards.get(self.shard(hash)) {
            let mut table = lock(mutex);
            if let Some(cell) = table.find(hash, now) {
                let (decision, next) = quota.decide(cell.tat, now, cost);
                // A look, or a refusal, leaves no trace: an unknown key does not get a cell by being refused.
                if decision.allowed() && next > now {
                    table.put(cell, hash, next);
                }
                return decision;
            }
        }
        let mut locked = Locked { inner: self, guards: [const { None }; MAX_POLICIES], coarse: None };
        let place = locked.fold(policy, key, now);
        let (decision, next) = quota.decide(locked.tat(place), now, cost);
        if decision.allowed() && next > now {
            locked.write(place, hash, next);
        }
        decision
    }

    fn lock_one(&self, hash: u64) -> Locked<'_> {
        let mut locked = Locked { inner: self, guards: [const { None }; MAX_POLICIES], coarse: None };
        let shard = self.shard(hash);
        if let (Some(mutex), Some(slot)) = (self.shards.get(shard), locked.guards.first_mut()) {
            *slot = Some((shard, lock(mutex)));
        }
        locked
    }

    /// Every decision locks in ascending order, so no two wait for each other.
    fn lock_all(&self, hashes: &[u64]) -> Locked<'_> {
        let mut wanted = [usize::MAX; MAX_POLICIES];
        for (slot, hash) in wanted.iter_mut().zip(hashes) {
            *slot = self.shard(*hash);
        }
        let wanted = wanted.get_mut(..hashes.len()).unwrap_or_default();
        wanted.sort_unstable();
        let mut locked = Locked { inner: self, guards: [const { None }; MAX_POLICIES], coarse: None };
        let mut last = usize::MAX;
        for (shard, slot) in wanted.iter().copied().zip(&mut locked.guards) {
            if shard == last {
                continue;
            }
            last = shard;
            *slot = self.shards.get(shard).map(|mutex| (shard, lock(mutex)));
        }
        locked
    }
}

impl LimitStore for MemoryStore {
    fn try_check(&self, batch: &mut Batch<'_>, now: Duration) -> bool {
        self.check_all(batch, now);
        true
    }

    fn charge(&self, ask: &OwnedAsk, now: Duration) {
        Self::charge(self, &ask.policy, ask.quota, &ask.key, ask.cost, now);
    }
}
