//! The smallest guarded forwarding proxy: a token, a target in the path, the default egress policy. `minimal [ADDRESS]`
//! ```sh
//! PROXY_TOKEN=an-example-of-at-least-32-characters cargo run --example minimal
//! curl -H 'X-Proxy-Token: an-example-of-at-least-32-characters' http://127.0.0.1:8000/proxy/https://example.com/
//! ```

use std::{env, error::Error};

use portcullis::{
    connect::GuardedConnector,
    egress::{EgressPolicy, PolicyHandle},
    proxy::ProxyService,
    proxy_token::ProxyTokenLayer,
    serve::Server,
    ssrf_guard::SsrfGuardLayer,
    target::{PathPrefix, TargetLayer},
    tokens::{StaticTokens, TokenHasher, TokenRecord},
    upstream::Upstream,
};
use tokio::{net::TcpListener, signal::ctrl_c};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let hasher = TokenHasher::plain();
    let record = TokenRecord::new("me")?.with_hash(hasher.hash(&env::var("PROXY_TOKEN")?)?)?;
    let policy = PolicyHandle::new(EgressPolicy::builder().build()?);

    let stack = ServiceBuilder::new()
        .layer(ProxyTokenLayer::new(StaticTokens::new(hasher, [record])?))
        .layer(TargetLayer::new(PathPrefix::new("/proxy/")?))
        .layer(SsrfGuardLayer::new(policy.clone()))
        .service(ProxyService::new(Upstream::builder(policy, GuardedConnector::builder().build()?).build()));

    let listener = TcpListener::bind(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned())).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    Server::builder().build().serve(listener, stack, async { drop(ctrl_c().await) }).await;
    Ok(())
}
