use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use super::AuditSink;
use crate::context::Record;

/// Copies of records into a bounded channel: for consoles, tests and sinks of one's own. A full channel drops and counts.
#[derive(Clone, Debug)]
pub struct ChannelSink {
    sender: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

/// The other end of a [`ChannelSink`].
pub type Records = mpsc::Receiver<Record>;

impl ChannelSink {
    /// A channel for `bound` records (at least 1), and its other end.
    #[must_use]
    pub fn new(bound: usize) -> (Self, Records) {
        let (sender, receiver) = mpsc::channel(bound.max(1));
        (Self { sender, dropped: Arc::default() }, receiver)
    }
}

impl AuditSink for ChannelSink {
    fn record(&self, record: &Record) {
        match self.sender.try_reserve() {
            Ok(place) => place.send(record.clone()),
            Err(mpsc::error::TrySendError::Full(())) => drop(self.dropped.fetch_add(1, Relaxed)),
            // Nobody listening is not a loss.
            Err(mpsc::error::TrySendError::Closed(())) => {}
        }
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
