//! Tokens that come and go while requests, tunnels and event streams are open.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::{
    ConfigError,
    stores::WatchedFile,
    tokens::{TokenHash, TokenHasher, TokenRecord},
};
use tokio::io::AsyncReadExt as _;

use crate::support::{Plan, UPGRADE, record, soon, token};

/// A directory of this test's own, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("portcullis-access-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One token a line: `id sha256`, and `off` behind a disabled one.
fn parse(text: &str) -> Result<Vec<TokenRecord>, ConfigError> {
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, hash) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(TokenRecord::new(id)?.with_hash(TokenHash::from_hex(hash)?)?.disabled(words.next() == Some("off")))
    };
    text.lines().map(one).collect()
}

fn line(id: &str, token: &str, off: &str) -> String {
    format!("{id} {} {off}\n", TokenHasher::plain().digest(token.as_bytes()).to_hex())
}

#[tokio::test]
async fn a_changed_file_ends_what_is_open_under_a_token_that_is_gone_or_off() {
    let (dir, stays, goes, off) = (Dir::new("file"), token(), token(), token());
    let path = dir.0.join("tokens");
    std::fs::write(&path, [line("stays", &stays, ""), line("goes", &goes, ""), line("off", &off, "")].concat()).unwrap();
    let (file, records) = WatchedFile::open(&path, parse).unwrap();
    let house = Plan::new(records).build().await;
    let tokens = Arc::clone(&house.tokens);
    let watching = tokio::spawn(async move { file.watch(Duration::from_millis(500), |records| tokens.replace(records)).await });

    let mut open = Vec::new();
    for token in [&stays, &goes, &off] {
        let (head, tunnel) = house.open("/ws", &format!("{UPGRADE}X-Proxy-Token: {token}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let (head, events) =
            house.open("/events", &format!("Connection: close\r\nAccept: text/event-stream\r\nX-Proxy-Token: {token}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        open.push((tunnel, events));
    }
    let (changed, begun) = ([line("stays", &stays, ""), line("off", &off, "off")].concat(), Instant::now());
    std::fs::write(&path, changed).unwrap();
    for (mut tunnel, mut events) in open.drain(1..) {
        let mut rest = Vec::new();
        let _ = soon("the tunnel's end", tunnel.read_to_end(&mut rest)).await;
        // A close frame (0x88) of two bytes and the text that follows them: 1008.
        assert!(rest.len() >= 4 && rest[0] == 0x88 && rest[2..4] == 1008_u16.to_be_bytes(), "{rest:?}");
        let _ = soon("the event stream's end", events.read_to_end(&mut rest)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for token in [&goes, &off] {
        assert_eq!(house.get("/", &format!("X-Proxy-Token: {token}\r\n")).await.status, 401);
    }

    // What was not touched goes on: the tunnel still carries bytes, and a file that is wrong changes nothing.
    std::fs::write(&path, "junk").unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (mut tunnel, _events) = open.remove(0);
    assert_eq!(house.get("/", &format!("X-Proxy-Token: {stays}\r\n")).await.status, 200);
    let mut byte = [0];
    assert!(tokio::time::timeout(Duration::from_millis(50), tunnel.read(&mut byte)).await.is_err(), "still open");
    watching.abort();
    house.assert_unseen(&[&stays, &goes, &off]);
}

#[tokio::test]
async fn a_rotation_overlaps_and_ends_only_the_old_tokens_streams() {
    let (old, new) = (token(), token());
    let house = Plan::new([record("ci", &old)]).build().await;
    let hash = |t: &str| TokenHasher::plain().hash(t).unwrap();
    let both = record("ci", &old).with_hash(hash(&new)).unwrap();
    house.tokens.replace([both]).unwrap();
    let mut tunnels = Vec::new();
    for token in [&old, &new] {
        assert_eq!(house.get("/", &format!("X-Proxy-Token: {token}\r\n")).await.status, 200);
        tunnels.push(house.open("/ws", &format!("{UPGRADE}X-Proxy-Token: {token}\r\n")).await.1);
    }
    house.tokens.replace([record("ci", &new)]).unwrap();
    let mut rest = Vec::new();
    let _ = soon("the old tunnel's end", tunnels[0].read_to_end(&mut rest)).await;
    assert_eq!(rest[2..4], 1008_u16.to_be_bytes());
    assert_eq!(house.get("/", &format!("X-Proxy-Token: {old}\r\n")).await.status, 401);
    assert_eq!(house.get("/", &format!("X-Proxy-Token: {new}\r\n")).await.status, 200);
    assert!(tokio::time::timeout(Duration::from_millis(50), tunnels[1].read(&mut [0])).await.is_err(), "still open");
}

#[tokio::test]
async fn a_reload_under_load_loses_no_request() {
    let (stays, comes) = (token(), token());
    let house = Arc::new(Plan::new([record("stays", &stays)]).build().await);
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (house, done, fields) = (Arc::clone(&house), Arc::clone(&done), format!("X-Proxy-Token: {stays}\r\n"));
            tokio::spawn(async move {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = house.get("/", &fields).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..50 {
        let records = [Some(record("stays", &stays)), (round % 2 == 0).then(|| record("comes", &comes))];
        house.tokens.replace(records.into_iter().flatten()).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    assert!(total > 50, "{total} requests");
}
