//! A file that gives way to a new one with the clock: `audit.jsonl` becomes `audit.2026-11-23.jsonl`, by UTC.
//!
//! `tracing-appender` turns the files. What is added is what an audit needs: a new file is as hard to read as the one before it, and
//! only files that were written by this are ever removed, not whatever else begins with the same letters.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use portcullis::clock::{Clock as _, SystemClock};
use tracing_appender::rolling::{RollingFileAppender, Rotation};

/// How often there is a new file.
#[derive(Clone, Debug)]
pub struct Period {
    pub rotation: Rotation,
    pub seconds: u64,
    /// The length of its date in a file's name.
    pub date: usize,
}

impl Period {
    pub const DAY: Self = Self { rotation: Rotation::DAILY, seconds: 86_400, date: "2026-11-23".len() };
    pub const HOUR: Self = Self { rotation: Rotation::HOURLY, seconds: 3600, date: "2026-11-23-05".len() };
}

/// The files that stand for one path.
#[derive(Clone, Debug)]
pub struct Names {
    dir: PathBuf,
    stem: String,
    extension: Option<String>,
}

impl Names {
    /// `None` if the path has no name, or one that is not Unicode.
    pub fn of(path: &Path) -> Option<Self> {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let extension = match path.extension() {
            None => None,
            Some(extension) => Some(extension.to_str()?.to_owned()),
        };
        Some(Self { dir: dir.to_owned(), stem: path.file_stem()?.to_str()?.to_owned(), extension })
    }

    /// The date in a name, if it is one of these files.
    fn date<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&self.stem)?.strip_prefix('.')?;
        let date = match &self.extension {
            None => rest,
            Some(extension) => rest.strip_suffix(extension)?.strip_suffix('.')?,
        };
        let fits = |(at, b): (usize, u8)| if matches!(at, 4 | 7 | 10 | 13) { b == b'-' } else { b.is_ascii_digit() };
        (matches!(date.len(), 10 | 13 | 16) && date.bytes().enumerate().all(fits)).then_some(date)
    }

    /// The files with such names that are there, the oldest first; `date` picks those of one period.
    pub fn list(&self, date: Option<usize>) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let len = name.to_str().and_then(|n| self.date(n)).map(str::len);
            if len.is_some_and(|len| date.is_none_or(|d| d == len)) && entry.file_type()?.is_file() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The writer.
#[derive(Debug)]
pub struct Rotating {
    appender: RollingFileAppender,
    names: Names,
    period: Period,
    keep: Option<usize>,
    /// Which period it is, counted from 1970.
    now: u64,
    /// The files that have been seen to.
    known: Vec<PathBuf>,
}

impl Rotating {
    /// Opens the file of this moment. `keep` is how many files there may be, the open one among them.
    pub fn open(path: &Path, period: Period, keep: Option<usize>) -> io::Result<Self> {
        let wrong = |e: String| io::Error::new(io::ErrorKind::InvalidInput, e);
        let names = Names::of(path).ok_or_else(|| wrong("not a file's name".into()))?;
        let known = names.list(Some(period.date))?;
        let mut builder = RollingFileAppender::builder().rotation(period.rotation.clone()).filename_prefix(&names.stem);
        if let Some(extension) = &names.extension {
            builder = builder.filename_suffix(extension);
        }
        let now = count(&period);
        let appender = builder.build(&names.dir).map_err(|e| wrong(e.to_string()))?;
        let mut this = Self { appender, names, period, keep, now, known };
        // Where the file was not turned before, it is that one whose mode counts.
        this.settle(fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|m| m.permissions()))?;
        Ok(this)
    }

    /// Gives new files the mode of the newest old one, and removes those that are too many.
    fn settle(&mut self, mode: Option<fs::Permissions>) -> io::Result<()> {
        let mode = match self.known.last() {
            Some(last) => fs::metadata(last).ok().map(|m| m.permissions()).or(mode),
            None => mode,
        };
        let mut files = self.names.list(Some(self.period.date))?;
        for new in files.iter().filter(|f| !self.known.contains(f)) {
            if let Some(mode) = &mode {
                fs::set_permissions(new, mode.clone())?;
            }
        }
        if let Some(keep) = self.keep {
            let surplus = files.len().saturating_sub(keep.max(1));
            for old in files.drain(..surplus) {
                fs::remove_file(old)?;
            }
        }
        self.known = files;
        Ok(())
    }
}

fn count(period: &Period) -> u64 {
    SystemClock.wall().duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() / period.seconds.max(1))
}

impl io::Write for Rotating {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let now = count(&self.period);
        if now != self.now {
            self.now = now;
            // The appender turns the file before it writes; so the new file is empty when its mode is set.
            let turned = self.appender.write(&[]).and_then(|_| self.settle(None));
            if let Err(error) = turned {
                // What cannot be tidied is no reason to lose records.
                eprintln!("audit: {error}");
            }
        }
        self.appender.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.appender.flush()
    }
}
