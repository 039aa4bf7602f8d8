//! Records as JSON lines, written without an intermediate tree.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use crate::{
    context::{ClosedBy, Outcome, Record},
    net::Host,
};

/// Room for a usual line.
const LINE: usize = 512;

/// A member's name as it stands in a line, put together by the compiler.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// How records become JSON lines. The fields are listed in the [module's documentation](super).
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonFormat {
    query: bool,
}

impl JsonFormat {
    /// Without queries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the query of the target too. Queries carry secrets more often than one thinks; the request's own query, where
    /// this server's tokens travel, is never written.
    #[must_use]
    pub fn with_query(mut self, yes: bool) -> Self {
        self.query = yes;
        self
    }

    /// Appends one line.
    pub fn write(&self, record: &Record, out: &mut Vec<u8>) {
        out.reserve(LINE);
        let mut line = Line::begin(out);
        if let Some(started) = record.started {
            line.time(started);
        }
        line.hex(key!("request_id"), record.request_id);
        line.plain(key!("outcome"), outcome(record.outcome));
        line.millis(key!("duration_ms"), record.duration);
        line.millis(key!("head_ms"), record.head_after);
        if let Some(client) = &record.client {
            line.ip(key!("client"), client.ip());
            if client.peer().ip().to_canonical() != client.ip() {
                line.show(key!("peer"), client.peer());
            }
        }
        line.opt(key!("token"), record.token.as_deref());
        if let Some(method) = &record.method {
            // A method is a token (RFC 9110 §9.1), and no token needs escapes.
            line.plain(key!("method"), method.as_str());
        }
        match (&record.target, &record.path) {
            (Some(target), _) => {
                line.plain(key!("scheme"), target.scheme().as_str());
                match target.host() {
                    Host::Name(name) => line.text(key!("host"), name.as_str()),
                    Host::Ip(IpAddr::V4(ip)) => line.ip(key!("host"), IpAddr::V4(*ip)),
                    ip @ Host::Ip(_) => line.show(key!("host"), ip),
                }
                line.number(key!("port"), u64::from(target.port()));
                let path = target.path_and_query();
                line.text(key!("path"), if self.query { path.as_str() } else { path.path() });
            }
            (None, Some(path)) => line.text(key!("request_path"), path.path()),
            (None, None) => {}
        }
        if let Some(status) = record.status {
            line.number(key!("status"), u64::from(status.as_u16()));
        }
        line.opt(key!("reason"), record.reason);
        line.opt(key!("proxy_status"), record.proxy_status);
        line.opt(key!("detail"), record.detail.as_deref());
        if let Some(dialed) = record.dialed {
            line.addr(key!("dialed"), dialed);
            line.bool(key!("reused"), record.reused);
        }
        line.number(key!("bytes_in"), record.bytes_in);
        line.number(key!("bytes_out"), record.bytes_out);
        if let Some(call) = &record.mcp {
            line.opt(key!("mcp_method"), call.method.as_deref());
            line.opt(key!("mcp_name"), call.name.as_deref());
        }
        if record.tunnel {
            line.bool(key!("tunnel"), true);
        }
        if let Some(code) = record.close_code {
            line.number(key!("close_code"), u64::from(code));
        }
        line.opt(key!("closed_by"), record.closed_by.map(closed_by));
        line.end();
    }

    /// The line that says how many records are missing here.
    pub(super) fn write_dropped(now: SystemTime, dropped: u64, out: &mut Vec<u8>) {
        let mut line = Line::begin(out);
        line.time(now);
        line.number(key!("audit_dropped"), dropped);
        line.end();
    }
}

/// The outcome as it is written.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "open",
        Outcome::Complete => "complete",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
        Outcome::ClientGone => "client_gone",
        Outcome::UpstreamFailed => "upstream_failed",
        Outcome::Aborted => "aborted",
    }
}

fn closed_by(by: ClosedBy) -> &'static str {
    match by {
        ClosedBy::Client => "client",
        ClosedBy::Target => "target",
        ClosedBy::Proxy => "proxy",
    }
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Line<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Every member begins with a comma; the first one's place is the brace's.
    fn end(self) {
        if let Some(first) = self.out.get_mut(self.start) {
            *first = b'{';
        }
        self.out.extend_from_slice(b"}\n");
    }

    #[inline]
    fn key(&mut self, key: &'static str) {
        self.out.extend_from_slice(key.as_bytes());
    }

    /// A text that needs no escapes.
    #[inline]
    fn plain(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        escape(value, self.out);
        self.out.push(b'"');
    }

    #[inline]
    fn opt(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn show(&mut self, key: &'static str, value: impl fmt::Display) {
        self.key(key);
        self.out.push(b'"');
        let _ = write!(Escaped(self.out), "{value}");
        self.out.push(b'"');
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        digits(self.out, value, 1);
    }

    #[inline]
    fn hex(&mut self, key: &'static str, value: u128) {
        self.key(key);
        let mut text = [b'"'; 34];
        for (slot, shift) in text.iter_mut().skip(1).take(32).zip((0..32).rev()) {
            let nibble = (value >> (4 * shift) & 15) as u8;
            *slot = if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble };
        }
        self.out.extend_from_slice(&text);
    }

    fn ip(&mut self, key: &'static str, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.key(key);
                self.out.push(b'"');
                octets(self.out, ip);
                self.out.push(b'"');
            }
            IpAddr::V6(ip) => self.show(key, ip),
        }
    }

    fn addr(&mut self, key: &'static str, addr: SocketAddr) {
        match addr {
            SocketAddr::V4(addr) => {
                self.key(key);
                self.out.push(b'"');
                octets(self.out, *addr.ip());
                self.out.push(b':');
                digits(self.out, u64::from(addr.port()), 1);
                self.out.push(b'"');
            }
            SocketAddr::V6(addr) => self.show(key, addr),
        }
    }

    #[inline]
    fn bool(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    #[inline]
    fn millis(&mut self, key: &'static str, value: Option<Duration>) {
        if let Some(value) = value {
            self.key(key);
            digits(self.out, u64::try_from(value.as_millis()).unwrap_or(u64::MAX), 1);
            self.out.push(b'.');
            digits(self.out, u64::from(value.subsec_micros() % 1000), 3);
        }
    }

    fn time(&mut self, time: SystemTime) {
        self.key(key!("time"));
        self.out.push(b'"');
        self.out.extend_from_slice(&rfc3339(time));
        self.out.push(b'"');
    }
}

/// The number in decimal, with zeros in front up to `width`. A line has a dozen of them, and `core::fmt` is ten times as dear.
fn digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut text = [b'0'; 20];
    let mut at = text.len();
    for slot in text.iter_mut().rev() {
        *slot = b'0' + (value % 10) as u8;
        value /= 10;
        at -= 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(at.min(text.len() - width)..).unwrap_or_default());
}

fn octets(out: &mut Vec<u8>, ip: Ipv4Addr) {
    // Fifteen characters at most, with a dot behind each number.
    let mut text = [b'.'; 16];
    let mut at = 0;
    let mut put = |digit: u8| {
        if let Some(slot) = text.get_mut(at) {
            *slot = digit;
        }
        at += 1;
    };
    for octet in ip.octets() {
        if octet > 99 {
            put(b'0' + octet / 100);
        }
        if octet > 9 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
        put(b'.');
    }
    out.extend_from_slice(text.get(..at.saturating_sub(1)).unwrap_or_default());
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        escape(s, self.0);
        Ok(())
    }
}

/// Escapes what JSON demands and whatever else could forge or hide part of a line in a terminal or viewer.
fn escape(text: &str, out: &mut Vec<u8>) {
    // Counted, not searched: without an early way out the compiler looks at many bytes at once.
    let special = text.bytes().filter(|b| !matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)).count();
    if special == 0 {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    for digit in format!("\\u{unit:04x}").bytes() {
                        out.push(digit);
                    }
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// A moment as RFC 3339 in UTC with microseconds. Moments before 1970 show as 1970, those after 9999 lose their highest digits.
fn rfc3339(time: SystemTime) -> [u8; 27] {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, (since.as_secs() % 86_400) as u32);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |from: usize, to: usize, mut value: u32| {
        for slot in text.iter_mut().take(to).skip(from).rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, (year % 10_000) as u32);
    put(5, 7, (month % 100) as u32);
    put(8, 10, (day % 100) as u32);
    put(11, 13, rest / 3600);
    put(14, 16, rest / 60 % 60);
    put(17, 19, rest % 60);
    put(20, 26, since.subsec_micros());
    text
}

/// The same as text.
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&rfc3339(self.0)).unwrap_or_default())
    }
}

/// The calendar date of a day since 1970-01-01, counting years from March so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> String {
        Rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)).to_string()
    }

    #[test]
    fn dates() {
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_798_761_600), "2027-01-01T00:00:00.000000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn numbers() {
        let write = |value, width| {
            let mut out = Vec::new();
            digits(&mut out, value, width);
            String::from_utf8(out).unwrap()
        };
        for value in [0, 9, 10, 255, 65_535, u64::MAX] {
            assert_eq!(write(value, 1), value.to_string());
        }
        assert_eq!((write(7, 3), write(1234, 3)), ("007".into(), "1234".into()));
    }

    #[test]
    fn nothing_can_break_a_line() {
        let mut out = Vec::new();
        let nasty = "a\"b\\c\r\nd\t\u{0}\u{1b}[31m\u{7f}\u{85}\u{2028}\u{202e}ü\u{1f600}";
        escape(nasty, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, r#"a\"b\\c\r\nd\t\u0000\u001b[31m\u007f\u0085\u2028\u202eü😀"#);
        assert_eq!(serde_json::from_str::<String>(&format!("\"{text}\"")).unwrap(), nasty);
    }
}
