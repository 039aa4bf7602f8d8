//! SIGHUP and changed files.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use portcullis::clock::{Clock as _, SystemClock};
use tokio::signal::unix::Signal;

use crate::{
    app::Handles,
    config::{Config, Overrides},
};

type Stamp = Vec<Option<(SystemTime, u64)>>;

fn stamp(files: &[PathBuf]) -> Stamp {
    files.iter().map(|f| std::fs::metadata(f).ok().and_then(|m| Some((m.modified().ok()?, m.len())))).collect()
}

fn files(overrides: &Overrides, config: &Config) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = overrides.config.iter().cloned().collect();
    if let Some(tls) = &config.file.tls {
        files.extend([&tls.cert, &tls.key].into_iter().chain(&tls.client_ca).map(|f| config.path(f)));
    }
    files
}

/// Watches for ever. `reopen` is called on SIGHUP, for whoever rotates the audit file.
pub async fn watch(overrides: Overrides, config: Config, handles: Arc<Handles>, mut hangup: Signal, reopen: impl Fn()) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut files = files(&overrides, &config);
    let mut seen = stamp(&files);
    drop(config);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = second.tick() => false,
        };
        handles.tick(SystemClock.wall());
        let now = stamp(&files);
        if asked {
            reopen();
        } else if now == seen {
            continue;
        }
        seen = now;
        let loaded = Config::load(&overrides).and_then(|config| handles.reload(&config).map(|()| config));
        match loaded {
            Ok(config) => {
                files = self::files(&overrides, &config);
                seen = stamp(&files);
                eprintln!("reloaded: tokens, policy and limits");
            }
            Err(error) => eprintln!("not reloaded, the old one stays in force: {error}"),
        }
    }
}
