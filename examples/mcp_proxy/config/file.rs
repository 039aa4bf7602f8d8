//! The TOML file. Unknown keys are errors; every key may be left out.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{
    Count, Invalid, Moment, OrOff, Rate, Size, Span,
    egress_config::{DnsSection, EgressSection},
};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub listen: Option<SocketAddr>,
    pub public_url: Option<String>,
    pub allowed_hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub allow_plain_tokens: bool,
    pub drain: Option<OrOff<Span>>,
    pub expose_errors: bool,
    pub clients: Clients,
    pub tls: Option<Tls>,
    pub token: Vec<Token>,
    pub egress: EgressSection,
    pub dns: DnsSection,
    pub limits: Limits,
    pub rate_limit: RateLimits,
    pub audit: Audit,
    pub metrics: Metrics,
}

impl File {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let file: Self = toml::from_str(text).map_err(|e| Invalid::new(e.to_string().trim_end().to_owned()))?;
        for (i, token) in file.token.iter().enumerate() {
            token
                .check()
                .map_err(|e| Invalid::new(format!("[[token]] number {} (`{}`): {e}", i + 1, token.id.escape_debug())))?;
        }
        Ok(file)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    pub allow_cidrs: Vec<String>,
    pub trusted_proxies: Vec<String>,
    pub proxy_protocol: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
    #[serde(default)]
    pub client_auth: ClientAuth,
    #[serde(default)]
    pub client: Vec<TlsClient>,
}

/// What a client certificate is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// It does instead of a token.
    #[default]
    OrToken,
    /// It is needed as well as a token.
    AndToken,
}

/// Which client certificate is which principal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsClient {
    pub id: String,
    pub uri: Option<String>,
    pub dns: Option<String>,
    pub sha256: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    pub id: String,
    pub sha256: Option<OneOrMore>,
    pub secret_env: Option<String>,
    pub not_before: Option<Moment>,
    pub expires: Option<Moment>,
    #[serde(default)]
    pub disabled: bool,
    #[serde(default)]
    pub force_short: bool,
    pub targets: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub websocket: Option<bool>,
    pub mcp_methods: Option<Vec<String>>,
    pub tools: Option<Vec<String>>,
    pub rate: Option<OrOff<Rate>>,
    #[serde(default)]
    pub operator: bool,
}

/// One hash, or two for a rotation.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
        .iter()
        .map(String::as_str)
    }
}

impl Token {
    fn check(&self) -> Result<(), &'static str> {
        match (&self.sha256, &self.secret_env) {
            (None, None) => Err("sha256 or secret_env is missing"),
            (Some(_), Some(_)) => Err("sha256 and secret_env are both written"),
            _ => Ok(()),
        }
    }
}

/// Sizes and times. The defaults are chosen for MCP: messages are small, files are not fetched through it by accident, and a quiet
/// event stream is healthy for minutes.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub request_body: OrOff<Size>,
    pub response_body: OrOff<Size>,
    pub event: OrOff<Size>,
    pub url: Option<Size>,
    pub header_bytes: Option<Size>,
    pub header_count: Option<usize>,
    pub connect_timeout: Span,
    pub header_timeout: OrOff<Span>,
    pub idle_timeout: OrOff<Span>,
    pub stream_idle_timeout: OrOff<Span>,
    pub total_timeout: OrOff<Span>,
    pub keep_alive: OrOff<Span>,
    pub tunnel_lifetime: OrOff<Span>,
    pub websocket_message: OrOff<Size>,
    pub websocket_frames: OrOff<Rate>,
    pub websocket_bytes: OrOff<Size>,
    pub websocket_ping: OrOff<Span>,
    pub websocket_pong: Span,
    pub request_head_timeout: Option<Span>,
    pub request_body_timeout: Option<OrOff<Span>>,
    pub response_write_timeout: Option<OrOff<Span>>,
    pub min_rate: Option<OrOff<Size>>,
    pub connection_idle_timeout: Option<Span>,
    pub connections: Option<usize>,
    pub http2_streams: Option<u32>,
    pub in_flight: Count,
    pub per_token: Count,
    pub sessions: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_body: OrOff::Is(Size(4 << 20)),
            response_body: OrOff::Is(Size(64 << 20)),
            event: OrOff::Is(Size(16 << 20)),
            url: None,
            header_bytes: None,
            header_count: None,
            connect_timeout: Span(Duration::from_secs(5)),
            header_timeout: OrOff::Is(Span(Duration::from_secs(30))),
            idle_timeout: OrOff::Is(Span(Duration::from_secs(300))),
            stream_idle_timeout: OrOff::Is(Span(Duration::from_secs(3600))),
            total_timeout: OrOff::Off,
            keep_alive: OrOff::Off,
            tunnel_lifetime: OrOff::Off,
            websocket_message: OrOff::Off,
            websocket_frames: OrOff::Off,
            websocket_bytes: OrOff::Off,
            websocket_ping: OrOff::Off,
            websocket_pong: Span(Duration::from_secs(10)),
            request_head_timeout: None,
            request_body_timeout: None,
            response_write_timeout: None,
            min_rate: None,
            connection_idle_timeout: None,
            connections: None,
            http2_streams: None,
            in_flight: Count(Some(4096)),
            per_token: Count(Some(256)),
            sessions: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    pub per_client: OrOff<Rate>,
    pub per_token: OrOff<Rate>,
    pub probes: OrOff<Rate>,
    pub redis: Option<String>,
    pub on_redis_failure: OnRedisFailure,
    pub replicas: u64,
}

impl Default for RateLimits {
    fn default() -> Self {
        let per_minute = |count| OrOff::Is(Rate { count, per: Duration::from_secs(60) });
        Self {
            per_client: per_minute(300),
            per_token: per_minute(100),
            probes: per_minute(60),
            redis: None,
            on_redis_failure: OnRedisFailure::default(),
            replicas: 1,
        }
    }
}

/// What rules while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRedisFailure {
    Refuse,
    Admit,
    /// Each server grants its share of the quota by itself.
    #[default]
    Local,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// `-` is standard output; `off` writes nothing.
    pub path: String,
    pub rotate: Rotate,
    /// How many files, the open one among them. Not given: all.
    pub keep: Option<usize>,
}

/// When the audit goes on in a new file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotate {
    /// By others, with SIGHUP.
    #[default]
    Never,
    Hourly,
    Daily,
}

impl Default for Audit {
    fn default() -> Self {
        Self { path: "off".into(), rotate: Rotate::Never, keep: None }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Its own listener, so that figures are not served where clients come.
    pub listen: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_commented_sample_is_the_whole_file() {
        let text = include_str!("../mcp_proxy.toml");
        File::parse(text).unwrap();
        // With every key switched on it still parses.
        let on: String = text
            .lines()
            .map(|l| match l.strip_prefix('#') {
                Some(rest)
                    if rest.starts_with('[')
                        || rest.split_once(" = ").is_some_and(|(k, _)| {
                            k.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
                        }) =>
                {
                    format!("{rest}\n")
                }
                _ => format!("{l}\n"),
            })
            .collect();
        let file = File::parse(&on).unwrap();
        assert!(file.listen.is_some() && file.tls.is_some() && file.token.len() == 1 && file.metrics.listen.is_some());
        assert_eq!(file.token[0].expires.unwrap().0, SystemTime::UNIX_EPOCH + Duration::from_secs(1_798_761_600));
    }

    #[test]
    fn errors_name_the_key() {
        for (text, want) in [
            ("nonsense = 1", "nonsense"),
            ("[limits]\nrequest_bod = \"1MiB\"", "request_bod"),
            ("[limits]\nrequest_body = \"1 apple\"", "1 apple"),
            ("[rate_limit]\nper_client = \"often\"", "often"),
            ("[[token]]\nid = \"a\"", "sha256 or secret_env"),
            ("listen = \"nowhere\"", "listen"),
        ] {
            let error = File::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn values() {
        let file = File::parse(
            "[limits]\nrequest_body = \"off\"\nidle_timeout = \"90m\"\nin_flight = \"off\"\n[rate_limit]\nper_token = \"5/hour\"",
        )
        .unwrap();
        assert_eq!(file.limits.request_body, OrOff::Off);
        assert_eq!(file.limits.idle_timeout.get().unwrap().0, Duration::from_secs(5400));
        assert_eq!(file.limits.in_flight.0, None);
        assert_eq!(file.rate_limit.per_token.to_string(), "5/hour");
        assert_eq!(Size(64 << 10).to_string(), "64KiB");
    }
}
