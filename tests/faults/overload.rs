//! More requests than places.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::*;

const PLACES: usize = 20;
/// What one request takes at the target.
const WORK: Duration = Duration::from_millis(200);
const WINDOW: Duration = Duration::from_secs(3);

async fn stack() -> (Target, Stack) {
    let target = Target::new(|mut wire| async move {
        while wire.request().await.is_some() {
            tokio::time::sleep(WORK).await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    // A busy machine may make a request wait for longer than the other tests allow.
    let upstream = |b: portcullis::upstream::UpstreamBuilder| b.header_timeout(PATIENCE);
    let stack = Stack::start(Setup { in_flight: PLACES, upstream, ..Setup::default() }).await;
    (target, stack)
}

#[derive(Default)]
struct Load {
    admitted: Vec<Duration>,
    shed: Vec<Duration>,
}

/// As many clients as there are places, each with one request after the other.
async fn closed_loop(stack: &Stack, path: &str) -> Load {
    let mut clients = Vec::new();
    for _ in 0..PLACES {
        let mut client = stack.connect().await;
        let path = path.to_owned();
        clients.push(tokio::spawn(async move {
            let (started, mut times) = (Instant::now(), Vec::new());
            while started.elapsed() < WINDOW {
                let asked = Instant::now();
                assert_eq!(client.get(&path).await.status(), 200);
                times.push(asked.elapsed());
            }
            times
        }));
    }
    let mut load = Load::default();
    for client in clients {
        load.admitted.extend(soon("a client", client).await.unwrap());
    }
    load
}

/// Arrivals that do not wait for each other, at three times what can be served.
async fn open_loop(stack: &Stack, path: &str) -> Load {
    let every = WORK / (3 * u32::try_from(PLACES).unwrap());
    let mut ticks = tokio::time::interval(every);
    let (started, mut clients) = (Instant::now(), Vec::new());
    while started.elapsed() < WINDOW {
        ticks.tick().await;
        let (addr, path) = (stack.addr, path.to_owned());
        clients.push(tokio::spawn(async move {
            let mut client = Wire::connect(addr).await;
            let asked = Instant::now();
            let seen = client.get(&path).await;
            (asked.elapsed(), seen)
        }));
    }
    let mut load = Load::default();
    for client in clients {
        let (took, seen) = soon("a client", client).await.unwrap();
        match seen.status() {
            200 => load.admitted.push(took),
            503 => {
                assert_eq!(seen.field("retry-after"), Some("1"), "{}", seen.head);
                assert_eq!(seen.field("proxy-status"), Some("portcullis; error=connection_limit_reached"));
                load.shed.push(took);
            }
            other => panic!("{other}"),
        }
    }
    load.admitted.sort();
    load.shed.sort();
    load
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() - 1) * percent / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_the_capacity_sheds_two_thirds_and_serves_the_rest() {
    let _alone = alone().await;
    let (target, stack) = stack().await;
    let path = target.path("/");
    let most = closed_loop(&stack, &path).await;
    let load = open_loop(&stack, &path).await;
    let (good, shed) = (load.admitted.len(), load.shed.len());
    println!("{} at most, {good} served, {shed} shed; shed median {:?}", most.admitted.len(), at(&load.shed, 50));
    assert!(good * 100 >= most.admitted.len() * 75, "{good} of {}", most.admitted.len());
    assert!(shed > good, "{shed} shed, {good} served");
    // Never more at the target than there are places, and none is kept.
    assert!(target.open() <= PLACES * 2);
    until("permits", PATIENCE, || stack.permits.running() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "timing: run by the full command"]
async fn overload_in_figures() {
    let _alone = alone().await;
    let (target, stack) = stack().await;
    let path = target.path("/");
    let mut most = closed_loop(&stack, &path).await;
    most.admitted.sort();
    let load = open_loop(&stack, &path).await;
    let (good, shed) = (load.admitted.len(), at(&load.shed, 50));
    println!("{good} of {}; shed median {shed:?}, p99 {:?}", most.admitted.len(), at(&load.shed, 99));
    println!("p99 {:?}, alone {:?}", at(&load.admitted, 99), at(&most.admitted, 99));
    assert!(good * 100 >= most.admitted.len() * 90, "{good} of {}", most.admitted.len());
    assert!(shed < Duration::from_millis(5), "{shed:?}");
    assert!(at(&load.admitted, 99) < at(&most.admitted, 99) * 2);
}

/// Whatever ends a request, its place is free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_end_of_a_request_keeps_its_place() {
    let _alone = alone().await;
    let turn = Arc::new(AtomicUsize::new(0));
    let count = turn.clone();
    let target = Target::new(move |mut wire| {
        let turn = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let Some(request) = wire.request().await else { return };
            if field(&request.head, "upgrade").is_some() {
                wire.send(SWITCH).await;
            } else if turn.is_multiple_of(2) {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
            }
            match turn % 3 {
                0 => wire.gone().await,
                1 => wire.reset(),
                _ => {}
            }
        }
    })
    .await;
    let stack = Stack::start(Setup { in_flight: 50, ..Setup::default() }).await;
    let path = target.path("/");
    let mut clients = Vec::new();
    for i in 0..120 {
        let mut client = stack.connect().await;
        match i % 3 {
            0 => client.send(handshake(&path)).await,
            1 => client.send(format!("GET {path} HTTP/1.1\r\nHost: p\r\n\r\n")).await,
            _ => client.send(format!("POST {path} HTTP/1.1\r\nHost: p\r\nContent-Length: 9\r\n\r\nsome")).await,
        }
        if i % 4 == 0 {
            client.reset();
        } else if i % 4 == 1 {
            clients.push(client);
        }
    }
    drop(clients);
    until("permits", T * 5, || stack.permits.running() == 0).await;
    until("connections", PATIENCE, || stack.server.stats().open == 0 && stack.server.stats().tunnels == 0).await;
}
