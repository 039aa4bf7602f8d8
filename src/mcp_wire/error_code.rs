//! Refusals as JSON-RPC errors.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::rejection::{Rejection, RejectionKind};

/// The JSON-RPC error code of a refusal: -32000 to -32019, the range in which MCP leaves implementations alone. -32001 and
/// -32002 are left out because SDKs use them for time-outs and missing resources of their own.
///
/// | code | kinds |
/// |---|---|
/// | -32000 | `Misconfigured`, `Internal` |
/// | -32003 | `Unauthenticated`, `ProxyUnauthenticated` |
/// | -32004 | `Denied`, `ClientDenied`, `OriginDenied` |
/// | -32005 | `RateLimited`, `ConcurrencyLimited` |
/// | -32006 | `Saturated`, `Draining` |
/// | -32007 | `MalformedTarget` |
/// | -32008 | `MalformedRequest`, `Misdirected`, `NotFound`, `MethodNotAllowed`, `UriTooLong`, `ExpectationFailed`, `UpgradeRequired`, `NotImplemented` |
/// | -32009 | `BodyTooLarge`, `HeadersTooLarge` |
/// | -32010 | `RequestTimeout` |
/// | -32011 | `DnsFailed`, `ConnectFailed`, `TlsFailed` |
/// | -32012 | `ConnectionTerminated`, `BadResponse`, `UpgradeFailed` |
/// | -32013 | `ResponseHeadersTooLarge`, `ResponseTooLarge` |
/// | -32014 | `DnsTimeout`, `ConnectTimeout`, `HeaderTimeout`, `TotalTimeout` |
/// | -32015 | `Loop` |
#[must_use]
pub fn error_code(kind: RejectionKind) -> i32 {
    use RejectionKind as K;
    match kind {
        K::Misconfigured | K::Internal => -32000,
        K::Unauthenticated | K::ProxyUnauthenticated => -32003,
        K::Denied | K::ClientDenied | K::OriginDenied => -32004,
        K::RateLimited | K::ConcurrencyLimited => -32005,
        K::Saturated | K::Draining => -32006,
        K::MalformedTarget => -32007,
        K::MalformedRequest
        | K::Misdirected
        | K::NotFound
        | K::MethodNotAllowed
        | K::UriTooLong
        | K::ExpectationFailed
        | K::UpgradeRequired
        | K::NotImplemented => -32008,
        K::BodyTooLarge | K::HeadersTooLarge => -32009,
        K::RequestTimeout => -32010,
        K::DnsFailed | K::ConnectFailed | K::TlsFailed => -32011,
        K::ConnectionTerminated | K::BadResponse | K::UpgradeFailed => -32012,
        K::ResponseHeadersTooLarge | K::ResponseTooLarge => -32013,
        K::DnsTimeout | K::ConnectTimeout | K::HeaderTimeout | K::TotalTimeout => -32014,
        K::Loop => -32015,
    }
}

/// A JSON-RPC error body. `id` is the request's where it is known, else null; `data` is the problem document (RFC 9457).
#[must_use]
pub(crate) fn error_body(rejection: &Rejection, id: Option<&Value>) -> Bytes {
    let mut error = Map::new();
    error.insert("code".into(), error_code(rejection.kind()).into());
    error.insert("message".into(), rejection.kind().title().into());
    error.insert("data".into(), serde_json::from_slice(&rejection.problem_json()).unwrap_or_default());
    let mut doc = Map::new();
    doc.insert("jsonrpc".into(), "2.0".into());
    doc.insert("id".into(), id.cloned().unwrap_or_default());
    doc.insert("error".into(), error.into());
    Bytes::from(Value::Object(doc).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_codes_are_the_codes() {
        let mut documented = Vec::new();
        for line in include_str!("error_code.rs").lines().filter_map(|l| l.strip_prefix("/// | -")) {
            let (code, kinds) = line.split_once(" | ").unwrap();
            for kind in kinds.trim_end_matches(" |").split(", ") {
                documented.push((kind.trim_matches('`').to_owned(), -code.parse::<i32>().unwrap()));
            }
        }
        documented.sort();
        let mut table: Vec<_> = RejectionKind::ALL.iter().map(|k| (k.name().to_owned(), error_code(*k))).collect();
        table.sort();
        assert_eq!(documented, table);
        assert!(table.iter().all(|(_, c)| (-32019..=-32000).contains(c)));
    }

    #[test]
    fn the_body_echoes_the_id_and_hides_the_detail() {
        let rejection = Rejection::new(RejectionKind::ConnectFailed).with_detail("10.0.0.1 refused");
        let doc: Value = serde_json::from_slice(&error_body(&rejection, Some(&serde_json::json!(["x"])))).unwrap();
        assert_eq!(doc["id"], serde_json::json!(["x"]));
        assert_eq!(doc["error"]["code"], -32011);
        assert_eq!(doc["error"]["data"]["status"], 502);
        assert!(!doc.to_string().contains("10.0"));
        let doc: Value = serde_json::from_slice(&error_body(&rejection, None)).unwrap();
        assert_eq!(doc["id"], Value::Null);
    }
}
