//! The routes that axum serves.

use axum::{
    Json, Router,
    extract::{Extension, State},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use http::StatusCode;
use portcullis::{
    body::ResponseBody,
    context::RequestContext,
    net::Target,
    rejection::{Rejection, RejectionKind},
    signal::Signal,
    stores::MemoryTickets,
};
use serde::Deserialize;
use serde_json::json;

/// `/`, `/health`, `/ready`, and plain refusals for everything that other servers would have.
pub fn router(shutdown: Signal) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/health", get(async || Json(json!({"status": "healthy"}))))
        .route("/ready", get(ready))
        .route("/proxy", any(async || refuse(RejectionKind::MethodNotAllowed)))
        .route("/ws", any(async || refuse(RejectionKind::UpgradeRequired)))
        .merge(crate::console::page())
        .method_not_allowed_fallback(async || refuse(RejectionKind::MethodNotAllowed))
        // `/.well-known/*` and `/register` too: an MCP client that looks there is to learn at once that there is no OAuth.
        .fallback(async || refuse(RejectionKind::NotFound))
        .with_state(shutdown)
}

/// `POST /tickets` with `{"target": "https://…"}`: a single-use credential for the query of the next WebSocket or event stream.
pub fn tickets(store: MemoryTickets) -> Router {
    Router::new()
        .route("/tickets", post(ticket))
        .method_not_allowed_fallback(async || refuse(RejectionKind::MethodNotAllowed))
        .with_state(store)
}

#[derive(Deserialize)]
struct Wanted {
    target: String,
}

async fn ticket(
    State(store): State<MemoryTickets>,
    Extension(context): Extension<RequestContext>,
    wanted: Result<Json<Wanted>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let Some(principal) = context.principal() else { return refuse(RejectionKind::Misconfigured) };
    let Ok(Json(wanted)) = wanted else { return refuse(RejectionKind::MalformedRequest) };
    let Ok(target) = Target::parse(&wanted.target) else { return refuse(RejectionKind::MalformedTarget) };
    if !principal.scopes().allows_target(&target) {
        return refuse(RejectionKind::Denied);
    }
    match store.issue(principal, target.origin()) {
        Ok(ticket) => {
            let body =
                json!({"ticket": ticket.secret.expose(), "parameter": "proxy_ticket", "expires_in": ticket.expires_in.as_secs()});
            ([(http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
        }
        Err(_) => refuse(RejectionKind::RateLimited),
    }
}

async fn root() -> Json<serde_json::Value> {
    Json(json!({"name": "MCP Proxy Server", "version": env!("CARGO_PKG_VERSION"), "status": "running"}))
}

async fn ready(State(shutdown): State<Signal>) -> Response {
    match shutdown.get() {
        None => Json(json!({"status": "ready"})).into_response(),
        Some(_) => refuse(RejectionKind::Draining),
    }
}

fn refuse(kind: RejectionKind) -> Response {
    let response: http::Response<ResponseBody<axum::body::Body>> = Rejection::new(kind).into_response();
    let mut response = response.map(axum::body::Body::new);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    }
    response
}
