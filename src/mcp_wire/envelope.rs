//! The body of `POST /proxy`.

use std::fmt;

use serde_json::Value;

use crate::{Secret, net::Target};

/// A JSON-RPC message together with the server that it is for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub(crate) struct Envelope {
    /// `mcp_server_url`, `http` or `https`.
    pub(crate) target: Target,
    /// `mcp_token`: sent to the target as `Authorization: Bearer`.
    pub(crate) token: Option<Secret>,
    /// `method`.
    pub(crate) method: Box<str>,
    /// `params`: an object or an array.
    pub(crate) params: Option<Value>,
    /// `id`, of any JSON type; none means a notification.
    pub(crate) id: Option<Value>,
}

/// Which part of an envelope is not acceptable, and the id to answer with where there is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EnvelopeError {
    /// A constant sentence for the client.
    pub(crate) why: &'static str,
    /// The request's id, if the body could be read that far.
    pub(crate) id: Option<Value>,
    /// Whether it is the target that is wrong.
    pub(crate) target: bool,
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

impl std::error::Error for EnvelopeError {}

impl Envelope {
    /// Parses a body. Members that are not known are ignored, as the original does.
    ///
    /// # Errors
    /// [`EnvelopeError`] says which part is wrong in constant words and never echoes it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, EnvelopeError> {
        let mut doc = match serde_json::from_slice(body) {
            Ok(Value::Object(doc)) => doc,
            Ok(_) => return Err(EnvelopeError { why: "the body is not a JSON object", id: None, target: false }),
            Err(_) => return Err(EnvelopeError { why: "the body is not JSON", id: None, target: false }),
        };
        let id = doc.remove("id");
        let fail = |why| EnvelopeError { why, id: id.clone(), target: false };
        match doc.get("jsonrpc") {
            None => {}
            Some(Value::String(v)) if v == "2.0" => {}
            Some(_) => return Err(fail("jsonrpc is not \"2.0\"")),
        }
        let method = match doc.remove("method") {
            Some(Value::String(method)) if !method.is_empty() => method.into_boxed_str(),
            _ => return Err(fail("method is missing or not a string")),
        };
        let params = match doc.remove("params") {
            None | Some(Value::Null) => None,
            Some(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
            Some(_) => return Err(fail("params is neither an object nor an array")),
        };
        let token = match doc.remove("mcp_token") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) => {
                if !text.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
                    return Err(fail("mcp_token has a character that a header cannot carry"));
                }
                Some(Secret::new(text))
            }
            Some(_) => return Err(fail("mcp_token is not a string")),
        };
        let Some(Value::String(url)) = doc.remove("mcp_server_url") else {
            return Err(fail("mcp_server_url is missing or not a string"));
        };
        let target = match Target::parse(&url) {
            Ok(target) if target.scheme().is_websocket() => Err("mcp_server_url is not an http or https URL"),
            Ok(target) => Ok(target),
            Err(error) => Err(target_text(error)),
        };
        match target {
            Ok(target) => Ok(Self { target, token, method, params, id }),
            Err(why) => Err(EnvelopeError { why, id, target: true }),
        }
    }
}

fn target_text(error: crate::net::TargetError) -> &'static str {
    use crate::net::TargetError as E;
    match error {
        E::Scheme => "mcp_server_url is not an http or https URL",
        E::Userinfo => "mcp_server_url carries user information",
        E::Fragment => "mcp_server_url has a fragment",
        E::TooLong => "mcp_server_url is longer than 8 KiB",
        E::Host | E::HostTooLong => "the host of mcp_server_url is not valid",
        E::Port => "the port of mcp_server_url is not valid",
        _ => "mcp_server_url is not valid",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_envelope() {
        let e = Envelope::parse(
            br#"{"mcp_server_url":"https://example.com/mcp?x=1","mcp_token":"t-1","method":"tools/call","params":{"name":"a"},"jsonrpc":"2.0","id":{"a":1}}"#,
        )
        .unwrap();
        assert_eq!(e.target.to_string(), "https://example.com/mcp?x=1");
        assert_eq!(e.token.unwrap().expose(), "t-1");
        assert_eq!((&*e.method, e.params, e.id), ("tools/call", Some(json!({"name": "a"})), Some(json!({"a": 1}))));
        let e = Envelope::parse(br#"{"mcp_server_url":"http://example.com","method":"m","id":null,"mcp_token":null}"#).unwrap();
        assert_eq!((e.id, e.token.is_none()), (Some(Value::Null), true));
        let e = Envelope::parse(br#"{"mcp_server_url":"http://example.com","method":"m"}"#).unwrap();
        assert_eq!(e.id, None);
    }

    #[test]
    fn what_is_wrong_is_said_without_an_echo() {
        for (body, target) in [
            (r#"{"method":"m","id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","method":1,"id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","method":"m","params":"x","id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","method":"m","jsonrpc":"1.0","id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","method":"m","mcp_token":"a\r\nb","id":7}"#, false),
            (r#"{"mcp_server_url":"http://x.example","method":"m","mcp_token":5,"id":7}"#, false),
            (r#"{"mcp_server_url":"ftp://sEcReT.example","method":"m","id":7}"#, true),
            (r#"{"mcp_server_url":"ws://sEcReT.example","method":"m","id":7}"#, true),
            (r#"{"mcp_server_url":"http://sEcReT@x.example","method":"m","id":7}"#, true),
            (r#"{"mcp_server_url":"sEcReT","method":"m","id":7}"#, true),
        ] {
            let error = Envelope::parse(body.as_bytes()).unwrap_err();
            assert_eq!((error.target, &error.id), (target, &Some(json!(7))), "{body}");
            assert!(!error.to_string().contains("sEcReT"));
        }
        for body in ["", "[]", "\"x\"", "{"] {
            assert_eq!(Envelope::parse(body.as_bytes()).unwrap_err().id, None);
        }
    }
}
