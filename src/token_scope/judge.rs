//! The decisions: pure functions on a request's head and on what was seen of its body.

use http::{HeaderMap, HeaderValue, Method, Request, header};

use super::scan::{Message, Scanner};
use crate::{
    context::RequestContext,
    mcp_wire::header_text_decoded,
    rejection::{Rejection, RejectionKind},
    request_form::is_websocket,
    tokens::{Principal, TokenScopes},
};

/// What the fields say of the call; they have to agree with the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    method: Option<String>,
    name: Option<String>,
}

/// What has to happen with a request whose head is in order.
#[derive(Debug)]
pub(super) enum Head {
    Pass,
    /// The body has to be looked at.
    Look(Principal, Named),
}

/// Judges the head.
pub(super) fn head<B>(request: &Request<B>, has_body: bool) -> Result<Head, Rejection> {
    let missing = |what| Rejection::new(RejectionKind::Misconfigured).with_reason(what);
    let context = RequestContext::of(request.extensions()).ok_or_else(|| missing("no_principal"))?;
    let principal = context.principal().ok_or_else(|| missing("no_principal"))?;
    let scopes = principal.scopes();
    if scopes.is_unrestricted() {
        return Ok(Head::Pass);
    }
    let target = context.target().ok_or_else(|| missing("no_target"))?;
    let opens_tunnel = is_websocket(request) || request.method() == Method::CONNECT;
    if !scopes.allows_target(target) {
        return Err(denied("target"));
    }
    if !scopes.allows_method(request.method()) {
        return Err(denied("method"));
    }
    if (is_websocket(request) || target.scheme().is_websocket()) && !scopes.allows_websocket() {
        return Err(denied("websocket"));
    }
    if !scopes.restricts_mcp() {
        return Ok(Head::Pass);
    }
    if opens_tunnel {
        return Err(denied("a tunnel cannot be looked into"));
    }
    let named = named(request.headers())?;
    if named.method.as_ref().is_some_and(|m| !may_call(scopes, m, named.name.as_deref())) {
        return Err(denied("mcp header"));
    }
    if !has_body {
        return Ok(Head::Pass);
    }
    if !is_plain_utf8(request.headers()) {
        return Err(denied("the body's coding cannot be looked into"));
    }
    Ok(Head::Look(principal.clone(), named))
}

/// Judges what was seen of the body, at its end or when the look is full.
pub(super) fn body(scopes: &TokenScopes, named: &Named, scanner: &Scanner, ended: bool) -> Result<(), Rejection> {
    if ended && !scanner.is_done() {
        return Err(denied("the body is no JSON document"));
    }
    // Inside a batch that goes on nothing can be said of the elements to come.
    let unfinished = match scanner.unfinished() {
        Some(message) => Some(message),
        None if !scanner.is_done() => return Err(denied("the batch is longer than the look")),
        None => None,
    };
    if scanner.messages().iter().chain(unfinished).all(|m| allowed(scopes, named, m)) { Ok(()) } else { Err(denied("mcp")) }
}

fn allowed(scopes: &TokenScopes, named: &Named, message: &Message) -> bool {
    let Some(method) = &message.method else {
        return message.is_reply && named.method.is_none();
    };
    let agrees = named.method.as_ref().is_none_or(|m| m == method)
        && (!calls_a_tool(method) || named.name.as_ref().is_none_or(|n| Some(n) == message.name.as_ref()));
    agrees && may_call(scopes, method, message.name.as_deref())
}

fn may_call(scopes: &TokenScopes, method: &str, name: Option<&str>) -> bool {
    scopes.allows_mcp_method(method) && (!calls_a_tool(method) || name.is_some_and(|n| scopes.allows_tool(n)))
}

/// Also as a careless server might read it.
fn calls_a_tool(method: &str) -> bool {
    method.trim().eq_ignore_ascii_case("tools/call")
}

fn named(headers: &HeaderMap) -> Result<Named, Rejection> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => header_text_decoded(value).map(Some).ok_or_else(|| denied("mcp header")),
            (Some(_), Some(_)) => Err(denied("mcp header twice")),
        }
    };
    Ok(Named { method: one("mcp-method")?, name: one("mcp-name")? })
}

fn is_plain_utf8(headers: &HeaderMap) -> bool {
    let lower = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).to_ascii_lowercase();
    let plain_coding = headers.get_all(header::CONTENT_ENCODING).iter().all(|v| lower(v).trim() == "identity");
    let utf8 = |v: &HeaderValue| {
        let text = lower(v);
        text.split("charset").skip(1).all(|rest| {
            let value = rest.trim_start().trim_start_matches('=').trim_start().trim_start_matches('"');
            ["utf-8", "utf8", "us-ascii"].iter().any(|known| value.starts_with(known))
        })
    };
    plain_coding && headers.get_all(header::CONTENT_TYPE).iter().all(utf8)
}

/// The answer is the one of every denial; the detail is the operator's.
pub(super) fn denied(detail: &'static str) -> Rejection {
    Rejection::new(RejectionKind::Denied).with_reason("scope").with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(scopes: &TokenScopes, body_text: &str, fields: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let Ok(named) = named(&headers) else { return false };
        let mut scanner = Scanner::new();
        scanner.feed(body_text.as_bytes()).is_ok() && body(scopes, &named, &scanner, true).is_ok()
    }

    #[test]
    fn methods_tools_batches_and_replies() {
        let scopes = TokenScopes::new().mcp_methods(["initialize", "tools/*"]).unwrap().tools(["echo"]).unwrap();
        let ok = |text: &str| verdict(&scopes, text, &[]);
        assert!(ok(r#"{"method":"initialize"}"#) && ok(r#"{"method":"tools/list"}"#));
        assert!(ok(r#"{"method":"tools/call","params":{"name":"echo"}}"#));
        assert!(!ok(r#"{"method":"tools/call","params":{"name":"rm"}}"#) && !ok(r#"{"method":"tools/call"}"#));
        assert!(!ok(r#"{"method":"tools/Call","params":{"name":"rm"}}"#));
        assert!(!ok(r#"{"method":"resources/list"}"#) && !ok(r#"{"id":1}"#) && !ok("{}"));
        assert!(ok(r#"{"id":1,"result":{}}"#));
        assert!(ok(r#"[{"method":"initialize"},{"id":1,"result":{}}]"#) && ok("[]"));
        assert!(!ok(r#"[{"method":"initialize"},{"method":"tools/call","params":{"name":"rm"}}]"#));
    }

    #[test]
    fn fields_have_to_agree_with_the_body() {
        let scopes = TokenScopes::new().tools(["echo", "é"]).unwrap();
        let ok =
            |fields: &[(&'static str, &str)]| verdict(&scopes, r#"{"method":"tools/call","params":{"name":"echo"}}"#, fields);
        assert!(ok(&[("mcp-method", "tools/call"), ("mcp-name", "echo")]));
        assert!(ok(&[("mcp-method", "tools/call"), ("mcp-name", "=?base64?ZWNobw==?=")]));
        assert!(!ok(&[("mcp-method", "tools/list")]) && !ok(&[("mcp-method", "tools/call"), ("mcp-name", "é")]));
        assert!(!ok(&[("mcp-method", "tools/call"), ("mcp-method", "tools/call")]) && !ok(&[("mcp-name", "=?base64?!?=")]));
        let escaped = r#"{"method":"tools/call","params":{"name":"\u00e9"}}"#;
        assert!(verdict(&scopes, escaped, &[("mcp-name", "=?base64?w6k=?=")]));
    }

    #[test]
    fn codings_that_hide_the_text_are_told() {
        let plain = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            is_plain_utf8(&headers)
        };
        assert!(plain("content-type", "application/json") && plain("content-type", "application/json; charset=\"UTF-8\""));
        assert!(
            !plain("content-type", "application/json; charset=utf-7") && !plain("content-type", "text/plain;charset = utf-16")
        );
        assert!(!plain("content-encoding", "gzip") && plain("content-encoding", "identity"));
    }
}
