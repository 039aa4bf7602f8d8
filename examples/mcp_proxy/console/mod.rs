//! `/console`: a page to try the server with, and what operators may see of its decisions.
//!
//! 1. The page and its files are the same for everybody, so they need no token. They come from this program alone and are told so
//!    by their `Content-Security-Policy`; the page writes whatever comes from outside as text.
//! 2. The token is typed in. It is kept in a variable of the page and sent in `X-Proxy-Token`; nothing stores it.
//! 3. `POST /console/explain` and `GET /console/events` stand behind the same token layer as everything else, and want a token
//!    with `operator = true`, else 403: both name addresses of the network behind this server. A ticket is never enough.
//!    The first takes `{"url": …}` and answers `{url, target, allowed, reason, steps: [{rule, refused, decides, detail}], dns:
//!    {answers, ms} | null, addresses, token_allows}`; the second is an event stream: `hello`, a message for each audit record as
//!    in the JSON lines, `lost` with a number, `end` with a reason.
//! 4. Watching is bounded: so many listeners, so many records in memory. A listener who is too slow is told how many it lost.

mod explain;
mod live;

use std::time::Duration;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequestParts, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderValue, header, request::Parts};
use portcullis::{
    body::ResponseBody,
    context::RequestContext,
    rejection::{Rejection, RejectionKind},
    signal::Signal,
    tokens::Principal,
};
use serde::Deserialize;

pub use explain::Explainer;
pub use live::Live;

/// A question is a URL.
const QUESTION: usize = 64 * 1024;

/// Scripts and styles from this server's own files, and from nowhere else. What a target answers can be neither: it comes with
/// `nosniff`, and not without a token in a field, which an element cannot send. `'self'` includes WebSockets of the same host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// When a place among the listeners may be free again.
const RETRY: Duration = Duration::from_secs(10);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [(&str, &str, &str); 11] = [
    ("/console", HTML, include_str!("page.html")),
    ("/console/app.css", CSS, include_str!("app.css")),
    ("/console/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/console/app.js", SCRIPT, include_str!("app.js")),
    ("/console/lib.js", SCRIPT, include_str!("lib.js")),
    ("/console/request.js", SCRIPT, include_str!("request.js")),
    ("/console/mcp.js", SCRIPT, include_str!("mcp.js")),
    ("/console/schema.js", SCRIPT, include_str!("schema.js")),
    ("/console/socket.js", SCRIPT, include_str!("socket.js")),
    ("/console/explain.js", SCRIPT, include_str!("explain.js")),
    ("/console/live.js", SCRIPT, include_str!("live.js")),
];

/// The page and its files.
pub fn page<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| router.route(path, get(async move || file(kind, text))))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The page with a token in it is not to come back from a cache either.
        (header::CACHE_CONTROL, "no-store"),
    ];
    let mut response = (fields, text).into_response();
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        response.headers_mut().insert(name, HeaderValue::from_static("same-origin"));
    }
    response
}

#[derive(Clone)]
struct Console {
    explainer: Explainer,
    live: Live,
    shutdown: Signal,
}

/// What is for operators. It has to stand behind the token layer.
pub fn operator(explainer: Explainer, live: Live, shutdown: Signal) -> Router {
    Router::new()
        .route("/console/explain", post(explain))
        .route("/console/events", get(events))
        .layer(DefaultBodyLimit::max(QUESTION))
        .method_not_allowed_fallback(async || refuse(Rejection::new(RejectionKind::MethodNotAllowed)))
        .with_state(Console { explainer, live, shutdown })
}

/// Whoever holds an operator's token.
struct Operator(Principal);

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let context = RequestContext::of(&parts.extensions);
        let Some(principal) = context.and_then(RequestContext::principal) else {
            return Err(refuse(Rejection::new(RejectionKind::Misconfigured).with_reason("no_principal")));
        };
        if !principal.scopes().is_operator() {
            let rejection = Rejection::new(RejectionKind::ClientDenied).with_reason("scope");
            return Err(refuse(rejection.with_public_detail("the token has no operator scope")));
        }
        Ok(Self(principal.clone()))
    }
}

#[derive(Deserialize)]
struct Question {
    url: String,
}

async fn explain(
    State(console): State<Console>,
    Operator(principal): Operator,
    question: Result<Json<Question>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Ok(Json(question)) = question else { return refuse(Rejection::new(RejectionKind::MalformedRequest)) };
    let answer = console.explainer.explain(&question.url, &principal).await;
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

async fn events(State(console): State<Console>, Operator(principal): Operator) -> Response {
    let Some(listener) = console.live.listen() else {
        return refuse(Rejection::new(RejectionKind::Saturated).with_reason("console_listeners").with_retry_after(RETRY));
    };
    let fields = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (fields, Body::from_stream(listener.events(&principal, console.shutdown))).into_response()
}

fn refuse(rejection: Rejection) -> Response {
    let response: http::Response<ResponseBody<Body>> = rejection.into_response();
    response.map(Body::new)
}
