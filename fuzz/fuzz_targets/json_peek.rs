//! A body that the look takes for one message or a batch says the same to a full parser: method, id and name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::mcp_wire::{name_source, peek};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(found) = peek(data) else { return };
    let Ok(doc) = serde_json::from_slice::<Value>(data) else { return };
    let docs = doc.as_array().map_or(std::slice::from_ref(&doc), Vec::as_slice);
    assert_eq!(found.calls().len(), docs.len());
    for (call, doc) in found.calls().iter().zip(docs) {
        assert_eq!(call.method.as_deref(), doc["method"].as_str());
        assert_eq!(call.id.as_ref(), doc.get("id"));
        let source = call.method.as_deref().and_then(name_source);
        assert_eq!(call.name.as_deref(), source.and_then(|s| doc["params"][s].as_str()));
    }
});
