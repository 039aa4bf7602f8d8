//! The decision: a pure function on the head of a request.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, Request, Version, header};

use super::{
    host::HostPort,
    layer::{RequestHead, Rules},
    respond::Marks,
};
use crate::{
    rejection::{Rejection, RejectionKind},
    request_form::is_forward_form,
    wire::members,
};

/// What happens with a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It passes, and its response is marked.
    Pass(Marks),
    /// It passes, and so does its response, as it is: the browser takes this server for a plain proxy.
    Leave,
    /// It is a preflight that may be answered.
    Preflight { origin: HeaderValue, fields: Option<HeaderValue>, private_network: bool },
}

/// Longest list of fields that a preflight may name, in bytes.
const MAX_FIELDS: usize = 8 * 1024;

/// The `Host` of earlier requests, byte for byte, that was found to be valid and on the list: the rules never change, so it is both
/// again. Most connections name one and the same all their life.
#[derive(Clone, Default)]
pub(super) struct Served(Option<Box<[u8]>>);

impl Rules {
    pub(super) fn decide<B>(&self, request: &Request<B>, served: &mut Served) -> Result<Verdict, Rejection> {
        let fields = Fields::of(request.headers());
        let head = RequestHead { method: request.method(), uri: request.uri(), headers: request.headers() };
        let alone = fields.hosts == 1 && request.uri().authority().is_none() && !is_forward_form(request);
        let only = fields.host.filter(|_| alone).map(HeaderValue::as_bytes);
        if only.is_some() && only == served.0.as_deref() && fields.origin.is_none() {
            return Ok(Verdict::Pass(Marks { origin: None, sandbox: self.sandboxes(head) }));
        }
        let host = host(request, &fields)?;
        if is_forward_form(request) {
            return Ok(Verdict::Leave);
        }
        let exempt = self.any_host || self.exempt.as_ref().is_some_and(|rule| rule(head));
        if !exempt {
            if !host.as_ref().is_some_and(|h| self.serves(h)) {
                return Err(Rejection::new(RejectionKind::Misdirected));
            }
            if served.0.is_none() {
                served.0 = only.map(Box::from);
            }
        }
        let listed = match self.origin(&fields, host.as_ref())? {
            Origin::Listed(origin) => Some(origin),
            Origin::None | Origin::Same => None,
        };
        if let (Some(origin), Some(_)) = (&listed, preflight_method(request)) {
            let private_network = request.headers().get("access-control-request-private-network").is_some_and(|v| v == "true");
            let fields = requested_fields(request.headers())?;
            return Ok(Verdict::Preflight { origin: origin.clone(), fields, private_network });
        }
        let origin = listed.map(|origin| Box::new((origin, self.exposed.clone())));
        Ok(Verdict::Pass(Marks { origin, sandbox: self.sandboxes(head) }))
    }

    fn sandboxes(&self, head: RequestHead<'_>) -> bool {
        self.proxied.as_ref().is_none_or(|rule| rule(head))
    }

    fn serves(&self, host: &HostPort<'_>) -> bool {
        self.loopback && host.is_loopback() || self.hosts.iter().any(|entry| host.is_covered_by(entry))
    }

    fn origin(&self, fields: &Fields<'_>, host: Option<&HostPort<'_>>) -> Result<Origin, Rejection> {
        let Some(origin) = fields.origin else { return Ok(Origin::None) };
        let denied = || Rejection::new(RejectionKind::OriginDenied);
        if fields.origins > 1 {
            return Err(denied());
        }
        if self.origins.contains(origin) {
            return Ok(Origin::Listed(origin.clone()));
        }
        if host.is_some_and(|host| is_same(origin, host)) { Ok(Origin::Same) } else { Err(denied()) }
    }
}

/// The fields that decide, found in one walk: each look-up by name would hash it.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    origin: Option<&'a HeaderValue>,
    origins: usize,
}

impl<'a> Fields<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            if *name == header::HOST {
                fields.host = Some(value);
                fields.hosts += 1;
            } else if *name == header::ORIGIN {
                fields.origin = Some(value);
                fields.origins += 1;
            }
        }
        fields
    }
}

enum Origin {
    None,
    Same,
    Listed(HeaderValue),
}

/// Whether a page of `origin` was served by the host that it asks now. Behind a TLS server the scheme cannot be seen here, but two
/// schemes never share a port.
fn is_same(origin: &HeaderValue, host: &HostPort<'_>) -> bool {
    let Some((scheme, authority)) = origin.to_str().ok().and_then(|t| t.split_once("://")) else { return false };
    let own_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    // A `Host` without a port leaves the scheme's own one to be meant.
    HostPort::parse(authority).is_some_and(|o| o.host == host.host && o.port.unwrap_or(own_port) == host.port.unwrap_or(own_port))
}

/// The host that is asked for: `None` only where HTTP/1.0 leaves it out.
fn host<'a, B>(request: &'a Request<B>, fields: &Fields<'a>) -> Result<Option<HostPort<'a>>, Rejection> {
    let malformed = |why: &'static str| {
        Rejection::new(RejectionKind::MalformedRequest).with_reason("invalid_host").with_public_detail(Cow::Borrowed(why))
    };
    if fields.hosts > 1 {
        return Err(malformed("more than one Host field"));
    }
    let parse = |text: &'a str| HostPort::parse(text).ok_or_else(|| malformed("the Host field is not valid"));
    let field = match fields.host {
        Some(value) => Some(value.to_str().map_err(|_| malformed("the Host field is not valid")).and_then(parse)?),
        None => None,
    };
    let authority = request.uri().authority().map(|a| parse(a.as_str())).transpose()?;
    match (request.version(), field, authority) {
        (Version::HTTP_11, None, _) => Err(malformed("no Host field")),
        // An absolute-form request line overrides Host (RFC 9112 §3.2.2).
        (Version::HTTP_09 | Version::HTTP_10 | Version::HTTP_11, field, authority) => Ok(authority.or(field)),
        (_, Some(field), Some(authority)) if field != authority => Err(malformed("Host and :authority differ")),
        (_, None, None) => Err(malformed("no Host field")),
        (_, field, authority) => Ok(authority.or(field)),
    }
}

/// A preflight is an `OPTIONS` with an origin that asks for a method (Fetch standard, "CORS-preflight request").
fn preflight_method<B>(request: &Request<B>) -> Option<&HeaderValue> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The field names that a preflight asks for, checked and written anew.
fn requested_fields(headers: &HeaderMap) -> Result<Option<HeaderValue>, Rejection> {
    let malformed = || Rejection::new(RejectionKind::MalformedRequest).with_reason("invalid_preflight");
    let mut list = String::new();
    for value in headers.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        for name in members(value.as_bytes()).filter(|name| !name.is_empty()) {
            let name = http::HeaderName::from_bytes(name).map_err(|_| malformed())?;
            if list.len() + name.as_str().len() > MAX_FIELDS {
                return Err(malformed());
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(name.as_str());
        }
    }
    if list.is_empty() { Ok(None) } else { HeaderValue::from_str(&list).map(Some).map_err(|_| malformed()) }
}
