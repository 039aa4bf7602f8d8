//! Method, id and name of a JSON-RPC message, found without building the rest.

use std::{borrow::Cow, fmt};

use serde_json::Value;

use super::walk::{Key, Walk};
use crate::context::{McpCall, McpText};

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

#[cfg(any(test, fuzzing))]
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
    // Nearly all bodies are ASCII, which one pass without branches shows.
    if body.iter().fold(0, |all, byte| all | byte) > 0x7f {
        std::str::from_utf8(body).map_err(|_| PeekError::Malformed)?;
    }
    let mut walk = Walk::new(body);
    walk.space();
    let peek = match walk.byte() {
        Some(b'{') => Peek::Single(call(&mut walk)?),
        Some(b'[') => Peek::Batch(batch(&mut walk)?),
        _ => return Err(PeekError::Malformed),
    };
    walk.space();
    if walk.byte().is_some() { Err(PeekError::Malformed) } else { Ok(peek) }
}

#[cold]
fn batch(walk: &mut Walk<'_>) -> Result<Vec<McpCall>, PeekError> {
    let mut calls = Vec::new();
    let mut more = walk.enter(b'[', b']')?;
    while more {
        if calls.len() == MAX_BATCH {
            return Err(PeekError::TooComplex);
        }
        calls.push(call(walk)?);
        more = walk.next(b']')?;
    }
    if calls.is_empty() { Err(PeekError::Malformed) } else { Ok(calls) }
}

fn call(outer: &mut Walk<'_>) -> Result<McpCall, PeekError> {
    let mut walk = *outer;
    let mut call = McpCall::default();
    let (mut params, mut version) = (false, false);
    // Parameters in front of the method: which of them is the name is not known yet.
    let mut early = None;
    let mut more = walk.enter(b'{', b'}')?;
    while more {
        let field = field(&mut walk)?;
        walk.colon()?;
        match field {
            Field::Version if !version => {
                version = true;
                if !walk.skip(walk.ahead(), b"\"2.0\"") {
                    walk.value()?;
                }
            }
            Field::Id if call.id.is_none() => call.id = Some(id(&mut walk)?),
            Field::Method if call.method.is_none() => call.method = Some(text(&mut walk)?),
            Field::Params if !params => {
                params = true;
                match call.method.as_deref().map(name_source) {
                    Some(Some(source)) if walk.byte() == Some(b'{') => call.name = params_name(&mut walk, source)?,
                    Some(_) => drop(walk.value()?),
                    None => early = Some(walk.value()?),
                }
            }
            Field::Other => drop(walk.value()?),
            Field::Ambiguous | Field::Method | Field::Id | Field::Params | Field::Version => return Err(PeekError::Ambiguous),
        }
        more = walk.next(b'}')?;
    }
    if let (Some(source), Some(bytes @ [b'{', ..])) = (call.method.as_deref().and_then(name_source), early) {
        call.name = params_name(&mut Walk::new(bytes), source)?;
    }
    *outer = walk;
    Ok(call)
}

fn params_name(outer: &mut Walk<'_>, source: &'static str) -> Result<Option<McpText>, PeekError> {
    let mut walk = *outer;
    let mut name = None;
    let mut more = walk.enter(b'{', b'}')?;
    while more {
        let field = param(&mut walk, source)?;
        walk.colon()?;
        match field {
            Param::Other => drop(walk.value()?),
            Param::Source if name.is_none() => name = Some(text(&mut walk)?),
            Param::Source | Param::Ambiguous => return Err(PeekError::Ambiguous),
        }
        more = walk.next(b'}')?;
    }
    *outer = walk;
    Ok(name)
}

/// A string's text.
#[inline]
fn text(walk: &mut Walk<'_>) -> Result<McpText, PeekError> {
    match walk.plain() {
        Some(plain) => McpText::from_utf8(plain).ok_or(PeekError::Malformed),
        None => decoded(walk.value()?).map(Into::into),
    }
}

/// An id of any type. Nearly all are small counters or plain strings, and those need no parser.
#[inline]
fn id(walk: &mut Walk<'_>) -> Result<Value, PeekError> {
    if let Some(n) = walk.counter() {
        return Ok(n.into());
    }
    match walk.plain() {
        Some(plain) => std::str::from_utf8(plain).map(Into::into).map_err(|_| PeekError::Malformed),
        None => serde_json::from_slice(walk.value()?).map_err(|_| PeekError::Malformed),
    }
}

#[cold]
fn decoded(raw: &[u8]) -> Result<String, PeekError> {
    serde_json::from_slice(raw).map_err(|_| PeekError::Malformed)
}

/// The members of a message that decide something.
enum Field {
    Method,
    Id,
    Params,
    Version,
    Other,
    /// Perhaps one of them.
    Ambiguous,
}

#[inline]
fn field(walk: &mut Walk<'_>) -> Result<Field, PeekError> {
    // As nearly everybody writes them: no search for the end is needed.
    let ahead = walk.ahead();
    if walk.skip(ahead, b"\"method\"") {
        Ok(Field::Method)
    } else if walk.skip(ahead, b"\"params\"") {
        Ok(Field::Params)
    } else if walk.skip(ahead, b"\"jsonrpc\"") {
        Ok(Field::Version)
    } else if walk.skip(ahead, b"\"id\"") {
        Ok(Field::Id)
    } else {
        other_field(walk)
    }
}

#[inline(never)]
fn other_field(walk: &mut Walk<'_>) -> Result<Field, PeekError> {
    let key = key(walk)?;
    Ok(match &*key {
        b"jsonrpc" => Field::Version,
        b"id" => Field::Id,
        b"method" => Field::Method,
        b"params" => Field::Params,
        key if folds_to(key, &["method", "id", "params", "jsonrpc"]) => Field::Ambiguous,
        _ => Field::Other,
    })
}

/// The members of `params`.
enum Param {
    /// The one that names what is called.
    Source,
    Other,
    /// Perhaps the one.
    Ambiguous,
}

#[inline]
fn param(walk: &mut Walk<'_>, source: &'static str) -> Result<Param, PeekError> {
    let ahead = walk.ahead();
    if source == "name" && walk.skip(ahead, b"\"name\"") {
        Ok(Param::Source)
    } else if walk.skip(ahead, b"\"arguments\"") || walk.skip(ahead, b"\"_meta\"") {
        Ok(Param::Other)
    } else {
        other_param(walk, source)
    }
}

#[inline(never)]
fn other_param(walk: &mut Walk<'_>, source: &'static str) -> Result<Param, PeekError> {
    let key = key(walk)?;
    Ok(if *key == *source.as_bytes() {
        Param::Source
    } else if folds_to(&key, &[source]) {
        Param::Ambiguous
    } else {
        Param::Other
    })
}

/// A key as it reads.
#[inline]
fn key<'a>(walk: &mut Walk<'a>) -> Result<Cow<'a, [u8]>, PeekError> {
    Ok(match walk.key()? {
        Key::Plain(key) => Cow::Borrowed(key),
        Key::Escaped(raw) => Cow::Owned(decoded(raw)?.into_bytes()),
    })
}

/// Whether a key is one of `names` after folding. Some parsers fold case when they match keys (and fold `ſ` and the Kelvin sign
/// with it), so a key that is equal only then decides nothing for sure.
#[inline]
fn folds_to(key: &[u8], names: &[&str]) -> bool {
    if key.is_ascii() { names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(key)) } else { folds_beyond_ascii(key, names) }
}

#[cold]
fn folds_beyond_ascii(key: &[u8], names: &[&str]) -> bool {
    let folded = String::from_utf8_lossy(key).to_uppercase().to_lowercase();
    names.iter().any(|n| n.eq_ignore_ascii_case(&folded))
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;
    use serde_json::json;

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

    /// An object with all its members, also those of the same name.
    struct Members(Vec<(String, Value)>);

    impl<'de> serde::Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
            struct All;
            impl<'de> serde::de::Visitor<'de> for All {
                type Value = Members;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(Members(members))
                }
            }
            source.deserialize_map(All)
        }
    }

    fn key() -> impl proptest::strategy::Strategy<Value = String> {
        const KEYS: &[&str] = &[
            r#""method""#,
            r#""params""#,
            r#""id""#,
            r#""jsonrpc""#,
            r#""x""#,
            r#""\u006dethod""#,
            r#""Method""#,
            r#""param\u017f""#,
            r#""paramſ""#,
            r#""name""#,
            r#""uri""#,
            r#""tasKId""#,
            r#""a \" key, that is longer than two words""#,
            r#""methods""#,
            r#""""#,
        ];
        proptest::sample::select(KEYS).prop_map(str::to_owned)
    }

    fn value() -> impl proptest::strategy::Strategy<Value = String> {
        let leaf = proptest::prop_oneof![
            proptest::sample::select(
                &[
                    r#""tools/call""#,
                    r#""tools\/call""#,
                    r#""resources/read""#,
                    r#""tasks/get""#,
                    r#""ping""#,
                    r#""2.0""#,
                    "7",
                    "0",
                    "-0.5e3",
                    "123456789012345678",
                    "1234567890123456789",
                    "null",
                    "true",
                    "{}",
                    "[]",
                    r#""\\""#,
                    r#""\"}""#,
                ][..]
            )
            .prop_map(str::to_owned),
            "\\PC{0,40}".prop_map(|s| Value::from(s).to_string()),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            proptest::prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(", "))),
                proptest::collection::vec((key(), inner), 0..4)
                    .prop_map(|v| format!("{{{}}}", v.iter().map(|(k, v)| format!("{k}:{v}")).collect::<Vec<_>>().join(","))),
            ]
        })
    }

    /// Text that is nearly a message.
    fn pieces() -> impl proptest::strategy::Strategy<Value = String> {
        const PIECES: &[&str] =
            &["{", "}", "[", "]", ",", ":", "\"", "\\", " ", "\n", "1", "x", "{\"", "\":", "\",", "\u{1}", "é"];
        let piece = proptest::prop_oneof![
            proptest::sample::select(PIECES).prop_map(str::to_owned),
            key(),
            (key(), value()).prop_map(|(k, v)| format!("{k}:{v}")),
            (key(), value()).prop_map(|(k, v)| format!("{{{k}:{v}}}")),
        ];
        proptest::prop_oneof![
            proptest::collection::vec(piece.clone(), 0..12).prop_map(|p| p.concat()),
            proptest::collection::vec(piece, 0..6).prop_map(|p| format!("{{{}}}", p.join(","))),
        ]
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
        fn no_other_parser_sees_another_method(text in pieces()) {
            super::super::fuzz::check(text.as_bytes());
        }

        #[test]
        fn what_another_parser_takes_is_refused_for_one_of_our_reasons(members in proptest::collection::vec((key(), value()), 0..6), gap in "[ \t\n\r]{0,2}") {
            let members: Vec<String> = members.iter().map(|(k, v)| format!("{k}{gap}:{gap}{v}")).collect();
            let text = format!("{gap}{{{gap}{}{gap}}}{gap}", members.join(&format!("{gap},{gap}")));
            // The parser beside ours keeps all members, so that those of the same name can be counted.
            let doc: Members = serde_json::from_str(&text).unwrap();
            let folded = |name: &str| doc.0.iter().filter(|(k, _)| k.to_uppercase().to_lowercase() == name).count();
            let exact = |name: &str| doc.0.iter().filter(|(k, _)| k == name).count();
            let twice = ["method", "id", "params", "jsonrpc"].iter().any(|n| exact(n) > 1 || folded(n) != exact(n));
            let get = |name: &str| doc.0.iter().find(|(k, _)| k == name).map(|(_, v)| v);
            match peek(text.as_bytes()) {
                Ok(Peek::Single(call)) => {
                    proptest::prop_assert!(!twice, "{}", text);
                    proptest::prop_assert_eq!(call.method.as_deref(), get("method").and_then(Value::as_str));
                    proptest::prop_assert_eq!(call.id.as_ref(), get("id"));
                }
                Ok(Peek::Batch(_)) => proptest::prop_assert!(false, "{}", text),
                // Also where the method is no string, or a member of `params` is there twice.
                Err(error) => proptest::prop_assert!(twice || get("method").is_some_and(|m| !m.is_string()) || get("params").is_some_and(Value::is_object), "{} {:?}", text, error),
            }
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
