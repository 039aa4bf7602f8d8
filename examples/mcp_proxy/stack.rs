//! The stack of one configuration, over what lasts.

use std::convert::Infallible;

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use portcullis::{
    check::CheckLayer,
    client_addr::ClientAddrLayer,
    client_allow::ClientAllowLayer,
    client_cert::ClientCertLayer,
    connect::GuardedConnector,
    denial_floor::DenialFloorLayer,
    mcp::{EventStreamLayer, JsonRpcErrorLayer, PeekLayer},
    proxy::ProxyService,
    request_line::RequestLineLayer,
    serve::RequestBody,
    ssrf_guard::SsrfGuardLayer,
    target::TargetLayer,
    token_scope::TokenScopeLayer,
    total_timeout::TotalTimeoutLayer,
    upstream::Upstream,
};
use tower::{Service, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    app::Kept,
    config::{ClientAuth, Config, Invalid},
    console::{self, Explainer},
    front::{Front, Rest},
    pages, parts,
    targets::Routes,
};

/// Most of a JSON body that is looked at for its method.
const PEEK: usize = 64 * 1024;

/// Stacks everything. The order is that of the library's documentation, outermost first.
pub fn stack(
    config: &Config,
    kept: &Kept,
) -> Result<
    impl Service<
        Request<RequestBody>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static + use<>>,
        Error = Infallible,
        Future: Send,
    >
    + Clone
    + Send
    + 'static
    + use<>,
    Invalid,
> {
    let (file, limits) = (&config.file, &config.file.limits);
    let client = ClientAddrLayer::connection();
    let client =
        client.trust(parts::texts(&file.clients.trusted_proxies)).map_err(|e| Invalid::at("clients.trusted_proxies", e))?;
    let edge = ServiceBuilder::new()
        .layer(kept.audit.clone())
        .layer(DenialFloorLayer::new(file.egress.denial_floor().map_err(|e| Invalid::at("egress.denial_floor", e))?))
        .layer(CheckLayer::new((
            parts::head(limits),
            RequestLineLayer::origin(),
            client,
            ClientAllowLayer::new(kept.networks.clone()),
        )))
        .layer(parts::browser(config, kept.listen)?)
        .layer(JsonRpcErrorLayer::new())
        .layer(TotalTimeoutLayer::new(limits.total_timeout.get().map(|s| s.0)))
        .layer(kept.client_rate.clone());
    let token = match file.tls.as_ref().filter(|t| t.client_ca.is_some()).map(|t| t.client_auth) {
        None => kept.token.clone(),
        Some(ClientAuth::OrToken) => kept.token.clone().or_client_certificate(),
        Some(ClientAuth::AndToken) => kept.token.clone().and_client_certificate(),
    };
    let known = edge
        .clone()
        .layer(kept.in_flight.clone())
        .layer(ClientCertLayer::new(parts::cert_rules(config)?))
        .layer(token.tickets(kept.tickets.clone()));
    let guarded = ServiceBuilder::new()
        .layer(TokenScopeLayer::new())
        .layer(kept.sessions.clone())
        .layer(SsrfGuardLayer::new(kept.policy.clone()))
        .layer(
            EventStreamLayer::new()
                .rewrite_links(parts::links(config)?, "/proxy/")
                .keep_alive(limits.keep_alive.get().map_or(std::time::Duration::ZERO, |s| s.0)),
        )
        .layer(kept.request_body.clone())
        .layer(kept.response_body.clone())
        .service(proxy(config, kept)?);

    let hot = known
        .clone()
        .layer(TargetLayer::new(Routes::new().map_err(|e| Invalid::at("routes", e))?))
        // Before the look into the body: a token that drips many bodies fills its own places, not everybody's.
        .layer(kept.per_token.clone())
        .layer(PeekLayer::new(PEEK))
        .layer(kept.token_rate.clone())
        .service(guarded.clone());
    let bodies = (parts::in_memory(limits.request_body), parts::in_memory(limits.response_body));
    let envelope = kept.envelope.with_inner(guarded).max_bodies(bodies.0, bodies.1);
    let asked = known.layer(kept.token_rate.clone());
    let envelope = asked.clone().layer(kept.per_token.clone()).service(envelope);
    let explainer = Explainer::new(config, kept.policy.clone())?;
    let operator = console::operator(explainer, kept.sink.live.clone(), kept.server.shutdown_signal());
    let issue = pages::tickets(kept.tickets.clone()).merge(operator);
    let issue = asked.service(issue.map_request(|r: Request<_>| r.map(axum::body::Body::new)));
    let router = pages::router(kept.server.shutdown_signal());
    let rest = edge.service(router.map_request(|r: Request<_>| r.map(axum::body::Body::new)));
    Ok(Front { hot, envelope: boxed(envelope), tickets: boxed(issue), rest: boxed(rest) })
}

fn proxy(config: &Config, kept: &Kept) -> Result<ProxyService, Invalid> {
    let (file, limits) = (&config.file, &config.file.limits);
    let connector = GuardedConnector::builder()
        .resolver(file.dns.resolver().map_err(|e| Invalid::at("dns", e))?)
        .connect_timeout(limits.connect_timeout.0)
        .build()
        .map_err(|e| Invalid::at("connector", e))?;
    let upstream = match kept.upstream.get() {
        Some(upstream) => upstream.rebuild().connector(connector),
        None => Upstream::builder(kept.policy.clone(), connector),
    };
    let upstream =
        upstream.header_timeout(parts::span(limits.header_timeout)).idle_timeout(parts::span(limits.idle_timeout)).build();
    // The first one's pool is that of all which follow.
    kept.upstream.get_or_init(|| upstream.clone());
    let tunnels = kept.server.tunnels();
    let builder = ProxyService::builder(upstream)
        .pseudonym(&kept.pseudonym)
        .map_err(|e| Invalid::at("pseudonym", e))?
        .stream_idle_timeout(parts::span(limits.stream_idle_timeout))
        .tunnel_idle_timeout(parts::span(limits.stream_idle_timeout))
        .tunnel_total_timeout(limits.tunnel_lifetime.get().map(|s| s.0))
        .websocket_limits(parts::websocket(config)?)
        .websocket_ping(parts::websocket_ping(config)?)
        .expose_errors(file.expose_errors)
        .shutdown(kept.server.shutdown_signal())
        .track_tunnels(move || tunnels.track());
    Ok(builder.build())
}

fn boxed<S, B>(service: S) -> Rest
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(service.map_response(|r| r.map(axum::body::Body::new)))
}
