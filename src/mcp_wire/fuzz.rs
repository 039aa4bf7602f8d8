//! The look into JSON-RPC beside a full parser, for property tests and the fuzzer.

use serde_json::Value;

use super::{name_source, peek};

/// What the look takes for a message says the same to a full parser: method, id and name.
///
/// # Panics
/// If it does not.
pub(crate) fn check(body: &[u8]) {
    let (Ok(found), Ok(doc)) = (peek(body), serde_json::from_slice::<Value>(body)) else { return };
    let docs = doc.as_array().map_or(std::slice::from_ref(&doc), Vec::as_slice);
    assert_eq!(found.calls().len(), docs.len(), "another number of messages");
    for (call, doc) in found.calls().iter().zip(docs) {
        assert_eq!(call.method.as_deref(), text(doc, "method"), "another method");
        assert_eq!(call.id.as_ref(), doc.get("id"), "another id");
        let source = call.method.as_deref().and_then(name_source);
        assert_eq!(call.name.as_deref(), source.and_then(|s| text(doc.get("params")?, s)), "another name");
    }
}

fn text<'a>(object: &'a Value, member: &str) -> Option<&'a str> {
    object.get(member)?.as_str()
}
