//! The examples as programs: started on loopback and held to what their documentation promises. `mcp_proxy` has `tests/server`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::pedantic,
    reason = "a test that panics has failed"
)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

#[path = "shared/process.rs"]
mod process;

use process::{Child, Command};

const TOKEN: &str = "an-example-of-at-least-32-characters";
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where `cargo test` puts examples, seen from the test's own program.
fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push(format!("examples/{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is missing: build it with `cargo build --example {name}`", path.display());
    path
}

fn command(name: &str, args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program(name));
    command.args(args).env_remove("PROXY_TOKEN").env_remove("ALLOW_CIDR").envs(env.iter().copied());
    command
}

/// A server that runs until the test ends.
struct Running {
    addr: SocketAddr,
    said: Arc<Mutex<String>>,
    _child: Child,
}

impl Running {
    async fn start(name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = command(name, args, env).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::<Mutex<String>>::default();
        let log = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                log.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut running = Self { addr: ([0, 0, 0, 0], 0).into(), said, _child: child };
        running.addr = running.waits_for(|said| said.split_once("http://")?.1.split_whitespace().next()?.parse().ok()).await;
        running
    }

    /// Waits until standard error holds what `find` finds.
    async fn waits_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        let wait = async {
            loop {
                let found = find(&self.said.lock().unwrap());
                if let Some(found) = found {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it said only: {}", self.said.lock().unwrap()))
    }

    /// Sends a head as it is, on a connection of its own, and reads to the end.
    async fn ask(&self, line: &str, fields: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.addr);
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end of the answer").unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"))
}

/// Answers each connection's first head with a page and remembers what it saw.
struct Target {
    addr: SocketAddr,
    seen: Arc<Mutex<String>>,
}

impl Target {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<String>>::default();
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    let (mut buf, mut head) = (vec![0; 4096], Vec::new());
                    while let Ok(n @ 1..) = stream.read(&mut buf).await {
                        head.extend_from_slice(&buf[..n]);
                        if head.windows(4).any(|w| w == b"\r\n\r\n") {
                            break;
                        }
                    }
                    log.lock().unwrap().push_str(&String::from_utf8_lossy(&head));
                    let page = "<title> a page </title>";
                    let length = page.len();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                    // The rest of a body is read, so that closing sends no reset.
                    let _ = stream.shutdown().await;
                    while matches!(stream.read(&mut buf).await, Ok(1..)) {}
                });
            }
        });
        Self { addr, seen }
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }
}

const LOOPBACK: (&str, &str) = ("ALLOW_CIDR", "127.0.0.0/8");

#[tokio::test]
async fn minimal() {
    let proxy = Running::start("minimal", &["127.0.0.1:0"], &[("PROXY_TOKEN", TOKEN)]).await;
    let target = Target::start().await;
    let (token, path) = (format!("X-Proxy-Token: {TOKEN}"), format!("GET /proxy/http://{}/", target.addr));
    assert_eq!(status(&proxy.ask(&path, &[]).await), 401);
    assert_eq!(status(&proxy.ask(&path, &["X-Proxy-Token: another-one-of-at-least-32-characters"]).await), 401);
    assert_eq!(status(&proxy.ask("GET /proxy/ftp://example.com/", &[&token]).await), 400);
    for forbidden in [target.addr.to_string(), "169.254.169.254".into(), "10.0.0.1".into(), "localhost".into()] {
        assert_eq!(status(&proxy.ask(&format!("GET /proxy/http://{forbidden}/"), &[&token]).await), 403, "{forbidden}");
    }
    assert_eq!(target.seen(), "");

    let lines = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/minimal.rs")).unwrap().lines().count();
    assert!(lines < 45, "the smallest proxy has grown to {lines} lines");
}

#[tokio::test]
async fn webhook_sender() {
    let target = Target::start().await;
    let hook = format!("http://{}/hook", target.addr);
    let metadata = "http://169.254.169.254/latest/meta-data/";
    let run = async |env: &[(&str, &str)]| {
        let output = timeout(PATIENCE, command("webhook_sender", &[&hook, metadata, "no url"], env).output()).await;
        let output = output.expect("it does not end").unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };

    let said = run(&[]).await;
    assert!(said.contains(&format!("refused   {hook} ")), "{said}");
    assert!(said.contains(&format!("refused   {metadata} ")), "{said}");
    assert!(said.contains("invalid   no url"), "{said}");
    assert_eq!(target.seen(), "");

    let said = run(&[LOOPBACK]).await;
    assert!(said.contains(&format!("answered  {hook} 200")), "{said}");
    assert!(said.contains(&format!("refused   {metadata} ")), "{said}");
    assert!(target.seen().starts_with("POST /hook HTTP/1.1\r\n"), "{}", target.seen());
}

#[tokio::test]
async fn axum_app() {
    let app = Running::start("axum_app", &["127.0.0.1:0"], &[LOOPBACK]).await;
    let target = Target::start().await;
    let token = app.waits_for(|said| Some(said.split_once("-H '")?.1.split_once('\'')?.0.to_owned())).await;

    let preview = app.ask(&format!("GET /preview?url=http://{}/", target.addr), &[]).await;
    assert_eq!(status(&preview), 200);
    assert!(preview.ends_with("\r\n\r\na page"), "{preview}");
    let refused = app.ask("GET /preview?url=http://169.254.169.254/", &[]).await;
    assert_eq!(status(&refused), 403);
    assert!(!refused.contains("169.254"), "the caller learns why: {refused}");

    let through = format!("GET /proxy/http://{}/page", target.addr);
    assert_eq!(status(&app.ask(&through, &[]).await), 401);
    let answer = app.ask(&through, &[&token]).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("<title> a page </title>"), "{answer}");
    assert_eq!(status(&app.ask("GET /proxy/http://10.0.0.1/", &[&token]).await), 403);
    assert!(!target.seen().to_lowercase().contains("x-proxy-token"), "{}", target.seen());
}

#[tokio::test]
async fn hyper_app() {
    let app = Running::start("hyper_app", &["127.0.0.1:0"], &[LOOPBACK]).await;
    let target = Target::start().await;
    let answer = app.ask("GET /", &[&format!("X-Target-Url: http://{}/there", target.addr)]).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("<title> a page </title>"), "{answer}");
    assert!(target.seen().starts_with("GET /there HTTP/1.1\r\n"), "{}", target.seen());
    assert_eq!(status(&app.ask("GET /", &["X-Target-Url: http://192.168.0.1/"]).await), 403);
    assert_eq!(status(&app.ask("GET /", &[]).await), 400);
}

#[tokio::test]
async fn custom_stack() {
    let app = Running::start("custom_stack", &["127.0.0.1:0"], &[]).await;
    let token = "X-Proxy-Token: tenant-a-0123456789-0123456789-0123456789";
    assert_eq!(status(&app.ask("GET /proxy/https://example.com/", &[]).await), 401);
    assert_eq!(status(&app.ask("GET /proxy/https://example.net/", &[token]).await), 403, "another target than the token's");
    assert_eq!(status(&app.ask("POST /proxy/https://example.com/", &[token, "Content-Length: 0"]).await), 403, "not a GET");
    app.waits_for(|said| said.contains("tenant-a-1 403 https://example.net").then_some(())).await;
    app.waits_for(|said| said.contains("- 401 ").then_some(())).await;
}

#[tokio::test]
async fn rate_limited_axum() {
    let app = Running::start("rate_limited_axum", &["127.0.0.1:0"], &[]).await;
    // The loopback is a trusted hop there, so each name stands for a client. Another client's requests do not count.
    let from = |ip: &str| format!("X-Forwarded-For: {ip}");
    let (mut passed, mut refused) = (0, None);
    for _ in 0..50 {
        let answer = app.ask("GET /", &[&from("192.0.2.1")]).await;
        match status(&answer) {
            200 => passed += 1,
            429 => {
                refused = Some(answer);
                break;
            }
            other => panic!("{other}: {answer}"),
        }
    }
    assert!(passed >= 5, "the burst is 5, and {passed} passed");
    let refused = refused.expect("nobody was refused").to_lowercase();
    assert!(refused.contains("\r\nretry-after: 1\r\n") && refused.contains("\r\nratelimit: "), "{refused}");
    assert_eq!(status(&app.ask("GET /", &[&from("192.0.2.2")]).await), 200);
    // What stands left of the last hop's entry is the client's own invention.
    assert_eq!(status(&app.ask("GET /", &[&from("192.0.2.3, 192.0.2.1")]).await), 429);
}

#[tokio::test]
async fn reverse_proxy() {
    let target = Target::start().await;
    let upstream = format!("http://{}", target.addr);
    let proxy = Running::start("reverse_proxy", &["--listen", "127.0.0.1:0", "--upstream", &upstream], &[]).await;
    let answer = proxy.ask("GET /path?query", &["X-Forwarded-For: 192.0.2.9"]).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("<title> a page </title>"), "{answer}");
    let seen = target.seen();
    assert!(seen.starts_with("GET /path?query HTTP/1.1\r\n"), "{seen}");
    assert!(!seen.contains("192.0.2.9"), "a stranger's field was believed: {seen}");
    assert_eq!(status(&proxy.ask("GET http://10.0.0.1/", &[]).await), 400, "not a forward proxy");
}

#[tokio::test]
async fn egress_proxy() {
    let args = ["--listen", "127.0.0.1:0", "--allow-cidr", "127.0.0.0/8"];
    let proxy = Running::start("egress_proxy", &args, &[("PROXY_TOKEN", TOKEN)]).await;
    let target = Target::start().await;
    let absolute = format!("GET http://{}/page", target.addr);
    let connect = format!("CONNECT {}", target.addr);
    // "any:an-example-of-at-least-32-characters"
    let basic = "Proxy-Authorization: Basic YW55OmFuLWV4YW1wbGUtb2YtYXQtbGVhc3QtMzItY2hhcmFjdGVycw==";

    for line in [&absolute, &connect] {
        let refused = proxy.ask(line, &[]).await;
        assert_eq!(status(&refused), 407, "{line}");
        assert!(refused.to_lowercase().contains("\r\nproxy-authenticate: "), "{refused}");
        let wrong = "Proxy-Authorization: Basic YW55OmFub3RoZXItb25lLW9mLWF0LWxlYXN0LTMyLWNoYXJhY3RlcnM=";
        assert_eq!(status(&proxy.ask(line, &[wrong]).await), 407, "{line}");
    }
    assert_eq!(target.seen(), "");

    let answer = proxy.ask(&absolute, &[basic]).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("<title> a page </title>"), "{answer}");
    assert!(target.seen().starts_with("GET /page HTTP/1.1\r\n"), "{}", target.seen());
    assert!(!target.seen().to_lowercase().contains("proxy-authorization"), "{}", target.seen());

    let mut tunnel = TcpStream::connect(proxy.addr).await.unwrap();
    let head = format!("{connect} HTTP/1.1\r\nHost: {}\r\n{basic}\r\n\r\n", target.addr);
    tunnel.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, tunnel.read_u8()).await.expect("no answer").unwrap());
    }
    assert_eq!(status(std::str::from_utf8(&answer).unwrap()), 200);
    tunnel.write_all(b"GET /tunnelled HTTP/1.1\r\n\r\n").await.unwrap();
    let mut page = String::new();
    timeout(PATIENCE, tunnel.read_to_string(&mut page)).await.expect("no end of the tunnel").unwrap();
    assert!(page.ends_with("<title> a page </title>"), "{page}");
    assert!(target.seen().ends_with("GET /tunnelled HTTP/1.1\r\n\r\n"), "{}", target.seen());

    let itself = proxy.addr;
    for line in [
        "CONNECT 10.0.0.1:443".to_owned(),
        "CONNECT 169.254.169.254:80".to_owned(),
        "GET http://[::ffff:10.0.0.1]/".to_owned(),
        format!("CONNECT {itself}"),
        format!("GET http://{itself}/"),
    ] {
        assert_eq!(status(&proxy.ask(&line, &[basic]).await), 403, "{line}");
    }
}

#[tokio::test]
async fn check_url() {
    let mut child = command("check_url", &["--json"], &[]).stdin(Stdio::piped()).spawn().unwrap();
    let questions =
        "{\"id\":\"u1\",\"url\":\"http://127.1/\",\"answers\":[\"93.184.215.14\"]}\n{\"ip\":\"10.0.0.1\"}\nnonsense\n";
    child.stdin.take().unwrap().write_all(questions.as_bytes()).await.unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it does not end").unwrap();
    assert!(output.status.success());
    let answers: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let expected = [
        serde_json::json!({"id": "u1", "allow": false, "reason": "address", "to": []}),
        serde_json::json!({"ip": "10.0.0.1", "allow": false, "class": "private"}),
        serde_json::json!({"allow": false, "reason": "invalid", "to": []}),
    ];
    assert_eq!(answers, expected);

    let output = command("check_url", &["http://2130706433/"], &[]).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("127.0.0.1"), "{said}");
}
