//! SIGHUP and changed files.

use std::time::Duration;

use portcullis::{
    clock::{Clock as _, SystemClock},
    stores::{Change, FileError, WatchedFile},
};
use tokio::{signal::unix::Signal, time::Interval};

use crate::{
    app::Live,
    config::{Config, Invalid, Overrides},
};

/// How often the files are looked at. A file that is written in place is read when two looks have found it alike.
pub const EVERY: Duration = Duration::from_secs(1);

/// The files that a configuration was read from.
struct Files(Vec<WatchedFile<()>>);

impl Files {
    /// Goes over to the files of another configuration. One that is watched already stays so, and what happened to it since it was
    /// looked at is found at the next look.
    fn follow(&mut self, overrides: &Overrides, config: &Config) -> Result<(), FileError> {
        let tls = config.file.tls.iter().flat_map(|tls| [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca));
        let mut files = Vec::new();
        for path in overrides.config.iter().cloned().chain(tls.map(|f| config.path(f))) {
            if let Some(at) = self.0.iter().position(|f| f.path() == path) {
                files.push(self.0.swap_remove(at));
                continue;
            }
            // Only whether it has changed is asked of each; what they say together is read by `Config::load`.
            match WatchedFile::open(path, |_| Ok(())) {
                Ok((file, ())) => files.push(file),
                Err(error) => {
                    self.0.append(&mut files);
                    return Err(error);
                }
            }
        }
        self.0 = files;
        Ok(())
    }

    /// Whether one of them has another content; a file that has gone is said once.
    fn changed(&self, look: impl Fn(&WatchedFile<()>) -> Change<()>) -> bool {
        let mut changed = false;
        for file in &self.0 {
            match look(file) {
                Change::None => {}
                Change::Content(()) => changed = true,
                Change::Failed(error) => eprintln!("not reloaded, the old one stays in force: {error}"),
            }
        }
        changed
    }
}

/// Watches for ever, at every one of the `looks`. `reopen` is called on SIGHUP, for whoever rotates the audit file.
pub async fn watch(
    mut looks: Interval,
    mut hangup: Signal,
    overrides: Overrides,
    started: Config,
    live: Live,
    reopen: impl Fn(),
) {
    let mut files = Files(Vec::new());
    if let Err(error) = files.follow(&overrides, &started) {
        eprintln!("not watched, only SIGHUP reloads: {error}");
    }
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = looks.tick() => false,
        };
        live.tick(SystemClock.wall());
        if asked {
            reopen();
            // What is read below is not news at the next look.
            files.changed(WatchedFile::reload);
        } else if !files.changed(WatchedFile::poll) {
            continue;
        }
        match load(&overrides, &live, &mut files) {
            Ok(config) => {
                let waiting = config.waits_for_restart(&started);
                if waiting.is_empty() {
                    eprintln!("reloaded");
                } else {
                    eprintln!("reloaded; changed, but as they were until a restart: {}", waiting.join(", "));
                }
            }
            Err(error) => eprintln!("not reloaded, the old one stays in force: {error}"),
        }
    }
}

fn load(overrides: &Overrides, live: &Live, files: &mut Files) -> Result<Config, Invalid> {
    let config = Config::load(overrides)?;
    // Before what is in them is put in force, so that no change falls in between.
    files.follow(overrides, &config).map_err(|e| Invalid::new(e.to_string()))?;
    live.reload(&config)?;
    Ok(config)
}
