//! Takes the credential out of a request: a pure function on its head.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header, header::Entry};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{TokenSource, query, source::Source};
use crate::{
    rejection::{Rejection, RejectionKind},
    request_form::{is_event_stream, is_forward_form, is_websocket},
    wire::members,
};

/// The one credential of a request, and what has to be known about the way it came.
#[derive(Default)]
pub(super) struct Extracted {
    pub(super) credential: Option<Credential>,
    /// A token stood in a query where none counts.
    pub(super) query_not_allowed: bool,
    /// The subprotocol to select where the client has offered nothing but the carrier.
    pub(super) carrier_only: Option<Box<HeaderValue>>,
}

/// A token or a ticket.
pub(super) struct Credential {
    pub(super) is_ticket: bool,
    text: Text,
}

enum Text {
    /// The field's value itself: no copy is made.
    Field(HeaderValue),
    /// A copy, wiped when it has been looked at.
    Copy(Zeroizing<Vec<u8>>),
}

impl Credential {
    /// The token or ticket as it is looked up.
    pub(super) fn text(&self) -> &[u8] {
        match &self.text {
            Text::Field(value) => value.as_bytes().trim_ascii(),
            Text::Copy(copy) => copy,
        }
    }
}

/// Takes whatever any source names out of the request, whether or not it counts.
pub(super) fn extract<B>(sources: &[TokenSource], request: &mut Request<B>) -> Result<Extracted, Rejection> {
    let mut out = Extracted::default();
    let mut two = false;
    let present = Present::of(request.headers());
    for TokenSource(source) in sources {
        match source {
            Source::Header(name) => two |= out.take_field(request.headers_mut(), name),
            Source::Authorization => {
                for value in request.headers().get_all(header::AUTHORIZATION) {
                    two |= scheme(value, "bearer").is_some_and(|token| out.offer(token, false));
                }
                request.headers_mut().remove(header::AUTHORIZATION);
            }
            Source::ProxyAuthorization => {
                for value in request.headers().get_all(header::PROXY_AUTHORIZATION) {
                    two |= scheme(value, "bearer").is_some_and(|token| out.offer(token, false));
                    two |= scheme(value, "basic").and_then(basic_password).is_some_and(|token| out.offer(&token, false));
                }
                request.headers_mut().remove(header::PROXY_AUTHORIZATION);
            }
            Source::Protocol(prefix) => two |= present.protocol && out.take_protocol(request.headers_mut(), prefix),
            Source::Query(_) | Source::Ticket(_) if request.uri().query().is_none() => {}
            Source::Query(name) => two |= out.take_query(request, name, false),
            Source::Ticket(name) => two |= out.take_query(request, name, true),
        }
    }
    if out.carrier_only.is_some() && !is_websocket(request) {
        out.carrier_only = None;
    }
    if two {
        return Err(two_credentials());
    }
    // A source may have taken the field away.
    if present.authorization {
        mark_sensitive(request.headers_mut(), header::AUTHORIZATION);
    }
    if present.cookie {
        mark_sensitive(request.headers_mut(), header::COOKIE);
    }
    Ok(out)
}

#[cold]
fn two_credentials() -> Rejection {
    let rejection = Rejection::new(RejectionKind::MalformedRequest).with_reason("two_credentials");
    rejection.with_public_detail("more than one credential for this server")
}

/// Which of the fields that few requests have are there. Found in one pass, because each look-up hashes.
#[derive(Default)]
struct Present {
    authorization: bool,
    cookie: bool,
    protocol: bool,
}

impl Present {
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            // Most names have another length than these.
            match name.as_str().len() {
                6 => present.cookie |= *name == header::COOKIE,
                13 => present.authorization |= *name == header::AUTHORIZATION,
                22 => present.protocol |= *name == header::SEC_WEBSOCKET_PROTOCOL,
                _ => {}
            }
        }
        present
    }
}

impl Extracted {
    /// Notes a credential; true if there is another one already.
    fn offer(&mut self, text: &[u8], is_ticket: bool) -> bool {
        let text = text.trim_ascii();
        match &self.credential {
            _ if text.is_empty() => false,
            None => {
                self.credential = Some(Credential { is_ticket, text: Text::Copy(Zeroizing::new(text.to_vec())) });
                false
            }
            Some(first) => first.is_ticket != is_ticket || !bool::from(first.text().ct_eq(text)),
        }
    }

    /// Takes a field whose whole value is a token.
    fn take_field(&mut self, headers: &mut HeaderMap, name: &HeaderName) -> bool {
        let mut two = false;
        if headers.len() > headers.keys_len() {
            // Some field stands there twice; perhaps it is this one.
            for value in headers.get_all(name) {
                two |= self.offer(value.as_bytes(), false);
            }
            headers.remove(name);
            return two;
        }
        match headers.remove(name) {
            None => false,
            Some(value) if self.credential.is_some() => self.offer(value.as_bytes(), false),
            Some(value) => {
                if !value.as_bytes().trim_ascii().is_empty() {
                    self.credential = Some(Credential { is_ticket: false, text: Text::Field(value) });
                }
                false
            }
        }
    }

    /// Takes a parameter out of the query. In a forward-proxy request the whole query is the target's.
    fn take_query<B>(&mut self, request: &mut Request<B>, name: &str, is_ticket: bool) -> bool {
        if is_forward_form(request) {
            return false;
        }
        let Some(values) = query::take(request.uri_mut(), name) else { return false };
        let counts = is_websocket(request) || is_event_stream(request);
        let mut two = false;
        for value in values {
            if counts {
                two |= self.offer(&value, is_ticket);
            } else {
                self.query_not_allowed |= !value.is_empty();
            }
        }
        two
    }

    /// Takes the carrier entries out of `Sec-WebSocket-Protocol`; the other entries stay in their order.
    fn take_protocol(&mut self, headers: &mut HeaderMap, prefix: &str) -> bool {
        let is_one = |value: &HeaderValue| memchr::memmem::find(value.as_bytes(), prefix.as_bytes()).is_some();
        if !headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(is_one) {
            return false;
        }
        let mut two = false;
        let mut carrier = None;
        let mut real = Vec::new();
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            for entry in members(value.as_bytes()).filter(|entry| !entry.is_empty()) {
                match entry.strip_prefix(prefix.as_bytes()) {
                    None => real.push(entry.to_vec()),
                    Some(encoded) => {
                        // What is no base64 is a token that nobody has: it fails like any other.
                        let token = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(encoded).unwrap_or_else(|_| encoded.to_vec()));
                        two |= self.offer(&token, false);
                        carrier = carrier.or_else(|| HeaderValue::from_bytes(entry).ok());
                    }
                }
            }
        }
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if real.is_empty() {
            self.carrier_only = carrier.map(|mut value| {
                value.set_sensitive(true);
                Box::new(value)
            });
        } else if let Ok(value) = HeaderValue::from_bytes(&real.join(&b", "[..])) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
        two
    }
}

fn mark_sensitive(headers: &mut HeaderMap, name: HeaderName) {
    if let Entry::Occupied(mut entry) = headers.entry(name) {
        for value in entry.iter_mut() {
            value.set_sensitive(true);
        }
    }
}

/// What follows the scheme's name, which is not case-sensitive (RFC 9110 §11.1).
fn scheme<'a>(value: &'a HeaderValue, name: &str) -> Option<&'a [u8]> {
    let (scheme, rest) = value.as_bytes().trim_ascii_start().split_at_checked(name.len())?;
    (scheme.eq_ignore_ascii_case(name.as_bytes()) && rest.first() == Some(&b' ')).then_some(rest)
}

fn basic_password(encoded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let pair = Zeroizing::new(BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?);
    let colon = memchr::memchr(b':', &pair)?;
    pair.get(colon + 1..).map(|password| Zeroizing::new(password.to_vec()))
}

#[cfg(test)]
mod tests {
    use http::request::Builder;

    use super::*;

    fn all() -> Vec<TokenSource> {
        vec![
            TokenSource::header("x-proxy-token").unwrap(),
            TokenSource::query("proxy_token").unwrap().on_upgrades_and_event_streams(),
            TokenSource::proxy_authorization(),
            TokenSource::websocket_protocol(),
            TokenSource::ticket("ticket").unwrap(),
        ]
    }

    fn run(request: Builder) -> (Request<()>, Result<Extracted, Rejection>) {
        let mut request = request.body(()).unwrap();
        let out = extract(&all(), &mut request);
        (request, out)
    }

    fn token(request: Builder) -> (Request<()>, Option<String>) {
        let (request, out) = run(request);
        (request, out.unwrap().credential.map(|c| String::from_utf8(c.text().to_vec()).unwrap()))
    }

    fn upgrade(uri: &str) -> Builder {
        Request::get(uri).header("connection", "keep-alive, Upgrade").header("upgrade", "WebSocket")
    }

    #[test]
    fn every_carrier_is_read_and_removed() {
        let (request, found) = token(Request::get("/").header("x-proxy-token", "T").header("authorization", "Bearer theirs"));
        assert_eq!((found.as_deref(), request.headers().len()), (Some("T"), 1));
        assert!(request.headers()["authorization"].is_sensitive());

        let (request, found) = token(Request::get("/").header("proxy-authorization", "bearer T"));
        assert_eq!((found.as_deref(), request.headers().len()), (Some("T"), 0));
        let (request, found) =
            token(Request::get("/").header("Proxy-Authorization", format!("BASIC {}", BASE64_STANDARD.encode("user:T:x"))));
        assert_eq!((found.as_deref(), request.headers().len()), (Some("T:x"), 0));

        let (request, found) = token(upgrade("/ws?a=1&proxy_token=T&mcp_server_url=http://x/?y"));
        assert_eq!((found.as_deref(), request.uri().to_string().as_str()), (Some("T"), "/ws?a=1&mcp_server_url=http://x/?y"));
        let (request, found) =
            token(Request::get("/x?proxy_token=T").header("accept", "application/json, Text/Event-Stream;q=1"));
        assert_eq!((found.as_deref(), request.uri().to_string().as_str()), (Some("T"), "/x"));

        let carrier = format!("base64url.bearer.authorization.portcullis.{}", BASE64_URL_SAFE_NO_PAD.encode("T"));
        let (request, found) = token(upgrade("/ws").header("sec-websocket-protocol", format!("chat, {carrier},mcp")));
        assert_eq!(
            (found.as_deref(), &request.headers()["sec-websocket-protocol"]),
            (Some("T"), &HeaderValue::from_static("chat, mcp"))
        );
        let (request, out) = run(upgrade("/ws").header("sec-websocket-protocol", &carrier));
        let out = out.unwrap();
        assert!(!request.headers().contains_key("sec-websocket-protocol"));
        assert_eq!(*out.carrier_only.unwrap(), carrier);

        let (request, out) = run(upgrade("/ws?ticket=K&x"));
        assert!(out.unwrap().credential.unwrap().is_ticket);
        assert_eq!(request.uri(), "/ws?x");
    }

    #[test]
    fn a_query_token_counts_on_upgrades_and_event_streams_only() {
        for builder in [Request::get("/x?proxy_token=T"), Request::post("/x?proxy_token=T").header("accept", "text/event-stream")]
        {
            let (request, out) = run(builder);
            let out = out.unwrap();
            assert!(out.credential.is_none() && out.query_not_allowed);
            assert_eq!(request.uri(), "/x");
        }
        // A forward-proxy request's query is the target's.
        let (request, out) = run(upgrade("http://h/x?proxy_token=T"));
        assert!(out.unwrap().credential.is_none());
        assert_eq!(request.uri(), "http://h/x?proxy_token=T");
    }

    #[test]
    fn two_credentials_are_malformed_and_one_twice_is_one() {
        let same =
            Request::get("/").header("x-proxy-token", "T").header("x-proxy-token", "T").header("proxy-authorization", "Bearer T");
        assert_eq!(token(same).1.as_deref(), Some("T"));
        for builder in [
            Request::get("/").header("x-proxy-token", "T").header("x-proxy-token", "U"),
            Request::get("/").header("x-proxy-token", "T").header("proxy-authorization", "Bearer U"),
            upgrade("/?proxy_token=T&proxy_token=U"),
            upgrade("/?proxy_token=T&ticket=T"),
        ] {
            let (request, out) = run(builder);
            assert_eq!(out.err().unwrap().reason(), "two_credentials");
            assert!(
                request.headers().keys().all(|k| k != "x-proxy-token") && !request.uri().to_string().contains('T'),
                "removed even so"
            );
        }
        assert_eq!(token(Request::get("/").header("x-proxy-token", "").header("x-proxy-token", "T")).1.as_deref(), Some("T"));
        // Another field that stands there twice is none of this.
        let padded = Request::get("/").header("x-proxy-token", " T\t").header("accept", "a").header("accept", "b");
        let (request, found) = token(padded);
        assert_eq!((found.as_deref(), request.headers().len()), (Some("T"), 2));
        assert_eq!(token(Request::get("/").header("x-proxy-token", " T\t")).1.as_deref(), Some("T"));
        assert_eq!(token(Request::get("/").header("x-proxy-token", " \t")).1, None);
    }
}
