//! Request heads, and the framing of request bodies.

use http::{HeaderValue, Method, Request};
use http_body::Body as _;

use super::{
    super::{
        body::Body,
        error::{Error, Kind},
    },
    length,
};
use crate::wire::{self, has_token};

/// How a request body is framed (RFC 9112 §6.2): there is no third way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// That many bytes.
    Length(u64),
    /// Chunks of unknown number.
    Chunked,
}

/// What the head says that matters for the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded {
    pub(super) framing: Framing,
    /// The request asks for the connection's end.
    pub(super) close: bool,
}

/// Appends a request head. `Host`, `Content-Length` and `Transfer-Encoding` are written here and nowhere else, so there is one of
/// each at most, and they say what is sent.
pub(super) fn request(
    dst: &mut Vec<u8>,
    request: &Request<Body>,
    authority: &HeaderValue,
    expects: bool,
) -> Result<Encoded, Error> {
    dst.reserve(256 + request.headers().len() * 32);
    dst.extend_from_slice(request.method().as_str().as_bytes());
    dst.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    if !target.starts_with(['/', '*']) {
        dst.push(b'/');
    }
    dst.extend_from_slice(target.as_bytes());
    dst.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    dst.extend_from_slice(authority.as_bytes());
    dst.extend_from_slice(b"\r\n");
    let mut declared = None;
    let mut close = false;
    for (name, value) in request.headers() {
        let (name, value) = (name.as_str(), value.as_bytes());
        // By length first: most names have another.
        match name.len() {
            4 if name == "host" => continue,
            6 if name == "expect" && !expects => continue,
            10 if name == "connection" => close |= has_token(value, b"close"),
            14 if name == "content-length" => {
                declared = Some(length::merge(declared, value).ok_or_else(|| broken("the length is not a number"))?);
                continue;
            }
            17 if name == "transfer-encoding" => continue,
            _ => {}
        }
        wire::field(dst, name, value);
    }
    let framing = framing(request.method(), request.body(), declared)?;
    match framing {
        None => {}
        Some(Framing::Length(n)) => wire::content_length(dst, n),
        Some(Framing::Chunked) => dst.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    dst.extend_from_slice(b"\r\n");
    Ok(Encoded { framing: framing.unwrap_or(Framing::Length(0)), close })
}

/// The body's own word on its length counts, and a head that says otherwise is not sent. `None`: no framing field is needed.
fn framing(method: &Method, body: &Body, declared: Option<u64>) -> Result<Option<Framing>, Error> {
    if body.is_empty() {
        return match declared {
            Some(0) => Ok(Some(Framing::Length(0))),
            Some(_) => Err(broken("the body is shorter than its length says")),
            // RFC 9110 §8.6: for a method that could have a body, its absence is said.
            None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => Ok(Some(Framing::Length(0))),
            None => Ok(None),
        };
    }
    match (body.size_hint().exact(), declared) {
        (Some(exact), Some(declared)) if exact != declared => Err(broken("the body has another length than the head says")),
        (Some(n), _) | (None, Some(n)) => Ok(Some(Framing::Length(n))),
        (None, None) => Ok(Some(Framing::Chunked)),
    }
}

/// The request is not what it says.
#[cold]
pub(super) fn broken(why: &'static str) -> Error {
    Error::new(Kind::RequestBroken).with_detail(why)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::{Frame, SizeHint};
    use proptest::prelude::*;

    use super::*;

    /// A stream that says nothing of its length, or something.
    struct Said(Option<u64>);

    impl http_body::Body for Said {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Ready(None)
        }

        fn size_hint(&self) -> SizeHint {
            self.0.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn encode(request: &Request<Body>) -> Result<(String, Encoded), Error> {
        let mut out = Vec::new();
        let expects = request.headers().contains_key("expect") && !request.body().is_empty();
        let encoded = super::request(&mut out, request, &HeaderValue::from_static("t.example:81"), expects)?;
        Ok((String::from_utf8(out).unwrap(), encoded))
    }

    #[test]
    fn one_host_one_framing_and_the_bytes_of_the_target() {
        let request = Request::post("http://other.example/a/%2e/?x=%zz&&")
            .header("host", "other.example")
            .header("transfer-encoding", "chunked")
            .header("expect", "100-continue")
            .header("content-length", "5, 5")
            .header("x-a", "1")
            .header("x-a", "2")
            .body(Body::from("hello"))
            .unwrap();
        let (text, encoded) = encode(&request).unwrap();
        assert_eq!(
            text,
            "POST /a/%2e/?x=%zz&& HTTP/1.1\r\nhost: t.example:81\r\nexpect: 100-continue\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\n\r\n"
        );
        assert_eq!((encoded.framing, encoded.close), (Framing::Length(5), false));
    }

    #[test]
    fn framings_follow_the_body() {
        let with = |method: &str, body: Body, length: Option<&str>| {
            let mut request = Request::builder().method(method).uri("/").header("connection", "te, Close");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let (text, encoded) = encode(&request.body(body).unwrap()).ok()?;
            assert!(encoded.close);
            Some((text.contains("content-length: 0\r\n"), text.contains("transfer-encoding: chunked\r\n"), encoded.framing))
        };
        let stream = |said| Body::stream(Said(said));
        let none = Framing::Length(0);
        assert_eq!(with("GET", Body::empty(), None), Some((false, false, none)));
        assert_eq!(with("POST", Body::empty(), None), Some((true, false, none)));
        assert_eq!(with("DELETE", Body::empty(), Some("0")), Some((true, false, none)));
        assert_eq!(with("GET", stream(None), None), Some((false, true, Framing::Chunked)));
        assert_eq!(with("PUT", stream(Some(7)), None), Some((false, false, Framing::Length(7))));
        assert_eq!(with("PUT", stream(None), Some("7")), Some((false, false, Framing::Length(7))));
        for (body, length) in [
            (Body::empty(), "1"),
            (stream(Some(7)), "8"),
            (stream(Some(7)), "7, 8"),
            (stream(None), "+7"),
            (stream(None), ""),
            (stream(None), "18446744073709551616"),
        ] {
            assert_eq!(with("PUT", body, Some(length)), None, "{length}");
        }
    }

    #[test]
    fn an_empty_path_and_an_asterisk() {
        for (uri, want) in [("http://a", "GET / "), ("http://a?q", "GET /?q "), ("*", "GET * ")] {
            let (text, _) = encode(&Request::get(uri).body(Body::empty()).unwrap()).unwrap();
            assert!(text.starts_with(want), "{text}");
        }
    }

    #[test]
    fn an_expectation_without_a_body_is_not_sent() {
        let request = Request::get("/").header("expect", "100-continue").body(Body::empty()).unwrap();
        assert!(!encode(&request).unwrap().0.contains("expect"));
    }

    proptest! {
        #[test]
        fn heads_are_read_back(
            fields in prop::collection::vec(("[a-z][a-z0-9_.-]{0,12}", "[!-~]([ -~\u{80}-\u{ff}]{0,20}[!-~])?"), 0..20),
            path in "/[a-zA-Z0-9$%&'()*+,:;=?@_~!./-]{0,30}",
        ) {
            let mut request = Request::get(path.as_str()).body(Body::empty()).unwrap();
            let hidden = ["host", "expect", "content-length", "transfer-encoding"];
            let mut want = vec![("host".to_owned(), b"t.example:81".to_vec())];
            for (name, value) in &fields {
                let (Ok(n), Ok(v)) = (http::HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) else { continue };
                if !hidden.contains(&name.as_str()) {
                    request.headers_mut().append(n, v);
                }
            }
            for (name, value) in request.headers() {
                want.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
            }
            let mut out = Vec::new();
            super::request(&mut out, &request, &HeaderValue::from_static("t.example:81"), false).unwrap();
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut parsed = httparse::Request::new(&mut headers);
            prop_assert_eq!(parsed.parse(&out).unwrap(), httparse::Status::Complete(out.len()));
            prop_assert_eq!(parsed.path, Some(path.as_str()));
            let got: Vec<_> = parsed.headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect();
            prop_assert_eq!(got, want);
        }
    }
}
