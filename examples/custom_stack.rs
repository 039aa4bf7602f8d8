//! A stack of one's own: tokens out of another system, a key for the limiter, name resolution, and an audit sink, each behind the
//! trait that the library's own implement.
//!
//! ```sh
//! cargo run --example custom_stack
//! curl -H 'X-Proxy-Token: tenant-a-0123456789-0123456789-0123456789' http://127.0.0.1:8000/proxy/https://example.com/
//! ```

use std::{env, error::Error, net::IpAddr, sync::Arc, time::Duration};

use portcullis::{
    audit::{AuditLayer, AuditSink},
    client_addr::ClientAddrLayer,
    connect::GuardedConnector,
    context::Record,
    egress::{EgressPolicy, PolicyHandle},
    limiter::{Key, Quota},
    net::Name,
    proxy::ProxyService,
    proxy_token::ProxyTokenLayer,
    rate_limit::{MissingKey, Policy, RateLimitLayer, RequestView},
    resolve::{Answers, Resolve, ResolveError, Resolving},
    serve::Server,
    ssrf_guard::SsrfGuardLayer,
    target::{PathPrefix, TargetLayer},
    token_scope::TokenScopeLayer,
    tokens::{LiveToken, Lookup, TokenDigest, TokenHasher, TokenRecord, TokenScopes, TokenStore},
    upstream::Upstream,
};
use tokio::{net::TcpListener, signal::ctrl_c};
use tower::ServiceBuilder;

/// Tokens as another system would hand them out. It only ever sees digests.
struct Tenants {
    hasher: TokenHasher,
    tokens: Vec<Arc<LiveToken>>,
}

impl TokenStore for Tenants {
    fn lookup(&self, digest: &TokenDigest) -> Lookup<Arc<LiveToken>> {
        // A remote store would answer with `Lookup::Later`; `CachedTokens` remembers such answers.
        let found = self.tokens.iter().find(|t| t.record().hashes().iter().any(|h| h.digest() == digest));
        Lookup::Ready(Ok(found.cloned()))
    }

    fn hasher(&self) -> &TokenHasher {
        &self.hasher
    }
}

/// One quota for all tokens of a tenant, at each target host.
fn by_tenant_and_host(request: &RequestView<'_>, key: &mut Key) -> Result<(), MissingKey> {
    let context = request.context().ok_or(MissingKey("context"))?;
    let principal = context.principal().ok_or(MissingKey("principal"))?;
    let target = context.target().ok_or(MissingKey("target"))?;
    key.push_str(principal.tenant().unwrap_or("none")).push_str(&target.host().to_string());
    Ok(())
}

/// Names out of a directory of one's own. Whatever it answers is judged afterwards.
#[derive(Debug)]
struct Directory;

impl Resolve for Directory {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async move {
            let found =
                tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|e| ResolveError::Failed(e.to_string().into()))?;
            let addrs: Vec<IpAddr> = found.map(|a| a.ip()).collect();
            if addrs.is_empty() { Err(ResolveError::NoSuchName) } else { Ok(Answers::new(addrs, Duration::from_secs(10))) }
        })
    }
}

/// One line a request.
struct Lines;

impl AuditSink for Lines {
    fn record(&self, record: &Record) {
        let status = record.status.map_or(0, |s| s.as_u16());
        let target = record.target.as_ref().map(|t| t.origin().to_string()).unwrap_or_default();
        eprintln!(
            "{} {status} {target} {} bytes {}",
            record.token.as_deref().unwrap_or("-"),
            record.bytes_out,
            record.reason.unwrap_or("")
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let hasher = TokenHasher::plain();
    let record = TokenRecord::new("tenant-a-1")?
        .with_hash(hasher.hash("tenant-a-0123456789-0123456789-0123456789")?)?
        .with_tenant("tenant-a")
        .with_scopes(TokenScopes::new().targets(["https://*.example.com/*", "https://example.com/*"])?.methods(["GET"])?);
    let tenants = Tenants { hasher, tokens: vec![Arc::new(LiveToken::new(record))] };
    let limits = Policy::new("tenant", Quota::per_minute(600).burst(50))?.key(by_tenant_and_host);
    let policy = PolicyHandle::new(EgressPolicy::builder().build()?);
    let connector = GuardedConnector::builder().resolver(Directory).build()?;

    let stack = ServiceBuilder::new()
        .layer(AuditLayer::new(Lines))
        .layer(ClientAddrLayer::connection())
        .layer(ProxyTokenLayer::new(tenants))
        .layer(TargetLayer::new(PathPrefix::new("/proxy/")?))
        .layer(RateLimitLayer::policies([limits])?)
        .layer(TokenScopeLayer::new())
        .layer(SsrfGuardLayer::new(policy.clone()))
        .service(ProxyService::new(Upstream::builder(policy, connector).build()));

    let listener = TcpListener::bind(env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned())).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    Server::builder().build().serve(listener, stack, async { drop(ctrl_c().await) }).await;
    Ok(())
}
