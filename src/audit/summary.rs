//! Reads JSON lines back and answers the questions of an incident: who reached which servers, when, how many bytes each way,
//! and what was refused and why.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    io::{self, BufRead},
    time::SystemTime,
};

use serde_json::Value;

use super::json::Rfc3339;

/// Which records count. An empty filter lets every record pass.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Filter {
    since: Option<String>,
    until: Option<String>,
    token: Option<Box<str>>,
    target: Option<Box<str>>,
}

impl Filter {
    /// Every record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only records from this moment on.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.since = Some(Rfc3339(time).to_string());
        self
    }

    /// Only records before this moment.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.until = Some(Rfc3339(time).to_string());
        self
    }

    /// Only records of this token.
    pub fn token(mut self, id: impl Into<Box<str>>) -> Self {
        self.token = Some(id.into());
        self
    }

    /// Only records of this target host and of names below it.
    pub fn target(mut self, host: &str) -> Self {
        self.target = Some(host.trim_end_matches('.').to_ascii_lowercase().into());
        self
    }

    fn admits(&self, line: &Value) -> bool {
        let text = |key| line.get(key).and_then(Value::as_str);
        // Times are all written alike, so that their order is the order of their text.
        let time = text("time").unwrap_or_default();
        self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
            && self.token.as_deref().is_none_or(|token| text("token") == Some(token))
            && self.target.as_deref().is_none_or(|wanted| {
                text("host")
                    .is_some_and(|host| host.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
            })
    }
}

/// What one token did at one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Refused by this server.
    pub refused: u64,
    /// Tunnels.
    pub tunnels: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Time of the first record.
    pub first: String,
    /// Time of the last record.
    pub last: String,
    /// Client addresses and how often each was seen; at most [`Summary::MAX_GROUP`] of them.
    pub clients: BTreeMap<String, u64>,
    /// Addresses that were dialled; at most [`Summary::MAX_GROUP`] of them.
    pub dialed: BTreeMap<String, u64>,
    /// Reasons of refusals and failures.
    pub reasons: BTreeMap<String, u64>,
}

/// Traffic by token and target host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// By token id (`-` for none) and target host with port (`-` for none).
    pub groups: BTreeMap<(String, String), Traffic>,
    /// Lines that were read, whatever they were.
    pub lines: u64,
    /// Lines that are not records: cut off, or of another program.
    pub unreadable: u64,
    /// Records that the server had dropped, by its own account.
    pub dropped: u64,
}

/// A file that could not be read to its end.
#[derive(Debug)]
pub struct SummaryError(io::Error);

impl fmt::Display for SummaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the audit file could not be read")
    }
}

impl Error for SummaryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Summary {
    /// Most addresses that are listed for one token at one target.
    pub const MAX_GROUP: usize = 100;

    /// Reads a file of JSON lines.
    ///
    /// # Errors
    /// [`SummaryError`] if it cannot be read. A line that is not a record is counted, not an error.
    pub fn read(mut input: impl BufRead, filter: &Filter) -> Result<Self, SummaryError> {
        let mut summary = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line).map_err(SummaryError)? == 0 {
                return Ok(summary);
            }
            summary.add(&line, filter);
        }
    }

    /// Adds one line.
    pub fn add(&mut self, line: &[u8], filter: &Filter) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        let Ok(line) = serde_json::from_slice::<Value>(line) else {
            self.unreadable += 1;
            return;
        };
        let number = |key| line.get(key).and_then(Value::as_u64);
        if let Some(dropped) = number("audit_dropped") {
            self.dropped += dropped;
            return;
        }
        let text = |key| line.get(key).and_then(Value::as_str);
        if text("request_id").is_none() {
            self.unreadable += 1;
            return;
        }
        if !filter.admits(&line) {
            return;
        }
        let target = text("host").map_or_else(|| "-".into(), |host| format!("{host}:{}", number("port").unwrap_or(0)));
        let traffic = self.groups.entry((text("token").unwrap_or("-").into(), target)).or_default();
        traffic.requests += 1;
        traffic.refused += u64::from(text("outcome") == Some("refused"));
        traffic.tunnels += u64::from(line.get("tunnel") == Some(&Value::Bool(true)));
        traffic.bytes_in += number("bytes_in").unwrap_or(0);
        traffic.bytes_out += number("bytes_out").unwrap_or(0);
        let time = text("time").unwrap_or_default();
        if traffic.first.is_empty() || time < traffic.first.as_str() {
            time.clone_into(&mut traffic.first);
        }
        if time > traffic.last.as_str() {
            time.clone_into(&mut traffic.last);
        }
        count(&mut traffic.clients, text("client"));
        count(&mut traffic.dialed, text("dialed"));
        count(&mut traffic.reasons, text("reason"));
    }
}

fn count(map: &mut BTreeMap<String, u64>, key: Option<&str>) {
    let Some(key) = key else { return };
    if let Some(n) = map.get_mut(key) {
        *n += 1;
    } else if map.len() < Summary::MAX_GROUP {
        map.insert(key.to_owned(), 1);
    }
}

/// A table for people, the busiest pairs first.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(key, t)| (std::cmp::Reverse(t.requests), *key));
        for ((token, target), t) in groups {
            writeln!(f, "{} -> {}", token.escape_debug(), target.escape_debug())?;
            writeln!(
                f,
                "  {} requests ({} refused, {} tunnels), {} bytes in, {} bytes out",
                t.requests, t.refused, t.tunnels, t.bytes_in, t.bytes_out
            )?;
            writeln!(f, "  {} to {}", t.first.escape_debug(), t.last.escape_debug())?;
            for (name, map) in [("from", &t.clients), ("dialled", &t.dialed), ("refused or failed", &t.reasons)] {
                if map.is_empty() {
                    continue;
                }
                write!(f, "  {name}:")?;
                for (key, n) in map {
                    write!(f, " {} ({n})", key.escape_debug())?;
                }
                writeln!(f)?;
            }
        }
        write!(f, "{} lines", self.lines)?;
        if self.unreadable > 0 {
            write!(f, ", {} unreadable", self.unreadable)?;
        }
        if self.dropped > 0 {
            write!(f, ", {} records had been dropped", self.dropped)?;
        }
        writeln!(f)
    }
}
