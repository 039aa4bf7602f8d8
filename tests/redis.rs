//! Limits in a real Redis: exact over several stores, and never in the way when it dies.
#![cfg(feature = "redis")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout
)]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::{
    clock::{Clock as _, SystemClock},
    limiter::{Ask, Batch, Decision, Key, LimitStore, OwnedAsk, PolicyId, Quota, StoreUnavailable},
    stores::{RedisStore, WhenAway},
};

/// A server of our own on a loopback port, without persistence; ended with the test.
struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_on(port)
    }

    fn start_on(port: u16) -> Self {
        let dir = std::env::temp_dir().join(format!("portcullis-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        let server = Self { child, port, dir };
        for _ in 0..200 {
            if server.try_command("PING").is_ok_and(|answer| answer.starts_with("+PONG")) {
                return server;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer");
    }

    fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = vec![0; 65_536];
        let n = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    }

    /// How many scripts it has run.
    fn calls(&self) -> u64 {
        let stats = self.try_command("INFO commandstats").unwrap();
        let line = stats.lines().find(|l| l.starts_with("cmdstat_evalsha:")).unwrap_or("calls=0,");
        line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn store(&self, when_away: WhenAway) -> RedisStore {
        RedisStore::builder(&format!("redis://127.0.0.1:{}", self.port)).unwrap().when_away(when_away).build().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn now() -> Duration {
    SystemClock.monotonic()
}

/// One request, as the layer asks.
async fn decide(store: &RedisStore, asks: &[(&PolicyId, Quota, &Key, u64, bool)]) -> Result<Vec<Decision>, StoreUnavailable> {
    let mut batch = Batch::new();
    for (policy, quota, key, cost, shadow) in asks {
        batch.push(Ask { policy, quota: *quota, key: (*key).clone(), cost: *cost, shadow: *shadow, decision: None });
    }
    let now = now();
    if store.try_check(&mut batch, now) {
        return Ok(batch.iter().map(|ask| ask.decision.unwrap()).collect());
    }
    Arc::new(store.clone()).check(batch.to_owned_asks(), now).await.map(Into::into)
}

async fn ask(store: &RedisStore, policy: &PolicyId, quota: Quota, key: &Key) -> bool {
    decide(store, &[(policy, quota, key, 1, false)]).await.unwrap()[0].allowed()
}

#[tokio::test]
#[ignore = "needs redis-server: run by the full test command"]
async fn one_call_decides_all_or_none() {
    let server = Server::start();
    let store = server.store(WhenAway::Refuse);
    assert!(store.connect().await);
    let (a, b) = (PolicyId::new("a").unwrap(), PolicyId::new("b").unwrap());
    let key = Key::of_str("alice");
    let (wide, narrow) = (Quota::per_hour(100), Quota::per_hour(2));
    let both = [(&a, wide, &key, 1, false), (&b, narrow, &key, 1, false)];
    let first = decide(&store, &both).await.unwrap();
    assert_eq!((first[0].remaining(), first[1].remaining()), (99, 1));
    assert_eq!(first[1].reset().as_secs(), 1800);
    assert_eq!(server.calls(), 1, "one call for both policies");
    assert!(decide(&store, &both).await.unwrap().iter().all(Decision::allowed));

    // A fresh store knows nothing of what the first has seen: the refusal comes from the server.
    let other = server.store(WhenAway::Refuse);
    let refused = decide(&other, &both).await.unwrap();
    assert_eq!((refused[0].allowed(), refused[0].remaining(), refused[1].allowed()), (true, 98, false));
    assert!((1795..=1800).contains(&refused[1].retry_after().as_secs()));
    let shadow =
        decide(&server.store(WhenAway::Refuse), &[(&a, wide, &key, 1, false), (&b, narrow, &key, 1, true)]).await.unwrap();
    assert_eq!((shadow[0].remaining(), shadow[1].allowed()), (97, false));

    // A debt, made in the background.
    let owed = OwnedAsk { policy: a.clone(), quota: wide, key: key.clone(), cost: 150, shadow: false };
    store.charge(&owed, now());
    let started = Instant::now();
    while decide(&server.store(WhenAway::Refuse), &[(&a, wide, &key, 0, false)]).await.unwrap()[0].allowed() {
        assert!(started.elapsed() < Duration::from_secs(5), "the debt is not there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let keys = server.try_command("KEYS *").unwrap();
    assert!(keys.contains("portcullis:a:") && keys.contains("portcullis:b:"), "{keys}");
    assert_eq!(keys.matches("portcullis:").count(), 2);
}

#[tokio::test]
#[ignore = "needs redis-server: run by the full test command"]
async fn a_key_that_is_limited_costs_no_round_trip_and_leaves_nothing_behind() {
    let server = Server::start();
    let store = server.store(WhenAway::Refuse);
    let (policy, key, quota) = (PolicyId::new("p").unwrap(), Key::of_str("k"), Quota::per_second(2).burst(2));
    while ask(&store, &policy, quota, &key).await {}
    let calls = server.calls();
    let mut refused = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(!ask(&store, &policy, quota, &key).await);
        refused += 1;
    }
    assert!(refused > 1000, "{refused}");
    assert!(server.calls() - calls <= 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(ask(&store, &policy, quota, &key).await, "and comes back in time");
    tokio::time::sleep(Duration::from_millis(2600)).await;
    assert!(server.try_command("DBSIZE").unwrap().starts_with(":0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server: run by the full test command"]
async fn three_stores_admit_exactly_the_quota() {
    let server = Server::start();
    let (policy, key) = (PolicyId::new("shared").unwrap(), Key::of_str("everybody"));
    let (rate, burst) = (200u64, 50u64);
    let quota = Quota::per_second(rate).burst(burst);
    let start = Instant::now();
    let granted = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let store = server.store(WhenAway::Refuse);
        for _ in 0..8 {
            let (store, policy, key, granted) = (store.clone(), policy.clone(), key.clone(), Arc::clone(&granted));
            tasks.push(tokio::spawn(async move {
                while start.elapsed() < Duration::from_secs(3) {
                    match decide(&store, &[(&policy, quota, &key, 1, false)]).await {
                        Ok(said) if said[0].allowed() => drop(granted.fetch_add(1, Ordering::Relaxed)),
                        _ => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let took = start.elapsed();
    let (granted, quota) = (granted.load(Ordering::Relaxed), rate * u64::try_from(took.as_millis()).unwrap() / 1000);
    println!("three stores, {took:?}: granted {granted}, the rate's {quota} and a burst of {burst}");
    assert!(granted <= quota + burst + 1, "{granted} of {quota} + {burst}");
    assert!(granted >= quota - burst, "{granted} of {quota}");
}

/// Loads a store whose server dies in the middle; what is let through afterwards is this server's share.
async fn dies(signal: &str) {
    let server = Server::start();
    let replicas = 2;
    let store = server.store(WhenAway::LocalShare { replicas });
    assert!(store.connect().await);
    let (policy, quota) = (PolicyId::new("p").unwrap(), Quota::per_second(1000).burst(100));
    let shared = Key::of_str("one");
    let (stop, slowest, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    // How late this machine's timers are, measured beside it: that is not the store's doing.
    let ticker = tokio::spawn({
        let (stop, late) = (Arc::clone(&stop), Arc::clone(&late));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let t = Instant::now();
                tokio::time::sleep(Duration::from_millis(18)).await;
                late.fetch_max(u64::try_from(t.elapsed().as_micros()).unwrap().saturating_sub(20_000), Ordering::Relaxed);
            }
        }
    });
    let granted = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for n in 0..8u64 {
        let (store, policy, shared) = (store.clone(), policy.clone(), shared.clone());
        let (stop, slowest, granted) = (Arc::clone(&stop), Arc::clone(&slowest), Arc::clone(&granted));
        tasks.push(tokio::spawn(async move {
            let mut requests = 0u64;
            while !stop.load(Ordering::Relaxed) {
                requests += 1;
                // Half of them are keys that nobody knows yet, so the pre-check cannot help.
                let fresh = Key::of_str(&format!("{n}-{requests}"));
                let t = Instant::now();
                ask(&store, &policy, quota, &fresh).await;
                slowest.fetch_max(u64::try_from(t.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                let t = Instant::now();
                let allowed = ask(&store, &policy, quota, &shared).await;
                slowest.fetch_max(u64::try_from(t.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                granted.fetch_add(u64::from(allowed), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!store.is_away());
    let before = slowest.swap(0, Ordering::Relaxed);
    server.signal(signal);
    let dead = Instant::now();
    while !store.is_away() {
        assert!(dead.elapsed() < Duration::from_millis(500), "nobody noticed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (start, at_start) = (Instant::now(), granted.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (took, alone) = (start.elapsed(), granted.load(Ordering::Relaxed) - at_start);
    let share = quota.count() / replicas * u64::try_from(took.as_millis()).unwrap() / 1000;
    let (waited, late) = (slowest.load(Ordering::Relaxed), late.load(Ordering::Relaxed));
    println!(
        "{signal}: slowest {waited} us (before: {before} us, timers late by up to {late} us); alone {alone} in {took:?}, the share is {share}"
    );
    assert!(waited <= 20_000 + late, "a request waited {waited} us, timers were late by {late} us");
    assert!(alone <= share + quota.burst_size() / replicas + share / 50, "{alone} of {share}");
    assert!(alone >= share * 8 / 10, "{alone} of {share}");
    assert!(store.is_away());

    // Back: continued, or started anew on the same port.
    let _other = if signal == "-STOP" {
        server.signal("-CONT");
        None
    } else {
        let port = server.port;
        drop(server);
        Some(Server::start_on(port))
    };
    let back = Instant::now();
    while store.is_away() {
        assert!(back.elapsed() < Duration::from_secs(5), "the store is back and nobody noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{signal}: back after {:?}", back.elapsed());
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    ticker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server: run by the full test command"]
async fn a_killed_store_is_in_nobodys_way() {
    dies("-KILL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server: run by the full test command"]
async fn a_stopped_store_is_in_nobodys_way() {
    dies("-STOP").await;
}

/// A loopback port where nobody listens.
fn nowhere(when_away: WhenAway) -> RedisStore {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    RedisStore::builder(&format!("redis://127.0.0.1:{port}")).unwrap().when_away(when_away).build().unwrap()
}

#[tokio::test]
async fn without_a_store_the_named_choice_rules() {
    let (policy, key, quota) = (PolicyId::new("p").unwrap(), Key::of_str("k"), Quota::per_hour(9).burst(9));
    let one = [(&policy, quota, &key, 1, false)];
    let refuse = nowhere(WhenAway::Refuse);
    for _ in 0..3 {
        assert_eq!(decide(&refuse, &one).await.unwrap_err(), StoreUnavailable);
    }
    assert!(refuse.is_away());
    let admit = nowhere(WhenAway::Admit);
    for _ in 0..30 {
        assert!(decide(&admit, &one).await.unwrap()[0].allowed());
    }
    let share = nowhere(WhenAway::LocalShare { replicas: 3 });
    let mut granted = 0;
    for _ in 0..30 {
        granted += u32::from(decide(&share, &one).await.unwrap()[0].allowed());
    }
    assert_eq!(granted, 3);
}

#[test]
fn addresses_are_checked_and_not_repeated() {
    let error = RedisStore::builder("rediss//:hunter2@nowhere").unwrap_err();
    assert!(!error.to_string().contains("hunter2"));
}
