use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    thread::{self, Thread},
    time::Duration,
};

use super::{AuditSink, json::JsonFormat};
use crate::{
    clock::{Clock as _, SystemClock},
    context::Record,
};

/// How long the writer waits for more before it writes. Waking a thread for each record would cost the request more than the
/// record itself.
const BATCH: Duration = Duration::from_millis(5);
/// How many empty looks before the writer goes to sleep until it is woken.
const PATIENCE: u32 = 20;

/// Writes records as JSON lines from a thread of its own. [`AuditSink::record`] only puts the record into a bounded queue; when
/// the queue is full, because the disk or the pipe is slower than the traffic, records are dropped and counted, and a line in
/// the output says so.
///
/// Any [`Write`] will do, such as a rolling file of `tracing-appender`. [`JsonLinesBuilder::file`] appends to a path, and
/// [`Self::reopen`] opens it again after a tool like `logrotate` has moved it (the server does that on SIGHUP).
///
/// The last clone's drop writes what is queued and waits for it, for a second at most.
pub struct JsonLinesSink(Arc<Handle>);

/// Settings of a [`JsonLinesSink`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct JsonLinesBuilder {
    format: JsonFormat,
    bound: usize,
}

impl Default for JsonLinesBuilder {
    fn default() -> Self {
        Self { format: JsonFormat::new(), bound: 16 * 1024 }
    }
}

impl JsonLinesBuilder {
    /// The format. Default: without queries.
    pub fn format(mut self, format: JsonFormat) -> Self {
        self.format = format;
        self
    }

    /// How many records may wait to be written. Default 16,384 (a few MiB).
    pub fn bound(mut self, n: usize) -> Self {
        self.bound = n.max(1);
        self
    }

    /// Writes to `writer`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn writer(self, writer: impl Write + Send + 'static) -> io::Result<JsonLinesSink> {
        self.start(Output::Writer(Box::new(writer)), None)
    }

    /// Appends to a file, made if it is not there.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread cannot be started.
    pub fn file(self, path: impl Into<PathBuf>) -> io::Result<JsonLinesSink> {
        let path = path.into();
        let file = append(&path)?;
        self.start(Output::File(file), Some(path))
    }

    fn start(self, output: Output, path: Option<PathBuf>) -> io::Result<JsonLinesSink> {
        let queue = Arc::new(Queue {
            records: Mutex::new(Vec::new()),
            bound: self.bound,
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            written: Mutex::new(Progress::default()),
            progress: Condvar::new(),
        });
        let writer = Writer { queue: Arc::clone(&queue), output, path, format: self.format, reported: 0 };
        let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        Ok(JsonLinesSink(Arc::new(Handle { queue, thread: thread.thread().clone() })))
    }
}

impl JsonLinesSink {
    /// Settings at their defaults.
    pub fn builder() -> JsonLinesBuilder {
        JsonLinesBuilder::default()
    }

    /// How many records were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.queue.dropped.load(Relaxed)
    }

    /// How many writes have failed; their records are lost.
    #[must_use]
    pub fn failed_writes(&self) -> u64 {
        self.0.queue.failed.load(Relaxed)
    }

    /// Opens the file again, under the same path, before the next write. Does nothing for other writers.
    pub fn reopen(&self) {
        self.0.queue.reopen.store(true, Release);
        self.0.thread.unpark();
    }

    /// Waits until everything recorded so far is written, or until `limit` has passed; says whether it is. It blocks the
    /// thread: not for request paths.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        self.0.flush(limit)
    }
}

impl AuditSink for JsonLinesSink {
    fn record(&self, record: Record) {
        let queue = &self.0.queue;
        {
            let mut records = queue.records.lock().unwrap_or_else(PoisonError::into_inner);
            if records.len() >= queue.bound {
                drop(records);
                queue.dropped.fetch_add(1, Relaxed);
                return;
            }
            records.push(record);
        }
        // Asleep is only true when the queue was empty for a while, so this costs a wake-up per quiet period.
        if queue.asleep.load(Acquire) && queue.asleep.swap(false, AcqRel) {
            self.0.thread.unpark();
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped()
    }
}

impl Clone for JsonLinesSink {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl fmt::Debug for JsonLinesSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesSink").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

struct Handle {
    queue: Arc<Queue>,
    thread: Thread,
}

impl Handle {
    fn flush(&self, limit: Duration) -> bool {
        let target = {
            let mut progress = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner);
            progress.wanted += 1;
            progress.wanted
        };
        self.thread.unpark();
        let progress = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (progress, _) =
            self.queue.progress.wait_timeout_while(progress, limit, |p| p.done < target).unwrap_or_else(PoisonError::into_inner);
        progress.done >= target
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.stop.store(true, Release);
        let _ = self.flush(Duration::from_secs(1));
    }
}

struct Queue {
    records: Mutex<Vec<Record>>,
    bound: usize,
    dropped: AtomicU64,
    failed: AtomicU64,
    asleep: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
    written: Mutex<Progress>,
    progress: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    wanted: u64,
    done: u64,
}

enum Output {
    Writer(Box<dyn Write + Send>),
    File(File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Writer(writer) => writer.write_all(bytes).and_then(|()| writer.flush()),
            Self::File(file) => file.write_all(bytes),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

struct Writer {
    queue: Arc<Queue>,
    output: Output,
    path: Option<PathBuf>,
    format: JsonFormat,
    reported: u64,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        let mut text = Vec::new();
        let mut idle = 0;
        loop {
            // Read before the queue is emptied: what was recorded before the question is then written with this batch.
            let wanted = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner).wanted;
            let stop = self.queue.stop.load(Acquire);
            mem::swap(&mut batch, &mut *self.queue.records.lock().unwrap_or_else(PoisonError::into_inner));
            idle = if batch.is_empty() { idle + 1 } else { 0 };
            self.write(&mut batch, &mut text);
            {
                let mut progress = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner);
                progress.done = wanted;
                self.queue.progress.notify_all();
            }
            if stop {
                return;
            }
            if idle < PATIENCE {
                thread::park_timeout(BATCH);
                continue;
            }
            self.queue.asleep.store(true, Release);
            let empty = self.queue.records.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            if empty && !self.queue.stop.load(Acquire) && !self.queue.reopen.load(Acquire) {
                thread::park();
            }
            self.queue.asleep.store(false, Release);
        }
    }

    fn write(&mut self, batch: &mut Vec<Record>, text: &mut Vec<u8>) {
        if self.queue.reopen.swap(false, AcqRel)
            && let Some(path) = &self.path
        {
            match append(path) {
                Ok(file) => self.output = Output::File(file),
                Err(error) => tracing::error!(%error, "the audit file could not be opened again; the old one stays in use"),
            }
        }
        let dropped = self.queue.dropped.load(Relaxed);
        for record in batch.drain(..) {
            self.format.write(&record, text);
            if text.len() >= 256 * 1024 {
                self.put(text);
            }
        }
        if dropped > self.reported {
            JsonFormat::write_dropped(SystemClock.wall(), dropped - self.reported, text);
            self.reported = dropped;
        }
        self.put(text);
    }

    fn put(&mut self, text: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if let Err(error) = self.output.write(text)
            && self.queue.failed.fetch_add(1, Relaxed) == 0
        {
            tracing::error!(%error, "audit records could not be written");
        }
        text.clear();
    }
}
