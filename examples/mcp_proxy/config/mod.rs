//! The TOML file, the environment and the command line, in that order of weakness.

#[path = "../../shared/egress_config.rs"]
mod egress_config;
mod file;
mod values;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

pub use file::*;
pub use values::*;

/// What is wrong with the configuration, in words for the operator.
#[derive(Debug)]
pub struct Invalid(String);

impl Invalid {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// An entry of the library's own builders, under the key that it came from.
    pub fn at(key: &str, error: impl fmt::Display) -> Self {
        Self(format!("{key}: {error}"))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// Where settings come from besides the file.
#[derive(Debug, Default, Clone)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub host: Option<String>,
    pub port: Option<u16>,
    /// `PROXY_TOKEN`.
    pub token: Option<String>,
}

impl Overrides {
    /// Reads `HOST`, `PORT` and `PROXY_TOKEN`; empty ones count as unset.
    pub fn from_env(config: Option<PathBuf>, listen: Option<SocketAddr>) -> Result<Self, Invalid> {
        let get = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let port = match get("PORT") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| Invalid(format!("PORT: `{}` is not a port", text.escape_debug())))?),
        };
        Ok(Self { config, listen, host: get("HOST"), port, token: get("PROXY_TOKEN") })
    }
}

/// The keys that a reload does not put in force, because what they say is bound, opened or laid out at the start. Whether there is
/// `[tls]` at all is one more: a file that differs in that is not reloaded.
pub const RESTART: &[&str] = &[
    "listen",
    "limits.connections",
    "limits.sessions",
    "rate_limit.redis",
    "rate_limit.on_redis_failure",
    "rate_limit.replicas",
    "audit.path",
    "audit.rotate",
    "audit.keep",
    "metrics.listen",
];

/// The settings in force.
#[derive(Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub file: File,
    /// The file as it was written.
    written: toml::Table,
    /// `PROXY_TOKEN`, a token with the id `env`.
    pub env_token: Option<String>,
    /// The directory that relative paths of the file start from.
    pub base: PathBuf,
}

impl Config {
    pub fn load(overrides: &Overrides) -> Result<Self, Invalid> {
        let (file, written, base) = match &overrides.config {
            None => (File::default(), toml::Table::new(), PathBuf::new()),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Invalid(format!("{}: {e}", path.display())))?;
                let file = File::parse(&text).map_err(|e| Invalid(format!("{}: {e}", path.display())))?;
                // What has been parsed once is a table.
                let written = text.parse().unwrap_or_default();
                (file, written, path.parent().map(Path::to_owned).unwrap_or_default())
            }
        };
        Ok(Self { listen: listen(overrides, &file)?, file, written, env_token: overrides.token.clone(), base })
    }

    /// Which keys differ from those that the server was started with, and are only read at a start.
    pub fn waits_for_restart(&self, started: &Self) -> Vec<&'static str> {
        let differs = |key: &&&str| match **key {
            // Where the command line or the environment says it, the file has no say.
            "listen" => self.listen != started.listen,
            key => value(&self.written, key) != value(&started.written, key),
        };
        RESTART.iter().filter(differs).copied().collect()
    }

    /// A path of the file, relative to the file.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

fn value<'a>(table: &'a toml::Table, key: &str) -> Option<&'a toml::Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((table_key, key)) => table.get(table_key)?.get(key),
    }
}

fn listen(overrides: &Overrides, file: &File) -> Result<SocketAddr, Invalid> {
    if let Some(listen) = overrides.listen {
        return Ok(listen);
    }
    let mut listen = file.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000));
    if let Some(host) = &overrides.host {
        let ip = match host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => text.parse().map_err(|_| Invalid(format!("HOST: `{}` is not an address", text.escape_debug())))?,
        };
        listen.set_ip(ip);
    }
    if let Some(port) = overrides.port {
        listen.set_port(port);
    }
    Ok(listen)
}
