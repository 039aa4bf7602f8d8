//! SIGHUP and changed files.

use std::time::Duration;

use portcullis::{
    clock::{Clock as _, SystemClock},
    stores::{Change, FileError, WatchedFile},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::Live,
    config::{Config, Overrides},
};

/// How often the files are looked at. A file that is written in place is read when two looks have found it alike.
const EVERY: Duration = Duration::from_secs(1);

/// The files that a configuration was read from.
struct Files(Vec<WatchedFile<()>>);

impl Files {
    fn of(overrides: &Overrides, config: &Config) -> Result<Self, FileError> {
        let tls = config.file.tls.iter().flat_map(|tls| [&tls.cert, &tls.key].into_iter().chain(&tls.client_ca));
        let paths = overrides.config.iter().cloned().chain(tls.map(|f| config.path(f)));
        // Only whether it has changed is asked of each; what they say together is read by `Config::load`.
        let open = |path| WatchedFile::open(path, |_| Ok(())).map(|(file, ())| file);
        Ok(Self(paths.map(open).collect::<Result<_, _>>()?))
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

/// Watches for ever. `reopen` is called on SIGHUP, for whoever rotates the audit file.
pub async fn watch(overrides: Overrides, started: Config, live: Live, reopen: impl Fn()) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut every = tokio::time::interval(EVERY);
    let mut files = match Files::of(&overrides, &started) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("the configuration is not watched, only SIGHUP reloads it: {error}");
            Files(Vec::new())
        }
    };
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = every.tick() => false,
        };
        live.tick(SystemClock.wall());
        if asked {
            reopen();
            // What is read below is not news at the next look.
            files.changed(WatchedFile::reload);
        } else if !files.changed(WatchedFile::poll) {
            continue;
        }
        let loaded = Config::load(&overrides).and_then(|config| live.reload(&config).map(|()| config));
        match loaded {
            Ok(config) => {
                match Files::of(&overrides, &config) {
                    Ok(next) => files = next,
                    // It goes with a file that was replaced in between, which the next look finds.
                    Err(error) => eprintln!("{error}"),
                }
                let waiting = config.waits_for_restart(&started);
                match waiting.is_empty() {
                    true => eprintln!("reloaded"),
                    false => eprintln!("reloaded; changed, but as they were until a restart: {}", waiting.join(", ")),
                }
            }
            Err(error) => eprintln!("not reloaded, the old one stays in force: {error}"),
        }
    }
}
