//! Method, id and name of a JSON-RPC message, found without building the rest.

use std::{borrow::Cow, fmt};

use crate::context::McpCall;

/// Deepest nesting that is followed: one bit each.
const MAX_DEPTH: u32 = u128::BITS;
/// How far a string is read byte by byte.
const SHORT: usize = 16;
/// Longest batch that is followed.
const MAX_BATCH: usize = 128;

/// What a body is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub(crate) enum Peek {
    /// One request, notification or response (a response has no method).
    Single(McpCall),
    /// A batch, in order; never empty.
    Batch(Vec<McpCall>),
}

#[cfg(test)]
impl Peek {
    /// Every call of the message.
    #[must_use]
    pub(crate) fn calls(&self) -> &[McpCall] {
        match self {
            Self::Single(call) => std::slice::from_ref(call),
            Self::Batch(calls) => calls,
        }
    }
}

/// Why a body says nothing that may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum PeekError {
    /// Not JSON, or not a JSON-RPC message.
    Malformed,
    /// A key that decides something is there twice, or in a spelling that some parsers take for it.
    Ambiguous,
    /// Deeper or longer than is followed.
    TooComplex,
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the body is not a JSON-RPC message",
            Self::Ambiguous => "the body names a field twice",
            Self::TooComplex => "the body is nested too deeply or the batch is too long",
        })
    }
}

impl std::error::Error for PeekError {}

/// The member of `params` that `Mcp-Name` carries for a method (SEP-2243).
#[must_use]
pub(crate) fn name_source(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// Looks at a whole body.
///
/// # Errors
/// See [`PeekError`]. The grammar inside values that decide nothing is checked only as far as strings and brackets go: a server
/// that reads the body would refuse the rest.
pub(crate) fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    std::str::from_utf8(body).map_err(|_| PeekError::Malformed)?;
    let mut scan = Scan { bytes: body, at: 0 };
    scan.space();
    let peek = match scan.byte() {
        Some(b'{') => Peek::Single(call(&mut scan)?),
        Some(b'[') => {
            let mut calls = Vec::new();
            scan.items(b'[', b']', |scan| {
                if calls.len() == MAX_BATCH {
                    return Err(PeekError::TooComplex);
                }
                calls.push(call(scan)?);
                Ok(())
            })?;
            if calls.is_empty() {
                return Err(PeekError::Malformed);
            }
            Peek::Batch(calls)
        }
        _ => return Err(PeekError::Malformed),
    };
    scan.space();
    if scan.byte().is_some() { Err(PeekError::Malformed) } else { Ok(peek) }
}

fn call(scan: &mut Scan<'_>) -> Result<McpCall, PeekError> {
    let mut call = McpCall::default();
    let (mut params, mut version) = (false, false);
    // Parameters in front of the method: which of them is the name is not known yet.
    let mut early = None;
    scan.members(|scan, key| {
        match watched(&key, &["method", "id", "params", "jsonrpc"])? {
            Some("method") if call.method.is_none() => call.method = Some(text(scan.value()?)?),
            Some("id") if call.id.is_none() => call.id = Some(id(scan.value()?)?),
            Some("params") if !params => {
                params = true;
                match call.method.as_deref().map(name_source) {
                    Some(Some(source)) if scan.byte() == Some(b'{') => call.name = params_name(scan, source)?,
                    Some(_) => drop(scan.value()?),
                    None => early = Some(scan.value()?),
                }
            }
            Some("jsonrpc") if !version => {
                version = true;
                scan.value()?;
            }
            Some(_) => return Err(PeekError::Ambiguous),
            None => drop(scan.value()?),
        }
        Ok(())
    })?;
    if let (Some(source), Some(bytes @ [b'{', ..])) = (call.method.as_deref().and_then(name_source), early) {
        call.name = params_name(&mut Scan { bytes, at: 0 }, source)?;
    }
    Ok(call)
}

fn params_name(scan: &mut Scan<'_>, source: &'static str) -> Result<Option<Box<str>>, PeekError> {
    let mut name = None;
    scan.members(|scan, key| {
        match watched(&key, &[source])? {
            Some(_) if name.is_some() => return Err(PeekError::Ambiguous),
            Some(_) => name = Some(text(scan.value()?)?),
            None => drop(scan.value()?),
        }
        Ok(())
    })?;
    Ok(name)
}

/// A string's text. Most have no escapes, and what has none is there already.
fn text(raw: &[u8]) -> Result<Box<str>, PeekError> {
    if let [b'"', inner @ .., b'"'] = raw
        && !inner.iter().any(|b| *b < b' ' || *b == b'\\')
        && let Ok(plain) = std::str::from_utf8(inner)
    {
        return Ok(plain.into());
    }
    serde_json::from_slice::<String>(raw).map(Into::into).map_err(|_| PeekError::Malformed)
}

/// An id of any type. Nearly all are small counters, and those need no parser.
fn id(raw: &[u8]) -> Result<serde_json::Value, PeekError> {
    match raw {
        [first, rest @ ..] if rest.len() < 18 && raw.iter().all(u8::is_ascii_digit) && (*first != b'0' || rest.is_empty()) => {
            Ok(raw.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0')).into())
        }
        _ => serde_json::from_slice(raw).map_err(|_| PeekError::Malformed),
    }
}

/// Which of `names` a key is. Some parsers fold case when they match keys (and fold `ſ` and the Kelvin sign with it), so a key
/// that is equal only after folding decides nothing for sure.
fn watched(key: &[u8], names: &[&'static str]) -> Result<Option<&'static str>, PeekError> {
    if let Some(name) = names.iter().find(|n| n.as_bytes() == key) {
        return Ok(Some(name));
    }
    let same = if key.is_ascii() {
        names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(key))
    } else {
        let folded = String::from_utf8_lossy(key).to_uppercase().to_lowercase();
        names.iter().any(|n| n.eq_ignore_ascii_case(&folded))
    };
    if same { Err(PeekError::Ambiguous) } else { Ok(None) }
}

/// A walk over bytes that are known to be UTF-8.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), PeekError> {
        if self.byte() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(PeekError::Malformed)
        }
    }

    fn items(&mut self, open: u8, close: u8, mut each: impl FnMut(&mut Self) -> Result<(), PeekError>) -> Result<(), PeekError> {
        self.take(open)?;
        self.space();
        if self.byte() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            each(self)?;
            self.space();
            match self.byte() {
                Some(b',') => self.at += 1,
                Some(b) if b == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(PeekError::Malformed),
            }
        }
    }

    fn members(&mut self, mut each: impl FnMut(&mut Self, Cow<'a, [u8]>) -> Result<(), PeekError>) -> Result<(), PeekError> {
        self.items(b'{', b'}', |scan| {
            let from = scan.at;
            let escaped = scan.string()?;
            let raw = scan.since(from);
            let key = match raw {
                [b'"', inner @ .., b'"'] if !escaped => Cow::Borrowed(inner),
                _ => Cow::Owned(serde_json::from_slice::<String>(raw).map_err(|_| PeekError::Malformed)?.into_bytes()),
            };
            scan.space();
            scan.take(b':')?;
            scan.space();
            each(scan, key)
        })
    }

    fn since(&self, from: usize) -> &'a [u8] {
        self.bytes.get(from..self.at).unwrap_or_default()
    }

    /// Steps over a string; says whether there are escapes in it.
    fn string(&mut self) -> Result<bool, PeekError> {
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            // Keys and names are short: looking at each byte is then cheaper than starting a search.
            let near = rest.iter().take(SHORT).position(|b| matches!(b, b'"' | b'\\'));
            let step = match near {
                Some(step) => step,
                None => memchr::memchr2(b'"', b'\\', rest).ok_or(PeekError::Malformed)?,
            };
            self.at += step + 1;
            if rest.get(step) == Some(&b'"') {
                return Ok(escaped);
            }
            escaped = true;
            self.at += 1;
        }
    }

    /// Any value, as it is written.
    fn value(&mut self) -> Result<&'a [u8], PeekError> {
        let from = self.at;
        // What is open, innermost in the lowest bit: set for a list.
        let (mut lists, mut depth) = (0_u128, 0);
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b @ (b'{' | b'[')) => {
                    if depth == MAX_DEPTH {
                        return Err(PeekError::TooComplex);
                    }
                    depth += 1;
                    lists = lists << 1 | u128::from(b == b'[');
                    self.at += 1;
                }
                Some(b @ (b'}' | b']')) => {
                    if depth == 0 || (lists & 1 == 1) != (b == b']') {
                        return Err(PeekError::Malformed);
                    }
                    depth -= 1;
                    lists >>= 1;
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if depth > 0 => self.at += 1,
                Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') => {
                    while matches!(self.byte(), Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E')) {
                        self.at += 1;
                    }
                }
                _ => return Err(PeekError::Malformed),
            }
            if depth == 0 {
                return Ok(self.since(from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn single(text: &str) -> McpCall {
        match peek(text.as_bytes()).unwrap() {
            Peek::Single(call) => call,
            Peek::Batch(_) => panic!("batch"),
        }
    }

    #[test]
    fn ids_of_any_type_and_names_by_method() {
        for id in [json!(1), json!("a"), json!(null), json!(1.5), json!({"a": [1]}), json!([]), json!(true)] {
            let call = single(&json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string());
            assert_eq!((call.id, call.method.as_deref()), (Some(id), Some("ping")));
        }
        let call = single(r#" {"params":{"arguments":{"name":"x","a":"}\\\""},"name":"sear\u0063h"},"method":"tools\/call"} "#);
        assert_eq!((call.name.as_deref(), call.method.as_deref(), call.id), (Some("search"), Some("tools/call"), None));
        assert_eq!(
            single(r#"{"method":"resources/read","params":{"uri":"file:///x","name":"y"}}"#).name.as_deref(),
            Some("file:///x")
        );
        assert_eq!(single(r#"{"method":"ping","params":{"name":"y"}}"#).name, None);
        assert_eq!(single(r#"{"id":1,"result":{}}"#).method, None);
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        for text in [
            r#"{"method":"a","method":"b"}"#,
            r#"{"method":"a","\u006dethod":"b"}"#,
            r#"{"method":"a","Method":"b"}"#,
            r#"{"method":"tools/call","params":{},"paramſ":{"name":"x"}}"#,
            r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#,
            r#"{"method":"tools/call","params":{"NAME":"b"}}"#,
            r#"{"id":1,"id":1,"method":"a"}"#,
            r#"[{"method":"a"},{"method":"a","method":"b"}]"#,
        ] {
            assert_eq!(peek(text.as_bytes()), Err(PeekError::Ambiguous), "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [
            "",
            "1",
            "\"x\"",
            "{",
            "{}x",
            "[]",
            "[1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":[}",
            "{\"a\":[1)]}",
            "{'a':1}",
            "{\"method\":1}",
            "{\"id\":tru}",
            "{\"a\":1,}",
            "\u{feff}{}",
            "{\"a\":/* \" */1}",
            "{\"method\":\"\\ud800\"}",
            "{\"a\":\"",
            "{\"method\":\"a\u{1}\"}",
        ] {
            assert_eq!(peek(text.as_bytes()), Err(PeekError::Malformed), "{text}");
        }
        assert_eq!(peek(b"{\"a\":\"\xff\"}"), Err(PeekError::Malformed));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert_eq!(peek(deep.as_bytes()), Err(PeekError::TooComplex));
        let long = format!("[{}{{}}]", "{},".repeat(200));
        assert_eq!(peek(long.as_bytes()), Err(PeekError::TooComplex));
    }

    #[test]
    fn batches_keep_their_order() {
        let peek = peek(br#"[{"id":1,"method":"a"}, {"id":2,"method":"initialize"}]"#).unwrap();
        let methods: Vec<_> = peek.calls().iter().filter_map(|c| c.method.as_deref()).collect();
        assert_eq!(methods, ["a", "initialize"]);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_full_parser(method in "\\PC{0,12}", id in proptest::num::i64::ANY, extra in "\\PC{0,20}", n in 0usize..4) {
            let doc = json!({"x": extra, "y": vec![Value::from(extra.clone()); n], "id": id, "method": method, "z": {"id": 2, "q": extra}});
            let call = single(&serde_json::to_string_pretty(&doc).unwrap());
            proptest::prop_assert_eq!(call.method.as_deref(), Some(method.as_str()));
            proptest::prop_assert_eq!(call.id, Some(json!(id)));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in "[\\[\\]{}\",:a0\\\\ ]{0,60}") {
            let _ = peek(&bytes);
            if let Ok(found) = peek(text.as_bytes()) {
                proptest::prop_assert!(!found.calls().is_empty());
            }
        }
    }
}
