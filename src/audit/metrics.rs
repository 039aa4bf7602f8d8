//! Counters and histograms from audit records, through the `metrics` facade.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::Method;
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::{AuditSink, json};
use crate::context::{Outcome, Record};

/// Upper bounds for the histograms in seconds, from a cache hit on the same machine to a long model answer. An exporter has to be
/// told: the alert rules and the dashboard read buckets.
pub const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

const KINDS: [&str; 5] = ["http", "mcp", "websocket", "connect", "local"];
const OUTCOMES: [Outcome; 7] = [
    Outcome::Open,
    Outcome::Complete,
    Outcome::Refused,
    Outcome::Failed,
    Outcome::ClientGone,
    Outcome::UpstreamFailed,
    Outcome::Aborted,
];
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// So many records are gathered before they are handed to the recorder. Its counters and histograms lie all over the memory, and a
/// request would find most of them cold.
const GATHERED: usize = 64;
/// With the first record that is so much later they are handed on all the same.
const LATEST: Duration = Duration::from_secs(1);
/// Over how long a token's traffic is added up.
const WINDOW: Duration = Duration::from_secs(60);
/// How many tokens are told apart in one window.
const MAX_TOKENS: usize = 10_000;

/// Counts records. All labels are bounded: no host, path, address or token is ever one.
///
/// | metric | type | labels |
/// |---|---|---|
/// | `portcullis_requests_total` | counter | `kind`, `outcome`, `status` (class, `none` if the client left before the head) |
/// | `portcullis_rejections_total` | counter | `reason` |
/// | `portcullis_request_duration_seconds` | histogram | `kind` |
/// | `portcullis_response_head_seconds` | histogram | `kind` |
/// | `portcullis_bytes_total` | counter | `kind`, `direction` (`in`, `out`) |
/// | `portcullis_busiest_token_requests` | gauge | requests of the token that sent most in the last full minute |
/// | `portcullis_busiest_token_bytes` | gauge | bytes of the token that moved most in the last full minute |
/// | `portcullis_requests_in_flight` | gauge | set by [`Self::publish`] |
/// | `portcullis_audit_dropped_total` | counter | set by [`Self::publish`] |
///
/// What is counted reaches the recorder after 64 records, with the first one that is a second later than the last handing on, and by
/// [`Self::publish`].
///
/// `kind` is `mcp` where JSON-RPC was understood, `websocket` and `connect` for tunnels, `http` for other requests with a target,
/// `local` for what had none. Which token is the busiest one is in the audit file, not here.
pub struct MetricsSink {
    /// By kind, outcome and status class.
    requests: Vec<Counter>,
    kinds: Vec<Kind>,
    rejections: Mutex<Vec<(&'static str, Counter)>>,
    gathered: Mutex<Gathered>,
    busiest_requests: Gauge,
    busiest_bytes: Gauge,
    in_flight: Gauge,
    dropped: Counter,
}

struct Kind {
    duration: Histogram,
    head: Histogram,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// What was counted and not yet handed on, and the traffic of tokens.
#[derive(Default)]
struct Gathered {
    records: usize,
    handed_on: Option<Duration>,
    /// As in [`MetricsSink::requests`].
    requests: Vec<u64>,
    kinds: [Amounts; KINDS.len()],
    tokens: Tokens,
}

#[derive(Default)]
struct Amounts {
    durations: Vec<f64>,
    heads: Vec<f64>,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Default)]
struct Tokens {
    window: Duration,
    traffic: HashMap<Arc<str>, (u64, u64)>,
}

impl Default for MetricsSink {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsSink {
    /// Registers every series with the recorder that is installed now, so that none is missing before its first event.
    #[must_use]
    pub fn new() -> Self {
        describe();
        let mut requests = Vec::with_capacity(KINDS.len() * OUTCOMES.len() * CLASSES.len());
        for kind in KINDS {
            for outcome in OUTCOMES {
                for class in CLASSES {
                    let outcome = json::outcome(outcome);
                    requests.push(counter!("portcullis_requests_total", "kind" => kind, "outcome" => outcome, "status" => class));
                }
            }
        }
        let kinds = KINDS.map(|kind| Kind {
            duration: histogram!("portcullis_request_duration_seconds", "kind" => kind),
            head: histogram!("portcullis_response_head_seconds", "kind" => kind),
            bytes_in: counter!("portcullis_bytes_total", "kind" => kind, "direction" => "in"),
            bytes_out: counter!("portcullis_bytes_total", "kind" => kind, "direction" => "out"),
        });
        Self {
            gathered: Mutex::new(Gathered { requests: vec![0; requests.len()], ..Gathered::default() }),
            requests,
            kinds: kinds.into(),
            rejections: Mutex::default(),
            busiest_requests: gauge!("portcullis_busiest_token_requests"),
            busiest_bytes: gauge!("portcullis_busiest_token_bytes"),
            in_flight: gauge!("portcullis_requests_in_flight"),
            dropped: counter!("portcullis_audit_dropped_total"),
        }
    }

    /// Counts each record and passes it on.
    #[must_use]
    pub fn then<S: AuditSink>(self: Arc<Self>, next: S) -> Metered<S> {
        Metered { metrics: self, next }
    }

    /// Hands on what was gathered and brings what no record shows up to date; to be called before a scrape.
    pub fn publish(&self, in_flight: u64, audit_dropped: u64) {
        self.hand_on(&mut self.gathered());
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and nobody has 2^52 requests in flight")]
        self.in_flight.set(in_flight as f64);
        self.dropped.absolute(audit_dropped);
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn hand_on(&self, gathered: &mut Gathered) {
        let add = |counter: &Counter, count: &mut u64| {
            if *count > 0 {
                counter.increment(mem::take(count));
            }
        };
        gathered.records = 0;
        for (counter, count) in self.requests.iter().zip(&mut gathered.requests) {
            add(counter, count);
        }
        for (kind, amounts) in self.kinds.iter().zip(&mut gathered.kinds) {
            amounts.durations.drain(..).for_each(|seconds| kind.duration.record(seconds));
            amounts.heads.drain(..).for_each(|seconds| kind.head.record(seconds));
            add(&kind.bytes_in, &mut amounts.bytes_in);
            add(&kind.bytes_out, &mut amounts.bytes_out);
        }
    }

    fn add_token(&self, tokens: &mut Tokens, token: &Arc<str>, now: Duration, bytes: u64) {
        if now.saturating_sub(tokens.window) >= WINDOW {
            let most = |f: fn(&(u64, u64)) -> u64| tokens.traffic.values().map(f).max().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            {
                self.busiest_requests.set(most(|t| t.0) as f64);
                self.busiest_bytes.set(most(|t| t.1) as f64);
            }
            tokens.traffic.clear();
            tokens.window = now;
        }
        if let Some(traffic) = tokens.traffic.get_mut(token) {
            traffic.0 += 1;
            traffic.1 += bytes;
        } else if tokens.traffic.len() < MAX_TOKENS {
            tokens.traffic.insert(Arc::clone(token), (1, bytes));
        }
    }
}

/// A [`MetricsSink`] in front of another sink.
#[derive(Debug)]
pub struct Metered<S> {
    metrics: Arc<MetricsSink>,
    next: S,
}

impl<S: AuditSink> AuditSink for Metered<S> {
    fn record(&self, record: &Record) {
        self.metrics.observe(record);
        self.next.record(record);
    }

    fn dropped(&self) -> u64 {
        self.next.dropped()
    }
}

impl AuditSink for MetricsSink {
    fn record(&self, record: &Record) {
        self.observe(record);
    }
}

impl MetricsSink {
    /// Counts a record that goes elsewhere, too.
    pub fn observe(&self, record: &Record) {
        if let Some(reason) = record.reason {
            self.count_rejection(reason);
        }
        let kind = kind_of(record);
        let outcome = OUTCOMES.iter().position(|o| *o == record.outcome).unwrap_or(0);
        let class = record.status.map_or(0, |s| usize::from(s.as_u16() / 100)).min(CLASSES.len() - 1);
        let ended = record.arrived + record.duration.unwrap_or_default();
        let mut gathered = self.gathered();
        if let Some(count) = gathered.requests.get_mut((kind * OUTCOMES.len() + outcome) * CLASSES.len() + class) {
            *count += 1;
        }
        if let Some(amounts) = gathered.kinds.get_mut(kind) {
            amounts.durations.extend(record.duration.map(|d| d.as_secs_f64()));
            amounts.heads.extend(record.head_after.map(|d| d.as_secs_f64()));
            amounts.bytes_in += record.bytes_in;
            amounts.bytes_out += record.bytes_out;
        }
        if let Some(token) = &record.token {
            self.add_token(&mut gathered.tokens, token, ended, record.bytes_in.saturating_add(record.bytes_out));
        }
        gathered.records += 1;
        if gathered.records >= GATHERED || gathered.handed_on.is_none_or(|last| ended.saturating_sub(last) >= LATEST) {
            gathered.handed_on = Some(ended);
            self.hand_on(&mut gathered);
        }
    }

    #[cold]
    fn count_rejection(&self, reason: &'static str) {
        // Reasons are constants of the code, so the list is short and the comparison by address finds most of them.
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = rejections.iter().find(|(r, _)| std::ptr::eq(*r, reason) || *r == reason) {
            counter.increment(1);
        } else {
            let counter = counter!("portcullis_rejections_total", "reason" => reason);
            counter.increment(1);
            rejections.push((reason, counter));
        }
    }
}

impl fmt::Debug for MetricsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsSink")
    }
}

/// The index into [`KINDS`].
fn kind_of(record: &Record) -> usize {
    if record.tunnel {
        if record.method == Some(Method::CONNECT) && record.target.as_ref().is_some_and(|t| !t.scheme().is_websocket()) {
            3
        } else {
            2
        }
    } else if record.mcp.is_some() {
        1
    } else if record.target.is_some() {
        0
    } else {
        4
    }
}

fn describe() {
    describe_counter!("portcullis_requests_total", "Requests and tunnels that have ended");
    describe_counter!("portcullis_rejections_total", "Refusals and failures by reason");
    describe_histogram!("portcullis_request_duration_seconds", Unit::Seconds, "From arrival to the end of body or tunnel");
    describe_histogram!("portcullis_response_head_seconds", Unit::Seconds, "From arrival to the response head");
    describe_counter!("portcullis_bytes_total", Unit::Bytes, "Body and tunnel bytes, from (in) and to (out) clients");
    describe_gauge!("portcullis_busiest_token_requests", "Requests of the busiest token in the last full minute");
    describe_gauge!("portcullis_busiest_token_bytes", Unit::Bytes, "Bytes of the busiest token in the last full minute");
    describe_gauge!("portcullis_requests_in_flight", "Requests and tunnels that have not ended");
    describe_counter!("portcullis_audit_dropped_total", "Audit records that were lost because a sink was too slow");
}
