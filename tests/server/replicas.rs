//! Three servers, one Redis: together they admit one quota.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};

use crate::support::{Proxy, Upstream, full, token_hash};

/// A Redis of the test's own on loopback.
struct Redis(Child, u16);

impl Redis {
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        let redis = Self(child, port);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run by the full test command"]
async fn three_servers_admit_together_exactly_the_quota() {
    let redis = Redis::start().await;
    let upstream = Upstream::start(|_| async { http::Response::new(full("ok")) }).await;
    let config = format!(
        "[[token]]\nid = \"test\"\nsha256 = \"{}\"\n[rate_limit]\nper_client = \"off\"\nper_token = \"120/min\"\nreplicas = 3\n\
         redis = \"redis://127.0.0.1:{}\"\n[[egress.exception]]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\n",
        token_hash(),
        redis.1,
        upstream.addr.port()
    );
    let servers = [Proxy::start(&config).await, Proxy::start(&config).await, Proxy::start(&config).await];
    let path = format!("/proxy/{}", upstream.url("/x"));
    let start = Instant::now();
    let (mut admitted, mut refused) = (0u64, 0u64);
    while start.elapsed() < Duration::from_secs(3) {
        let (a, b, c) = tokio::join!(servers[0].get(&path), servers[1].get(&path), servers[2].get(&path));
        for answer in [a, b, c] {
            match answer.status {
                200 => admitted += 1,
                429 => refused += 1,
                other => panic!("{other}: {}", answer.text()),
            }
        }
    }
    // A burst of 120 at once, then two a second.
    let most = 120 + 2 * start.elapsed().as_secs() + 3;
    assert!((120..=most).contains(&admitted), "{admitted} admitted, {refused} refused, at most {most}");
    assert!(refused > 100, "{admitted} admitted, {refused} refused");
    println!("{admitted} admitted and {refused} refused by three servers in {:?}", start.elapsed());
}
