//! The routes that axum serves.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::StatusCode;
use portcullis::{
    body::ResponseBody,
    rejection::{Rejection, RejectionKind},
    signal::Signal,
};
use serde_json::json;

/// `/`, `/health`, `/ready`, and plain refusals for everything that other servers would have.
pub fn router(shutdown: Signal) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/health", get(async || Json(json!({"status": "healthy"}))))
        .route("/ready", get(ready))
        .route("/proxy", any(async || refuse(RejectionKind::MethodNotAllowed)))
        .route("/ws", any(async || refuse(RejectionKind::UpgradeRequired)))
        .method_not_allowed_fallback(async || refuse(RejectionKind::MethodNotAllowed))
        // `/.well-known/*` and `/register` too: an MCP client that looks there is to learn at once that there is no OAuth.
        .fallback(async || refuse(RejectionKind::NotFound))
        .with_state(shutdown)
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
