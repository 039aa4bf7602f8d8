//! A standard forward proxy behind the guard: any program that knows `HTTPS_PROXY` can reach public addresses through it, and
//! nothing else.
//!
//! ```sh
//! PROXY_TOKEN=a-secret-of-at-least-32-characters cargo run --release --example egress_proxy
//! HTTPS_PROXY=http://any:a-secret-of-at-least-32-characters@127.0.0.1:8080 curl https://example.com/
//! ```

use std::{error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use portcullis::{
    client_addr::ClientAddrLayer,
    connect::GuardedConnector,
    denial_floor::DenialFloorLayer,
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::{Target, TargetError},
    proxy::ProxyService,
    proxy_token::{ProxyTokenLayer, TokenSource},
    request_head::RequestHeadLayer,
    request_line::RequestLineLayer,
    serve::Server,
    ssrf_guard::SsrfGuardLayer,
    target::{AbsoluteForm, Connect, TargetExtractor, TargetLayer, TargetParser},
    tokens::{StaticTokens, TokenHasher, TokenRecord},
    upstream::Upstream,
};
use tokio::{net::TcpListener, signal::ctrl_c};
use tower::ServiceBuilder;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The token that clients send as the password of `Proxy-Authorization`.
    #[arg(long, env = "PROXY_TOKEN", hide_env_values = true)]
    token: String,
    /// Networks that may be reached although they are not public, such as 10.1.0.0/16.
    #[arg(long)]
    allow_cidr: Vec<String>,
}

/// `CONNECT` names an authority, everything else a whole URL.
fn target(request: &mut http::request::Parts, parser: &TargetParser) -> Result<Target, TargetError> {
    if request.method == http::Method::CONNECT { Connect.extract(request, parser) } else { AbsoluteForm.extract(request, parser) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let hasher = TokenHasher::plain();
    let token = TokenRecord::new("env")?.with_hash(hasher.hash(&options.token)?)?;
    let tokens = StaticTokens::new(hasher, [token])?;

    let mut policy = EgressPolicy::builder();
    if !options.allow_cidr.is_empty() {
        policy = policy.with_exception(Exception::any_host(&options.allow_cidr)?);
    }
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let policy = PolicyHandle::new(policy.refuse_listeners([address]).build()?);

    let server = Server::builder().drain(Duration::from_secs(10)).build();
    let tunnels = server.tunnels();
    let client = Upstream::builder(policy.clone(), GuardedConnector::builder().build()?).build();
    let proxy = ProxyService::builder(client).shutdown(server.shutdown_signal()).track_tunnels(move || tunnels.track()).build();
    let stack = ServiceBuilder::new()
        .layer(RequestHeadLayer::new())
        .layer(DenialFloorLayer::default())
        .layer(RequestLineLayer::forward_proxy())
        .layer(ClientAddrLayer::connection())
        .layer(ProxyTokenLayer::new(tokens).sources([TokenSource::proxy_authorization()]))
        .layer(TargetLayer::new(target))
        .layer(SsrfGuardLayer::new(policy))
        .service(proxy);

    eprintln!("forward proxy on http://{address}");
    server.serve(listener, stack, async { drop(ctrl_c().await) }).await;
    Ok(())
}
