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
    assert!(limited.iter().all(|key| store.check(&policy, quota, key, 1, later).allowed()), "the time served, they come back");
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
