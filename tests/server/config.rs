//! The configuration file as the program sees it, and the other commands.

use std::{
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;

use crate::support::{Proxy, TempFile, Upstream, command, full, token_hash, usual};

async fn output(args: &[&str]) -> Output {
    timeout(Duration::from_secs(20), command(args).output()).await.expect("no end").unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn errors_name_their_key_and_end_the_program() {
    for (toml, want) in [
        ("nonsense = 1", "nonsense"),
        ("[limits]\nrequest_bod = \"1MiB\"", "request_bod"),
        ("[limits]\nrequest_body = \"much\"", "much"),
        ("[rate_limit]\nper_client = \"often\"", "often"),
        ("[[token]]\nid = \"a\"", "sha256"),
        ("[[token]]\nid = \"a\"\nsha256 = \"zz\"", "sha256"),
        ("[[token]]\nid = \"a\"\nsecret_env = \"NOBODY_SET_THIS\"", "NOBODY_SET_THIS"),
        ("[egress]\ndeny_cidrs = [\"10.0.0.0/99\"]", "10.0.0.0/99"),
        ("[egress]\nunknown = 1", "unknown"),
        ("[clients]\nallow_cidrs = [\"nowhere\"]", "nowhere"),
        ("allowed_origins = [\"not an origin\"]", "not an origin"),
        ("public_url = \"ftp://x\"", "ftp://x"),
        ("listen = \"nowhere\"", "listen"),
        ("[tls]\ncert = \"/nonexistent/cert.pem\"\nkey = \"/nonexistent/key.pem\"", "/nonexistent/cert.pem"),
    ] {
        let file = TempFile::new(toml);
        for extra in [&["--check-config"][..], &["--listen", "127.0.0.1:0"]] {
            let mut args = vec!["--config", file.0.to_str().unwrap()];
            args.extend(extra);
            let output = output(&args).await;
            assert!(!output.status.success() && text(&output).contains(want), "{toml}: {}", text(&output));
            assert!(!text(&output).contains("panicked"), "{}", text(&output));
        }
    }
    let missing = output(&["--config", "/nonexistent/x.toml"]).await;
    assert!(!missing.status.success() && text(&missing).contains("/nonexistent/x.toml"));
}

#[tokio::test]
async fn the_sample_is_accepted_and_explained() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mcp_proxy/mcp_proxy.toml");
    let output = output(&["--config", sample, "--check-config"]).await;
    assert!(output.status.success(), "{}", text(&output));
    for line in ["127.0.0.1:8000", "4MiB", "300/min"] {
        assert!(text(&output).contains(line), "{line}: {}", text(&output));
    }
}

/// Every key of the sample, switched on, is known.
#[test]
fn the_sample_names_only_keys_that_exist() {
    let sample = include_str!("../../examples/mcp_proxy/mcp_proxy.toml");
    let keys = sample.lines().filter_map(|l| l.strip_prefix('#')?.split_once(" = ")).filter(|(k, _)| !k.contains(' ')).count();
    assert!(keys > 40, "{keys}");
}

#[tokio::test]
async fn every_key_of_the_sample_is_understood() {
    let sample = include_str!("../../examples/mcp_proxy/mcp_proxy.toml");
    let is_key = |rest: &str| {
        rest.split_once(" = ").is_some_and(|(k, _)| k.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b)))
    };
    let mut on = String::new();
    let mut in_tls = false;
    for line in sample.lines() {
        let line = line.strip_prefix('#').filter(|rest| rest.starts_with('[') || is_key(rest)).unwrap_or(line);
        if line.starts_with('[') {
            in_tls = line.starts_with("[tls") || line.starts_with("[[tls");
        }
        // Certificates are not at hand here.
        if !in_tls {
            on.push_str(line);
            on.push('\n');
        }
    }
    let file = TempFile::new(&on);
    let output = output(&["--config", file.0.to_str().unwrap(), "--check-config"]).await;
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test]
async fn a_new_token_works_as_it_is_pasted() {
    let upstream = Upstream::start(async |_| http::Response::new(full("ok"))).await;
    let made = output(&["token", "new", "--id", "made", "--targets", "http://127.0.0.1:*/ok/*", "--rate", "60/min"]).await;
    assert!(made.status.success(), "{}", text(&made));
    let stdout = String::from_utf8(made.stdout).unwrap();
    let secret = stdout.split_whitespace().find(|w| w.starts_with("pcl_")).unwrap().to_owned();
    let record = &stdout[stdout.find("[[token]]").unwrap()..];
    assert!(!record.contains(&secret));
    let config = format!("{}\n{record}", usual(&[upstream.addr]));
    let proxy = Proxy::start(&config).await;
    for (path, want) in [("/ok/x", 200), ("/other", 403)] {
        let request = http::Request::get(format!("/proxy/{}", upstream.url(path))).header("host", proxy.addr.to_string());
        let request = request.header("x-proxy-token", &secret).body(http_body_util::Full::default()).unwrap();
        assert_eq!(proxy.send(request).await.status(), want, "{path}");
    }
}

#[tokio::test]
async fn a_changed_file_is_reloaded_and_a_broken_one_is_not() {
    let upstream = Upstream::start(async |_| http::Response::new(full("ok"))).await;
    let proxy = Proxy::start(&usual(&[upstream.addr])).await;
    let path = format!("/proxy/{}", upstream.url("/"));
    assert_eq!(proxy.get(&path).await.status, 200);
    let reload = || proxy.child.signal("-HUP");
    let eventually = async |want: u16| {
        let wait = async {
            while proxy.get(&path).await.status != want {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), wait).await.is_ok()
    };
    std::fs::write(&proxy.config.0, "broken = [").unwrap();
    reload();
    proxy.said("old one stays").await;
    assert_eq!(proxy.get(&path).await.status, 200);
    std::fs::write(&proxy.config.0, usual(&[])).unwrap();
    reload();
    assert!(eventually(403).await, "the policy is not reloaded: {}", proxy.stderr.lock().unwrap());
    // Without a signal too.
    let other = usual(&[upstream.addr]).replace(&token_hash(), &"0".repeat(64));
    std::fs::write(&proxy.config.0, other).unwrap();
    assert!(eventually(401).await, "the tokens are not reloaded: {}", proxy.stderr.lock().unwrap());
    std::fs::write(&proxy.config.0, usual(&[upstream.addr])).unwrap();
    reload();
    assert!(eventually(200).await, "the tokens are not reloaded: {}", proxy.stderr.lock().unwrap());
}

#[tokio::test]
async fn reloads_under_load_lose_no_request() {
    let upstream = Upstream::start(async |_| http::Response::new(full("ok"))).await;
    let proxy = Arc::new(Proxy::start(&usual(&[upstream.addr])).await);
    let path = format!("/proxy/{}", upstream.url("/"));
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (proxy, path, stop, answers) = (proxy.clone(), path.clone(), stop.clone(), answers.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = proxy.get(&path).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for n in 0..10 {
        let limits = format!("[limits]\nrequest_body = \"{}MiB\"\n", n + 1);
        std::fs::write(&proxy.config.0, usual(&[upstream.addr]) + &limits).unwrap();
        proxy.child.signal("-HUP");
        // The file's own watch may see the change as well, before or after.
        let told = || proxy.stderr.lock().unwrap().matches("reloaded").count() > n && answers.load(Ordering::Relaxed) > n * 10;
        crate::wire::until("a reload beside requests", Duration::from_secs(20), told).await;
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.await.unwrap();
    }
}
