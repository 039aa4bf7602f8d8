//! The stacks, and the handles by which a reload changes them.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use portcullis::{
    audit::AuditLayer,
    body_limit::{BodyLimitHandle, BodyLimitLayer},
    browser::BrowserLayer,
    client_addr::ClientAddrLayer,
    client_allow::{ClientAllowLayer, ClientNetworks},
    client_cert::{CertRule, ClientCertLayer},
    concurrency_limit::{ConcurrencyLimitHandle, ConcurrencyLimitLayer},
    connect::GuardedConnector,
    denial_floor::DenialFloorLayer,
    egress::{EgressPolicy, Exception, PolicyHandle},
    limiter::{LimitStore, MemoryStore, Quota},
    mcp::{EnvelopeService, EventStreamLayer, JsonRpcErrorLayer, PeekLayer, PublicBase},
    mcp_session::McpSessionLayer,
    proxy::{ProxyService, WebSocketLimits},
    proxy_token::{FailureLimit, ProxyTokenLayer, TokenSource},
    rate_limit::{ByClient, ByPrincipal, Policy, RateLimitHandle, RateLimitLayer, RequestView, is_mcp_probe},
    request_head::RequestHeadLayer,
    request_line::RequestLineLayer,
    response_limit::{ResponseLimitHandle, ResponseLimitLayer},
    serve::{ClientAuth, RequestBody, Server, ServerBuilder, Tls, TlsFiles},
    ssrf_guard::SsrfGuardLayer,
    stores::{MemorySessions, MemoryTickets, RedisStore, WhenAway},
    target::TargetLayer,
    token_scope::TokenScopeLayer,
    tokens::{Principal, StaticTokens, TokenHasher, TokenRecord},
    upstream::Upstream,
};
use tower::{Service, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    config::{self, Config, Invalid, OnRedisFailure, OrOff, Rate, Size, Span},
    console::{self, Explainer},
    demo::Demo,
    front::{Front, Rest},
    pages,
    sink::Sink,
    targets::Routes,
    tokens,
};

/// Most of a JSON body that is looked at for its method.
const PEEK: usize = 64 * 1024;
/// Different rates that tokens may have.
const TOKEN_RATES: usize = 6;
/// A time limit that is none.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// What exists besides the configuration.
#[derive(Debug, Default)]
pub struct Extras {
    pub demo: Option<Demo>,
    /// Tokens that this process made.
    pub made: Vec<TokenRecord>,
}

/// What a reload changes.
#[derive(Debug)]
pub struct Handles {
    listen: SocketAddr,
    extras: Extras,
    tokens: Arc<StaticTokens>,
    policy: PolicyHandle,
    networks: ClientNetworks,
    client_rate: RateLimitHandle,
    token_rate: RateLimitHandle,
    in_flight: ConcurrencyLimitHandle,
    per_token: ConcurrencyLimitHandle,
    request_body: BodyLimitHandle,
    response_body: ResponseLimitHandle,
    tls: Option<Tls>,
}

/// A server that is ready to run.
pub struct App {
    pub server: Server,
    pub handles: Handles,
    pub sink: Sink,
    pub in_flight: ConcurrencyLimitHandle,
}

fn span(value: OrOff<Span>) -> Duration {
    value.get().map_or(FOREVER, |s| s.0)
}

fn size(value: OrOff<Size>) -> u64 {
    value.get().map_or(u64::MAX, |s| s.0)
}

/// Everything of a configuration that can be wrong, looked at without starting anything.
pub fn check(config: &Config) -> Result<(), Invalid> {
    let handles = Parts::new(config, config.listen, Extras::default())?;
    drop(handles);
    Sink::check(config)?;
    websocket(config)?;
    Ok(())
}

/// The layers that carry state, before they are stacked.
struct Parts {
    handles: Handles,
    server: ServerBuilder,
    browser: BrowserLayer,
    client: ClientAddrLayer,
    certificates: ClientCertLayer,
    client_rate: RateLimitLayer,
    token_rate: RateLimitLayer,
    in_flight: ConcurrencyLimitLayer,
    per_token: ConcurrencyLimitLayer,
    request_body: BodyLimitLayer,
    response_body: ResponseLimitLayer,
    links: PublicBase,
    floor: Duration,
    upstream: Upstream,
}

impl Parts {
    fn new(config: &Config, listen: SocketAddr, extras: Extras) -> Result<Self, Invalid> {
        let (file, limits) = (&config.file, &config.file.limits);
        unsupported(config)?;
        let tls = tls(config)?;
        let tls_handle = tls.clone();
        let policy = PolicyHandle::new(policy(config, listen, extras.demo)?);
        let store = limit_store(config)?;
        let rates = &file.rate_limit;
        let client_rate =
            RateLimitLayer::policies(client_policies(rates.per_client)?).map_err(|e| Invalid::at("rate_limit.per_client", e))?;
        let client_rate = client_rate.shared_store(Arc::clone(&store));
        let token_rate = RateLimitLayer::policies(token_policies(config)?).map_err(|e| Invalid::at("rate_limit.per_token", e))?;
        let token_rate = token_rate.shared_store(store);
        let in_flight = ConcurrencyLimitLayer::new().total(limits.in_flight.0.unwrap_or(usize::MAX));
        let per_token = ConcurrencyLimitLayer::new().per_key(limits.per_token.0.unwrap_or(usize::MAX), ByPrincipal);
        let request_body = BodyLimitLayer::new(size(limits.request_body));
        let response_body = ResponseLimitLayer::new(size(limits.response_body)).event_size(size(limits.event));
        let networks =
            ClientNetworks::new(texts(&file.clients.allow_cidrs)).map_err(|e| Invalid::at("clients.allow_cidrs", e))?;
        let client = ClientAddrLayer::connection();
        let client = client.trust(texts(&file.clients.trusted_proxies)).map_err(|e| Invalid::at("clients.trusted_proxies", e))?;
        let records = token_records(config, &extras)?;
        let table = StaticTokens::new(TokenHasher::plain(), records).map_err(|e| Invalid::at("[[token]]", e))?;
        let connector = GuardedConnector::builder()
            .resolver(file.dns.resolver().map_err(|e| Invalid::at("dns", e))?)
            .connect_timeout(limits.connect_timeout.0)
            .build()
            .map_err(|e| Invalid::at("connector", e))?;
        let upstream = Upstream::builder(policy.clone(), connector)
            .header_timeout(span(limits.header_timeout))
            .idle_timeout(span(limits.idle_timeout))
            .build();
        let handles = Handles {
            listen,
            extras,
            tokens: Arc::new(table),
            policy,
            networks,
            client_rate: client_rate.handle(),
            token_rate: token_rate.handle(),
            in_flight: in_flight.handle(),
            per_token: per_token.handle(),
            request_body: request_body.handle(),
            response_body: response_body.handle(),
            tls: tls_handle,
        };
        Ok(Self {
            browser: browser(config, listen)?,
            links: links(config)?,
            floor: file.egress.denial_floor().map_err(|e| Invalid::at("egress.denial_floor", e))?,
            server: server(config, tls)?,
            handles,
            client,
            certificates: ClientCertLayer::new(cert_rules(config)?),
            client_rate,
            token_rate,
            in_flight,
            per_token,
            request_body,
            response_body,
            upstream,
        })
    }
}

/// Stacks everything. The order is that of the library's documentation, outermost first.
#[expect(clippy::type_complexity, reason = "the stack's type is as long as the stack, and nobody names it")]
pub fn build(
    config: &Config,
    listen: SocketAddr,
    extras: Extras,
) -> Result<
    (
        App,
        impl Service<
            Request<RequestBody>,
            Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    ),
    Invalid,
> {
    let limits = &config.file.limits;
    let parts = Parts::new(config, listen, extras)?;
    let sink = Sink::open(config)?;
    let server = parts.server.build();
    let tunnels = server.tunnels();
    let proxy = ProxyService::builder(parts.upstream)
        .stream_idle_timeout(span(limits.stream_idle_timeout))
        .tunnel_idle_timeout(span(limits.stream_idle_timeout))
        .tunnel_total_timeout(limits.tunnel_lifetime.get().map(|s| s.0))
        .websocket_limits(websocket(config)?)
        .expose_errors(config.file.expose_errors)
        .shutdown(server.shutdown_signal())
        .track_tunnels(move || tunnels.track())
        .build();

    let mut head = RequestHeadLayer::new();
    if let Some(url) = limits.url {
        head = head.max_uri(usize::try_from(url.0).unwrap_or(usize::MAX));
    }
    if let Some(bytes) = limits.header_bytes {
        head = head.max_bytes(usize::try_from(bytes.0).unwrap_or(usize::MAX));
    }
    if let Some(count) = limits.header_count {
        head = head.max_fields(count);
    }
    let edge = ServiceBuilder::new()
        .layer(AuditLayer::new(sink.clone()))
        .layer(head)
        .layer(RequestLineLayer::origin())
        .layer(DenialFloorLayer::new(parts.floor))
        .layer(parts.client)
        .layer(ClientAllowLayer::new(parts.handles.networks.clone()))
        .layer(parts.browser)
        .layer(JsonRpcErrorLayer::new())
        .layer(parts.client_rate);
    let sources = sources().map_err(|e| Invalid::at("token", e))?;
    let tickets = MemoryTickets::bounded(10_000);
    let token = ProxyTokenLayer::new(Arc::clone(&parts.handles.tokens)).sources(sources).failure_gate(FailureLimit::new());
    let token = match config.file.tls.as_ref().filter(|t| t.client_ca.is_some()).map(|t| t.client_auth) {
        None => token,
        Some(config::ClientAuth::OrToken) => token.or_client_certificate(),
        Some(config::ClientAuth::AndToken) => token.and_client_certificate(),
    };
    let known = edge.clone().layer(parts.in_flight).layer(parts.certificates).layer(token.tickets(tickets.clone()));
    let guarded = ServiceBuilder::new()
        .layer(TokenScopeLayer::new())
        .layer(McpSessionLayer::new(MemorySessions::bounded(100_000)))
        .layer(SsrfGuardLayer::new(parts.handles.policy.clone()))
        .layer(
            EventStreamLayer::new()
                .rewrite_links(parts.links, "/proxy/")
                .keep_alive(limits.keep_alive.get().map_or(Duration::ZERO, |s| s.0)),
        )
        .layer(parts.request_body)
        .layer(parts.response_body)
        .service(proxy);

    let hot = known
        .clone()
        .layer(TargetLayer::new(Routes::new().map_err(|e| Invalid::at("routes", e))?))
        // Before the look into the body: a token that drips many bodies fills its own places, not everybody's.
        .layer(parts.per_token.clone())
        .layer(PeekLayer::new(PEEK))
        .layer(parts.token_rate.clone())
        .service(guarded.clone());
    let in_memory = |value: OrOff<Size>| usize::try_from(size(value)).unwrap_or(usize::MAX);
    let envelope = EnvelopeService::new(guarded)
        .max_bodies(in_memory(limits.request_body), in_memory(limits.response_body))
        .sessions(limits.sessions.unwrap_or(10_000), Duration::from_secs(3600));
    let asked = known.layer(parts.token_rate);
    let envelope = asked.clone().layer(parts.per_token).service(envelope);
    let explainer = Explainer::new(config, parts.handles.policy.clone())?;
    let operator = console::operator(explainer, sink.live.clone(), server.shutdown_signal());
    let issue = asked.service(pages::tickets(tickets).merge(operator).map_request(|r: Request<_>| r.map(axum::body::Body::new)));
    let router = pages::router(server.shutdown_signal());
    let rest = edge.service(router.map_request(|r: Request<_>| r.map(axum::body::Body::new)));

    let front = Front { hot, envelope: boxed(envelope), tickets: boxed(issue), rest: boxed(rest) };
    let in_flight = parts.handles.in_flight.clone();
    Ok((App { server, handles: parts.handles, sink, in_flight }, front))
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

fn sources() -> Result<Vec<TokenSource>, portcullis::ConfigError> {
    Ok(vec![
        TokenSource::header("x-proxy-token")?,
        TokenSource::websocket_protocol(),
        TokenSource::query("proxy_token")?.on_upgrades_and_event_streams(),
        TokenSource::ticket("proxy_ticket")?,
    ])
}

fn texts(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(String::as_str)
}

/// Keys that this server knows and cannot serve.
fn unsupported(config: &Config) -> Result<(), Invalid> {
    let file = &config.file;
    let no = |key: &str| Err(Invalid::new(format!("{key}: not supported by this version")));
    if file.limits.total_timeout.get().is_some() {
        return no("limits.total_timeout");
    }
    Ok(())
}

fn policy(config: &Config, listen: SocketAddr, demo: Option<Demo>) -> Result<EgressPolicy, Invalid> {
    let at = |e| Invalid::at("egress", e);
    let mut builder = config.file.egress.builder().map_err(at)?.refuse_listeners([listen]);
    for addr in demo.into_iter().flat_map(|d| [d.mcp, d.websocket]) {
        let exception = Exception::any_host([format!("{}/32", addr.ip())]).and_then(|e| e.ports([addr.port().to_string()]));
        builder = builder.with_exception(exception.map_err(at)?);
    }
    builder.build().map_err(at)
}

fn quota(rate: Rate) -> Result<Quota, Invalid> {
    Quota::new(u64::from(rate.count), rate.per).map_err(|e| Invalid::at("rate", e))
}

/// A policy that never asks.
fn off(name: &str) -> Result<Policy, Invalid> {
    Ok(Policy::new(name, Quota::per_second(1)).map_err(|e| Invalid::at("rate", e))?.when(|_| false))
}

fn client_policies(rate: OrOff<Rate>) -> Result<Vec<Policy>, Invalid> {
    let policy = match rate {
        OrOff::Off => off("client")?,
        OrOff::Is(rate) => Policy::new("client", quota(rate)?).map_err(|e| Invalid::at("rate_limit.per_client", e))?,
    };
    Ok(vec![policy.key(ByClient)])
}

fn quota_class<'a>(request: &RequestView<'a>) -> Option<&'a str> {
    request.context()?.principal()?.quota()
}

fn token_policies(config: &Config) -> Result<Vec<Policy>, Invalid> {
    let rates = &config.file.rate_limit;
    let named = |name: &str, rate| Policy::new(name, quota(rate)?).map_err(|e| Invalid::at("rate_limit", e));
    let mut policies = vec![match rates.per_token {
        OrOff::Off => off("token")?,
        OrOff::Is(rate) => named("token", rate)?.when(|r| quota_class(r).is_none() && !is_mcp_probe(r)),
    }];
    if let OrOff::Is(rate) = rates.probes {
        policies.push(named("probes", rate)?.when(is_mcp_probe));
    }
    let mut own: Vec<OrOff<Rate>> = Vec::new();
    for rate in config.file.token.iter().filter_map(|t| t.rate) {
        if rate != OrOff::Off && !own.contains(&rate) {
            own.push(rate);
        }
    }
    if own.len() > TOKEN_RATES {
        return Err(Invalid::new(format!("[[token]]: more than {TOKEN_RATES} different rates are not supported")));
    }
    for rate in own {
        if let OrOff::Is(value) = rate {
            let name = tokens::quota_name(rate);
            let class = name.clone();
            policies.push(named(&name, value)?.when(move |r| quota_class(r) == Some(&class) && !is_mcp_probe(r)));
        }
    }
    Ok(policies.into_iter().map(|p| p.key(ByPrincipal)).collect())
}

fn token_records(config: &Config, extras: &Extras) -> Result<Vec<TokenRecord>, Invalid> {
    let mut records = tokens::records(config)?;
    records.extend(extras.made.iter().cloned());
    Ok(records)
}

fn browser(config: &Config, listen: SocketAddr) -> Result<BrowserLayer, Invalid> {
    let file = &config.file;
    let mut hosts: Vec<String> = file.allowed_hosts.clone();
    if let Some(host) =
        file.public_url.as_deref().and_then(|u| url::Url::parse(u).ok()).and_then(|u| u.host_str().map(str::to_owned))
    {
        hosts.push(host);
    }
    // The address that it listens on names it as well.
    if !listen.ip().is_unspecified() && !listen.ip().is_loopback() {
        hosts.push(if listen.is_ipv6() { format!("[{}]", listen.ip()) } else { listen.ip().to_string() });
    }
    Ok(BrowserLayer::new()
        .allow_hosts(hosts.iter().map(String::as_str))
        .map_err(|e| Invalid::at("allowed_hosts", e))?
        .loopback_listener(listen.ip().is_loopback())
        .allow_origins(texts(&file.allowed_origins))
        .map_err(|e| Invalid::at("allowed_origins", e))?
        .exempt(|r| matches!(r.uri.path(), "/health" | "/ready"))
        // `ProxyService` sandboxes what comes from a target.
        .proxied(|_| false))
}

fn links(config: &Config) -> Result<PublicBase, Invalid> {
    match &config.file.public_url {
        Some(url) => PublicBase::fixed(url).map_err(|e| Invalid::at("public_url", e)),
        None => Ok(PublicBase::from_host(config.file.tls.is_some())),
    }
}

fn server(config: &Config, tls: Option<Tls>) -> Result<ServerBuilder, Invalid> {
    let (file, limits) = (&config.file, &config.file.limits);
    let mut server = Server::builder();
    if let Some(n) = limits.connections {
        server = server.max_connections(n);
    }
    if let Some(n) = limits.http2_streams {
        server = server.max_streams(n);
    }
    if let Some(time) = limits.request_head_timeout {
        server = server.header_timeout(time.0);
    }
    if let Some(time) = limits.request_body_timeout {
        server = server.body_idle_timeout(time.get().map(|s| s.0));
    }
    if let Some(time) = limits.response_write_timeout {
        server = server.write_idle_timeout(time.get().map(|s| s.0));
    }
    if let Some(rate) = limits.min_rate {
        let rate = rate.get().map(|s| u32::try_from(s.0).unwrap_or(u32::MAX));
        server = server.min_rate(rate, rate, Duration::from_secs(30));
    }
    if let Some(time) = limits.connection_idle_timeout {
        server = server.keep_alive(time.0);
    }
    if let Some(n) = limits.header_count {
        server = server.max_headers(n);
    }
    if let Some(bytes) = limits.header_bytes {
        server = server.max_header_bytes(usize::try_from(bytes.0).unwrap_or(usize::MAX));
    }
    if let Some(drain) = file.drain {
        server = server.drain(drain.get().map_or(Duration::ZERO, |s| s.0));
    }
    if file.clients.proxy_protocol {
        server = server.proxy_protocol(&file.clients.trusted_proxies).map_err(|e| Invalid::at("clients.trusted_proxies", e))?;
    }
    if let Some(tls) = tls {
        server = server.tls(tls).hsts(Duration::from_secs(365 * 86_400));
    } else if !config.listen.ip().is_loopback() && !file.allow_plain_tokens {
        return Err(Invalid::new(format!(
            "listen: {} is not loopback, and tokens would cross the network in the clear: configure [tls], or set \
             allow_plain_tokens = true if a TLS server stands in front",
            config.listen
        )));
    }
    Ok(server)
}

fn websocket(config: &Config) -> Result<WebSocketLimits, Invalid> {
    let limits = &config.file.limits;
    let mut websocket = WebSocketLimits::none();
    if let OrOff::Is(size) = limits.websocket_message {
        websocket = websocket.max_message(size.0);
    }
    if let OrOff::Is(rate) = limits.websocket_frames {
        let seconds = u32::try_from(rate.per.as_secs()).unwrap_or(u32::MAX);
        match rate.count / seconds {
            0 => return Err(Invalid::new("limits.websocket_frames: less than one frame a second")),
            frames => websocket = websocket.frames_per_second(frames),
        }
    }
    if let OrOff::Is(size) = limits.websocket_bytes {
        websocket = websocket.bytes_per_second(size.0);
    }
    Ok(websocket)
}

fn tls_files(config: &Config) -> Result<Option<TlsFiles>, Invalid> {
    let Some(tls) = &config.file.tls else { return Ok(None) };
    let read = |key: &str, path: &std::path::Path| {
        let path = config.path(path);
        std::fs::read(&path).map_err(|e| Invalid::new(format!("tls.{key}: {}: {e}", path.display())))
    };
    let files = TlsFiles::new(read("cert", &tls.cert)?, read("key", &tls.key)?);
    Ok(Some(match &tls.client_ca {
        None => files,
        Some(ca) => {
            let auth = match tls.client_auth {
                config::ClientAuth::OrToken => ClientAuth::Optional,
                config::ClientAuth::AndToken => ClientAuth::Required,
            };
            files.client_ca(read("client_ca", ca)?, auth)
        }
    }))
}

fn tls(config: &Config) -> Result<Option<Tls>, Invalid> {
    match tls_files(config)? {
        Some(files) => Tls::new(&files).map(Some).map_err(|e| Invalid::at("tls", e)),
        None => Ok(None),
    }
}

fn cert_rules(config: &Config) -> Result<Vec<CertRule>, Invalid> {
    let Some(tls) = &config.file.tls else { return Ok(Vec::new()) };
    match (&tls.client_ca, tls.client.is_empty()) {
        (None, false) => return Err(Invalid::new("[[tls.client]]: client_ca is missing")),
        (Some(_), true) => return Err(Invalid::new("tls.client_ca: no [[tls.client]] says whom a certificate stands for")),
        _ => {}
    }
    let rule = |client: &config::TlsClient| {
        let rule = match (&client.uri, &client.dns, &client.sha256) {
            (Some(uri), None, None) => CertRule::uri(uri),
            (None, Some(name), None) => CertRule::dns(name),
            (None, None, Some(digest)) => CertRule::fingerprint(digest),
            _ => return Err(Invalid::new(format!("[[tls.client]] `{}`: one of uri, dns and sha256", client.id.escape_debug()))),
        };
        rule.map(|r| r.principal(Principal::new(client.id.as_str()))).map_err(|e| Invalid::at("[[tls.client]]", e))
    };
    tls.client.iter().map(rule).collect()
}

fn limit_store(config: &Config) -> Result<Arc<dyn LimitStore>, Invalid> {
    let rates = &config.file.rate_limit;
    let Some(url) = &rates.redis else { return Ok(Arc::new(MemoryStore::bounded(100_000))) };
    let when_away = match rates.on_redis_failure {
        OnRedisFailure::Refuse => WhenAway::Refuse,
        OnRedisFailure::Admit => WhenAway::Admit,
        OnRedisFailure::Local => WhenAway::LocalShare { replicas: rates.replicas.max(1) },
    };
    let store = RedisStore::builder(url).and_then(|b| b.when_away(when_away).build());
    Ok(Arc::new(store.map_err(|e| Invalid::at("rate_limit.redis", e))?))
}

impl Handles {
    /// Puts another configuration in force, all of it or nothing.
    pub fn reload(&self, config: &Config) -> Result<(), Invalid> {
        unsupported(config)?;
        let policy = policy(config, self.listen, self.extras.demo)?;
        let records = token_records(config, &self.extras)?;
        if records.is_empty() {
            return Err(Invalid::new("[[token]]: there is no token"));
        }
        let (client, token) = (client_policies(config.file.rate_limit.per_client)?, token_policies(config)?);
        let files = tls_files(config)?;
        let limits = &config.file.limits;
        let at = |key: &'static str| move |e| Invalid::at(key, e);
        // The parts that can still fail come first; each leaves its own old state when it does.
        if let (Some(tls), Some(files)) = (&self.tls, &files) {
            tls.swap(files).map_err(at("tls"))?;
        }
        self.networks.replace(texts(&config.file.clients.allow_cidrs)).map_err(at("clients.allow_cidrs"))?;
        self.client_rate.swap(client).map_err(at("rate_limit.per_client"))?;
        self.token_rate.swap(token).map_err(at("rate_limit.per_token"))?;
        self.tokens.replace(records).map_err(at("[[token]]"))?;
        self.policy.swap(policy);
        self.request_body.set(size(limits.request_body));
        self.response_body.set(size(limits.response_body));
        self.response_body.set_event_size(size(limits.event));
        self.in_flight.set_total(limits.in_flight.0.unwrap_or(usize::MAX));
        self.per_token.set_per_key(limits.per_token.0.unwrap_or(usize::MAX));
        Ok(())
    }

    /// Ends what is open under expired tokens.
    pub fn tick(&self, now: std::time::SystemTime) {
        self.tokens.revoke_expired(now);
    }
}
