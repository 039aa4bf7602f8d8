//! Records as JSON lines, written without an intermediate tree.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use crate::{
    context::{ClosedBy, McpText, Outcome, Record},
    net::Host,
    wire::{four_digits, pair, push_block, push_decimal},
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
        line.head(record.started, record.request_id);
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
            line.bytes(text!("mcp_method"), call.method.as_ref().map(McpText::as_bytes));
            line.bytes(text!("mcp_name"), call.name.as_ref().map(McpText::as_bytes));
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
        self.quote();
    }

    #[inline]
    fn quote(&mut self) {
        self.out.push(b'"');
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        escape(value.as_bytes(), self.out);
        self.quote();
    }

    #[inline]
    fn opt(&mut self, key: &'static str, value: Option<&str>) {
        self.bytes(key, value.map(str::as_bytes));
    }

    /// The same for bytes that are known to be text.
    #[inline]
    fn bytes(&mut self, key: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.key(key);
            escape(value, self.out);
            self.quote();
        }
    }

    #[cold]
    fn show(&mut self, key: &'static str, value: impl fmt::Display) {
        self.key(key);
        let _ = write!(Escaped(self.out), "{value}");
        self.quote();
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_decimal(self.out, value);
    }

    /// An address and what stands behind it.
    #[inline]
    fn octets(&mut self, ip: Ipv4Addr, end: u8) {
        let [a, b, c, d] = ip.octets();
        let (text, len) = two_octets(a, b);
        push_block(self.out, text.to_le_bytes(), len);
        let (text, len) = two_octets(c, d);
        // The last dot gives its place.
        let end = u64::from(b'.' ^ end) << (8 * (len - 1));
        push_block(self.out, (text ^ end).to_le_bytes(), len);
    }

    #[inline]
    fn ip(&mut self, key: &'static str, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                self.key(key);
                self.octets(ip, b'"');
            }
            IpAddr::V6(ip) => self.show(key, ip),
        }
    }

    #[inline]
    fn addr(&mut self, key: &'static str, addr: SocketAddr) {
        match addr {
            SocketAddr::V4(addr) => {
                self.key(key);
                self.octets(*addr.ip(), b':');
                push_decimal(self.out, u64::from(addr.port()));
                self.quote();
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
            // The digit of the thousands, which is zero, gives its place to the point.
            let [_, tenth, hundredth, thousandth] = four_digits(micros % 1000);
            self.out.extend_from_slice(&[b'.', tenth, hundredth, thousandth]);
        }
    }

    /// When it was and which it was: what nearly every line begins with, in one piece.
    #[inline]
    fn head(&mut self, started: Option<SystemTime>, id: u128) {
        if let Some(started) = started {
            self.time(started);
        }
        let mut text = *b",\"request_id\":\"00000000000000000000000000000000\"";
        if let Some(digits) = text.get_mut(15..47) {
            digits.copy_from_slice(hex(id).as_flattened());
        }
        self.out.extend_from_slice(&text);
    }

    #[inline]
    fn time(&mut self, time: SystemTime) {
        let mut text = *b",\"time\":\"0000-00-00T00:00:00.000000Z\"";
        if let Some(digits) = text.get_mut(9..36) {
            digits.copy_from_slice(&rfc3339(time));
        }
        self.out.extend_from_slice(&text);
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the parts of a number, one by one")]
fn hex(value: u128) -> [[u8; 8]; 4] {
    [nibbles((value >> 96) as u32), nibbles((value >> 64) as u32), nibbles((value >> 32) as u32), nibbles(value as u32)]
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

/// Two octets with a dot behind each, the first digit lowest, and how long that is.
#[inline]
#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "digits are small; the compiler makes the table")]
fn two_octets(first: u8, second: u8) -> (u64, usize) {
    /// Each octet, and how long it is.
    const OCTETS: [(u32, u32); 256] = {
        let mut octets = [(0, 0); 256];
        let mut n = 0;
        while n < 256 {
            let (hundreds, tens, ones) = (b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8);
            octets[n] = match n {
                100.. => (u32::from_le_bytes([hundreds, tens, ones, b'.']), 4),
                10.. => (u32::from_le_bytes([tens, ones, b'.', 0]), 3),
                _ => (u32::from_le_bytes([ones, b'.', 0, 0]), 2),
            };
            n += 1;
        }
        octets
    };
    let (first, len) = OCTETS.get(usize::from(first)).copied().unwrap_or_default();
    let (second, more) = OCTETS.get(usize::from(second)).copied().unwrap_or_default();
    (u64::from(first) | u64::from(second) << (8 * len), (len + more) as usize)
}

struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        escape(s.as_bytes(), self.0);
        Ok(())
    }
}

/// A byte of value one in every place.
const ONES: u64 = u64::MAX / 0xff;

/// The high bits of those of eight bytes that are anything but printable ASCII which JSON takes as it is, and perhaps of others, if
/// there is one.
#[inline]
fn special(word: u64) -> u64 {
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let is = |byte: u8| has_zero(word ^ (ONES * u64::from(byte)));
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let del_or_above = word | word.wrapping_add(ONES);
    (below_space | del_or_above | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// Escapes what JSON demands and whatever else could forge or hide part of a line in a terminal or viewer. The bytes are UTF-8.
#[inline]
fn escape(text: &[u8], out: &mut Vec<u8>) {
    let (words, _) = text.as_chunks();
    if words.iter().fold(special(last(text)), |any, word| any | special(u64::from_le_bytes(*word))) == 0 {
        out.extend_from_slice(text);
    } else {
        escape_each(text, out);
    }
}

/// The last eight bytes, or all if they are fewer, some of them twice or with spaces.
#[inline]
fn last(text: &[u8]) -> u64 {
    if let Some(word) = text.last_chunk() {
        return u64::from_le_bytes(*word);
    }
    if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
    }
    text.iter().fold(ONES * 0x20, |word, byte| word << 8 | u64::from(*byte))
}

#[cold]
fn escape_each(text: &[u8], out: &mut Vec<u8>) {
    for c in String::from_utf8_lossy(text).chars() {
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
#[inline]
fn rfc3339(time: SystemTime) -> [u8; 27] {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (secs, micros) = (since.as_secs(), since.subsec_micros());
    let second = match SECOND.try_with(Cell::get) {
        Ok((known, text)) if known == secs => text,
        _ => {
            let text = second(secs);
            let _ = SECOND.try_with(|known| known.set((secs, text)));
            text
        }
    };
    let mut text = [b'Z'; 27];
    if let Some((whole, part)) = text.split_first_chunk_mut() {
        *whole = second;
        if let Some((high, low)) = part.split_first_chunk_mut() {
            *high = pair(micros / 10_000);
            if let Some(low) = low.first_chunk_mut() {
                *low = four_digits(micros % 10_000);
            }
        }
    }
    text
}

#[cold]
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
        let write = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            f(&mut out);
            String::from_utf8(out).unwrap()
        };
        for value in [0, 9, 10, 99, 100, 255, 999, 1000, 9999, 10_000, 65_535, u64::MAX] {
            assert_eq!(write(&|out| push_decimal(out, value)), value.to_string());
        }
        for value in [0, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, u128::MAX, 0x9a] {
            assert_eq!(write(&|out| Line::begin(out).head(None, value)), format!(",\"request_id\":\"{value:032x}\""));
        }
        for value in (0..10_000).chain([99_999, 123_456, 1_000_001, 99_999_999, 100_000_000, 4_294_967_296]) {
            assert_eq!(write(&|out| push_decimal(out, value)), value.to_string());
        }
        for ip in [[0, 9, 10, 99], [100, 255, 200, 1], [127, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(write(&|out| Line::begin(out).ip("", IpAddr::from(ip))), format!("{}\"", Ipv4Addr::from(ip)));
            let addr = SocketAddr::from((ip, 31_000));
            assert_eq!(write(&|out| Line::begin(out).addr("", addr)), format!("{addr}\""));
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
        escape(nasty.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, r#"a\"b\\c\r\nd\t\u0000\u001b[31m\u007f\u0085\u2028\u202eü😀"#);
        assert_eq!(serde_json::from_str::<String>(&format!("\"{text}\"")).unwrap(), nasty);
        // Wherever it stands in a text of whatever length.
        for c in (0..=0x100).filter_map(char::from_u32) {
            let mut alone = Vec::new();
            escape_each(c.to_string().as_bytes(), &mut alone);
            for (before, after) in (0..20).flat_map(|before| (0..20).map(move |after| ("a".repeat(before), "~".repeat(after)))) {
                let (text, mut out) = (format!("{before}{c}{after}"), Vec::new());
                escape(text.as_bytes(), &mut out);
                assert_eq!(out, [before.as_bytes(), &alone, after.as_bytes()].concat(), "{text:?}");
            }
        }
    }
}
