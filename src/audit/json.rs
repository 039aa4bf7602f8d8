//! Records as JSON lines, written without an intermediate tree.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use crate::{
    context::{ClosedBy, Outcome, Record},
    net::Host,
    wire::{pair, push_decimal},
};

/// Room for a usual line.
const LINE: usize = 512;

/// A member's name as it stands in a line, put together by the compiler.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}

/// The same in front of a text, with its opening quote.
macro_rules! text {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"")
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
        line.hex(text!("request_id"), record.request_id);
        line.plain(text!("outcome"), outcome(record.outcome));
        line.millis(key!("duration_ms"), record.duration);
        line.millis(key!("head_ms"), record.head_after);
        if let Some(client) = &record.client {
            line.ip(text!("client"), client.ip());
            if client.peer().ip().to_canonical() != client.ip() {
                line.show(text!("peer"), client.peer());
            }
        }
        line.opt(text!("token"), record.token.as_deref());
        if let Some(method) = &record.method {
            // A method is a token (RFC 9110 §9.1), and no token needs escapes.
            line.plain(text!("method"), method.as_str());
        }
        match (&record.target, &record.path) {
            (Some(target), _) => {
                line.plain(text!("scheme"), target.scheme().as_str());
                match target.host() {
                    Host::Name(name) => line.text(text!("host"), name.as_str()),
                    Host::Ip(IpAddr::V4(ip)) => line.ip(text!("host"), IpAddr::V4(*ip)),
                    ip @ Host::Ip(_) => line.show(text!("host"), ip),
                }
                line.number(key!("port"), u64::from(target.port()));
                let path = target.path_and_query();
                line.text(text!("path"), if self.query { path.as_str() } else { path.path() });
            }
            (None, Some(path)) => line.text(text!("request_path"), path.path()),
            (None, None) => {}
        }
        if let Some(status) = record.status {
            line.number(key!("status"), u64::from(status.as_u16()));
        }
        line.opt(text!("reason"), record.reason);
        line.opt(text!("proxy_status"), record.proxy_status);
        line.opt(text!("detail"), record.detail.as_deref());
        if let Some(dialed) = record.dialed {
            line.addr(text!("dialed"), dialed);
            line.bool(key!("reused"), record.reused);
        }
        line.number(key!("bytes_in"), record.bytes_in);
        line.number(key!("bytes_out"), record.bytes_out);
        if let Some(call) = &record.mcp {
            line.opt(text!("mcp_method"), call.method.as_deref());
            line.opt(text!("mcp_name"), call.name.as_deref());
        }
        if record.tunnel {
            line.bool(key!("tunnel"), true);
        }
        if let Some(code) = record.close_code {
            line.number(key!("close_code"), u64::from(code));
        }
        line.opt(text!("closed_by"), record.closed_by.map(closed_by));
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
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
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
        let _ = write!(Escaped(self.out), "{value}");
        self.out.push(b'"');
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_decimal(self.out, value);
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the parts of a number, one by one")]
    fn hex(&mut self, key: &'static str, value: u128) {
        self.key(key);
        for shift in [96, 64, 32, 0] {
            self.out.extend_from_slice(&nibbles((value >> shift) as u32));
        }
        self.out.push(b'"');
    }

    #[inline]
    fn ip(&mut self, key: &'static str, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.key(key);
                octets(self.out, ip);
                self.out.push(b'"');
            }
            IpAddr::V6(ip) => self.show(key, ip),
        }
    }

    #[inline]
    fn addr(&mut self, key: &'static str, addr: SocketAddr) {
        match addr {
            SocketAddr::V4(addr) => {
                self.key(key);
                octets(self.out, *addr.ip());
                self.out.push(b':');
                push_decimal(self.out, u64::from(addr.port()));
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
            let micros = value.subsec_micros();
            push_decimal(self.out, value.as_secs().saturating_mul(1000).saturating_add(u64::from(micros / 1000)));
            let [tens, ones] = pair(micros % 100);
            self.out.extend_from_slice(&[b'.', pair(micros / 100 % 10)[1], tens, ones]);
        }
    }

    fn time(&mut self, time: SystemTime) {
        self.key(text!("time"));
        rfc3339(self.out, time);
        self.out.push(b'"');
    }
}

/// Eight hex digits at once: each nibble moves into a byte of its own, and those above nine take the distance to the letters.
#[inline]
fn nibbles(value: u32) -> [u8; 8] {
    let mut x = u64::from(value);
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (x + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (x + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "digits are small; the compiler makes the table")]
fn octets(out: &mut Vec<u8>, ip: Ipv4Addr) {
    /// Each octet with a dot behind it.
    const OCTETS: [[u8; 4]; 256] = {
        let mut octets = [[b'.'; 4]; 256];
        let mut n = 0;
        while n < 256 {
            let (hundreds, tens, ones) = (b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8);
            octets[n] = match n {
                100.. => [hundreds, tens, ones, b'.'],
                10.. => [tens, ones, b'.', b'.'],
                _ => [ones, b'.', b'.', b'.'],
            };
            n += 1;
        }
        octets
    };
    for octet in ip.octets() {
        // All four bytes, which is one move, and then back over those that are too many.
        let end = out.len() + 2 + usize::from(octet > 9) + usize::from(octet > 99);
        out.extend_from_slice(OCTETS.get(usize::from(octet)).unwrap_or(&[b'.'; 4]));
        out.truncate(end);
    }
    out.pop();
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        escape(s, self.0);
        Ok(())
    }
}

/// Escapes what JSON demands and whatever else could forge or hide part of a line in a terminal or viewer.
#[expect(clippy::indexing_slicing, reason = "the compiler makes the table")]
fn escape(text: &str, out: &mut Vec<u8>) {
    /// What stands for itself.
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut b = 0x20;
        while b < 0x7f {
            plain[b] = b != b'"' as usize && b != b'\\' as usize;
            b += 1;
        }
        plain
    };
    let special = match text.as_bytes() {
        short if short.len() < 24 => !short.iter().all(|b| PLAIN.get(usize::from(*b)).is_some_and(|plain| *plain)),
        // Added up, not searched: without an early way out the compiler looks at many bytes at once.
        long => long.iter().fold(0, |any, b| any | u8::from(!matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e))) != 0,
    };
    if !special {
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

thread_local! {
    /// The last second that was written, up to the point: records come many a second.
    static SECOND: Cell<(u64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00.")) };
}

/// A moment as RFC 3339 in UTC with microseconds. Moments before 1970 show as 1970, those after 9999 lose their highest digits.
fn rfc3339(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (secs, micros) = (since.as_secs(), since.subsec_micros());
    match SECOND.try_with(Cell::get) {
        Ok((known, text)) if known == secs => out.extend_from_slice(&text),
        _ => {
            let text = second(secs);
            let _ = SECOND.try_with(|known| known.set((secs, text)));
            out.extend_from_slice(&text);
        }
    }
    out.extend_from_slice([pair(micros / 10_000), pair(micros / 100 % 100), pair(micros % 100)].as_flattened());
    out.push(b'Z');
}

fn second(secs: u64) -> [u8; 20] {
    let (days, rest) = (secs / 86_400, (secs % 86_400) as u32);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.";
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
    text
}

/// The same as text.
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(27);
        rfc3339(&mut text, self.0);
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
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
        let write = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            f(&mut out);
            String::from_utf8(out).unwrap()
        };
        for value in [0, 9, 10, 99, 100, 255, 999, 1000, 9999, 10_000, 65_535, u64::MAX] {
            assert_eq!(write(&|out| push_decimal(out, value)), value.to_string());
        }
        for value in [0, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX, 0x9a] {
            assert_eq!(write(&|out| Line::begin(out).hex("", value)), format!("{value:032x}\""));
        }
        for value in 0..10_000 {
            assert_eq!(write(&|out| push_decimal(out, value)), value.to_string());
        }
        for ip in [[0, 9, 10, 99], [100, 255, 200, 1], [127, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(write(&|out| octets(out, ip.into())), Ipv4Addr::from(ip).to_string());
        }
        for (micros, text) in [(0, "0.000"), (7, "0.007"), (1_023, "1.023"), (61_234_567, "61234.567")] {
            assert_eq!(write(&|out| Line::begin(out).millis("", Some(Duration::from_micros(micros)))), text);
        }
        for (micros, text) in
            [(1, "00.000001Z"), (59_123_456, "59.123456Z"), (1_000_000, "01.000000Z"), (1_999_999, "01.999999Z")]
        {
            let time = Rfc3339(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).to_string();
            assert_eq!(time, format!("1970-01-01T00:00:{text}"));
        }
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
