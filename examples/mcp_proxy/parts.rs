//! Parts of the stack out of the configuration, one function for each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use portcullis::{
    browser::BrowserLayer,
    client_cert::CertRule,
    egress::{EgressPolicy, Exception},
    limiter::{LimitStore, MemoryStore, Quota},
    mcp::PublicBase,
    proxy::{WebSocketLimits, WebSocketPing},
    rate_limit::{ByClient, ByPrincipal, Policy, RequestView, is_mcp_probe},
    request_head::RequestHeadLayer,
    serve::{ClientAuth, Server, ServerBuilder, Tls, TlsFiles},
    stores::{RedisStore, WhenAway},
    tokens::Principal,
};

use crate::{
    config::{self, Config, Invalid, Limits, OnRedisFailure, OrOff, Rate, Size, Span},
    demo::Demo,
    tokens,
};

/// Different rates that tokens may have.
const TOKEN_RATES: usize = 6;
/// A time limit that is none.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

pub fn span(value: OrOff<Span>) -> Duration {
    value.get().map_or(FOREVER, |s| s.0)
}

pub fn size(value: OrOff<Size>) -> u64 {
    value.get().map_or(u64::MAX, |s| s.0)
}

pub fn in_memory(value: OrOff<Size>) -> usize {
    usize::try_from(size(value)).unwrap_or(usize::MAX)
}

pub fn head(limits: &Limits) -> RequestHeadLayer {
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
    head
}

pub fn texts(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(String::as_str)
}

pub fn policy(config: &Config, listen: SocketAddr, demo: Option<Demo>) -> Result<EgressPolicy, Invalid> {
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

pub fn client_policies(rate: OrOff<Rate>) -> Result<Vec<Policy>, Invalid> {
    let policy = match rate {
        OrOff::Off => off("client")?,
        OrOff::Is(rate) => Policy::new("client", quota(rate)?).map_err(|e| Invalid::at("rate_limit.per_client", e))?,
    };
    Ok(vec![policy.key(ByClient)])
}

fn quota_class<'a>(request: &RequestView<'a>) -> Option<&'a str> {
    request.context()?.principal()?.quota()
}

pub fn token_policies(config: &Config) -> Result<Vec<Policy>, Invalid> {
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

pub fn browser(config: &Config, listen: SocketAddr) -> Result<BrowserLayer, Invalid> {
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

pub fn links(config: &Config) -> Result<PublicBase, Invalid> {
    match &config.file.public_url {
        Some(url) => PublicBase::fixed(url).map_err(|e| Invalid::at("public_url", e)),
        None => Ok(PublicBase::from_host(config.file.tls.is_some())),
    }
}

/// The listener's settings but for TLS.
pub fn server(config: &Config) -> Result<ServerBuilder, Invalid> {
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
        let pause = |time: Option<OrOff<Span>>| time.map_or(Some(Duration::from_secs(10)), |t| t.get().map(|s| s.0));
        let window = pause(limits.request_body_timeout).max(pause(limits.response_write_timeout));
        server = server.min_rate(rate, rate, window.unwrap_or(Duration::from_secs(10)));
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
    if file.tls.is_none() && !config.listen.ip().is_loopback() && !file.allow_plain_tokens {
        return Err(Invalid::new(format!(
            "listen: {} is not loopback, and tokens would cross the network in the clear: configure [tls], or set \
             allow_plain_tokens = true if a TLS server stands in front",
            config.listen
        )));
    }
    Ok(server)
}

pub fn websocket(config: &Config) -> Result<WebSocketLimits, Invalid> {
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

pub fn websocket_ping(config: &Config) -> Result<Option<WebSocketPing>, Invalid> {
    let limits = &config.file.limits;
    let Some(Span(interval)) = limits.websocket_ping.get() else { return Ok(None) };
    if interval.is_zero() || limits.websocket_pong.0.is_zero() {
        return Err(Invalid::new("limits.websocket_ping, limits.websocket_pong: no time at all; \"off\" turns the Pings off"));
    }
    Ok(Some(WebSocketPing::every(interval).timeout(limits.websocket_pong.0)))
}

pub fn tls_files(config: &Config) -> Result<Option<TlsFiles>, Invalid> {
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

pub fn tls(config: &Config) -> Result<Option<Tls>, Invalid> {
    match tls_files(config)? {
        Some(files) => Tls::new(&files).map(Some).map_err(|e| Invalid::at("tls", e)),
        None => Ok(None),
    }
}

pub fn cert_rules(config: &Config) -> Result<Vec<CertRule>, Invalid> {
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

pub fn limit_store(config: &Config) -> Result<Arc<dyn LimitStore>, Invalid> {
    let rates = &config.file.rate_limit;
    let Some(url) = &rates.redis else { return Ok(Arc::new(MemoryStore::bounded(150_000))) };
    let when_away = match rates.on_redis_failure {
        OnRedisFailure::Refuse => WhenAway::Refuse,
        OnRedisFailure::Admit => WhenAway::Admit,
        OnRedisFailure::Local => WhenAway::LocalShare { replicas: rates.replicas.max(1) },
    };
    let store = RedisStore::builder(url).and_then(|b| b.when_away(when_away).build());
    Ok(Arc::new(store.map_err(|e| Invalid::at("rate_limit.redis", e))?))
}
