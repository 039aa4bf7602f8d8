//! The rate limit alone, in an ordinary axum app: per client, with IPv6 counted by /64 and the addresses believed only from one's
//! own proxies.
//!
//! ```sh
//! cargo run --example rate_limited_axum
//! for i in 1 2 3 4 5 6 7; do curl -si 127.0.0.1:3000 | grep -iE '^(HTTP|ratelimit|retry)'; done
//! ```

use std::{env, net::SocketAddr};

use axum::{Router, extract::ConnectInfo, routing::get};
use portcullis::{
    client_addr::ClientAddrLayer,
    limiter::{MemoryStore, Quota},
    rate_limit::{ByClient, Policy, RateLimitLayer},
};
use tower::ServiceBuilder;

fn app() -> Result<Router, portcullis::ConfigError> {
    let limits = RateLimitLayer::policies([
        Policy::new("burst", Quota::per_second(2).burst(5))?.key(ByClient),
        Policy::new("hourly", "1000/h".parse()?)?.key(ByClient),
    ])?;
    let layers = ServiceBuilder::new()
        .layer(ClientAddrLayer::peer::<ConnectInfo<SocketAddr>>(|c| c.0).trust(["127.0.0.1/32", "10.0.0.0/8"])?)
        .layer(limits.store(MemoryStore::bounded(100_000)));
    Ok(Router::new().route("/", get(|| async { "hello\n" })).layer(layers))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned())).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app()?.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
