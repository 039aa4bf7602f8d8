//! Which of HTTP's forms a request has.

use http::{HeaderMap, Method, Request, Version, header};

use crate::wire::{field_has_token, members};

/// `CONNECT` with an authority, or an absolute-form request line: this server is asked as a forward proxy (RFC 9112 §3.2). HTTP/2
/// requests always name their authority, so only `CONNECT` tells there; with a path it is a WebSocket (RFC 8441).
pub(crate) fn is_forward_form<B>(request: &Request<B>) -> bool {
    if request.method() == Method::CONNECT {
        return request.uri().path_and_query().is_none();
    }
    request.version() <= Version::HTTP_11 && request.uri().scheme().is_some()
}

/// A WebSocket handshake: RFC 6455 §4.1 or RFC 8441 §4.
pub(crate) fn is_websocket<B>(request: &Request<B>) -> bool {
    let lists = |name, token: &[u8]| field_has_token(request.headers(), name, token);
    let extended_connect = request.method() == Method::CONNECT && request.uri().path_and_query().is_some();
    extended_connect
        || request.method() == Method::GET && lists(&header::UPGRADE, b"websocket") && lists(&header::CONNECTION, b"upgrade")
}

/// `GET` with `Accept: text/event-stream`.
pub(crate) fn is_event_stream<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET && accepts_event_stream(request.headers())
}

/// Whether `Accept` names event streams.
pub(crate) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let wanted = |range: &[u8]| {
        let media = range.split(|b| *b == b';').next().unwrap_or_default();
        media.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    headers.get_all(header::ACCEPT).iter().any(|line| members(line.as_bytes()).any(wanted))
}

#[cfg(test)]
mod tests {
    use http::request::Builder;

    use super::*;

    #[test]
    fn forward_forms_are_told_from_the_rest() {
        let form = |b: Builder| is_forward_form(&b.body(()).unwrap());
        assert!(form(Request::connect("h:443")) && form(Request::get("http://h/")));
        assert!(!form(Request::get("/")) && !form(Request::get("https://h/").version(Version::HTTP_2)));
        assert!(!form(Request::connect("https://h/ws").version(Version::HTTP_2)));
    }

    #[test]
    fn event_streams_are_asked_for_in_accept() {
        let mut h = HeaderMap::new();
        assert!(!accepts_event_stream(&h));
        h.insert(header::ACCEPT, "application/json, text/event-stream;q=0.5".parse().unwrap());
        assert!(accepts_event_stream(&h));
    }
}
