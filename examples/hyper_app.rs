//! A plain hyper server: one guarded stack as a Tower service, and hyper's own connection loop.
//!
//! `portcullis::serve` sets the limits that this loop leaves at their defaults; see its documentation for what that means.
//!
//! ```sh
//! cargo run --example hyper_app
//! curl -H 'X-Target-Url: https://example.com/' http://127.0.0.1:8000/
//! ```
//!
//! The address to listen on may be given as an argument. `ALLOW_CIDR=127.0.0.0/8` lets it reach loopback as well, to try it
//! against a server of one's own.

use std::{env, error::Error};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use portcullis::{
    client_addr::ClientAddrLayer,
    connect::GuardedConnector,
    context::{ConnectionInfo, RequestContext},
    egress::{EgressPolicy, Exception, PolicyHandle},
    limiter::Quota,
    proxy::ProxyService,
    rate_limit::{ByClient, RateLimitLayer},
    resolve::HickoryResolver,
    ssrf_guard::SsrfGuardLayer,
    target::{FromHeader, TargetLayer},
    upstream::Upstream,
};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut policy = EgressPolicy::builder();
    if let Ok(cidr) = env::var("ALLOW_CIDR") {
        policy = policy.with_exception(Exception::any_host([cidr])?);
    }
    let policy = PolicyHandle::new(policy.build()?);
    let connector = GuardedConnector::builder().resolver(HickoryResolver::system()?).build()?;
    let stack = ServiceBuilder::new()
        .layer(ClientAddrLayer::connection())
        .layer(RateLimitLayer::new(Quota::per_minute(60)).key(ByClient))
        .layer(TargetLayer::new(FromHeader::new("x-target-url")?))
        .layer(SsrfGuardLayer::new(policy.clone()))
        .service(ProxyService::new(Upstream::builder(policy, connector).build()));

    let listener = TcpListener::bind(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned())).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        let stack = stack.clone();
        tokio::spawn(async move {
            let service = ServiceBuilder::new()
                .map_request(move |mut request: http::Request<hyper::body::Incoming>| {
                    RequestContext::of_mut(request.extensions_mut()).set_connection(ConnectionInfo::new(peer));
                    request
                })
                .service(stack);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades();
            if let Err(error) = connection.await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}
