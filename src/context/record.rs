//! The audit record of one request or tunnel, shared by the layers that fill it.

use std::{
    fmt, mem,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode, uri::PathAndQuery};

use super::{ClientAddr, McpCall};
use crate::{net::Target, spare::Spare};

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Not ended yet.
    #[default]
    Open,
    /// The response, or the tunnel, ran to its end.
    Complete,
    /// This server refused it.
    Refused,
    /// The target could not be reached or gave no answer that can be relayed.
    Failed,
    /// The client went away before the end.
    ClientGone,
    /// The target failed after its head had been relayed.
    UpstreamFailed,
    /// A limit, a revocation or the shutdown ended it in mid-body.
    Aborted,
}

/// Which side ended a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedBy {
    /// The client.
    Client,
    /// The target.
    Target,
    /// This server.
    Proxy,
}

/// Everything that is known about one request. Layers fill in what they learn; the audit layer writes it when the body or the
/// tunnel ends.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Record {
    /// When the request head had arrived.
    pub started: Option<SystemTime>,
    /// The same moment by [`Clock::monotonic`](crate::clock::Clock::monotonic).
    pub arrived: Duration,
    /// From arrival to the end of the body or tunnel. Zero for what was answered in the poll in which it came.
    pub duration: Option<Duration>,
    /// From arrival to the response head.
    pub head_after: Option<Duration>,
    /// The request's id.
    pub request_id: u128,
    /// The client.
    pub client: Option<ClientAddr>,
    /// The token's id, never the token.
    pub token: Option<Arc<str>>,
    /// The request's method.
    pub method: Option<Method>,
    /// The request's own path and query, as it came in. Sinks leave the query out: tokens travel there.
    pub path: Option<PathAndQuery>,
    /// Where it was to go.
    pub target: Option<Target>,
    /// The answer's status.
    pub status: Option<StatusCode>,
    /// Why it was refused or failed: `Rejection::reason`.
    pub reason: Option<&'static str>,
    /// The Proxy-Status error in full.
    pub proxy_status: Option<&'static str>,
    /// The operator's detail of a rejection.
    pub detail: Option<Box<str>>,
    /// The address that was dialled.
    pub dialed: Option<SocketAddr>,
    /// Whether a pooled connection was used.
    pub reused: bool,
    /// Body (or tunnel) bytes from the client.
    pub bytes_in: u64,
    /// Body (or tunnel) bytes to the client.
    pub bytes_out: u64,
    /// What was asked of an MCP server.
    pub mcp: Option<Arc<McpCall>>,
    /// The WebSocket close code that passed.
    pub close_code: Option<u16>,
    /// Who closed a tunnel.
    pub closed_by: Option<ClosedBy>,
    /// Whether the response was an upgrade.
    pub tunnel: bool,
    /// How it ended.
    pub outcome: Outcome,
}

/// Where a record goes when nothing can be added to it any more.
pub trait CloseRecord: Send + Sync + 'static {
    /// Completes the record and hands it on. It runs in the task that dropped the last handle and must not block. The record stays
    /// where it is: whoever keeps it for longer takes a copy.
    fn close(&self, record: &mut Record);
}

/// Who completes a record, and knows the time by which it is measured.
pub(crate) trait CloseInTime: CloseRecord {
    /// By the clock that [`Record::arrived`] was read from.
    fn now(&self) -> Duration;
}

/// A handle on the open record. When the last clone is dropped the record is complete and goes to its [`CloseRecord`], once.
#[derive(Clone)]
// Empty only while it is dropped.
pub struct RecordHandle(Option<Arc<Shared>>);

#[derive(Default)]
struct Shared {
    record: Mutex<Record>,
    close: Close,
}

#[derive(Default)]
enum Close {
    #[default]
    Nobody,
    Somebody(Arc<dyn CloseRecord>),
    InTime(Arc<dyn CloseInTime>),
}

thread_local! {
    /// Places of records that were closed.
    static SPENT: Spare<Arc<Shared>> = const { Spare::new() };
}

impl Drop for RecordHandle {
    #[inline]
    fn drop(&mut self) {
        // Two that are dropped at the same time may both not be the last one here: the record is then closed below.
        if self.0.as_ref().is_some_and(|shared| Arc::strong_count(shared) == 1) {
            close(self.0.take());
        }
    }
}

/// Closes the record and keeps its place.
#[inline(never)]
fn close(shared: Option<Arc<Shared>>) {
    let Some(mut shared) = shared else { return };
    let Some(unique) = Arc::get_mut(&mut shared) else { return };
    unique.close();
    let record = unique.record.get_mut().unwrap_or_else(PoisonError::into_inner);
    *record = Record::default();
    Spare::put(&SPENT, shared);
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Nobody closes it after this.
    fn close(&mut self) {
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        match mem::take(&mut self.close) {
            Close::Nobody => {}
            Close::Somebody(close) => close.close(record),
            Close::InTime(close) => close.close(record),
        }
    }
}

impl Record {
    /// Copies what lies in the buffer that the request was read into. The record of a tunnel or a stream lives long, and would keep
    /// all of the buffer with it.
    pub(crate) fn let_go_of_the_request(&mut self) {
        let own = |path: &PathAndQuery| PathAndQuery::try_from(path.as_str()).ok();
        if let Some(path) = self.path.as_ref().and_then(own) {
            self.path = Some(path);
        }
        self.target = self.target.take().map(|target| match own(target.path_and_query()) {
            Some(path) => target.with_path(path),
            None => target,
        });
    }
}

impl RecordHandle {
    fn of(shared: Shared) -> Self {
        Self(Some(Arc::new(shared)))
    }

    /// A record that goes nowhere; for tests and for stacks without audit.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self::of(Shared { record: Mutex::new(record), close: Close::Nobody })
    }

    /// A record that goes to `close` when the last clone of this handle is dropped.
    #[must_use]
    pub fn closing(record: Record, close: Arc<dyn CloseRecord>) -> Self {
        Self::of(Shared { record: Mutex::new(record), close: Close::Somebody(close) })
    }

    /// The same, made and filled where it lies, which is where an earlier one has lain: a record is large, and would be moved a few
    /// times before it got there.
    #[inline]
    pub(crate) fn closing_filled(close: Arc<dyn CloseInTime>, fill: impl FnOnce(&mut Record)) -> Self {
        let mut shared = Spare::take(&SPENT).unwrap_or_default();
        if let Some(shared) = Arc::get_mut(&mut shared) {
            shared.close = Close::InTime(close);
            fill(shared.record.get_mut().unwrap_or_else(PoisonError::into_inner));
        }
        Self(Some(shared))
    }

    #[inline]
    fn shared(&self) -> &Shared {
        match &self.0 {
            Some(shared) => shared,
            None => unreachable!("a handle is emptied by its drop only"),
        }
    }

    /// The time by which the record is measured; zero where nobody measures.
    #[inline]
    pub(crate) fn now(&self) -> Duration {
        match &self.shared().close {
            Close::InTime(close) => close.now(),
            Close::Nobody | Close::Somebody(_) => Duration::ZERO,
        }
    }

    /// Reads or fills the record.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut Record) -> R) -> R {
        f(&mut self.shared().record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for RecordHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecordHandle").field(&self.shared().record).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::spare::KEPT;

    #[test]
    fn what_lasts_does_not_keep_the_buffer_of_the_request() {
        let buffer = bytes::Bytes::from(b"/proxy/http://a.example/b?c".to_vec());
        let range = buffer.as_ptr_range();
        let inside = |path: &PathAndQuery| range.contains(&path.as_str().as_ptr());
        let path = |bytes| PathAndQuery::from_maybe_shared(bytes).unwrap();
        let target = Target::parse("http://a.example/").unwrap().with_path(path(buffer.slice(23..)));
        let mut record = Record { path: Some(path(buffer.clone())), target: Some(target), ..Record::default() };
        assert!(inside(record.path.as_ref().unwrap()) && inside(record.target.as_ref().unwrap().path_and_query()));
        record.let_go_of_the_request();
        let (path, target) = (record.path.unwrap(), record.target.unwrap());
        assert_eq!((path.as_str(), target.to_string().as_str()), ("/proxy/http://a.example/b?c", "http://a.example/b?c"));
        assert!(!inside(&path) && !inside(target.path_and_query()));
    }

    #[derive(Default)]
    struct Sum(AtomicU64);

    impl CloseRecord for Sum {
        fn close(&self, record: &mut Record) {
            self.0.fetch_add(record.bytes_in, Ordering::Relaxed);
        }
    }

    impl CloseInTime for Sum {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn nothing_of_a_record_reaches_the_next_one_in_its_place() {
        let sum = Arc::new(Sum::default());
        let open = |detail: &str| {
            RecordHandle::closing_filled(Arc::clone(&sum) as Arc<dyn CloseInTime>, |record| {
                assert_eq!(format!("{record:?}"), format!("{:?}", Record::default()));
                record.detail = Some(detail.into());
                record.bytes_in = 1;
            })
        };
        let place = |handle: &RecordHandle| std::ptr::from_ref(handle.shared());
        let first = open("first");
        let was = place(&first);
        drop(first);
        let second = open("second");
        assert_eq!(place(&second), was);
        second.with(|record| assert_eq!(record.detail.as_deref(), Some("second")));
        drop(second);
        assert_eq!(sum.0.load(Ordering::Relaxed), 2, "each was closed once");
        assert_eq!(Arc::strong_count(&sum), 1, "and nobody is kept by its place");
        let many: Vec<_> = (0..2 * KEPT).map(|_| open("")).collect();
        drop(many);
        assert_eq!(SPENT.with(Spare::len), KEPT);
    }

    #[test]
    fn clones_that_are_dropped_at_the_same_time_close_it_once() {
        let sum = Arc::new(Sum::default());
        for n in 1..=2000 {
            let one = RecordHandle::closing_filled(Arc::clone(&sum) as Arc<dyn CloseInTime>, |record| record.bytes_in = 1);
            let other = one.clone();
            std::thread::scope(|scope| {
                scope.spawn(move || drop(other));
                drop(one);
            });
            assert_eq!(sum.0.load(Ordering::Relaxed), n);
        }
    }

    #[test]
    fn the_last_clone_closes_the_record_once() {
        let sum = Arc::new(Sum::default());
        let handle = RecordHandle::closing(Record::default(), Arc::clone(&sum) as Arc<dyn CloseRecord>);
        let other = handle.clone();
        drop(handle);
        other.with(|r| r.bytes_in = 7);
        assert_eq!(sum.0.load(Ordering::Relaxed), 0);
        drop(other);
        assert_eq!(sum.0.load(Ordering::Relaxed), 7);
    }
}
