//! Replies as bytes: the head, and the framing of what follows it (RFC 9112 §6).

use std::{
    cell::RefCell,
    time::{Duration, SystemTime},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, Method, StatusCode, header, response::Parts};

use crate::{
    clock::{Clock as _, SystemClock},
    wire::{self, has_token, members},
};

/// How a body's end is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body is sent.
    Empty,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks; the names are those of the trailer fields that were announced.
    Chunked(Vec<HeaderName>),
}

/// What is to be written. Small pieces are put together; a large one is written from where it is.
#[derive(Debug, Default)]
pub(super) struct Out {
    small: Vec<u8>,
    written: usize,
    large: Bytes,
    /// What ends the large piece.
    tail: &'static [u8],
}

/// From this size on a piece is not copied.
const LARGE: usize = 4 * 1024;
/// So much is gathered before it is written.
const GATHER: usize = 16 * 1024;
/// A buffer that has grown above this is not kept for the next reply.
const KEEP: usize = 8 * 1024;

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.small.len() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Whether more may be put into it before it is written.
    pub(super) fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.small.len() - self.written < GATHER
    }

    /// The pieces in order.
    pub(super) fn pieces(&self) -> [&[u8]; 3] {
        [self.small.get(self.written..).unwrap_or_default(), &self.large, self.tail]
    }

    pub(super) fn advance(&mut self, mut n: usize) {
        let small = n.min(self.small.len() - self.written);
        self.written += small;
        n -= small;
        let large = n.min(self.large.len());
        self.large.advance(large);
        n -= large;
        self.tail = self.tail.get(n..).unwrap_or_default();
        if large > 0 && self.large.is_empty() {
            // An empty slice would keep the memory of the whole.
            self.large = Bytes::new();
        }
        if self.written == self.small.len() {
            self.small.clear();
            self.small.shrink_to(KEEP);
            self.written = 0;
        }
    }

    /// Body bytes. `false`: there are more of them than were announced, and the surplus is not sent.
    pub(super) fn body(&mut self, framing: &mut Framing, mut data: Bytes) -> bool {
        let mut fits = true;
        match framing {
            Framing::Empty => return true,
            Framing::Length(left) => {
                let len = data.len() as u64;
                if len > *left {
                    fits = false;
                    data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                }
                *left -= data.len() as u64;
                self.piece(data, b"");
            }
            Framing::Chunked(_) => {
                if !data.is_empty() {
                    wire::chunk_size(&mut self.small, data.len());
                    self.piece(data, b"\r\n");
                }
            }
        }
        fits
    }

    fn piece(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() < LARGE {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    /// The body has ended. `false`: before its announced end.
    pub(super) fn end(&mut self, framing: &mut Framing, trailers: Option<&HeaderMap>) -> bool {
        let announced = match std::mem::replace(framing, Framing::Empty) {
            Framing::Empty | Framing::Length(0) => return true,
            Framing::Length(_) => return false,
            Framing::Chunked(announced) => announced,
        };
        if !self.large.is_empty() || !self.tail.is_empty() {
            // The end goes behind the large piece. Trailers never meet one: nothing more is asked of the body before it is written.
            self.tail = b"\r\n0\r\n\r\n";
            return true;
        }
        let trailers = trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name) && may_trail(name));
        wire::last_chunk(&mut self.small, trailers);
        true
    }

    /// The head. `exact` is the body's length as far as it is known; `close` says whether the connection ends behind the body, and
    /// is set if the head says so.
    pub(super) fn head(&mut self, parts: &Parts, exact: Option<u64>, method: &Method, close: &mut bool) -> Framing {
        let status = parts.status;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.small.reserve(256 + parts.headers.len() * 32);
        if status == StatusCode::OK {
            self.small.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            self.small.extend_from_slice(b"HTTP/1.1 ");
            self.small.extend_from_slice(status.as_str().as_bytes());
            self.small.push(b' ');
            self.small.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
            self.small.extend_from_slice(b"\r\n");
        }
        let (mut told, mut length, mut dated, mut trailers) = (false, None, false, Vec::new());
        for (name, value) in &parts.headers {
            if *name == header::CONTENT_LENGTH {
                // Said once, by what the body is if it is known; a 204 has none (RFC 9110 §8.6).
                length = length.or_else(|| value.to_str().ok()?.parse::<u64>().ok());
                continue;
            } else if *name == header::TRANSFER_ENCODING {
                continue;
            } else if *name == header::CONNECTION {
                let closes = has_token(value.as_bytes(), b"close");
                *close |= closes;
                told |= closes;
            } else if *name == header::DATE {
                dated = true;
            } else if *name == header::TRAILER {
                trailers.extend(members(value.as_bytes()).filter_map(|name| HeaderName::from_bytes(name).ok()));
            }
            wire::field(&mut self.small, name.as_str(), value.as_bytes());
        }
        let head_only = *method == Method::HEAD;
        let framing = if bodiless || head_only {
            if status != StatusCode::NO_CONTENT
                && let Some(n) = length.or(exact.filter(|n| *n > 0 && !bodiless))
            {
                wire::content_length(&mut self.small, n);
            }
            Framing::Empty
        } else if let Some(n) = length.or(exact) {
            wire::content_length(&mut self.small, n);
            Framing::Length(n)
        } else {
            self.small.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked(trailers)
        };
        if *close && !told {
            self.small.extend_from_slice(b"connection: close\r\n");
        }
        if !dated {
            self.date();
        }
        self.small.extend_from_slice(b"\r\n");
        framing
    }

    /// `Date` (RFC 9110 §6.6.1), written anew once a second.
    fn date(&mut self) {
        thread_local! {
            static LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
        }
        let now = SystemClock.wall();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs);
        LINE.with_borrow_mut(|(written, line)| {
            if *written != second || line.is_empty() {
                *line = format!("date: {}\r\n", httpdate::fmt_http_date(now));
                *written = second;
            }
            self.small.extend_from_slice(line.as_bytes());
        });
    }
}

/// Fields that frame, route, authenticate or change the meaning of a message do not come behind it (RFC 9110 §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    ![
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::HOST,
        header::MAX_FORWARDS,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ]
    .contains(name)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn parts(status: u16, fields: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder().status(status).header("date", "x");
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    fn text(out: &Out) -> String {
        String::from_utf8(out.pieces().concat()).unwrap()
    }

    fn head(parts: &Parts, exact: Option<u64>, method: &Method, mut close: bool) -> (String, Framing, bool) {
        let mut out = Out::default();
        let framing = out.head(parts, exact, method, &mut close);
        (text(&out).replace("date: x\r\n", ""), framing, close)
    }

    #[test]
    fn framing_by_status_method_and_length() {
        let chunked = || Framing::Chunked(Vec::new());
        for (status, fields, exact, method, want, framing) in [
            (200, &[][..], Some(5), Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5)),
            (200, &[], None, Method::GET, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunked()),
            (
                200,
                &[("content-length", "7")],
                None,
                Method::GET,
                "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
                Framing::Length(7),
            ),
            (
                200,
                &[("content-length", "7")],
                Some(0),
                Method::HEAD,
                "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
                Framing::Empty,
            ),
            (200, &[], Some(0), Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", Framing::Empty),
            (204, &[("content-length", "7")], Some(0), Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", Framing::Empty),
            (
                304,
                &[("content-length", "7")],
                Some(0),
                Method::GET,
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
                Framing::Empty,
            ),
            (404, &[], Some(0), Method::GET, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Framing::Length(0)),
            (
                299,
                &[("transfer-encoding", "gzip")],
                Some(1),
                Method::GET,
                "HTTP/1.1 299 <none>\r\ncontent-length: 1\r\n\r\n",
                Framing::Length(1),
            ),
        ] {
            let (text, got, _) = head(&parts(status, fields), exact, &method, false);
            assert_eq!((text.as_str(), got), (want, framing), "{status} {fields:?} {exact:?} {method}");
        }
    }

    #[test]
    fn closing_is_said_once() {
        let (text, _, close) = head(&parts(200, &[("connection", "x, Close")]), Some(0), &Method::GET, false);
        assert!(close && text.matches("onnection").count() == 1, "{text}");
        let (text, ..) = head(&parts(200, &[]), Some(0), &Method::GET, true);
        assert!(text.contains("connection: close\r\n"));
    }

    #[test]
    fn chunks_large_and_small() {
        let (mut out, mut framing) = (Out::default(), Framing::Chunked(vec![HeaderName::from_static("x-sum"), header::HOST]));
        assert!(out.body(&mut framing, Bytes::from_static(b"hello")));
        assert!(out.body(&mut framing, Bytes::new()));
        assert!(out.body(&mut framing, Bytes::from(vec![b'x'; LARGE])));
        assert!(!out.has_room());
        let mut seen = Vec::new();
        while !out.is_empty() {
            let all = out.pieces().concat();
            let n = all.len().min(1000);
            seen.extend_from_slice(&all[..n]);
            out.advance(n);
        }
        let trailers: HeaderMap = parts(200, &[("x-sum", "1"), ("host", "h"), ("x-other", "2")]).headers;
        assert!(out.end(&mut framing, Some(&trailers)));
        seen.extend(out.pieces().concat());
        let want = format!("5\r\nhello\r\n1000\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n", "x".repeat(LARGE));
        assert_eq!(String::from_utf8(seen).unwrap(), want);
    }

    #[test]
    fn lengths_are_kept_to() {
        let (mut out, mut framing) = (Out::default(), Framing::Length(3));
        assert!(out.body(&mut framing, Bytes::from_static(b"a")));
        assert!(!out.body(&mut framing, Bytes::from_static(b"bcd")));
        assert_eq!(text(&out), "abc");
        assert!(out.end(&mut framing, None));
        assert!(!Out::default().end(&mut Framing::Length(1), None));
    }
}
