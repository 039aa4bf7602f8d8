//! A file that is read again when it has changed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::ConfigError;

/// Why a file is not in force.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Read(io::Error),
    Content(ConfigError),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.cause {
            Cause::Read(error) => error.fmt(f),
            Cause::Content(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Read(error) => Some(error),
            Cause::Content(error) => Some(error),
        }
    }
}

/// What a look at the file has brought.
#[derive(Debug)]
#[must_use]
pub enum Change<T> {
    /// The same as before, or still being written.
    None,
    /// Another content, parsed.
    Content(T),
    /// It cannot be read or parsed. Said once for each content; what was in force stays in force.
    Failed(FileError),
}

/// Reads a file and parses it again when it has changed.
///
/// A file that is replaced by renaming (another inode) is read at the next look. One that is written in place is read when two
/// looks in a row have found it alike, so that half a file is never taken for a whole one.
pub struct WatchedFile<T> {
    path: PathBuf,
    parse: Parse<T>,
    state: Mutex<State>,
}

type Parse<T> = Box<dyn Fn(&str) -> Result<T, ConfigError> + Send + Sync>;

#[derive(Debug, Default)]
struct State {
    /// As it was at the last look.
    seen: Option<Stamp>,
    /// As it was when it was last read.
    read: Option<Stamp>,
    digest: Option<[u8; 32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: meta.modified().ok(), len: meta.len(), inode })
    }
}

impl<T> WatchedFile<T> {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// If it cannot be read or parsed: a server does not start on a file that is wrong.
    pub fn open(
        path: impl Into<PathBuf>,
        parse: impl Fn(&str) -> Result<T, ConfigError> + Send + Sync + 'static,
    ) -> Result<(Self, T), FileError> {
        let file = Self { path: path.into(), parse: Box::new(parse), state: Mutex::default() };
        match file.reload() {
            Change::Content(content) => Ok((file, content)),
            Change::Failed(error) => Err(error),
            Change::None => Err(file.error(Cause::Read(io::ErrorKind::Other.into()))),
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the file has changed, and reads it if it has come to rest. Does blocking input of one `stat`, seldom more.
    pub fn poll(&self) -> Change<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            // A file that is away for a moment is being replaced; away for two looks, it is missing.
            Err(error) => {
                let was_there = state.seen.take().is_some();
                return if was_there || state.read.take().is_none() {
                    Change::None
                } else {
                    Change::Failed(self.error(Cause::Read(error)))
                };
            }
        };
        let before = state.seen.replace(stamp);
        if state.read == Some(stamp) {
            return Change::None;
        }
        let renamed = state.read.is_some_and(|read| read.inode != stamp.inode);
        if renamed || before == Some(stamp) { self.read(&mut state, stamp) } else { Change::None }
    }

    /// Reads the file now, as at a SIGHUP. The same content again is no change.
    pub fn reload(&self) -> Change<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match Stamp::of(&self.path) {
            Ok(stamp) => self.read(&mut state, stamp),
            Err(error) => Change::Failed(self.error(Cause::Read(error))),
        }
    }

    /// Looks every `every` for ever, and puts what it finds in force with `apply`. What goes wrong is logged, once for each content.
    pub async fn watch(&self, every: Duration, mut apply: impl FnMut(T) -> Result<(), ConfigError>) {
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let error = match self.poll() {
                Change::None => continue,
                Change::Failed(error) => error,
                Change::Content(content) => match apply(content) {
                    Ok(()) => {
                        tracing::info!(path = %self.path.display(), "changed file is in force");
                        continue;
                    }
                    Err(error) => self.error(Cause::Content(error)),
                },
            };
            tracing::error!(%error, "changed file is not in force, the old one stays");
        }
    }

    fn read(&self, state: &mut State, stamp: Stamp) -> Change<T> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                state.read = Some(stamp);
                return Change::Failed(self.error(Cause::Read(error)));
            }
        };
        // What was written meanwhile is found at the next look, unless clock and length hide it; then it was this content.
        state.seen = Some(stamp);
        state.read = Some(stamp);
        let digest = Sha256::digest(text.as_bytes()).into();
        if state.digest.replace(digest) == Some(digest) {
            return Change::None;
        }
        match (self.parse)(&text) {
            Ok(content) => Change::Content(content),
            Err(error) => Change::Failed(self.error(Cause::Content(error))),
        }
    }

    fn error(&self, cause: Cause) -> FileError {
        FileError { path: self.path.clone(), cause }
    }
}

impl<T> fmt::Debug for WatchedFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static NEXT: AtomicU32 = AtomicU32::new(0);

    /// A directory of this test's own, gone with it.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let name = format!("portcullis-file-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().join(name);
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn number(text: &str) -> Result<u32, ConfigError> {
        text.trim().parse().map_err(|_| ConfigError::new("number", "not one"))
    }

    fn opened(dir: &Dir, content: &str) -> (WatchedFile<u32>, u32) {
        let path = dir.0.join("file");
        fs::write(&path, content).unwrap();
        WatchedFile::open(path, number).unwrap()
    }

    #[test]
    fn a_file_written_in_place_is_read_when_it_has_come_to_rest() {
        let dir = Dir::new();
        let (file, first) = opened(&dir, "1");
        assert_eq!(first, 1);
        assert!(matches!(file.poll(), Change::None));
        fs::write(file.path(), "22").unwrap();
        assert!(matches!(file.poll(), Change::None), "it could still be half written");
        fs::write(file.path(), "333").unwrap();
        assert!(matches!(file.poll(), Change::None));
        assert!(matches!(file.poll(), Change::Content(333)));
        assert!(matches!(file.poll(), Change::None));
    }

    #[test]
    fn a_renamed_file_is_read_at_once_and_a_bad_one_changes_nothing() {
        let dir = Dir::new();
        let (file, _) = opened(&dir, "1");
        let replace = |text: &str| {
            let next = dir.0.join("next");
            fs::write(&next, text).unwrap();
            fs::rename(next, file.path()).unwrap();
        };
        replace("2");
        assert!(matches!(file.poll(), Change::Content(2)));
        replace("junk");
        let Change::Failed(error) = file.poll() else { panic!("not failed") };
        assert!(error.to_string().ends_with("file: `number`: not one"), "{error}");
        assert!(matches!(file.poll(), Change::None), "said once");
        replace("junk");
        assert!(matches!(file.poll(), Change::None), "the same content is no news");
        replace("3");
        assert!(matches!(file.poll(), Change::Content(3)));
        fs::remove_file(file.path()).unwrap();
        assert!(matches!(file.poll(), Change::None));
        assert!(matches!(file.poll(), Change::Failed(_)));
        assert!(matches!(file.poll(), Change::None));
        fs::write(file.path(), "4").unwrap();
        assert!(matches!(file.poll(), Change::None));
        assert!(matches!(file.poll(), Change::Content(4)));
        fs::write(file.path(), "5").unwrap();
        assert!(matches!(file.reload(), Change::Content(5)));
        assert!(WatchedFile::open(dir.0.join("none"), number).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn watching_applies_changes_and_survives_bad_ones() {
        let dir = Dir::new();
        let (file, _) = opened(&dir, "1");
        let path = file.path().to_owned();
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let apply = move |n| {
            if n == 13 { Err(ConfigError::new("13", "unlucky")) } else { tx.send(n).map_err(|_| ConfigError::new("", "closed")) }
        };
        let task = tokio::spawn(async move { file.watch(Duration::from_millis(500), apply).await });
        for (text, want) in [("2", Some(2)), ("junk", None), ("13", None), ("4444", Some(4444))] {
            fs::write(&path, text).unwrap();
            let got = tokio::time::timeout(Duration::from_secs(2), rx.recv()).await.ok().flatten();
            assert_eq!(got, want, "{text}");
        }
        task.abort();
    }
}
