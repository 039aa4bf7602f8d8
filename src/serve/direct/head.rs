//! Request heads in the plainest form, and where that form ends.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, Version};
use memchr::{memchr, memchr_iter};

use super::spent;
use crate::{
    serve::RequestBody,
    wire::{field_name, has_token, read_decimal},
};

/// Most fields; requests with more are left to hyper, and refused behind it if they are too many.
const FIELDS: usize = 48;
/// Room that a header section is given at first: with it hardly a reply outgrows the memory that it takes over.
const USUAL: usize = 12;
/// Most bytes of a head.
const HEAD: usize = 16 * 1024;
/// Most bytes of a body that is taken together with its head.
const BODY: usize = 32 * 1024;

/// How large a head may be here. What is larger is hyper's to refuse or to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    bytes: usize,
    fields: usize,
}

impl Caps {
    /// The parser's caps in bytes and fields, if they are below those of this module.
    pub(super) fn new((bytes, fields): (usize, usize)) -> Self {
        Self { bytes: bytes.min(HEAD), fields: fields.min(FIELDS) }
    }
}

/// Whether there is something to look at: bytes that are new, or a line end behind a line end in what came since a first part of a head
/// was `seen`. A head that drips in is not parsed for every byte.
pub(super) fn may_end(buf: &[u8], seen: usize, caps: Caps) -> bool {
    if seen == 0 || buf.len() > caps.bytes {
        return !buf.is_empty();
    }
    // Empty lines in front of a request end nothing.
    let first = buf.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(buf.len());
    let new = buf.get(seen.saturating_sub(3).max(first)..).unwrap_or_default();
    memchr_iter(b'\n', new).any(|i| matches!(new.get(i + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
}

/// What stands at the front of the bytes that were read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is what nearly every look finds, and it is taken apart at once")]
pub(super) enum Front {
    /// Not yet a whole head.
    Part,
    /// A whole head, but not all of its body.
    Body,
    /// Something that hyper is to read.
    Other,
    /// A whole request.
    Whole(Whole),
}

#[derive(Debug)]
pub(super) struct Whole {
    pub(super) request: Request<RequestBody>,
    /// The client asked for the connection to be closed.
    pub(super) close: bool,
    /// The client takes trailer fields (RFC 9110 §6.5.1).
    pub(super) trailers: bool,
}

/// A field as two ranges of the head.
#[derive(Clone, Copy)]
struct Span {
    name: (u32, u32),
    value: (u32, u32),
}

/// Takes a whole request off the front of `buf`, or nothing.
pub(super) fn take(buf: &mut BytesMut, caps: Caps) -> Front {
    let mut slots = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let end = match parsed.parse_with_uninit_headers(buf, &mut slots) {
        Ok(httparse::Status::Complete(end)) if end <= caps.bytes && parsed.headers.len() <= caps.fields => end,
        Ok(httparse::Status::Partial) if buf.len() <= caps.bytes => return Front::Part,
        _ => return Front::Other,
    };
    let (Some(method), Some(path), Some(1)) = (parsed.method, parsed.path, parsed.version) else { return Front::Other };
    // Other forms of a target, and fragments, which have no place in one, are judged elsewhere.
    if !path.starts_with('/') || memchr(b'#', path.as_bytes()).is_some() {
        return Front::Other;
    }
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Front::Other };
    if method == Method::CONNECT {
        return Front::Other;
    }
    let start = buf.as_ptr() as usize;
    let range = |text: &[u8]| {
        let at = (text.as_ptr() as usize).wrapping_sub(start);
        // Below HEAD, so they fit.
        (u32::try_from(at).unwrap_or(u32::MAX), u32::try_from(at.wrapping_add(text.len())).unwrap_or(u32::MAX))
    };
    let path = range(path.as_bytes());
    let mut spans = [Span { name: (0, 0), value: (0, 0) }; FIELDS];
    let count = parsed.headers.len();
    for (span, field) in spans.iter_mut().zip(parsed.headers.iter()) {
        *span = Span { name: range(field.name.as_bytes()), value: range(field.value) };
    }
    let spans = spans.get(..count).unwrap_or_default();
    let (mut length, mut close, mut trailers) = (None, false, false);
    for field in parsed.headers.iter() {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => match content_length(field.value) {
                Some(n) if length.is_none() => length = Some(n),
                _ => return Front::Other,
            },
            10 if field.name.eq_ignore_ascii_case("connection") => match field.value {
                v if v.eq_ignore_ascii_case(b"keep-alive") => {}
                v if v.eq_ignore_ascii_case(b"close") => close = true,
                _ => return Front::Other,
            },
            2 if field.name.eq_ignore_ascii_case("te") => trailers |= has_token(field.value, b"trailers"),
            6 if field.name.eq_ignore_ascii_case("expect") => return Front::Other,
            7 if field.name.eq_ignore_ascii_case("upgrade") => return Front::Other,
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => return Front::Other,
            _ => {}
        }
    }
    let length = length.unwrap_or(0);
    if length > BODY {
        return Front::Other;
    }
    if buf.len() < end + length {
        return Front::Body;
    }

    let head = buf.split_to(end).freeze();
    let body = if length == 0 { Bytes::new() } else { buf.split_to(length).freeze() };
    let cut = |(from, to): (u32, u32)| head.slice(from as usize..to as usize);
    let Ok(uri) = Uri::from_maybe_shared(cut(path)) else { return restore(buf, &head, &body) };
    let (mut headers, extensions) = spent::take();
    headers.reserve(count.max(USUAL));
    for span in spans {
        let name = field_name(head.get(span.name.0 as usize..span.name.1 as usize).unwrap_or_default());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_maybe_shared(cut(span.value))) else {
            return restore(buf, &head, &body);
        };
        headers.append(name, value);
    }
    let mut request = Request::new(RequestBody::whole(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    *request.extensions_mut() = extensions;
    Front::Whole(Whole { request, close, trailers })
}

/// Undoes the cut: rare, because the parser has looked at every byte already.
#[cold]
fn restore(buf: &mut BytesMut, head: &[u8], body: &[u8]) -> Front {
    let mut all = BytesMut::with_capacity(head.len() + body.len() + buf.len());
    for part in [head, body, buf] {
        all.extend_from_slice(part);
    }
    *buf = all;
    Front::Other
}

/// A plain length, which has few digits.
fn content_length(text: &[u8]) -> Option<usize> {
    if text.len() > 9 {
        return None;
    }
    usize::try_from(read_decimal(text)?).ok()
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;

    const OPEN: (usize, usize) = (usize::MAX, usize::MAX);

    fn front(text: &str) -> (Front, BytesMut) {
        let mut buf = BytesMut::from(text);
        (take(&mut buf, Caps::new(OPEN)), buf)
    }

    #[test]
    fn whole_requests_are_taken_one_at_a_time() {
        let (found, rest) =
            front("POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n");
        let Front::Whole(whole) = found else { panic!("{found:?}") };
        assert_eq!((whole.request.method(), whole.request.uri().to_string()), (&Method::POST, "/a?b=c".into()));
        assert_eq!(whole.request.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(whole.request.body().size_hint().exact(), Some(3));
        assert!(!whole.close);
        assert_eq!(&rest[..], b"GET / HTTP/1.1\r\n");
        let mut rest = rest;
        assert!(matches!(take(&mut rest, Caps::new(OPEN)), Front::Part));
    }

    #[test]
    fn what_is_not_plain_stays_as_it_was() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(HEAD));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(FIELDS + 1));
        for text in [
            "GET / HTTP/1.0\r\n\r\n",
            "CONNECT a:443 HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\n\r\n",
            "GET /a#b HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: keep-alive, x\r\n\r\n",
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 4000000000000\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\na",
            "GET / HTTP/1.1\r\nX : y\r\n\r\n",
            "GET / HTTP/1.1\r\nX: y\r\n z\r\n\r\n",
            "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
            "nonsense\r\n\r\n",
            &long,
            &many,
        ] {
            let (found, rest) = front(text);
            assert!(matches!(found, Front::Other), "{text:?}: {found:?}");
            assert_eq!(&rest[..], text.as_bytes());
        }
    }

    #[test]
    fn a_body_that_is_not_all_there_leaves_everything_in_place() {
        let text = "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcd";
        let (found, rest) = front(text);
        assert!(matches!(found, Front::Body));
        assert_eq!(&rest[..], text.as_bytes());
    }

    #[test]
    fn connection_options_with_a_meaning_here() {
        for (value, want) in [("close", true), ("Close", true), ("Keep-Alive", false)] {
            let (found, _) = front(&format!("GET / HTTP/1.1\r\nConnection: {value}\r\n\r\n"));
            assert!(matches!(found, Front::Whole(Whole { close, .. }) if close == want), "{value}");
        }
    }

    #[test]
    fn smaller_caps_hold_here_too() {
        let text = "GET / HTTP/1.1\r\nA: 1\r\nB: 2\r\n\r\n";
        for (caps, whole) in [((text.len(), 2), true), ((text.len() - 1, 2), false), ((text.len(), 1), false)] {
            let found = take(&mut BytesMut::from(text), Caps::new(caps));
            assert_eq!(matches!(found, Front::Whole(_)), whole, "{caps:?}");
        }
    }

    #[test]
    fn a_head_that_drips_in_is_looked_at_when_it_may_have_ended() {
        for text in ["GET / HTTP/1.1\r\nA: 1\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\nA: 1\n\n", "GET / HTTP/1.1\r\n\r\n"] {
            let (mut seen, mut looks, mut end) = (0, 0, None);
            for len in 1..=text.len() {
                if may_end(&text.as_bytes()[..len], seen, Caps::new(OPEN)) {
                    looks += 1;
                    match take(&mut BytesMut::from(&text[..len]), Caps::new(OPEN)) {
                        Front::Part => seen = len,
                        Front::Whole(_) => end = Some(len),
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!((looks, end), (2, Some(text.len())), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_either_taken_or_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut buf = BytesMut::from(&bytes[..]);
            if !matches!(take(&mut buf, Caps::new(OPEN)), Front::Whole(_)) {
                prop_assert_eq!(&buf[..], &bytes[..]);
            }
        }

        #[test]
        fn a_head_cut_anywhere_is_a_part(cut in 1usize..60) {
            let text = "GET /some/path HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            prop_assert!(matches!(front(&text[..cut]).0, Front::Part));
        }
    }
}
