//! The bytes of MCP traffic as pure decisions: JSON-RPC, event streams, links, the envelope of `POST /proxy`.
//!
//! Private: a layer of one's own finds what it needs in [`McpCall`](crate::context::McpCall). Nothing here does I/O, and nothing
//! here trusts its input: every buffer has a bound, and what two parsers could read in two ways is an error and not a guess.
//!
//! 1. [`peek`] finds method, id and name of a JSON-RPC message or batch. A doubled key, or one that only some parsers take for
//!    the same (`Method`, `paramſ`), is [`PeekError::Ambiguous`].
//! 2. [`error_body`] renders a [`Rejection`](crate::rejection::Rejection) as a JSON-RPC error; the codes are in [`error_code`].
//! 3. [`SseParser`] reads an event stream (WHATWG HTML §9.2) in chunks of any size.
//! 4. [`EndpointRewriter`] passes an event stream through and rewrites the `endpoint` event of the 2024-11-05 transport.
//! 5. [`rewrite_location`] does the same for `Location`.
//! 6. [`Envelope`] is the body of `POST /proxy`.

mod endpoint;
mod envelope;
mod error_code;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod jsonrpc;
mod link;
mod sse;
mod walk;

pub use endpoint::EndpointError;
pub use error_code::error_code;
pub use link::LinkError;

pub(crate) use endpoint::EndpointRewriter;
pub(crate) use envelope::Envelope;
pub(crate) use error_code::error_body;
pub(crate) use jsonrpc::{Peek, name_source, peek};
pub(crate) use link::{LinkBase, rewrite_location};
pub(crate) use sse::SseParser;

use http::{HeaderMap, HeaderName, HeaderValue};

/// For the fuzzer: see `fuzz/fuzz_targets/json_peek.rs`.
#[cfg(fuzzing)]
pub fn fuzz_json_peek(body: &[u8]) {
    fuzz::check(body);
}

/// `Mcp-Session-Id` (2025-03-26 to 2025-11-25).
pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `MCP-Protocol-Version` (since 2025-06-18).
pub(crate) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// `Mcp-Method` (since 2026-07-28).
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
/// `Mcp-Name` (since 2026-07-28); may be `=?base64?…?=`.
pub(crate) const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// The first revision without sessions.
pub(crate) const STATELESS_REVISION: &str = "2026-07-28";
/// The last revision with `initialize`.
pub(crate) const SESSION_REVISION: &str = "2025-11-25";

/// The first field of that name, found in a walk: a look-up hashes the name, which costs more than the few fields of most heads.
#[inline]
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find(|(at, _)| *at == name).map(|(_, value)| value)
}

/// So many fields are walked through.
const FEW: usize = 16;

/// Whether a content type is JSON: `application/json` or `application/…+json`, with or without parameters.
#[must_use]
pub(crate) fn is_json(value: Option<&HeaderValue>) -> bool {
    // As nearly everybody writes it.
    value.is_some_and(|v| v.as_bytes() == b"application/json") || is_json_essence(value)
}

fn is_json_essence(value: Option<&HeaderValue>) -> bool {
    essence(value).is_some_and(|e| {
        e.eq_ignore_ascii_case(b"application/json")
            || (e.len() > 17 && e.get(..12).is_some_and(|p| p.eq_ignore_ascii_case(b"application/")) && ends_with(e, b"+json"))
    })
}

/// Whether a content type is `text/event-stream`.
#[must_use]
pub(crate) fn is_event_stream(value: Option<&HeaderValue>) -> bool {
    let name = b"text/event-stream";
    // Most content types are shorter than this one.
    value.is_some_and(|v| v.len() >= name.len()) && essence(value).is_some_and(|e| e.eq_ignore_ascii_case(name))
}

fn essence(value: Option<&HeaderValue>) -> Option<&[u8]> {
    value?.as_bytes().split(|b| *b == b';').next().map(<[u8]>::trim_ascii)
}

fn ends_with(text: &[u8], suffix: &[u8]) -> bool {
    text.len() >= suffix.len() && text.get(text.len() - suffix.len()..).is_some_and(|t| t.eq_ignore_ascii_case(suffix))
}

/// The value of an `Mcp-Name` or `Mcp-Param-*` field: as it is, or `=?base64?…?=` where it could not travel bare (SEP-2243).
#[must_use]
pub(crate) fn header_text(value: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let wrapped_already = value.starts_with("=?base64?") && value.ends_with("?=");
    let visible = value.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if visible && !wrapped_already && value.trim_matches(' ') == value {
        return HeaderValue::from_str(value).ok();
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(value);
    HeaderValue::from_str(&format!("=?base64?{encoded}?=")).ok()
}

/// Reverses [`header_text`]; `None` where the wrapped text is not base64 or not UTF-8.
pub(crate) fn header_text_decoded(value: &HeaderValue) -> Option<String> {
    use base64::Engine as _;
    let text = value.to_str().ok()?.trim();
    match text.strip_prefix("=?base64?").and_then(|t| t.strip_suffix("?=")) {
        None => Some(text.to_owned()),
        Some(inner) => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(inner).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let v = |s| HeaderValue::from_static(s);
        assert!(is_json(Some(&v("application/json; charset=utf-8"))) && is_json(Some(&v("APPLICATION/problem+JSON"))));
        assert!(!is_json(Some(&v("application/jsonx"))) && !is_json(Some(&v("text/json"))) && !is_json(None));
        assert!(is_event_stream(Some(&v("text/event-stream;charset=utf-8"))) && !is_event_stream(Some(&v("text/event"))));
    }

    #[test]
    fn the_first_of_several_fields_is_found_among_few_and_many() {
        let mut headers = HeaderMap::new();
        assert_eq!(first(&headers, &NAME), None);
        for (name, value) in [("x-other", "o"), ("mcp-name", "a"), ("accept", "*/*"), ("mcp-name", "b")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        for n in 0..2 * FEW {
            assert_eq!(first(&headers, &NAME), Some(&HeaderValue::from_static("a")));
            assert_eq!(first(&headers, &METHOD), None);
            headers.append(HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from_static("x"));
        }
    }

    #[test]
    fn header_texts_survive() {
        for text in ["search", " x", "日本", "=?base64?eA==?=", "a\nb", ""] {
            assert_eq!(header_text_decoded(&header_text(text).unwrap()).as_deref(), Some(text), "{text:?}");
        }
        assert_eq!(header_text("search").unwrap(), "search");
        assert_eq!(header_text_decoded(&HeaderValue::from_static("=?base64?***?=")), None);
    }
}
