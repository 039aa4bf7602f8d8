//! What one connection (HTTP/1.1) or one stream (HTTP/2) is doing, as seen by the parts that touch it: the socket, the request
//! body, the reply body and the task that keeps the time. Plain flags, so that the hot path neither locks nor reads a clock.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::time::Instant;

use super::framing::{Fault, Follows, Framing};

/// The service or its reply body is at work.
const REPLY_OPEN: u32 = 1;
/// The request body has not ended.
const BODY_OPEN: u32 = 1 << 1;
/// Somebody waits for request body bytes.
const BODY_WAITED: u32 = 1 << 2;
/// The request body was given up before its end.
const BODY_UNREAD: u32 = 1 << 3;
/// Bytes came that belong to the next request head, if to anything.
const HEAD_BYTES: u32 = 1 << 4;
/// The socket takes no more bytes.
const WRITE_BLOCKED: u32 = 1 << 5;
/// Nothing more will be sent; what the client still sends is read and thrown away.
const LINGERING: u32 = 1 << 6;
/// The connection belongs to a tunnel now.
const UPGRADED: u32 = 1 << 7;
/// The request body is to fail: its sender stalled.
const BODY_TIMED_OUT: u32 = 1 << 8;
/// The reply's next bytes are the service's to deliver.
const REPLY_AWAITED: u32 = 1 << 9;
/// The reply's head was sent.
const REPLY_STARTED: u32 = 1 << 10;

/// The request's framing is not by the letter.
const MALFORMED: u32 = 1 << 11;
/// The client does not take what it was sent: nothing of it is worth keeping.
const STALLED: u32 = 1 << 13;
/// The reply has to be at its end at a moment that is written down.
const DEADLINE: u32 = 1 << 12;

/// What the time-keeper has to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No byte of a next request yet.
    Idle,
    /// A request head has begun.
    Head,
    /// A request is being served.
    Busy,
    /// The write side is closed, the read side is being emptied.
    Lingering,
    /// A tunnel: not ours to time.
    Upgraded,
}

#[derive(Debug, Default)]
pub(super) struct Flow {
    flags: AtomicU32,
    requests: AtomicU32,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    body_waker: Mutex<Option<Waker>>,
    framing: Mutex<Framing>,
    deadline: Mutex<Option<Instant>>,
}

impl Flow {
    fn set(&self, bits: u32) {
        self.flags.fetch_or(bits, Relaxed);
    }

    fn clear(&self, bits: u32) {
        self.flags.fetch_and(!bits, Relaxed);
    }

    fn has(&self, bits: u32) -> bool {
        self.flags.load(Relaxed) & bits != 0
    }

    pub(super) fn phase(&self) -> Phase {
        let flags = self.flags.load(Relaxed);
        if flags & UPGRADED != 0 {
            Phase::Upgraded
        } else if flags & LINGERING != 0 {
            Phase::Lingering
        } else if flags & (REPLY_OPEN | BODY_OPEN) != 0 {
            Phase::Busy
        } else if flags & HEAD_BYTES != 0 {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    /// Counts requests, so that two idle times in a row are told apart.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    pub(super) fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    pub(super) fn begin(&self, with_body: bool) {
        // Only the connection's task counts these.
        self.requests.store(self.requests().wrapping_add(1), Relaxed);
        self.clear(HEAD_BYTES | BODY_UNREAD | REPLY_STARTED | REPLY_AWAITED | DEADLINE);
        self.set(if with_body { REPLY_OPEN | BODY_OPEN } else { REPLY_OPEN });
    }

    pub(super) fn reply_started(&self) {
        self.set(REPLY_STARTED);
    }

    pub(super) fn reply_ends_by(&self, at: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        self.set(DEADLINE);
    }

    /// When the open reply has to be at its end, if it has to be by a certain moment.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let flags = self.flags.load(Relaxed);
        if flags & DEADLINE == 0 || flags & REPLY_OPEN == 0 {
            return None;
        }
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reply_polled(&self, pending: bool, bytes: u64) {
        if bytes > 0 {
            self.bytes_out.fetch_add(bytes, Relaxed);
        }
        if pending {
            self.set(REPLY_AWAITED);
        } else if self.has(REPLY_AWAITED) {
            self.clear(REPLY_AWAITED);
        }
    }

    /// HTTP/2 only: bytes of the reply are there, but the client's window takes none.
    pub(super) fn reply_blocked(&self) -> bool {
        let flags = self.flags.load(Relaxed);
        flags & REPLY_OPEN != 0 && flags & REPLY_STARTED != 0 && flags & REPLY_AWAITED == 0
    }

    pub(super) fn reply_ended(&self) {
        self.clear(REPLY_OPEN);
    }

    pub(super) fn body_open(&self) -> bool {
        self.has(BODY_OPEN)
    }

    pub(super) fn body_waited(&self) -> bool {
        self.has(BODY_WAITED)
    }

    /// Whether unread bytes of the client may be on their way: then a plain close would reset the connection.
    pub(super) fn may_be_sending(&self) -> bool {
        self.has(BODY_UNREAD | BODY_OPEN | HEAD_BYTES)
    }

    /// Whether the request body was given up before its end.
    pub(super) fn body_unread(&self) -> bool {
        self.has(BODY_UNREAD)
    }

    pub(super) fn body_pending(&self, waker: &Waker) {
        let mut slot = self.body_waker.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *slot {
            Some(known) => known.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
        self.set(BODY_WAITED);
    }

    pub(super) fn body_bytes(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
        if self.has(BODY_WAITED) {
            self.clear(BODY_WAITED);
        }
    }

    /// A body that came with its head.
    pub(super) fn whole_body(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(super) fn body_ended(&self) {
        self.clear(BODY_OPEN | BODY_WAITED);
    }

    pub(super) fn body_abandoned(&self) {
        self.clear(BODY_OPEN | BODY_WAITED);
        self.set(BODY_UNREAD);
    }

    /// Makes the request body fail, so that its reader can still answer 408.
    pub(super) fn time_out_body(&self) {
        self.set(BODY_TIMED_OUT);
        let waker = self.body_waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn body_timed_out(&self) -> bool {
        self.has(BODY_TIMED_OUT)
    }

    fn framing(&self) -> MutexGuard<'_, Framing> {
        self.framing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// HTTP/2 frames by itself.
    pub(super) fn without_framing(&self) {
        self.framing().off();
    }

    /// A head was parsed; what follows it is looked at by the letter.
    pub(super) fn head_parsed(&self, follows: Follows) -> Option<Fault> {
        let fault = self.framing().head(follows).err();
        if fault.is_some() {
            self.set(MALFORMED);
        }
        fault
    }

    /// Whether the request body's framing is broken, whatever hyper thinks of it.
    pub(super) fn malformed(&self) -> bool {
        self.has(MALFORMED)
    }

    pub(super) fn socket_read(&self, data: &[u8]) {
        if self.framing().read(data).is_err() {
            self.set(MALFORMED);
        }
        self.head_bytes();
    }

    /// Bytes are there that belong to the next head, unless they are the current body's.
    pub(super) fn head_bytes(&self) {
        if !self.has(BODY_OPEN | HEAD_BYTES) {
            self.set(HEAD_BYTES);
        }
    }

    pub(super) fn socket_written(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
        if self.has(WRITE_BLOCKED) {
            self.clear(WRITE_BLOCKED);
        }
    }

    pub(super) fn socket_flushed(&self) {
        if self.has(WRITE_BLOCKED) {
            self.clear(WRITE_BLOCKED);
        }
    }

    pub(super) fn socket_full(&self) {
        if !self.has(WRITE_BLOCKED) {
            self.set(WRITE_BLOCKED);
        }
    }

    pub(super) fn write_blocked(&self) -> bool {
        self.has(WRITE_BLOCKED)
    }

    pub(super) fn stall(&self) {
        self.set(STALLED);
    }

    pub(super) fn stalled(&self) -> bool {
        self.has(STALLED)
    }

    pub(super) fn linger(&self) {
        self.set(LINGERING);
    }

    pub(super) fn upgrade(&self) {
        self.set(UPGRADED);
    }

    /// The upgrade did not come about.
    pub(super) fn not_upgraded(&self) {
        self.clear(UPGRADED);
    }

    pub(super) fn upgraded(&self) -> bool {
        self.has(UPGRADED)
    }
}
