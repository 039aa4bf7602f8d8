//! The WebSocket opening handshake (RFC 6455 §4), checked on both sides before a byte of the new protocol crosses.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use sha1::{Digest as _, Sha1};

use crate::{
    rejection::{Rejection, RejectionKind},
    request_form::is_websocket,
    wire::field_has_token,
};

/// What the client offered: the answer may choose only from it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    accept: String,
    protocols: Vec<Box<str>>,
    extensions: Vec<Box<str>>,
    /// The request came as an extended `CONNECT` (RFC 8441), where success is 200 and there is no key.
    pub(crate) over_http2: bool,
}

/// What kind of upgrade a request asks for.
pub(crate) enum Asked {
    /// None, or one that is not relayed (`h2c` and everything else): the request goes on as a plain one.
    Nothing,
    WebSocket(Offer),
}

/// Reads the client's handshake.
pub(crate) fn asked<B>(request: &Request<B>) -> Result<Asked, Rejection> {
    let headers = request.headers();
    if request.method() == Method::CONNECT {
        let websocket = request.extensions().get::<hyper::ext::Protocol>().is_some_and(|p| p.as_str() == "websocket");
        if !websocket {
            return Ok(Asked::Nothing);
        }
        check_version(headers)?;
        return Ok(Asked::WebSocket(Offer {
            accept: String::new(),
            protocols: list(headers, header::SEC_WEBSOCKET_PROTOCOL),
            extensions: extensions(headers),
            over_http2: true,
        }));
    }
    // The same reading as that of the layers that judge scopes: two readings of one handshake are a way around them. An `Upgrade`
    // without the option in `Connection` is not meant for this hop (RFC 9110 §7.8).
    if !is_websocket(request) {
        return Ok(Asked::Nothing);
    }
    if request.version() != Version::HTTP_11 {
        return Err(malformed("a WebSocket handshake is a GET over HTTP/1.1"));
    }
    check_version(headers)?;
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key.as_bytes(),
        _ => return Err(malformed("a WebSocket handshake has one Sec-WebSocket-Key")),
    };
    if STANDARD.decode(key).map_or(0, |k| k.len()) != 16 {
        return Err(malformed("the Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    Ok(Asked::WebSocket(Offer {
        accept: accept_for(key),
        protocols: list(headers, header::SEC_WEBSOCKET_PROTOCOL),
        extensions: extensions(headers),
        over_http2: false,
    }))
}

fn check_version(headers: &HeaderMap) -> Result<(), Rejection> {
    let mut versions = headers.get_all(header::SEC_WEBSOCKET_VERSION).iter();
    match (versions.next(), versions.next()) {
        (Some(v), None) if v.as_bytes() == b"13" => Ok(()),
        _ => Err(malformed("the WebSocket version is not 13")),
    }
}

fn malformed(why: &'static str) -> Rejection {
    Rejection::new(RejectionKind::MalformedRequest).with_reason("websocket_handshake").with_public_detail(why)
}

fn accept_for(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

fn list(headers: &HeaderMap, name: header::HeaderName) -> Vec<Box<str>> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .map(Into::into)
        .collect()
}

fn extensions(headers: &HeaderMap) -> Vec<Box<str>> {
    list(headers, header::SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|e| e.split(';').next())
        .map(|e| e.trim().to_ascii_lowercase().into())
        .collect()
}

impl Offer {
    /// Puts the handshake on the cleaned request to the target.
    pub(crate) fn put_on(&mut self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if self.over_http2 {
            let mut key = [0u8; 16];
            // A key is no secret; it only has to differ (RFC 6455 §1.3). Without randomness a constant one still works.
            let _ = getrandom::fill(&mut key);
            let key = STANDARD.encode(key);
            self.accept = accept_for(key.as_bytes());
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(key)) {
                headers.insert(header::SEC_WEBSOCKET_KEY, value);
            }
        }
    }

    /// Judges the target's `101`.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let fail = |why: &'static str| Err(Rejection::new(RejectionKind::UpgradeFailed).with_detail(why));
        if !field_has_token(headers, &header::UPGRADE, b"websocket") || !field_has_token(headers, &header::CONNECTION, b"upgrade")
        {
            return fail("the target switched to something else");
        }
        let mut accepts = headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        match (accepts.next(), accepts.next()) {
            (Some(value), None) if value.as_bytes() == self.accept.as_bytes() => {}
            _ => return fail("wrong or missing Sec-WebSocket-Accept"),
        }
        let chosen = list(headers, header::SEC_WEBSOCKET_PROTOCOL);
        if chosen.len() > 1 || !chosen.iter().all(|p| self.protocols.contains(p)) {
            return fail("the target chose a subprotocol that was not offered");
        }
        if !extensions(headers).iter().all(|e| self.extensions.contains(e)) {
            return fail("the target chose an extension that was not offered");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(lines: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/").body(()).unwrap();
        for (name, value) in lines {
            request.headers_mut().append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        request
    }

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn offer(more: &[(&str, &str)]) -> Offer {
        let mut lines = GOOD.to_vec();
        lines.extend_from_slice(more);
        match asked(&handshake(&lines)).unwrap() {
            Asked::WebSocket(offer) => offer,
            Asked::Nothing => panic!("not a handshake"),
        }
    }

    #[test]
    fn the_sample_of_rfc_6455_is_accepted() {
        assert_eq!(offer(&[]).accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn broken_handshakes_are_refused_and_other_upgrades_dropped() {
        for (index, value) in [(2, "8"), (3, "short"), (3, "AAAAAAAAAAAAAAAAAAAAAAAAAA==")] {
            let mut lines = GOOD;
            lines[index].1 = value;
            assert!(asked(&handshake(&lines)).is_err(), "{value}");
        }
        assert!(asked(&handshake(&GOOD[..2])).is_err());
        let mut twice = GOOD.to_vec();
        twice.push(GOOD[3]);
        assert!(asked(&handshake(&twice)).is_err());
        let odd = &[("upgrade", "websocket;x"), ("connection", "upgrade")][..];
        for lines in [&[("upgrade", "h2c"), ("connection", "upgrade")][..], &[("upgrade", "websocket")], odd] {
            assert!(matches!(asked(&handshake(lines)), Ok(Asked::Nothing)));
        }
    }

    #[test]
    fn answers_may_only_choose_what_was_offered() {
        let offer = offer(&[("sec-websocket-protocol", "mcp, chat"), ("sec-websocket-extensions", "permessage-deflate; x=1")]);
        let answer = |more: &[(&str, &str)]| {
            let mut lines = vec![("upgrade", "websocket"), ("connection", "Upgrade")];
            lines.extend_from_slice(more);
            offer.check(handshake(&lines).headers()).is_ok()
        };
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(answer(&[accept]));
        assert!(answer(&[accept, ("sec-websocket-protocol", "chat"), ("sec-websocket-extensions", "permessage-deflate")]));
        assert!(!answer(&[]));
        assert!(!answer(&[("sec-websocket-accept", "wrong")]));
        assert!(!answer(&[accept, accept]));
        assert!(!answer(&[accept, ("sec-websocket-protocol", "other")]));
        assert!(!answer(&[accept, ("sec-websocket-protocol", "mcp, chat")]));
        assert!(!answer(&[accept, ("sec-websocket-extensions", "x-webkit")]));
    }
}
