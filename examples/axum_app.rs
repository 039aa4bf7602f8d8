//! An axum application that fetches what its users name: a link preview with the guarded client, and the whole proxy under a path,
//! both behind the application's own routes.
//!
//! ```sh
//! cargo run --example axum_app
//! curl 'http://127.0.0.1:8000/preview?url=https://example.com/'
//! curl 'http://127.0.0.1:8000/preview?url=http://169.254.169.254/'
//! ```
//!
//! The address to listen on may be given as an argument. `ALLOW_CIDR=127.0.0.0/8` lets it reach loopback as well, to try it
//! against a server of one's own.

use std::{env, error::Error, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use portcullis::{
    client_addr::ClientAddrLayer,
    connect::GuardedConnector,
    egress::{EgressPolicy, Exception, PolicyHandle},
    limiter::Quota,
    proxy::ProxyService,
    proxy_token::ProxyTokenLayer,
    rate_limit::{ByClient, RateLimitLayer},
    resolve::HickoryResolver,
    ssrf_guard::SsrfGuardLayer,
    target::{PathPrefix, TargetLayer},
    tokens::{DEFAULT_PREFIX, StaticTokens, TokenHasher, TokenRecord, generate},
    upstream::{self, Redirects, Upstream},
};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[derive(Deserialize)]
struct Wanted {
    url: String,
}

/// The title of a page. Every hop of a redirect is judged; the body is read up to 256 KiB.
async fn preview(State(client): State<Upstream>, Query(wanted): Query<Wanted>) -> Response {
    let Ok(request) = Request::get(&wanted.url).body(upstream::Body::empty()) else {
        return http::StatusCode::BAD_REQUEST.into_response();
    };
    let fetched = tokio::time::timeout(Duration::from_secs(10), client.fetch(request, &Redirects::follow(3))).await;
    let page = match fetched {
        Err(_) => return http::StatusCode::GATEWAY_TIMEOUT.into_response(),
        // Which of the reasons it was is for the log, not for the caller.
        Ok(Err(error)) => return error.into_rejection().into_response::<Body>().map(Body::new),
        Ok(Ok(page)) => page,
    };
    let Ok(bytes) = Limited::new(page.into_body(), 256 * 1024).collect().await else {
        return http::StatusCode::BAD_GATEWAY.into_response();
    };
    let text = String::from_utf8_lossy(&bytes.to_bytes()).into_owned();
    let title =
        text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map_or("no title", |(title, _)| title);
    title.trim().to_owned().into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut policy = EgressPolicy::builder();
    if let Ok(cidr) = env::var("ALLOW_CIDR") {
        policy = policy.with_exception(Exception::any_host([cidr])?);
    }
    let policy = PolicyHandle::new(policy.build()?);
    let connector = GuardedConnector::builder().resolver(HickoryResolver::system()?).build()?;
    let client = Upstream::builder(policy.clone(), connector).build();

    let token = generate(DEFAULT_PREFIX)?;
    let hasher = TokenHasher::plain();
    let record = TokenRecord::new("example")?.with_hash(hasher.hash(token.secret.expose())?)?;
    let proxy = ServiceBuilder::new()
        .layer(ProxyTokenLayer::new(StaticTokens::new(hasher, [record])?))
        .layer(TargetLayer::new(PathPrefix::new("/proxy/")?))
        .layer(SsrfGuardLayer::new(policy))
        .service(ProxyService::new(client.clone()));

    // The layers' error is the service's own and never arises, so axum takes them as they are.
    let app = Router::new()
        .route("/preview", get(preview))
        .with_state(client)
        .route_service("/proxy/{*target}", proxy)
        .layer(RateLimitLayer::new(Quota::per_minute(60).burst(20)).key(ByClient))
        .layer(ClientAddrLayer::peer::<ConnectInfo<SocketAddr>>(|info| info.0));

    let listener = TcpListener::bind(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned())).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let (token, address) = (token.secret.expose(), listener.local_addr()?);
    eprintln!("curl -H 'X-Proxy-Token: {token}' http://{address}/proxy/https://example.com/");
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
