//! Where audit records go: a file or standard output, the metrics, and the operators who watch.

use std::{sync::Arc, time::Duration};

use portcullis::{
    audit::{AuditSink, JsonLinesSink, MetricsSink},
    context::Record,
};

use crate::{
    config::{Config, Invalid},
    console::Live,
};

/// Lines and metrics are optional.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    lines: Option<JsonLinesSink>,
    metrics: Option<Arc<MetricsSink>>,
    /// The operators who watch.
    pub live: Live,
}

impl Sink {
    pub fn check(config: &Config) -> Result<Option<&str>, Invalid> {
        match config.file.audit.path.as_str() {
            "" => Err(Invalid::new("audit.path: empty; \"off\" writes nothing")),
            "off" => Ok(None),
            path => Ok(Some(path)),
        }
    }

    /// The metrics recorder has to be installed before.
    pub fn open(config: &Config) -> Result<Self, Invalid> {
        let lines = match Self::check(config)? {
            None => None,
            Some("-") => Some(JsonLinesSink::builder().writer(std::io::stdout())),
            Some(path) => Some(JsonLinesSink::builder().file(config.path(path.as_ref()))),
        };
        let lines = lines.transpose().map_err(|e| Invalid::at("audit.path", e))?;
        Ok(Self { lines, metrics: config.file.metrics.listen.map(|_| Arc::default()), live: Live::default() })
    }

    pub fn publish(&self, in_flight: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.publish(in_flight as u64, self.dropped());
        }
    }

    pub fn reopen(&self) {
        if let Some(lines) = &self.lines {
            lines.reopen();
        }
    }

    /// Whether everything is written; it blocks for at most `limit`.
    pub fn flush(&self, limit: Duration) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.flush(limit))
    }
}

impl AuditSink for Sink {
    fn record(&self, record: &Record) {
        self.live.publish(record);
        if let Some(metrics) = &self.metrics {
            metrics.observe(record);
        }
        if let Some(lines) = &self.lines {
            lines.record(record);
        }
    }

    fn dropped(&self) -> u64 {
        self.lines.as_ref().map_or(0, JsonLinesSink::dropped)
    }
}
