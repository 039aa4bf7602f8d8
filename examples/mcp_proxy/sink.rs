//! Where audit records go: a file or standard output, the metrics, and the operators who watch.

use std::{path::Path, sync::Arc, time::Duration};

use portcullis::{
    audit::{AuditSink, JsonLinesSink, MetricsSink},
    context::Record,
};

use crate::{
    config::{Audit, Config, Invalid, Rotate},
    console::Live,
    rotate::{Period, Rotating},
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
        let audit = &config.file.audit;
        match audit.path.as_str() {
            "" => return Err(Invalid::new("audit.path: empty; \"off\" writes nothing")),
            "-" | "off" if audit.rotate != Rotate::Never => {
                return Err(Invalid::new(format!("audit.rotate: needs a file, and audit.path is \"{}\"", audit.path)));
            }
            _ => {}
        }
        match (audit.rotate, audit.keep) {
            (_, Some(0)) => {
                Err(Invalid::new("audit.keep: 0 would remove the file that is being written; leave it out to keep all"))
            }
            (Rotate::Never, Some(_)) => Err(Invalid::new("audit.keep: without audit.rotate there is only one file")),
            _ => Ok(Some(audit.path.as_str()).filter(|path| *path != "off")),
        }
    }

    /// The metrics recorder has to be installed before.
    pub fn open(config: &Config) -> Result<Self, Invalid> {
        let lines = match Self::check(config)? {
            None => None,
            Some("-") => Some(JsonLinesSink::builder().writer(std::io::stdout())),
            Some(path) => Some(Self::file(&config.path(path.as_ref()), &config.file.audit)),
        };
        let lines = lines.transpose().map_err(|e| Invalid::at("audit.path", e))?;
        Ok(Self { lines, metrics: config.file.metrics.listen.map(|_| Arc::default()), live: Live::default() })
    }

    fn file(path: &Path, audit: &Audit) -> std::io::Result<JsonLinesSink> {
        let period = match audit.rotate {
            Rotate::Never => return JsonLinesSink::builder().file(path),
            Rotate::Hourly => Period::HOUR,
            Rotate::Daily => Period::DAY,
        };
        JsonLinesSink::builder().writer(Rotating::open(path, period, audit.keep)?)
    }

    pub fn publish(&self, in_flight: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.publish(in_flight as u64, self.dropped());
        }
    }

    /// Opens the file again after others have moved it. A file that rotates by itself goes on.
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
