//! What lasts as long as the process, the stack over it, and how a reload changes both.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use portcullis::{
    audit::AuditLayer,
    body_limit::BodyLimitLayer,
    client_allow::ClientNetworks,
    concurrency_limit::{ConcurrencyLimitHandle, ConcurrencyLimitLayer},
    egress::PolicyHandle,
    mcp::EnvelopeService,
    mcp_session::McpSessionLayer,
    proxy_token::{FailureLimit, ProxyTokenLayer, TokenSource},
    rate_limit::{ByPrincipal, RateLimitLayer},
    response_limit::ResponseLimitLayer,
    serve::{RequestBody, Server, Tls},
    stores::{MemorySessions, MemoryTickets},
    tokens::{StaticTokens, TokenHasher, TokenRecord},
    upstream::Upstream,
};
use tower::Service;

use crate::{
    config::{Config, Invalid},
    demo::Demo,
    parts::{self, size, texts},
    sink::Sink,
    stack::stack,
    swap::Swapped,
    tokens,
};

/// What exists besides the configuration.
#[derive(Debug, Default)]
pub struct Extras {
    pub demo: Option<Demo>,
    /// Tokens that this process made.
    pub made: Vec<TokenRecord>,
}

/// What lasts, whatever the configuration becomes: state, handles, and what is bound at the start.
pub struct Kept {
    pub listen: SocketAddr,
    extras: Extras,
    tls: Option<Tls>,
    pub server: Server,
    pub sink: Sink,
    pub audit: AuditLayer<Sink>,
    tokens: Arc<StaticTokens>,
    pub token: ProxyTokenLayer<Arc<StaticTokens>>,
    pub tickets: MemoryTickets,
    pub sessions: McpSessionLayer,
    pub envelope: EnvelopeService<()>,
    pub policy: PolicyHandle,
    pub networks: ClientNetworks,
    pub client_rate: RateLimitLayer,
    pub token_rate: RateLimitLayer,
    pub in_flight: ConcurrencyLimitLayer,
    pub per_token: ConcurrencyLimitLayer,
    pub request_body: BodyLimitLayer,
    pub response_body: ResponseLimitLayer,
    /// The first stack's, whose pool the others go on with.
    pub upstream: OnceLock<Upstream>,
    /// The name by which loops are recognised, also those that began before a reload.
    pub pseudonym: String,
}

/// A server that is ready to run.
pub struct App {
    pub server: Server,
    pub live: Live,
    pub sink: Sink,
    pub in_flight: ConcurrencyLimitHandle,
}

/// Everything of a configuration that can be wrong, looked at without starting anything.
pub fn check(config: &Config) -> Result<(), Invalid> {
    Sink::check(config)?;
    let kept = Kept::new(config, config.listen, Extras::default(), Sink::default())?;
    stack(config, &kept).map(drop)
}

impl Kept {
    fn new(config: &Config, listen: SocketAddr, extras: Extras, sink: Sink) -> Result<Self, Invalid> {
        let (file, limits) = (&config.file, &config.file.limits);
        let tls = parts::tls(config)?;
        let policy = PolicyHandle::new(parts::policy(config, listen, extras.demo)?);
        let store = parts::limit_store(config)?;
        let rates = &file.rate_limit;
        let client_rate = RateLimitLayer::policies(parts::client_policies(rates.per_client)?)
            .map_err(|e| Invalid::at("rate_limit.per_client", e))?
            .shared_store(Arc::clone(&store));
        let token_rate = RateLimitLayer::policies(parts::token_policies(config)?)
            .map_err(|e| Invalid::at("rate_limit.per_token", e))?
            .shared_store(store);
        let networks =
            ClientNetworks::new(texts(&file.clients.allow_cidrs)).map_err(|e| Invalid::at("clients.allow_cidrs", e))?;
        let table = StaticTokens::new(TokenHasher::plain(), records(config, &extras)?);
        let tokens = Arc::new(table.map_err(|e| Invalid::at("[[token]]", e))?);
        let sources = sources().map_err(|e| Invalid::at("token", e))?;
        let mut server = parts::server(config)?;
        if let Some(tls) = &tls {
            server = server.tls(tls.clone()).hsts(Duration::from_secs(365 * 86_400));
        }
        Ok(Self {
            listen,
            extras,
            tls,
            server: server.build(),
            audit: AuditLayer::new(sink.clone()),
            sink,
            token: ProxyTokenLayer::new(Arc::clone(&tokens)).sources(sources).failure_gate(FailureLimit::new()),
            tokens,
            tickets: MemoryTickets::bounded(10_000),
            sessions: McpSessionLayer::new(MemorySessions::bounded(100_000)),
            envelope: EnvelopeService::new(()).sessions(limits.sessions.unwrap_or(10_000), Duration::from_secs(3600)),
            policy,
            networks,
            client_rate,
            token_rate,
            in_flight: ConcurrencyLimitLayer::new().total(limits.in_flight.0.unwrap_or(usize::MAX)),
            per_token: ConcurrencyLimitLayer::new().per_key(limits.per_token.0.unwrap_or(usize::MAX), ByPrincipal),
            request_body: BodyLimitLayer::new(size(limits.request_body)),
            response_body: ResponseLimitLayer::new(size(limits.response_body)).event_size(size(limits.event)),
            upstream: OnceLock::new(),
            pseudonym: format!("portcullis-{:016x}", getrandom::u64().map_err(|e| Invalid::at("randomness", e))?),
        })
    }
}

/// A server, and the stack that it is to run.
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
            Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static + use<>>,
            Error = Infallible,
            Future: Send,
        >
        + Clone
        + Send
        + 'static
        + use<>,
    ),
    Invalid,
> {
    let kept = Kept::new(config, listen, extras, Sink::open(config)?)?;
    let service = Swapped::new(stack(config, &kept)?);
    let place = service.place();
    let (server, sink, in_flight) = (kept.server.clone(), kept.sink.clone(), kept.in_flight.handle());
    let prepare: Prepare = Box::new(move |config, kept| {
        let (place, next) = (Arc::clone(&place), stack(config, kept)?);
        Ok(Box::new(move || place.put(next)))
    });
    Ok((App { server, live: Live { kept, prepare }, sink, in_flight }, service))
}

fn sources() -> Result<Vec<TokenSource>, portcullis::ConfigError> {
    Ok(vec![
        TokenSource::header("x-proxy-token")?,
        TokenSource::websocket_protocol(),
        TokenSource::query("proxy_token")?.on_upgrades_and_event_streams(),
        TokenSource::ticket("proxy_ticket")?,
    ])
}

fn records(config: &Config, extras: &Extras) -> Result<Vec<TokenRecord>, Invalid> {
    let mut records = tokens::records(config)?;
    records.extend(extras.made.iter().cloned());
    Ok(records)
}

/// Builds the stack of another configuration; what it gives puts it in force.
type Prepare = Box<dyn Fn(&Config, &Kept) -> Result<Box<dyn FnOnce() + Send>, Invalid> + Send + Sync>;

/// The running server, as a reload sees it.
pub struct Live {
    kept: Kept,
    prepare: Prepare,
}

impl Live {
    /// Puts another configuration in force, all of it or nothing, but for what is bound at the start
    /// ([`RESTART`](crate::config::RESTART)). Requests under way keep what they began with.
    pub fn reload(&self, config: &Config) -> Result<(), Invalid> {
        let kept = &self.kept;
        if kept.tls.is_some() != config.file.tls.is_some() {
            return Err(Invalid::new("[tls]: turning it on or off needs a restart"));
        }
        let policy = parts::policy(config, kept.listen, kept.extras.demo)?;
        let records = records(config, &kept.extras)?;
        if records.is_empty() {
            return Err(Invalid::new("[[token]]: there is no token"));
        }
        let client = parts::client_policies(config.file.rate_limit.per_client)?;
        let token = parts::token_policies(config)?;
        let files = parts::tls_files(config)?;
        let server = parts::server(config)?;
        let put = (self.prepare)(config, kept)?;
        let limits = &config.file.limits;
        let at = |key: &'static str| move |e| Invalid::at(key, e);
        // The parts that can still fail come first; each leaves its own old state when it does.
        if let (Some(tls), Some(files)) = (&kept.tls, &files) {
            tls.swap(files).map_err(at("tls"))?;
        }
        kept.networks.replace(texts(&config.file.clients.allow_cidrs)).map_err(at("clients.allow_cidrs"))?;
        kept.client_rate.handle().swap(client).map_err(at("rate_limit.per_client"))?;
        kept.token_rate.handle().swap(token).map_err(at("rate_limit.per_token"))?;
        kept.tokens.replace(records).map_err(at("[[token]]"))?;
        kept.policy.swap(policy);
        kept.request_body.handle().set(size(limits.request_body));
        kept.response_body.handle().set(size(limits.response_body));
        kept.response_body.handle().set_event_size(size(limits.event));
        kept.in_flight.handle().set_total(limits.in_flight.0.unwrap_or(usize::MAX));
        kept.per_token.handle().set_per_key(limits.per_token.0.unwrap_or(usize::MAX));
        kept.server.reconfigure(&server);
        put();
        Ok(())
    }

    /// Ends what is open under expired tokens.
    pub fn tick(&self, now: std::time::SystemTime) {
        self.kept.tokens.revoke_expired(now);
    }
}
