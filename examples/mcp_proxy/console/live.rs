//! Audit records to whoever watches: bounded, and free while nobody does.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use portcullis::{audit::JsonFormat, context::Record, signal::Signal, tokens::Principal};
use tokio::sync::broadcast::{self, error::RecvError};

/// How far a listener may fall behind.
const KEPT: usize = 1024;
/// Each listener holds a connection for as long as it likes.
const LISTENERS: usize = 32;
/// A comment after this much silence, so that nothing between here and the page takes the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The place where records are handed out.
#[derive(Clone, Debug)]
pub struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Counted apart, because the channel takes a lock to say it.
    listeners: AtomicUsize,
    events: broadcast::Sender<Bytes>,
    format: JsonFormat,
}

impl Default for Live {
    fn default() -> Self {
        let events = broadcast::Sender::new(KEPT);
        Self(Arc::new(Inner { listeners: AtomicUsize::new(0), events, format: JsonFormat::new() }))
    }
}

impl Live {
    /// Hands a record to all listeners. Without any it looks at one number; it never waits.
    pub fn publish(&self, record: &Record) {
        if self.0.listeners.load(Relaxed) == 0 {
            return;
        }
        let mut event = Vec::with_capacity(512);
        event.extend_from_slice(b"data: ");
        // One line without control characters: it cannot end the event early.
        self.0.format.write(record, &mut event);
        event.push(b'\n');
        let _ = self.0.events.send(event.into());
    }

    /// A listener from now on, unless there are too many.
    pub fn listen(&self) -> Option<Listener> {
        let more = |n: usize| (n < LISTENERS).then_some(n + 1);
        self.0.listeners.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Listener { events: self.0.events.subscribe(), live: self.clone() })
    }
}

/// One who watches.
pub struct Listener {
    events: broadcast::Receiver<Bytes>,
    live: Live,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.live.0.listeners.fetch_sub(1, Relaxed);
    }
}

impl Listener {
    /// The stream of events: `hello` at once, a record a message, `lost` with a number, `end` with a reason.
    pub fn events(self, principal: &Principal, shutdown: Signal) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + use<> {
        let hello = event("hello", &serde_json::json!({"token": principal.id().as_ref(), "version": env!("CARGO_PKG_VERSION")}));
        let watching = Watching { listener: self, revoked: principal.revoked().cloned(), shutdown };
        let rest = stream::unfold(Some(watching), |watching| async {
            let mut watching = watching?;
            let (event, goes_on) = watching.next().await;
            Some((event, goes_on.then_some(watching)))
        });
        stream::once(async move { hello }).chain(rest).map(Ok)
    }
}

struct Watching {
    listener: Listener,
    revoked: Option<Signal>,
    shutdown: Signal,
}

impl Watching {
    async fn next(&mut self) -> (Bytes, bool) {
        let revoked = async {
            match &mut self.revoked {
                Some(signal) => signal.fired().await,
                None => std::future::pending().await,
            }
        };
        let end = |why: &str| (event("end", &serde_json::json!({ "reason": why })), false);
        tokio::select! {
            biased;
            _ = revoked => end("revoked"),
            _ = self.shutdown.fired() => end("shutdown"),
            event = self.listener.events.recv() => match event {
                Ok(event) => (event, true),
                Err(RecvError::Lagged(lost)) => (self::event("lost", &serde_json::json!({ "lost": lost })), true),
                Err(RecvError::Closed) => end("closed"),
            },
            () = tokio::time::sleep(KEEP_ALIVE) => (Bytes::from_static(b":\n\n"), true),
        }
    }
}

fn event(name: &str, data: &serde_json::Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
