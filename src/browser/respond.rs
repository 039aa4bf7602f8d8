//! What goes onto responses.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use crate::{body::ResponseBody, wire::has_token};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// How long a browser may remember a preflight's answer, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Everything a target could say in our place.
const CORS: [HeaderName; 7] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    PRIVATE_NETWORK,
];

/// What all of them begin with.
const PREFIX: &str = "access-control-";

/// What a response has to say.
#[derive(Debug)]
pub(super) struct Marks {
    /// The listed origin that asked, and the fields that its pages may read. Boxed, because every layer outside of this one moves it.
    pub(super) origin: Option<Box<(HeaderValue, HeaderValue)>>,
    /// The response is a page of a target.
    pub(super) sandbox: bool,
}

/// Marks a response on its way to the client.
pub(super) fn mark(headers: &mut HeaderMap, marks: Marks) {
    // One look at what is there: as a rule nothing is, and each look-up by name costs a hash.
    let (mut cors, mut varies) = (false, false);
    for name in headers.keys() {
        if *name == header::VARY {
            varies = headers.get_all(header::VARY).iter().any(is_by_origin);
        } else {
            let name = name.as_str();
            cors |= name.len() > PREFIX.len() && name.starts_with(PREFIX);
        }
    }
    if cors {
        for name in CORS {
            headers.remove(name);
        }
    }
    if let Some((origin, exposed)) = marks.origin.map(|listed| *listed) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    if !varies {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if marks.sandbox {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // Beside the target's own: a browser holds a page to all of them.
        headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
}

fn is_by_origin(vary: &HeaderValue) -> bool {
    has_token(vary.as_bytes(), b"*") || has_token(vary.as_bytes(), b"origin")
}

/// The answer to a preflight of a listed origin.
pub(super) fn preflight<R>(origin: HeaderValue, fields: Option<HeaderValue>, private_network: bool) -> Response<ResponseBody<R>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    if let Some(fields) = fields {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, fields);
    }
    if private_network {
        headers.insert(PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network";
    headers.insert(header::VARY, HeaderValue::from_static(vary));
    response
}
