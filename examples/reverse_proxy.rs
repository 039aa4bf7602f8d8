//! An ordinary reverse proxy: everything goes to one fixed upstream, through the same guard, sanitiser and hardened server as the
//! rest, without tokens and rate limits.
//!
//! ```sh
//! cargo run --release --example reverse_proxy -- --listen 127.0.0.1:8080 --upstream http://127.0.0.1:3000
//! ```

use std::{error::Error, net::SocketAddr, time::Duration};

use clap::Parser;
use portcullis::{
    client_addr::ClientAddrLayer,
    connect::GuardedConnector,
    egress::{EgressPolicy, Exception, PolicyHandle},
    net::Target,
    proxy::{ForwardedFields, ProxyService},
    request_head::RequestHeadLayer,
    request_line::RequestLineLayer,
    serve::Server,
    ssrf_guard::SsrfGuardLayer,
    target::{Fixed, TargetLayer},
    upstream::Upstream,
};
use tokio::{net::TcpListener, signal::ctrl_c};
use tower::ServiceBuilder;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where everything goes.
    #[arg(long)]
    upstream: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let upstream = Target::parse(&options.upstream)?;

    // The operator names the upstream, so exactly this address (or this name, wherever it leads) is an exception.
    let host = upstream.host().to_string();
    let exception = match upstream.host().ip() {
        Some(ip) => Exception::any_host([format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })])?,
        None => Exception::host(&host, ["0.0.0.0/0", "::/0"])?,
    };
    let exception = exception.ports([upstream.port().to_string()])?;
    let policy = PolicyHandle::new(EgressPolicy::builder().with_exception(exception).build()?);

    let server = Server::builder().drain(Duration::from_secs(10)).build();
    let tunnels = server.tunnels();
    let client = Upstream::builder(policy.clone(), GuardedConnector::builder().build()?).build();
    let proxy = ProxyService::builder(client)
        .forwarded(ForwardedFields::XForwarded)
        .shutdown(server.shutdown_signal())
        .track_tunnels(move || tunnels.track())
        .build();
    let stack = ServiceBuilder::new()
        .layer(RequestHeadLayer::new())
        .layer(RequestLineLayer::origin())
        .layer(ClientAddrLayer::connection())
        .layer(TargetLayer::new(Fixed::new(upstream)?))
        .layer(SsrfGuardLayer::new(policy))
        .service(proxy);

    let listener = TcpListener::bind(options.listen).await?;
    eprintln!("http://{} -> {}", listener.local_addr()?, options.upstream);
    server.serve(listener, stack, async { drop(ctrl_c().await) }).await;
    Ok(())
}
