//! The `[egress]` and `[dns]` parts of the server's TOML file, shared by the server and `check_url`.
//!
//! ```toml
//! [egress]
//! allow_hosts = []                     # non-empty = allow-list mode: "name", "*.name" (any depth below), addresses
//! deny_hosts = []                      # beats everything
//! deny_cidrs = []                      # beats everything
//! ports = [443, "1024-65535"]          # default: [80, 443, "1024-65535"]
//! https_only = false
//! denial_floor = "100ms"               # denials leave on this grid; "0ms" or "off" turns it off
//! nat64_prefixes = []                  # beside 64:ff9b::/96
//! keyword_rule = false                 # also refuse names with "internal", "local", ... anywhere
//! [[egress.exception]]
//! host = "mcp.corp.example"            # absent = any host, and literals
//! cidrs = ["10.1.0.0/16"]
//! ports = [8443]                       # absent = the policy's ports
//! [egress.dangerous]
//! drop_bad_answers = false             # of mixed answers, use the good ones
//! without_name_rules = false           # ask DNS for special-use names too
//! [dns]
//! servers = ["127.0.0.1:5353"]         # default: the system's
//! timeout = "5s"
//! ```
#![allow(dead_code, reason = "each program uses its part")]

use std::{net::SocketAddr, time::Duration};

use portcullis::{
    ConfigError,
    egress::{EgressPolicy, EgressPolicyBuilder, Exception},
    resolve::HickoryResolver,
};
use serde::Deserialize;

/// `[egress]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EgressSection {
    pub(crate) allow_hosts: Vec<String>,
    pub(crate) deny_hosts: Vec<String>,
    pub(crate) deny_cidrs: Vec<String>,
    pub(crate) ports: Option<Vec<Port>>,
    pub(crate) https_only: bool,
    pub(crate) denial_floor: Option<String>,
    pub(crate) nat64_prefixes: Vec<String>,
    pub(crate) keyword_rule: bool,
    pub(crate) exception: Vec<ExceptionSection>,
    pub(crate) dangerous: DangerousSection,
}

/// `[[egress.exception]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExceptionSection {
    pub(crate) host: Option<String>,
    pub(crate) cidrs: Vec<String>,
    pub(crate) ports: Option<Vec<Port>>,
}

/// `[egress.dangerous]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DangerousSection {
    pub(crate) drop_bad_answers: bool,
    pub(crate) without_name_rules: bool,
}

/// `[dns]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DnsSection {
    pub(crate) servers: Option<Vec<String>>,
    pub(crate) timeout: Option<String>,
}

/// `443`, `"443"` or `"1024-65535"`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Port {
    Number(i64),
    Text(String),
}

impl Port {
    fn to_text(&self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

impl EgressSection {
    /// The policy's builder, for entries that come from elsewhere (listening addresses, a demo's exception).
    pub(crate) fn builder(&self) -> Result<EgressPolicyBuilder, ConfigError> {
        let mut b = EgressPolicy::builder()
            .https_only(self.https_only)
            .keyword_rule(self.keyword_rule)
            .allow_hosts(&self.allow_hosts)?
            .deny_hosts(&self.deny_hosts)?
            .deny_cidrs(&self.deny_cidrs)?;
        if let Some(ports) = &self.ports {
            b = b.ports(ports.iter().map(Port::to_text))?;
        }
        for prefix in &self.nat64_prefixes {
            b = b.nat64_prefix(prefix)?;
        }
        for e in &self.exception {
            let mut exception = match &e.host {
                Some(host) => Exception::host(host, &e.cidrs)?,
                None => Exception::any_host(&e.cidrs)?,
            };
            if let Some(ports) = &e.ports {
                exception = exception.ports(ports.iter().map(Port::to_text))?;
            }
            b = b.with_exception(exception);
        }
        if self.dangerous.drop_bad_answers {
            b = b.dangerous().drop_bad_answers();
        }
        if self.dangerous.without_name_rules {
            b = b.dangerous().without_name_rules();
        }
        Ok(b)
    }

    /// The step of the denial grid; zero is off.
    pub(crate) fn denial_floor(&self) -> Result<Duration, ConfigError> {
        self.denial_floor.as_deref().map_or(Ok(Duration::from_millis(100)), duration)
    }
}

impl DnsSection {
    /// The resolver that is asked.
    pub(crate) fn resolver(&self) -> Result<HickoryResolver, ConfigError> {
        let mut builder = HickoryResolver::builder();
        if let Some(servers) = &self.servers {
            builder = builder.servers(servers.iter().map(|s| server(s)).collect::<Result<Vec<_>, _>>()?);
        }
        if let Some(timeout) = &self.timeout {
            builder = builder.deadline(duration(timeout)?);
        }
        builder.build()
    }
}

/// `127.0.0.1:5353`, `[::1]:5353`, or an address alone for port 53.
fn server(text: &str) -> Result<SocketAddr, ConfigError> {
    let addr = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)));
    addr.map_err(|_| ConfigError::new(text, "is not the address of a name server, such as 127.0.0.1:5353"))
}

/// `100ms`, `5s`, `5m`, `1h`, or `off` for zero.
pub(crate) fn duration(text: &str) -> Result<Duration, ConfigError> {
    let bad = || ConfigError::new(text, "is not a time such as 100ms, 5s, 5m or off");
    if text == "off" {
        return Ok(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| bad())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(bad()),
    };
    Ok(unit * number)
}
