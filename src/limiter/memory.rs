//! The store in memory: of a fixed size, and exact about everybody who is limited.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Ask, Batch, CheckFuture, Decision, Key, LimitStore, MAX_POLICIES, OwnedAsk, PolicyId, Quota,
    quota::nanos,
    sip::SipKey,
    table::{Before, Cell, Table, WAYS},
};

/// Cells of [`MemoryStore::default`]: 2^20, which is 16 MiB once every page has been touched.
pub const DEFAULT_CELLS: usize = 1 << 20;

const SHARDS: usize = 64;
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

struct Coarse {
    table: Table,
    overflow: Vec<(u64, u64)>,
    folded: u64,
}

type Guard<'a, T> = MutexGuard<'a, T>;

/// Shards that one decision has locked, in ascending order.
struct Locked<'a> {
    inner: &'a Inner,
    guards: [Option<(usize, Guard<'a, Table>)>; MAX_POLICIES],
    coarse: Option<Guard<'a, Coarse>>,
}

/// Where a key's TAT is kept.
#[derive(Clone, Copy)]
enum Place {
    Own(usize, Cell),
    Coarse(u64, Cell),
    Overflow(usize),
}

#[derive(Clone, Copy)]
enum Undo {
    Own(usize, Before),
    Coarse(Before),
    Overflow(usize, u64),
}

fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    // Every write is whole before the next can fail, so a poisoned table is still a table.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    /// A store of about `cells` cells (at least 32), of 16 bytes each.
    #[must_use]
    pub fn bounded(cells: usize) -> Self {
        let cells = cells.max(4 * WAYS);
        let coarse = cells / COARSE_PART;
        let own = cells - coarse;
        let shards = (own / (8 * WAYS)).next_power_of_two().clamp(1, SHARDS);
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

impl<'a> Locked<'a> {
    fn index(&self, shard: usize) -> usize {
        self.guards.iter().position(|g| g.as_ref().is_some_and(|(s, _)| *s == shard)).unwrap_or(0)
    }

    fn table(&self, guard: usize) -> Option<&Table> {
        self.guards.get(guard)?.as_ref().map(|(_, table)| &**table)
    }

    fn coarse(&mut self) -> &mut Guard<'a, Coarse> {
        self.coarse.get_or_insert_with(|| lock(&self.inner.coarse))
    }

    /// The key's own cell, or the finest coarser one there is room for.
    fn place(&mut self, guard: usize, policy: u64, key: &Key, hash: u64, now: u64) -> Place {
        match self.table(guard).and_then(|table| table.find(hash, now)) {
            Some(cell) => Place::Own(guard, cell),
            None => self.fold(policy, key, now),
        }
    }

    #[cold]
    fn fold(&mut self, policy: u64, key: &Key, now: u64) -> Place {
        let inner = self.inner;
        let coarse = self.coarse();
        coarse.folded += 1;
        for level in 1..=key.levels() {
            let hash = inner.hash(policy, key, level);
            if let Some(cell) = coarse.table.find(hash, now) {
                return Place::Coarse(hash, cell);
            }
        }
        let known = coarse.overflow.iter().position(|(id, _)| *id == policy);
        let known = known.or_else(|| {
            let free = coarse.overflow.iter().position(|(_, tat)| *tat <= now)?;
            coarse.overflow.get_mut(free).map(|slot| *slot = (policy, 0))?;
            Some(free)
        });
        Place::Overflow(known.unwrap_or_else(|| {
            if coarse.overflow.len() < OVERFLOWS {
                coarse.overflow.push((policy, 0));
            }
            coarse.overflow.len() - 1
        }))
    }

    fn tat(&mut self, place: Place) -> u64 {
        match place {
            Place::Own(_, cell) | Place::Coarse(_, cell) => cell.tat,
            Place::Overflow(i) => self.coarse().overflow.get(i).map_or(0, |(_, tat)| *tat),
        }
    }

    fn write(&mut self, place: Place, hash: u64, tat: u64) -> Option<Undo> {
        match place {
            Place::Own(guard, cell) => {
                let (_, table) = self.guards.get_mut(guard)?.as_mut()?;
                Some(Undo::Own(guard, table.write(cell, hash, tat)))
            }
            Place::Coarse(hash, cell) => Some(Undo::Coarse(self.coarse().table.write(cell, hash, tat))),
            Place::Overflow(i) => {
                let (_, slot) = self.coarse().overflow.get_mut(i)?;
                Some(Undo::Overflow(i, std::mem::replace(slot, tat)))
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Own(guard, before) => {
                if let Some((_, table)) = self.guards.get_mut(guard).and_then(Option::as_mut) {
                    table.restore(before);
                }
            }
            Undo::Coarse(before) => self.coarse().table.restore(before),
            Undo::Overflow(i, tat) => {
                if let Some((_, slot)) = self.coarse().overflow.get_mut(i) {
                    *slot = tat;
                }
            }
        }
    }
}

impl LimitStore for MemoryStore {
    fn try_check(&self, batch: &mut Batch<'_>, now: Duration) -> bool {
        self.check_all(batch, now);
        true
    }

    fn check(self: Arc<Self>, asks: Box<[OwnedAsk]>, now: Duration) -> CheckFuture {
        let mut batch = Batch::new();
        for ask in &asks {
            let OwnedAsk { policy, quota, key, cost, shadow } = ask;
            batch.push(Ask { policy, quota: *quota, key: key.clone(), cost: *cost, shadow: *shadow, decision: None });
        }
        self.check_all(&mut batch, now);
        let answers = batch.iter().filter_map(|ask| ask.decision).collect();
        Box::pin(std::future::ready(Ok(answers)))
    }

    fn charge(&self, ask: &OwnedAsk, now: Duration) {
        Self::charge(self, &ask.policy, ask.quota, &ask.key, ask.cost, now);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv6Addr, thread};

    use proptest::prelude::*;

    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn id(name: &str) -> PolicyId {
        PolicyId::new(name).unwrap()
    }

    fn net(n: u64) -> Key {
        Key::of_client(Ipv6Addr::from(u128::from(n) << 64).into())
    }

    fn ask<'a>(policy: &'a PolicyId, quota: Quota, key: &Key, cost: u64) -> Ask<'a> {
        Ask { policy, quota, key: key.clone(), cost, shadow: false, decision: None }
    }

    #[test]
    fn untouched_memory_is_not_resident() {
        let resident = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        let store = MemoryStore::bounded(1 << 24);
        let policy = id("p");
        assert!(store.check(&policy, Quota::per_second(1), &Key::of_str("a"), 1, T0).allowed());
        // 256 MiB of cells.
        assert!(resident().saturating_sub(before) < 16 << 20);
        assert_eq!(store.cells() / 1000, (1 << 24) / 1000);
    }

    #[test]
    fn policies_do_not_share_cells_but_share_a_name_over_a_reload() {
        let store = MemoryStore::bounded(1000);
        let key = Key::of_str("a");
        let quota = Quota::per_minute(1);
        assert!(store.check(&id("one"), quota, &key, 1, T0).allowed());
        assert!(store.check(&id("two"), quota, &key, 1, T0).allowed());
        assert!(!store.check(&id("one"), quota, &key, 1, T0).allowed());
        assert_eq!(store.peek(&id("one"), Quota::per_minute(2).burst(4), &key, 0, T0).remaining(), 2);
    }

    #[test]
    fn peeking_and_refusing_take_nothing() {
        let store = MemoryStore::bounded(1000);
        let (policy, quota, key) = (id("p"), Quota::per_minute(2), Key::of_str("a"));
        for _ in 0..10 {
            assert!(store.peek(&policy, quota, &key, 1, T0).allowed());
        }
        assert_eq!(store.live(T0), 0);
        assert!(store.check(&policy, quota, &key, 2, T0).allowed());
        let first = store.check(&policy, quota, &key, 1, T0).retry_after();
        assert_eq!(store.check(&policy, quota, &key, 1, T0).retry_after(), first);
    }

    #[test]
    fn charges_make_debts() {
        let store = MemoryStore::bounded(1000);
        let (policy, quota, key) = (id("bytes"), Quota::per_second(1000).burst(1000), Key::of_str("a"));
        assert!(store.check(&policy, quota, &key, 0, T0).allowed());
        store.charge(&policy, quota, &key, 5000, T0);
        let refused = store.check(&policy, quota, &key, 0, T0);
        assert!(!refused.allowed());
        assert_eq!(refused.retry_after(), Duration::from_secs(4));
        assert!(store.check(&policy, quota, &key, 0, T0 + Duration::from_secs(4)).allowed());
    }

    #[test]
    fn all_or_none() {
        let store = MemoryStore::bounded(1000);
        let (a, b, c) = (id("a"), id("b"), id("c"));
        let key = Key::of_str("k");
        let (wide, narrow) = (Quota::per_minute(100), Quota::per_minute(1));
        let ask_all = |shadow: bool| {
            let mut batch = Batch::new();
            batch.push(ask(&a, wide, &key, 1));
            batch.push(Ask { shadow, ..ask(&b, narrow, &key, 1) });
            batch.push(ask(&c, wide, &key, 1));
            store.check_all(&mut batch, T0);
            let said: Vec<bool> = batch.iter().map(|a| a.decision.unwrap().allowed()).collect();
            (batch.allowed(), said)
        };
        let left = |p| store.peek(p, wide, &key, 0, T0).remaining();
        assert_eq!(ask_all(false), (true, vec![true, true, true]));
        assert_eq!(ask_all(false), (false, vec![true, false, true]));
        assert_eq!((left(&a), left(&c)), (99, 99), "a refusal takes nothing anywhere");
        assert_eq!(ask_all(true), (true, vec![true, false, true]));
        assert_eq!((left(&a), left(&c)), (98, 98), "a shadow stands in nobody's way");
    }

    #[test]
    fn two_questions_about_one_cell_count_twice_and_are_taken_back_together() {
        let store = MemoryStore::bounded(1000);
        let (policy, other, key) = (id("same"), id("other"), Key::of_str("k"));
        let quota = Quota::per_minute(3);
        let mut batch = Batch::new();
        batch.push(ask(&policy, quota, &key, 1));
        batch.push(ask(&policy, quota, &key, 1));
        store.check_all(&mut batch, T0);
        assert!(batch.allowed());
        assert!(store.check(&other, Quota::per_minute(1), &key, 1, T0).allowed());
        let mut batch = Batch::new();
        batch.push(ask(&policy, quota, &key, 1));
        batch.push(ask(&other, Quota::per_minute(1), &key, 1));
        store.check_all(&mut batch, T0);
        assert!(!batch.allowed());
        assert_eq!(store.peek(&policy, quota, &key, 0, T0).remaining(), 1);
    }

    fn limited_through_a_flood(cells: usize, others: u64) {
        let store = MemoryStore::bounded(cells);
        let (policy, quota) = (id("client"), Quota::per_hour(60).burst(3));
        let limited: Vec<Key> = (0..100).map(|n| net((9 << 40) + n)).collect();
        for key in &limited {
            while store.check(&policy, quota, key, 1, T0).allowed() {}
        }
        let mut admitted = 0u64;
        for n in 0..others {
            admitted += u64::from(store.check(&policy, quota, &net(n), 1, T0).allowed());
            if n % 1024 == 0 {
                let key = &limited[usize::try_from(n / 1024).unwrap() % limited.len()];
                assert!(!store.check(&policy, quota, key, 1, T0).allowed(), "forgotten after {n}");
            }
        }
        assert!(limited.iter().all(|key| !store.check(&policy, quota, key, 1, T0).allowed()));
        assert!(store.folded() > 0, "the flood was larger than the store");
        // One each for those who got a cell; the rest shared 3 a coarser cell and 3 at the end.
        assert!(admitted <= 4 * cells as u64, "{admitted}");
        let later = T0 + Duration::from_secs(3 * 60);
        assert!(
            limited.iter().all(|key| store.check(&policy, quota, key, 1, later).allowed()),
            "the time served, they come back"
        );
        assert_eq!(store.live(later), limited.len(), "and the flood's cells have run out");
    }

    #[test]
    fn a_limited_key_stays_limited_through_a_flood() {
        limited_through_a_flood(1 << 12, 100_000);
    }

    #[test]
    #[ignore = "ten million keys: run by the full test command"]
    fn a_limited_key_stays_limited_through_a_flood_of_ten_million() {
        limited_through_a_flood(DEFAULT_CELLS, 10_000_000);
    }

    #[test]
    fn cells_that_have_run_out_are_used_again() {
        let store = MemoryStore::bounded(1 << 10);
        let (policy, quota) = (id("p"), Quota::per_second(10).burst(1));
        for n in 0..50_000u64 {
            let now = T0 + Duration::from_millis(n);
            assert!(store.check(&policy, quota, &net(n), 1, now).allowed());
        }
        assert_eq!(store.folded(), 0, "100 live keys never fill 1024 cells");
    }

    #[test]
    fn threads_get_exactly_the_quota() {
        let store = MemoryStore::bounded(64);
        let (a, b, quota) = (id("a"), id("b"), Quota::per_hour(1000));
        let granted: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|t| {
                    let (store, a, b) = (store.clone(), &a, &b);
                    scope.spawn(move || {
                        let key = Key::of_str("k");
                        (0..1000)
                            .filter(|_| {
                                let mut batch = Batch::new();
                                // Opposite orders: the locks must not wait for each other.
                                let (x, y) = if t % 2 == 0 { (a, b) } else { (b, a) };
                                batch.push(ask(x, quota, &key, 1));
                                batch.push(ask(y, quota, &key, 1));
                                store.check_all(&mut batch, T0);
                                batch.allowed()
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(granted, 1000);
    }

    /// What the store is meant to be: a map that forgets nothing.
    #[derive(Default)]
    struct Model(HashMap<(u8, u8), u64>);

    proptest! {
        #[test]
        fn answers_like_a_map_that_forgets_nothing(
            steps in prop::collection::vec((0u64..400, prop::collection::vec((0u8..3, 0u8..6, 0u64..4, any::<bool>()), 1..4)), 1..150),
        ) {
            let store = MemoryStore::bounded(4096);
            let ids = [id("a"), id("b"), id("c")];
            let quotas = [Quota::per_second(5).burst(3), Quota::per_minute(60), Quota::per_second(1).burst(1)];
            let (mut model, mut now) = (Model::default(), T0);
            for (wait, asks) in steps {
                now += Duration::from_millis(wait);
                let mut batch = Batch::new();
                let before = model.0.clone();
                let (mut want, mut all) = (Vec::new(), true);
                for (p, k, cost, shadow) in asks {
                    let quota = quotas[usize::from(p)];
                    batch.push(Ask { shadow, ..ask(&ids[usize::from(p)], quota, &net(u64::from(k)), cost) });
                    let tat = model.0.entry((p, k)).or_default();
                    let (decision, next) = quota.decide(*tat, nanos(now), cost);
                    *tat = next;
                    all &= decision.allowed() || shadow;
                    want.push(Some(decision));
                }
                if !all {
                    model.0 = before;
                }
                store.check_all(&mut batch, now);
                prop_assert_eq!(batch.allowed(), all);
                let got: Vec<_> = batch.iter().map(|a| a.decision).collect();
                if all {
                    prop_assert_eq!(got, want);
                } else {
                    let allowed = |list: &[Option<Decision>]| list.iter().map(|d| d.unwrap().allowed()).collect::<Vec<_>>();
                    prop_assert_eq!(allowed(&got), allowed(&want));
                }
            }
        }

        #[test]
        fn a_full_store_is_never_laxer_than_twice_the_quota(keys in prop::collection::vec(0u64..300, 1..3000)) {
            let store = MemoryStore::bounded(32);
            let (policy, quota) = (id("p"), Quota::per_hour(60).burst(2));
            let mut granted: HashMap<u64, u32> = HashMap::new();
            for n in keys {
                let decision = store.check(&policy, quota, &net(n), 1, T0);
                *granted.entry(n).or_default() += u32::from(decision.allowed());
            }
            // No time passes, so no cell is freed: whoever has one has its burst, the others share theirs.
            prop_assert!(granted.values().all(|n| *n <= 2));
        }
    }
}
