//! Replies as bytes: the head, and the framing of what follows it (RFC 9112 §6).

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header, response::Parts};
use tokio::io::AsyncWrite;

use crate::{
    clock::{Clock as _, SystemClock},
    net::belongs_in_head,
    wire::{self, Outbox, has_token, members},
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

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Out(Outbox);

/// So much is gathered before it is written.
const GATHER: usize = 16 * 1024;
/// A buffer that has grown above this is not kept for the next reply.
const KEEP: usize = 8 * 1024;

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more may be put into it before it is written.
    pub(super) fn has_room(&self) -> bool {
        self.0.has_room(GATHER)
    }

    pub(super) fn poll_write<W: AsyncWrite + Unpin>(&mut self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_write(io, cx))?;
        if self.0.is_empty() {
            self.0.small().shrink_to(KEEP);
        }
        Poll::Ready(Ok(()))
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
                self.0.put(data, b"");
            }
            Framing::Chunked(_) => {
                if !data.is_empty() {
                    wire::chunk_size(self.0.small(), data.len());
                    self.0.put(data, b"\r\n");
                }
            }
        }
        fits
    }

    /// The body has ended. `false`: before its announced end.
    pub(super) fn end(&mut self, framing: &mut Framing, trailers: Option<&HeaderMap>) -> bool {
        let announced = match std::mem::replace(framing, Framing::Empty) {
            Framing::Empty | Framing::Length(0) => return true,
            Framing::Length(_) => return false,
            Framing::Chunked(announced) => announced,
        };
        // Trailers never meet a large piece: nothing more is asked of the body before it is written.
        if self.0.set_tail(b"\r\n0\r\n\r\n") {
            return true;
        }
        let trailers = trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name) && may_trail(name));
        wire::last_chunk(self.0.small(), trailers);
        true
    }

    /// The head. `exact` is the body's length as far as it is known; `close` says whether the connection ends behind the body, and
    /// is set if the head says so.
    pub(super) fn head(&mut self, parts: &Parts, exact: Option<u64>, method: &Method, close: &mut bool) -> Framing {
        let status = parts.status;
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let dst = self.0.small();
        dst.reserve(256 + parts.headers.len() * 32);
        if status == StatusCode::OK {
            dst.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            dst.extend_from_slice(b"HTTP/1.1 ");
            dst.extend_from_slice(status.as_str().as_bytes());
            dst.push(b' ');
            dst.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
            dst.extend_from_slice(b"\r\n");
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
            wire::field(dst, name.as_str(), value.as_bytes());
        }
        let head_only = *method == Method::HEAD;
        let framing = if bodiless || head_only {
            if status != StatusCode::NO_CONTENT
                && let Some(n) = length.or(exact.filter(|n| *n > 0 && !bodiless))
            {
                wire::content_length(dst, n);
            }
            Framing::Empty
        } else if let Some(n) = length.or(exact) {
            wire::content_length(dst, n);
            Framing::Length(n)
        } else {
            dst.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked(trailers)
        };
        if *close && !told {
            dst.extend_from_slice(b"connection: close\r\n");
        }
        if !dated {
            date(dst);
        }
        dst.extend_from_slice(b"\r\n");
        framing
    }
}

/// `Date` (RFC 9110 §6.6.1), written anew once a second.
fn date(dst: &mut Vec<u8>) {
    thread_local! {
        static LINE: RefCell<(Duration, String)> = const { RefCell::new((Duration::ZERO, String::new())) };
    }
    let now = SystemClock.monotonic();
    LINE.with_borrow_mut(|(until, line)| {
        if now >= *until {
            let wall = SystemClock.wall();
            let part = wall.duration_since(SystemTime::UNIX_EPOCH).as_ref().map_or(0, Duration::subsec_nanos);
            *until = now + Duration::from_secs(1).saturating_sub(Duration::from_nanos(part.into()));
            *line = format!("date: {}\r\n", httpdate::fmt_http_date(wall));
        }
        dst.extend_from_slice(line.as_bytes());
    });
}

fn may_trail(name: &HeaderName) -> bool {
    !belongs_in_head(name.as_str()) && *name != header::MAX_FORWARDS
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;
    use crate::wire::TOGETHER;

    fn parts(status: u16, fields: &[(&str, &str)]) -> Parts {
        let mut response = Response::builder().status(status).header("date", "x");
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    fn text(out: &Out) -> String {
        String::from_utf8(out.0.pieces().concat()).unwrap()
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
        assert!(out.body(&mut framing, Bytes::from(vec![b'x'; TOGETHER + 1])));
        assert!(!out.has_room());
        let mut seen = Vec::new();
        while !out.is_empty() {
            let all = out.0.pieces().concat();
            let n = all.len().min(1000);
            seen.extend_from_slice(&all[..n]);
            out.0.advance(n);
        }
        let trailers: HeaderMap = parts(200, &[("x-sum", "1"), ("host", "h"), ("x-other", "2")]).headers;
        assert!(out.end(&mut framing, Some(&trailers)));
        seen.extend(out.0.pieces().concat());
        let want = format!("5\r\nhello\r\n1001\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n", "x".repeat(TOGETHER + 1));
        assert_eq!(String::from_utf8(seen).unwrap(), want);
    }

    #[test]
    fn what_belongs_in_the_head_does_not_trail() {
        for name in ["content-length", "set-cookie", "host", "authorization", "max-forwards", "trailer"] {
            assert!(!may_trail(&HeaderName::from_static(name)), "{name}");
        }
        assert!(may_trail(&HeaderName::from_static("x-sum")) && may_trail(&header::ETAG));
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
