//! Method, id and name of a JSON-RPC message, found without building the rest.

use std::{borrow::Cow, fmt};

use crate::context::McpCall;

/// Deepest nesting that is followed.
const MAX_DEPTH: usize = 128;
/// Longest batch that is followed.
const MAX_BATCH: usize = 128;

/// What a body is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Peek {
    /// One request, notification or response (a response has no method).
    Single(McpCall),
    /// A batch, in order; never empty.
    Batch(Vec<McpCall>),
}

impl Peek {
    /// Every call of the message.
    #[must_use]
    pub fn calls(&self) -> &[McpCall] {
        match self {
            Self::Single(call) => std::slice::from_ref(call),
            Self::Batch(calls) => calls,
        }
    }
}

/// Why a body says nothing that may be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeekError {
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

/// Whether a method opens a conversation, so that refusing it softly would make a client change its protocol.
#[must_use]
pub fn is_probe(method: &str) -> bool {
    matches!(method, "initialize" | "server/discover")
}

/// The member of `params` that `Mcp-Name` carries for a method (SEP-2243).
#[must_use]
pub fn name_source(method: &str) -> Option<&'static str> {
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
pub fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    let text = std::str::from_utf8(body).map_err(|_| PeekError::Malformed)?;
    let mut scan = Scan { text, at: 0 };
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
    let (mut method, mut id, mut params, mut version) = (None, None, None, None);
    scan.members(|scan, key| {
        let slot = match watched(&key, &["method", "id", "params", "jsonrpc"])? {
            Some("method") => &mut method,
            Some("id") => &mut id,
            Some("params") => &mut params,
            Some(_) => &mut version,
            None => return scan.value().map(drop),
        };
        if slot.is_some() {
            return Err(PeekError::Ambiguous);
        }
        *slot = Some(scan.value()?);
        Ok(())
    })?;
    let method: Option<Box<str>> = match method {
        Some(raw) => Some(serde_json::from_str::<String>(raw).map_err(|_| PeekError::Malformed)?.into()),
        None => None,
    };
    let id = match id {
        Some(raw) => Some(serde_json::from_str(raw).map_err(|_| PeekError::Malformed)?),
        None => None,
    };
    let name = match (method.as_deref().and_then(name_source), params) {
        (Some(source), Some(raw)) if raw.starts_with('{') => params_name(raw, source)?,
        _ => None,
    };
    Ok(McpCall { method, name, id })
}

fn params_name(raw: &str, source: &'static str) -> Result<Option<Box<str>>, PeekError> {
    let mut name: Option<&str> = None;
    Scan { text: raw, at: 0 }.members(|scan, key| {
        if watched(&key, &[source])?.is_none() {
            return scan.value().map(drop);
        }
        if name.is_some() {
            return Err(PeekError::Ambiguous);
        }
        name = Some(scan.value()?);
        Ok(())
    })?;
    match name {
        Some(raw) => Ok(Some(serde_json::from_str::<String>(raw).map_err(|_| PeekError::Malformed)?.into())),
        None => Ok(None),
    }
}

/// Which of `names` a key is. Some parsers fold case when they match keys (and fold `ſ` and the Kelvin sign with it), so a key
/// that is equal only after folding decides nothing for sure.
fn watched(key: &str, names: &[&'static str]) -> Result<Option<&'static str>, PeekError> {
    if let Some(name) = names.iter().find(|n| **n == key) {
        return Ok(Some(name));
    }
    let same = if key.is_ascii() {
        names.iter().any(|n| n.eq_ignore_ascii_case(key))
    } else {
        let folded = key.to_uppercase().to_lowercase();
        names.iter().any(|n| n.eq_ignore_ascii_case(&folded))
    };
    if same { Err(PeekError::Ambiguous) } else { Ok(None) }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
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

    fn members(&mut self, mut each: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), PeekError>) -> Result<(), PeekError> {
        self.items(b'{', b'}', |scan| {
            let raw = scan.string()?;
            let inner = raw.get(1..raw.len() - 1).unwrap_or_default();
            let key = if inner.contains('\\') {
                Cow::Owned(serde_json::from_str(raw).map_err(|_| PeekError::Malformed)?)
            } else {
                Cow::Borrowed(inner)
            };
            scan.space();
            scan.take(b':')?;
            scan.space();
            each(scan, key)
        })
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a str, PeekError> {
        let from = self.at;
        self.take(b'"')?;
        let bytes = self.text.as_bytes();
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let step = memchr::memchr2(b'"', b'\\', rest).ok_or(PeekError::Malformed)?;
            self.at += step + 1;
            if rest.get(step) == Some(&b'"') {
                break;
            }
            self.at += 1;
        }
        self.text.get(from..self.at).ok_or(PeekError::Malformed)
    }

    /// Any value, as it is written.
    fn value(&mut self) -> Result<&'a str, PeekError> {
        let from = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.byte() {
                Some(b'"') => drop(self.string()?),
                Some(b @ (b'{' | b'[')) => {
                    if open.len() == MAX_DEPTH {
                        return Err(PeekError::TooComplex);
                    }
                    open.push(b + 2);
                    self.at += 1;
                }
                Some(b @ (b'}' | b']')) => {
                    if open.pop() != Some(b) {
                        return Err(PeekError::Malformed);
                    }
                    self.at += 1;
                }
                Some(b',' | b':' | b' ' | b'\t' | b'\n' | b'\r') if !open.is_empty() => self.at += 1,
                Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') => {
                    while matches!(self.byte(), Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E')) {
                        self.at += 1;
                    }
                }
                _ => return Err(PeekError::Malformed),
            }
            if open.is_empty() {
                return self.text.get(from..self.at).ok_or(PeekError::Malformed);
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
        assert!(is_probe(methods[1]) && !is_probe(methods[0]));
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
