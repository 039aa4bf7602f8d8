use std::sync::Arc;

use super::json::JsonFormat;
use crate::context::Record;

/// Where audit records go.
pub trait AuditSink: Send + Sync + 'static {
    /// Sees a complete record. It is called in the task that ended the request and must not block; what it keeps, it copies.
    fn record(&self, record: &Record);

    /// How many records were lost so far because the sink could not keep up.
    fn dropped(&self) -> u64 {
        0
    }
}

impl<T: AuditSink + ?Sized> AuditSink for Arc<T> {
    fn record(&self, record: &Record) {
        (**self).record(record);
    }

    fn dropped(&self) -> u64 {
        (**self).dropped()
    }
}

impl<T: AuditSink + ?Sized> AuditSink for Box<T> {
    fn record(&self, record: &Record) {
        (**self).record(record);
    }

    fn dropped(&self) -> u64 {
        (**self).dropped()
    }
}

/// Two sinks, one after the other.
impl<A: AuditSink, B: AuditSink> AuditSink for (A, B) {
    fn record(&self, record: &Record) {
        self.0.record(record);
        self.1.record(record);
    }

    fn dropped(&self) -> u64 {
        self.0.dropped() + self.1.dropped()
    }
}

impl<A: AuditSink> AuditSink for Option<A> {
    fn record(&self, record: &Record) {
        if let Some(sink) = self {
            sink.record(record);
        }
    }

    fn dropped(&self) -> u64 {
        self.as_ref().map_or(0, AuditSink::dropped)
    }
}

/// Records into nothing.
impl AuditSink for () {
    fn record(&self, _: &Record) {}
}

/// Records as `tracing` events at level INFO under the target `portcullis::audit`: the JSON line in the field `record`. The
/// subscriber decides whether that blocks.
#[derive(Clone, Debug, Default)]
pub struct TracingSink {
    format: JsonFormat,
}

impl TracingSink {
    /// With this format.
    #[must_use]
    pub fn new(format: JsonFormat) -> Self {
        Self { format }
    }
}

impl AuditSink for TracingSink {
    fn record(&self, record: &Record) {
        if !tracing::enabled!(target: "portcullis::audit", tracing::Level::INFO) {
            return;
        }
        let mut line = Vec::with_capacity(512);
        self.format.write(record, &mut line);
        let text = String::from_utf8_lossy(&line);
        tracing::info!(target: "portcullis::audit", record = %text.trim_end());
    }
}
