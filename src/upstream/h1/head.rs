//! Response heads: from bytes to fields, and how the body is framed.
//!
//! `httparse` finds the fields; what it lets pass and RFC 9112 does not is refused here: a bare LF as a line end (§2.2), an empty
//! line before the status line, a length that is not one number (§6.3), a transfer coding that is not `chunked` once (§6.1), and
//! any transfer coding in HTTP/1.0.

use std::{mem::MaybeUninit, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use httparse::{Header, ParserConfig, Status};

use super::{
    super::error::{Error, Kind},
    HeadLimits, length,
};
use crate::wire::{field_name, has_token};

/// Fields that are parsed without going to the heap.
const FEW: usize = 128;

/// Heads up to that size are parsed again whenever something has come, so that rubbish is seen at once.
const SMALL: usize = 1024;

/// A bare LF ends a line for some readers and not for others (RFC 9112 §2.2 lets us choose); a bare CR does for nobody.
const LF_ALONE: &str = "a line that ends in LF alone";

/// How the bytes after a head are framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// Until the connection ends.
    Close,
}

/// A response head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(super) framing: Framing,
    /// The connection stays open after the body.
    pub(super) keep_alive: bool,
    /// How long the target says that it keeps the connection at rest, less a margin.
    pub(super) rests: Option<Duration>,
    /// Bytes on the wire.
    pub(super) size: usize,
}

/// Where a field's name and value begin and end.
type Places = [u32; 4];

/// Finds response heads in what has been read.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// Kept, so that there is room without asking for it.
    places: Vec<Places>,
    /// How much was there when the head was last found incomplete.
    tried: usize,
    /// How much of that was searched for its end.
    searched: usize,
}

impl HeadReader {
    /// Forgets an incomplete head.
    pub(super) fn reset(&mut self) {
        self.tried = 0;
        self.searched = 0;
    }

    /// Takes a head off the front of `buf`, if it is complete. `to_head`: the request was a `HEAD`. Its fields take the place of what is
    /// in `fields`.
    pub(super) fn take(
        &mut self,
        buf: &mut BytesMut,
        limits: &HeadLimits,
        to_head: bool,
        fields: &mut HeaderMap,
    ) -> Result<Option<Head>, Error> {
        if !self.is_due(buf) {
            return if buf.len() >= limits.max_bytes { Err(Error::new(Kind::HeadTooLarge)) } else { Ok(None) };
        }
        if matches!(buf.first(), Some(b'\r' | b'\n')) {
            return Err(bad("an empty line before the status line"));
        }
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        let found = match few.get_mut(..limits.max_count) {
            Some(fields) => self.find(buf, fields)?,
            None => self.find(buf, &mut vec![MaybeUninit::uninit(); limits.max_count])?,
        };
        let Some((size, status, version)) = found else {
            if buf.len() >= limits.max_bytes {
                return Err(Error::new(Kind::HeadTooLarge));
            }
            self.tried = buf.len();
            self.searched = buf.len();
            return Ok(None);
        };
        if size > limits.max_bytes {
            return Err(Error::new(Kind::HeadTooLarge));
        }
        self.reset();
        self.build(&buf.split_to(size).freeze(), fields, status, version, to_head).map(Some)
    }

    /// Whether a parse is worth its time: not for every byte of a large head that drips in.
    fn is_due(&mut self, buf: &[u8]) -> bool {
        if self.tried == 0 || buf.len() <= SMALL || buf.len() / 2 >= self.tried {
            return true;
        }
        let from = self.searched.saturating_sub(3);
        self.searched = buf.len();
        buf.get(from..).is_some_and(|new| memchr::memmem::find(new, b"\r\n\r\n").is_some())
    }

    /// The size of a complete head, its status and version; the places of its fields are kept.
    fn find<'b>(
        &mut self,
        buf: &'b [u8],
        fields: &mut [MaybeUninit<Header<'b>>],
    ) -> Result<Option<(usize, StatusCode, Version)>, Error> {
        let mut response = httparse::Response::new(&mut []);
        let size = match ParserConfig::default().parse_response_with_uninit_headers(&mut response, buf, fields) {
            Ok(Status::Complete(size)) => size,
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Error::new(Kind::HeadTooLarge)),
            Err(error) => return Err(Error::new(Kind::BadResponse).with_detail(error.to_string())),
        };
        let status = response.code.and_then(|c| StatusCode::from_u16(c).ok()).ok_or_else(|| bad("not a status"))?;
        let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        self.places.clear();
        let start = buf.as_ptr().addr();
        for field in response.headers.iter() {
            let place = |part: &[u8]| {
                let at = part.as_ptr().addr() - start;
                (u32::try_from(at).ok(), u32::try_from(at + part.len()).ok())
            };
            let ((Some(a), Some(b)), (Some(c), Some(d))) = (place(field.name.as_bytes()), place(field.value)) else {
                return Err(Error::new(Kind::HeadTooLarge));
            };
            self.places.push([a, b, c, d]);
        }
        // Values and the reason phrase hold no LF, so every one is before a name or at the end.
        let is_crlf = |end: usize| buf.get(end.saturating_sub(2)..end) == Some(b"\r\n");
        let strict = self.places.iter().all(|[name, ..]| is_crlf(*name as usize));
        if !(strict && is_crlf(size) && is_crlf(size.saturating_sub(2))) {
            return Err(bad(LF_ALONE));
        }
        Ok(Some((size, status, version)))
    }

    /// Fields and framing. The values share the bytes that were read.
    fn build(
        &self,
        bytes: &Bytes,
        headers: &mut HeaderMap,
        status: StatusCode,
        version: Version,
        to_head: bool,
    ) -> Result<Head, Error> {
        headers.clear();
        // With room for what the proxy adds.
        headers.reserve(self.places.len() + 3);
        let (mut declared, mut chunked) = (None, false);
        let (mut close, mut keep, mut rests) = (false, false, None);
        for place in &self.places {
            let [a, b, c, d] = place.map(|n| n as usize);
            let name = field_name(bytes.get(a..b).unwrap_or_default()).map_err(|_| bad("not a field name"))?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(c..d)).map_err(|_| bad("not a field value"))?;
            match b - a {
                10 if name == header::CONNECTION => {
                    close |= has_token(value.as_bytes(), b"close");
                    keep |= has_token(value.as_bytes(), b"keep-alive");
                }
                10 if name.as_str() == "keep-alive" => rests = rests.or_else(|| announced_rest(&value)),
                14 if name == header::CONTENT_LENGTH => {
                    let before = declared;
                    let told = length::merge(declared, value.as_bytes()).ok_or_else(|| bad("not a length, or several"))?;
                    declared = Some(told);
                    if before.is_some() {
                        continue;
                    }
                    if value.as_bytes().contains(&b',') {
                        headers.append(name, HeaderValue::from(told));
                        continue;
                    }
                }
                17 if name == header::TRANSFER_ENCODING => {
                    if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                        // We have asked for none (RFC 9110 §10.1.4), and its bytes would lose their label here.
                        return Err(bad("a transfer coding other than `chunked` once"));
                    }
                    chunked = true;
                }
                _ => {}
            }
            headers.append(name, value);
        }
        if chunked && version == Version::HTTP_10 {
            return Err(bad("a transfer coding in HTTP/1.0"));
        }
        let mut keep_alive = !close && (version == Version::HTTP_11 || keep);
        if chunked && declared.is_some() {
            // RFC 9112 §6.3: the coding wins, the length does not travel, and the connection is not trusted again.
            headers.remove(header::CONTENT_LENGTH);
            keep_alive = false;
        }
        let framing = if status.is_informational() || status == StatusCode::NO_CONTENT {
            // Neither may have a body; one that announces it may well send it.
            keep_alive &= !chunked && declared.is_none_or(|n| n == 0);
            Framing::Length(0)
        } else if to_head || status == StatusCode::NOT_MODIFIED {
            Framing::Length(0)
        } else if chunked {
            Framing::Chunked
        } else {
            declared.map_or(Framing::Close, Framing::Length)
        };
        Ok(Head { status, version, framing, keep_alive, rests, size: bytes.len() })
    }
}

/// How long before the end that the target announces a connection is not used again: a request that crosses with the close is lost,
/// and one that is not idempotent must not be sent twice.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// What a target says about how long it keeps a connection at rest: `Keep-Alive: timeout=5, max=100`, in seconds. No standard has
/// it, and most servers send it.
fn announced_rest(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("timeout") { value.trim().parse().ok() } else { None }
    })?;
    Some(Duration::from_secs(seconds).saturating_sub(KEEP_ALIVE_MARGIN))
}

/// The same for a section whose fields are not looked at one by one.
pub(super) fn check_line_ends(section: &[u8]) -> Result<(), Error> {
    for at in memchr::memchr_iter(b'\n', section) {
        if at.checked_sub(1).and_then(|before| section.get(before)) != Some(&b'\r') {
            return Err(bad(LF_ALONE));
        }
    }
    Ok(())
}

#[cold]
pub(super) fn bad(why: &'static str) -> Error {
    Error::new(Kind::BadResponse).with_detail(why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::LIMITS, *};

    /// A head with its fields.
    #[derive(Debug)]
    struct Read {
        head: Head,
        headers: HeaderMap,
    }

    impl std::ops::Deref for Read {
        type Target = Head;

        fn deref(&self) -> &Head {
            &self.head
        }
    }

    impl HeadReader {
        /// Reads into a map that has held a request's fields.
        fn read(&mut self, buf: &mut BytesMut, limits: &HeadLimits, to_head: bool) -> Result<Option<Read>, Error> {
            let mut headers: HeaderMap = [(header::HOST, HeaderValue::from_static("spent"))].into_iter().collect();
            let head = self.take(buf, limits, to_head, &mut headers)?;
            assert_eq!(headers.get(header::HOST).is_some_and(|v| v == "spent"), head.is_none(), "{headers:?}");
            Ok(head.map(|head| Read { head, headers }))
        }
    }

    fn take(bytes: &[u8], to_head: bool) -> Result<Option<Read>, Error> {
        HeadReader::default().read(&mut BytesMut::from(bytes), &LIMITS, to_head)
    }

    fn read(bytes: impl AsRef<[u8]>) -> Result<Option<Read>, Error> {
        take(bytes.as_ref(), false)
    }

    #[test]
    fn framing_table() {
        use Framing::{Chunked, Close, Length};
        for (head, framing, keep_alive) in [
            ("200 OK\r\nContent-Length: 5\r\n", Length(5), true),
            ("200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5\r\n", Length(5), true),
            ("200 OK\r\nTransfer-Encoding: Chunked\r\n", Chunked, true),
            ("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", Chunked, false),
            ("200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Chunked, false),
            ("200 OK\r\n", Close, true),
            ("200\r\n", Close, true),
            ("200 \r\nContent-Length:  \t5 \t\r\n", Length(5), true),
            ("200 OK\r\nConnection: close\r\nContent-Length: 0\r\n", Length(0), false),
            ("200 OK\r\nConnection: x, Close\r\nConnection: keep-alive\r\nContent-Length: 0\r\n", Length(0), false),
            ("204 No Content\r\n", Length(0), true),
            ("204 No Content\r\nContent-Length: 0\r\n", Length(0), true),
            ("204 No Content\r\nContent-Length: 5\r\n", Length(0), false),
            ("204 No Content\r\nTransfer-Encoding: chunked\r\n", Length(0), false),
            ("304 Not Modified\r\nContent-Length: 5\r\n", Length(0), true),
            ("103 Early Hints\r\nLink: </x>\r\n", Length(0), true),
            ("205 Reset Content\r\nContent-Length: 0\r\n", Length(0), true),
        ] {
            let head = format!("HTTP/1.1 {head}\r\n");
            let got = read(&head).unwrap().unwrap();
            assert_eq!((got.framing, got.keep_alive, got.size), (framing, keep_alive, head.len()), "{head}");
            assert!(got.headers.get_all("content-length").iter().count() <= 1);
            assert!(
                !(got.headers.contains_key("content-length") && got.headers.contains_key("transfer-encoding"))
                    || framing != Chunked
            );
        }
        let old = |fields: &str| read(format!("HTTP/1.0 200 OK\r\n{fields}\r\n")).unwrap().map(|h| (h.framing, h.keep_alive));
        assert_eq!(old("Content-Length: 5\r\n"), Some((Length(5), false)));
        assert_eq!(old("Content-Length: 5\r\nConnection: Keep-Alive\r\n"), Some((Length(5), true)));
        assert_eq!(old("Content-Length: 5\r\nConnection: keep-alive, close\r\n"), Some((Length(5), false)));
        assert_eq!(old(""), Some((Close, false)));
    }

    #[test]
    fn an_answer_to_head_and_a_304_keep_their_length_and_have_no_body() {
        let head = take(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true).unwrap().unwrap();
        assert_eq!(
            (head.framing, head.keep_alive, &head.headers["content-length"]),
            (Framing::Length(0), true, &HeaderValue::from(5))
        );
        let head = take(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true).unwrap().unwrap();
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(0), true));
        let head = read("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.headers["content-length"], "5");
    }

    #[test]
    fn what_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length\t: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\x7fb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
            "HTTP/1.1 200 OK\nX: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 O\rK\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX(: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\u{e9}: a\r\n\r\n",
            "HTTP/1.1 099 Low\r\n\r\n",
            "HTTP/1.1 000 Low\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1\t200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/1.1200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
            " HTTP/1.1 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH_9\r\n",
            "ICY 200 OK\r\n\r\n",
            "\x16\x03\x01\x02\0",
        ] {
            let got = read(head);
            assert_eq!(got.map_err(|e| e.kind()).err(), Some(Kind::BadResponse), "{head:?}");
        }
    }

    #[test]
    fn what_targets_say_about_rest() {
        let said = |value: &str| {
            let head = format!("HTTP/1.1 204 No Content\r\nKeep-Alive: {value}\r\n\r\n");
            read(head).unwrap().unwrap().rests.map(|rest| rest.as_secs())
        };
        assert_eq!([said("timeout=5"), said("max=100, Timeout = 60"), said("timeout=0")], [Some(4), Some(59), Some(0)]);
        assert_eq!([said("max=100"), said("timeout=soon"), said("timeout=-1"), said("timeout")], [None; 4]);
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().rests, None);
    }

    #[test]
    fn sizes_and_numbers_are_limited() {
        let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(n));
        assert!(read(fields(LIMITS.max_count)).is_ok());
        let large = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(LIMITS.max_bytes));
        for head in [fields(LIMITS.max_count + 1), format!("{large}\r\n\r\n"), large] {
            assert_eq!(read(&head).unwrap_err().kind(), Kind::HeadTooLarge);
        }
        let many = HeadLimits { max_count: 300, ..LIMITS };
        let mut buf = BytesMut::from(fields(300).as_bytes());
        assert_eq!(HeadReader::default().read(&mut buf, &many, false).unwrap().unwrap().headers.len(), 300);
    }

    #[test]
    fn a_large_head_that_drips_in_is_parsed_a_few_times_only() {
        let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        let (mut reader, mut buf, mut parsed) = (HeadReader::default(), BytesMut::new(), 0);
        for byte in head.as_bytes().iter().skip(1).fold(vec![head.as_bytes()[0]], |mut all, b| {
            all.push(*b);
            all
        }) {
            buf.extend_from_slice(&[byte]);
            parsed += usize::from(buf.len() > SMALL && reader.clone_due(&buf));
            if let Some(head) = reader.read(&mut buf, &LIMITS, false).unwrap() {
                assert_eq!(head.headers["x"].len(), 20_000);
                assert!(parsed < 10, "{parsed}");
                return;
            }
        }
        panic!("no head");
    }

    impl HeadReader {
        fn clone_due(&self, buf: &[u8]) -> bool {
            HeadReader { places: Vec::new(), ..*self }.is_due(buf)
        }
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => "[A-Za-z-]{1,12}: ?[ -~]{0,30}\r\n",
            1 => "Content-Length: [0-9]{1,3}\r\n",
            1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
            1 => "Connection: (close|keep-alive|x)\r\n",
            1 => "[ -~\r\n\0\t]{0,10}",
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_head(
            lines in prop::collection::vec(line(), 0..8),
            status in 90u16..600,
            rest in "[ -~]{0,20}",
            cuts in prop::collection::vec(0usize..400, 0..12),
        ) {
            let bytes = format!("HTTP/1.1 {status:03} X\r\n{}\r\n{rest}", lines.concat());
            let mut cuts: Vec<_> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([bytes.len()]).collect();
            cuts.sort_unstable();
            let mut whole = BytesMut::from(bytes.as_bytes());
            let want = HeadReader::default().read(&mut whole, &LIMITS, false).map_err(|e| e.kind());
            let (mut reader, mut buf, mut at) = (HeadReader::default(), BytesMut::new(), 0);
            let mut got: Result<Option<Read>, Kind> = Ok(None);
            for cut in cuts {
                buf.extend_from_slice(&bytes.as_bytes()[at..cut]);
                at = cut;
                if matches!(got, Ok(None)) && !buf.is_empty() {
                    got = reader.read(&mut buf, &LIMITS, false).map_err(|e| e.kind());
                }
            }
            match (want, got) {
                (Ok(Some(want)), Ok(Some(got))) => {
                    prop_assert_eq!((want.status, want.framing, want.keep_alive, want.size), (got.status, got.framing, got.keep_alive, got.size));
                    prop_assert_eq!(want.headers, got.headers);
                    prop_assert_eq!(whole, buf);
                }
                (want, got) => prop_assert_eq!(want.map(|h| h.is_some()), got.map(|h| h.is_some())),
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(bytes);
        }
    }
}
