use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
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
const BATCH: Duration = Duration::from_millis(50);
/// How many empty looks before the writer goes to sleep until it is woken.
const PATIENCE: u32 = 2;
/// Room that a record may take in the queue, on the average.
const BYTES_PER_RECORD: usize = 1024;
/// So much that waits is written without waiting for more: the two buffers then stay in the processor's cache, however busy it is.
const ENOUGH: usize = 256 * 1024;
/// A buffer that has grown beyond this is given back.
const KEPT: usize = 1024 * 1024;

/// Writes records as JSON lines. [`AuditSink::record`] puts the line into a bounded queue, which a thread of its own writes out
/// every 50 ms, or sooner when 256 KiB wait or it is half full. When the queue is full, because the disk or the pipe is slower than
/// the traffic, records are dropped and counted, and a line in the output says so.
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

    /// How many records may wait to be written, with a KiB for each on the average. Default 16,384 (16 MiB at most).
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
        let queue = Arc::new(Queue::new(self.bound));
        let writer = Writer { queue: Arc::clone(&queue), output, path, reported: 0 };
        let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        Ok(JsonLinesSink(Arc::new(Handle { queue, format: self.format, thread: thread.thread().clone() })))
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
    fn record(&self, record: &Record) {
        let queue = &self.0.queue;
        // Looked at first, so that a flood into a full queue does not write lines for nothing.
        let full = queue.full.load(Relaxed) || {
            let put = self.0.put(record);
            // Asleep is only true when the queue was empty for a while, so this costs a wake-up per quiet period.
            if put == Put::Enough || queue.asleep.load(Acquire) && queue.asleep.swap(false, AcqRel) {
                self.0.thread.unpark();
            }
            put == Put::Full
        };
        if full {
            queue.dropped.fetch_add(1, Relaxed);
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
    format: JsonFormat,
    thread: Thread,
}

impl Handle {
    /// As a rule the line is written where it will lie: the memory there has not been used for a while, and comes while the line is
    /// being written.
    fn put(&self, record: &Record) -> Put {
        let mut lines = match self.queue.lines.try_lock() {
            Ok(lines) => lines,
            Err(TryLockError::Poisoned(lines)) => lines.into_inner(),
            Err(TryLockError::WouldBlock) => return self.put_copy(record),
        };
        self.queue.put(&mut lines, |text| self.format.write(record, text))
    }

    /// While another thread has the queue the line is written elsewhere: the queue is then locked for a copy, not for the writing.
    #[cold]
    fn put_copy(&self, record: &Record) -> Put {
        let mut line = Vec::new();
        self.format.write(record, &mut line);
        self.queue.put(&mut self.queue.lines(), |text| text.extend_from_slice(&line))
    }

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
    lines: Mutex<Lines>,
    /// The most that may wait.
    records: usize,
    bytes: usize,
    /// Whether something has been refused since the writer took the last batch.
    full: AtomicBool,
    dropped: AtomicU64,
    failed: AtomicU64,
    asleep: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
    written: Mutex<Progress>,
    progress: Condvar,
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    records: usize,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Queued,
    /// Queued, and the writer had better not wait for more; said once a batch.
    Enough,
    Full,
}

impl Queue {
    fn new(bound: usize) -> Self {
        Self {
            lines: Mutex::default(),
            records: bound,
            bytes: bound.saturating_mul(BYTES_PER_RECORD),
            full: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            written: Mutex::default(),
            progress: Condvar::new(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, lines: &mut Lines, write: impl FnOnce(&mut Vec<u8>)) -> Put {
        if lines.records >= self.records || lines.text.len() >= self.bytes {
            self.full.store(true, Relaxed);
            return Put::Full;
        }
        let bytes = self.bytes.div_ceil(2).min(ENOUGH);
        let enough = |lines: &Lines| lines.records >= self.records.div_ceil(2) || lines.text.len() >= bytes;
        let had_enough = enough(lines);
        write(&mut lines.text);
        lines.records += 1;
        if enough(lines) && !had_enough { Put::Enough } else { Put::Queued }
    }

    /// Takes what waits into `text`, which is empty, and leaves its room in exchange.
    fn take(&self, text: &mut Vec<u8>) {
        let mut lines = self.lines();
        mem::swap(text, &mut lines.text);
        lines.records = 0;
        self.full.store(false, Relaxed);
    }
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
    reported: u64,
}

impl Writer {
    fn run(mut self) {
        let mut text = Vec::new();
        let mut idle = 0;
        loop {
            // Read before the queue is emptied: what was recorded before the question is then written with this batch.
            let wanted = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner).wanted;
            let stop = self.queue.stop.load(Acquire);
            // Read before, too: the place of these is behind the lines that were queued when they came.
            let dropped = self.queue.dropped.load(Relaxed);
            self.queue.take(&mut text);
            idle = if text.is_empty() { idle + 1 } else { 0 };
            self.write(&mut text, dropped);
            self.report(wanted);
            if stop {
                return;
            }
            if idle < PATIENCE {
                thread::park_timeout(BATCH);
                continue;
            }
            self.queue.asleep.store(true, Release);
            let empty = self.queue.lines().text.is_empty();
            if empty && !self.queue.stop.load(Acquire) && !self.queue.reopen.load(Acquire) {
                thread::park();
            }
            self.queue.asleep.store(false, Release);
        }
    }

    /// Says up to which question everything is written.
    fn report(&self, wanted: u64) {
        let mut progress = self.queue.written.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.done != wanted {
            progress.done = wanted;
            self.queue.progress.notify_all();
        }
    }

    fn write(&mut self, text: &mut Vec<u8>, dropped: u64) {
        if self.queue.reopen.swap(false, AcqRel)
            && let Some(path) = &self.path
        {
            match append(path) {
                Ok(file) => self.output = Output::File(file),
                Err(error) => tracing::error!(%error, "the audit file could not be opened again; the old one stays in use"),
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
        text.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_in_records_and_in_bytes() {
        use Put::{Enough, Full, Queued};
        let mut text = Vec::new();
        let put = |queue: &Queue, line: &[u8]| queue.put(&mut queue.lines(), |text| text.extend_from_slice(line));
        let queue = Queue::new(5);
        for _ in 0..2 {
            let put: Vec<Put> = (0..7).map(|_| put(&queue, b"line\n")).collect();
            assert_eq!(put, [Queued, Queued, Enough, Queued, Queued, Full, Full]);
            assert!(queue.full.load(Relaxed));
            queue.take(&mut text);
            assert_eq!(text, b"line\n".repeat(5));
            assert!(!queue.full.load(Relaxed));
            text.clear();
        }
        // A line of any length fits into an empty queue, or it would never be written.
        let long = vec![b'x'; 10 * BYTES_PER_RECORD];
        assert_eq!([put(&queue, &long), put(&queue, b"line\n")], [Enough, Full]);
        assert_eq!([put(&Queue::new(1), b"line\n"), put(&Queue::new(4), b"line\n")], [Enough, Queued]);
        // Neither too soon nor as late as half of what a large queue holds.
        let queue = Queue::new(1_000_000);
        assert_eq!([put(&queue, &vec![b'x'; ENOUGH - 1]), put(&queue, b"\n"), put(&queue, b"\n")], [Queued, Enough, Queued]);
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        struct To(Arc<Mutex<Vec<u8>>>);
        impl Write for To {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let sink = JsonLinesSink::builder().bound(1 << 20).writer(To(Arc::clone(&written))).unwrap();
        thread::scope(|scope| {
            for thread in 0..8_u128 {
                let sink = &sink;
                scope.spawn(move || {
                    for n in 0..500 {
                        let record = Record { request_id: thread << 64 | n, ..Record::default() };
                        sink.record(&record);
                    }
                });
            }
        });
        assert!(sink.flush(Duration::from_secs(10)));
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let mut last = [None; 8];
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let id = u128::from_str_radix(line["request_id"].as_str().unwrap(), 16).unwrap();
            let (thread, n) = (usize::try_from(id >> 64).unwrap(), id & 0xffff);
            assert!(last[thread].is_none_or(|before| n == before + 1), "in each thread's order");
            last[thread] = Some(n);
        }
        assert_eq!(last, [Some(499); 8]);
    }
}
