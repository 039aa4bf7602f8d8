//! The audit in files that the clock turns.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use http::Response;
use tokio::time::timeout;

use crate::{
    example_rotate::{Names, Period, Rotating},
    support::{Proxy, Upstream, command, full, usual},
};

/// A directory of a test's own, gone with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("portcullis-rotation-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The date of today by UTC, and the hour, from a program that is not ours.
fn now(format: &str) -> String {
    let date = std::process::Command::new("date").args(["-u", format]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

const TODAY: &str = "+%Y-%m-%d";

#[test]
fn only_names_with_a_date_belong_to_a_path() {
    let dir = Dir::new();
    for name in [
        "audit.2026-11-22.jsonl",
        "audit.2026-11-21.jsonl",
        "audit.2026-11-22-05.jsonl",
        "audit.jsonl",
        "audit.2026-11-2.jsonl",
        "audit.2026_11_22.jsonl",
        "audit.2026-11-22.jsonl.gz",
        "audit-old.2026-11-22.jsonl",
        "audit.old-11-22.jsonl",
    ] {
        dir.write(name, "");
    }
    fs::create_dir(dir.0.join("audit.2026-11-20.jsonl")).unwrap();
    let names = Names::of(&dir.0.join("audit.jsonl")).unwrap();
    let list = |date| -> Vec<_> {
        names.list(date).unwrap().iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list(Some(10)), ["audit.2026-11-21.jsonl", "audit.2026-11-22.jsonl"]);
    assert_eq!(list(None), ["audit.2026-11-21.jsonl", "audit.2026-11-22-05.jsonl", "audit.2026-11-22.jsonl"]);
}

#[test]
fn surplus_files_go_and_others_stay() {
    let dir = Dir::new();
    for name in
        ["audit.2026-01-01.jsonl", "audit.2026-01-02.jsonl", "audit.2026-01-03.jsonl", "audit-of-last-year.jsonl", "audit.jsonl"]
    {
        dir.write(name, "old\n");
    }
    let mut writer = Rotating::open(&dir.0.join("audit.jsonl"), Period::DAY, Some(2)).unwrap();
    writer.write_all(b"new\n").unwrap();
    let today = format!("audit.{}.jsonl", now(TODAY));
    assert_eq!(dir.names(), ["audit-of-last-year.jsonl", "audit.2026-01-03.jsonl", &today, "audit.jsonl"]);
    assert_eq!(fs::read_to_string(dir.0.join(today)).unwrap(), "new\n");
}

#[test]
fn a_new_file_is_no_easier_to_read_than_the_one_before() {
    for before in ["audit.jsonl", "audit.2026-01-01.jsonl"] {
        let dir = Dir::new();
        fs::set_permissions(dir.write(before, ""), fs::Permissions::from_mode(0o600)).unwrap();
        let writer = Rotating::open(&dir.0.join("audit.jsonl"), Period::DAY, None).unwrap();
        let today = dir.0.join(format!("audit.{}.jsonl", now(TODAY)));
        assert_eq!(mode(&today), 0o600, "{before}");
        // It is not touched again when it is opened again.
        fs::set_permissions(&today, fs::Permissions::from_mode(0o640)).unwrap();
        drop(writer);
        drop(Rotating::open(&dir.0.join("audit.jsonl"), Period::DAY, None).unwrap());
        assert_eq!(mode(&today), 0o640);
    }
    // Without one before, as a plain file is made.
    let dir = Dir::new();
    let plain = dir.write("plain", "");
    drop(Rotating::open(&dir.0.join("audit"), Period::HOUR, None).unwrap());
    assert_eq!(mode(dir.0.join(format!("audit.{}", now("+%Y-%m-%d-%H")))), mode(plain));
}

#[test]
#[ignore = "waits for a minute to turn: run by the full test command"]
fn when_the_clock_turns_there_is_a_new_file_and_nothing_is_lost() {
    let minute = Period { rotation: tracing_appender::rolling::Rotation::MINUTELY, seconds: 60, date: 16 };
    let dir = Dir::new();
    for name in ["audit.2026-01-01-00-00.jsonl", "audit.2026-01-01-00-01.jsonl"] {
        fs::set_permissions(dir.write(name, ""), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut writer = Rotating::open(&dir.0.join("audit.jsonl"), minute, Some(2)).unwrap();
    let begun = now("+%Y-%m-%d-%H-%M");
    let mut lines = 0;
    while dir.names().len() < 2 || dir.names()[0].contains("2026-01") {
        writeln!(writer, "{lines}").unwrap();
        lines += 1;
        std::thread::sleep(Duration::from_millis(20));
        assert!(lines < 65 * 50, "nothing turns: {:?}", dir.names());
    }
    writeln!(writer, "{lines}").unwrap();
    let names = dir.names();
    assert_eq!(names, [format!("audit.{begun}.jsonl"), format!("audit.{}.jsonl", now("+%Y-%m-%d-%H-%M"))]);
    assert!(names.iter().all(|n| mode(dir.0.join(n)) == 0o600));
    let all: String = names.iter().map(|n| fs::read_to_string(dir.0.join(n)).unwrap()).collect();
    assert_eq!(all, (0..=lines).map(|n| format!("{n}\n")).collect::<String>());
}

async fn summary(paths: &[&Path]) -> String {
    let mut args = vec!["audit"];
    args.extend(paths.iter().map(|p| p.to_str().unwrap()));
    let output = command(&args).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn the_server_writes_todays_file_and_the_summary_reads_all_of_them() {
    let dir = Dir::new();
    let upstream = Upstream::start(async |_| Response::new(full("hello"))).await;
    let line = |day: u32| {
        format!(
            "{{\"time\":\"2026-01-0{day}T00:00:00.000000Z\",\"request_id\":\"{day}\",\"outcome\":\"complete\",\"token\":\"test\",\"host\":\"old.example\",\"port\":443}}\n"
        )
    };
    for day in 1..4 {
        let old = dir.write(&format!("audit.2026-01-0{day}.jsonl"), &line(day));
        fs::set_permissions(old, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = dir.0.join("audit.jsonl");
    let config = format!("{}[audit]\npath = {path:?}\nrotate = \"daily\"\nkeep = 3\n", usual(&[upstream.addr]));
    let mut proxy = Proxy::start(&config).await;
    let get = format!("/proxy/{}", upstream.url("/"));
    assert_eq!(proxy.get(&get).await.status, 200);
    // It says who turns this file.
    proxy.child.signal("-HUP");
    proxy.said("reloaded").await;
    assert_eq!(proxy.get(&get).await.status, 200);
    proxy.child.signal("-TERM");
    assert!(timeout(Duration::from_secs(5), proxy.child.wait()).await.expect("it does not end").unwrap().success());

    let today = format!("audit.{}.jsonl", now(TODAY));
    assert_eq!(dir.names(), ["audit.2026-01-02.jsonl", "audit.2026-01-03.jsonl", &today]);
    let today = dir.0.join(today);
    assert_eq!((fs::read_to_string(&today).unwrap().lines().count(), mode(&today)), (2, 0o600));

    let all = [dir.0.join("audit.2026-01-02.jsonl"), dir.0.join("audit.2026-01-03.jsonl"), today.clone()];
    let several = summary(&all.iter().map(PathBuf::as_path).collect::<Vec<_>>()).await;
    assert!(several.contains("4 lines") && several.contains("old.example:443") && several.contains("127.0.0.1"), "{several}");
    assert!(!several.contains("unreadable"), "{several}");
    assert_eq!(summary(&[&dir.0]).await, several);
    assert_eq!(summary(&[&path]).await, several);
    assert!(summary(&[&today]).await.contains("2 lines"));
    // What was written before it was turned is read first.
    dir.write("audit.jsonl", &line(9));
    assert!(summary(&[&path]).await.contains("5 lines"));
    let missing = summary(&[&dir.0.join("nothing.jsonl")]).await;
    assert!(missing.contains("nothing.jsonl") && missing.contains("not found"), "{missing}");
}

#[tokio::test]
async fn a_file_that_others_turn_is_opened_again_at_sighup() {
    let dir = Dir::new();
    let upstream = Upstream::start(async |_| Response::new(full("hello"))).await;
    let path = dir.0.join("audit.jsonl");
    let proxy = Proxy::start(&format!("{}[audit]\npath = {path:?}\nrotate = \"never\"\n", usual(&[upstream.addr]))).await;
    let get = format!("/proxy/{}", upstream.url("/"));
    let written = async |path: &Path, lines: usize| {
        let wait = async {
            while fs::read_to_string(path).map_or(0, |t| t.lines().count()) != lines {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(5), wait).await.is_ok(), "{}", path.display());
    };
    assert_eq!(proxy.get(&get).await.status, 200);
    written(&path, 1).await;
    let moved = dir.0.join("audit.jsonl.1");
    fs::rename(&path, &moved).unwrap();
    proxy.child.signal("-HUP");
    proxy.said("reloaded").await;
    assert_eq!(proxy.get(&get).await.status, 200);
    written(&path, 1).await;
    assert_eq!(fs::read_to_string(&moved).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    for (audit, want) in [
        ("rotate = \"daily\"", "audit.rotate"),
        ("path = \"-\"\nrotate = \"hourly\"", "audit.rotate"),
        ("path = \"audit.jsonl\"\nrotate = \"weekly\"", "weekly"),
        ("path = \"audit.jsonl\"\nkeep = 3", "audit.keep"),
        ("path = \"audit.jsonl\"\nrotate = \"daily\"\nkeep = 0", "audit.keep"),
    ] {
        let file = crate::support::TempFile::new(&format!("[audit]\n{audit}\n"));
        let output = command(&["--config", file.0.to_str().unwrap(), "--check-config"]).output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(want), "{audit}: {text}");
    }
}
