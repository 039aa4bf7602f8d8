//! Looking names up through hickory, with everything switched off that answers for itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name as DnsName, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::time::timeout;

use super::{Answers, CachingResolver, MAX_ANSWERS, Resolve, ResolveError, Resolving};
use crate::{ConfigError, clock::Clock, net::Name};

/// How long a look-up may take in all.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one server is waited for. Two attempts fit into the deadline.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long the other address family is waited for once one has answered.
const STRAGGLER: Duration = Duration::from_secs(1);
/// How long an answer is remembered when the other family failed: not asking at all would cost every connection the wait for
/// the straggler, and remembering it for its TTL would hide the other family's return.
const HALF_ANSWER: Duration = Duration::from_secs(5);
/// Longest chain of CNAME records.
const MAX_CNAMES: usize = 8;

/// Asks A and AAAA of an absolute name: no search list, no hosts file, no cache but our own, a deadline over all of it.
#[derive(Clone, Debug)]
pub struct HickoryResolver(Arc<CachingResolver<Hickory>>);

impl HickoryResolver {
    /// Asks the system's name servers.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read or names no server.
    pub fn system() -> Result<Self, ConfigError> {
        Self::builder().build()
    }

    /// Asks these name servers, over UDP and, for long answers, TCP.
    ///
    /// # Errors
    /// When there is none.
    pub fn with_servers(servers: impl IntoIterator<Item = SocketAddr>) -> Result<Self, ConfigError> {
        Self::builder().servers(servers).build()
    }

    /// More choices.
    #[must_use]
    pub fn builder() -> HickoryBuilder {
        HickoryBuilder { servers: None, deadline: DEADLINE, clock: None }
    }
}

impl Resolve for HickoryResolver {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        self.0.resolve(name)
    }
}

/// Builds a [`HickoryResolver`].
#[derive(Clone, Debug)]
pub struct HickoryBuilder {
    servers: Option<Vec<SocketAddr>>,
    deadline: Duration,
    clock: Option<Arc<dyn Clock>>,
}

impl HickoryBuilder {
    /// Asks these instead of the system's.
    #[must_use]
    pub fn servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = Some(servers.into_iter().collect());
        self
    }

    /// How long a look-up may take in all. Default: 5 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The clock that TTLs are measured with.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Makes the resolver.
    ///
    /// # Errors
    /// When there is no server to ask.
    pub fn build(self) -> Result<HickoryResolver, ConfigError> {
        // Of the system's configuration only the servers are taken: not the search list, not `ndots`, not the hosts file.
        let servers = self.servers.map_or_else(system_servers, |own| Ok(own.iter().map(server).collect()))?;
        if servers.is_empty() {
            return Err(ConfigError::new("dns.servers", "names no server"));
        }
        let mut options = ResolverOpts::default();
        options.ndots = 1;
        options.timeout = self.deadline.min(ATTEMPT);
        options.attempts = 2;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.try_tcp_on_error = true;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|e| ConfigError::new("dns", e.to_string()))?;
        let mut caching = CachingResolver::new(Hickory { resolver, deadline: self.deadline });
        if let Some(clock) = self.clock {
            caching = caching.clock(clock);
        }
        Ok(HickoryResolver(Arc::new(caching)))
    }
}

fn system_servers() -> Result<Vec<NameServerConfig>, ConfigError> {
    let unusable = |e| ConfigError::new("dns", format!("the system's resolver configuration cannot be used: {e}"));
    Ok(read_system_conf().map_err(unusable)?.0.name_servers().to_vec())
}

fn server(addr: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
        c.port = addr.port();
        c
    });
    NameServerConfig::new(addr.ip(), true, connections.into())
}

struct Hickory {
    resolver: TokioResolver,
    deadline: Duration,
}

impl std::fmt::Debug for Hickory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hickory").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Resolve for Hickory {
    fn resolve<'a>(&'a self, name: &'a Name) -> Resolving<'a> {
        Box::pin(async move {
            let name = absolute(name)?;
            match timeout(self.deadline, self.both(name)).await {
                Ok(result) => result,
                Err(_) => Err(ResolveError::Timeout),
            }
        })
    }
}

/// The name from its labels, with the root at its end: never parsed as text again, where `\` or an address would be special.
fn absolute(name: &Name) -> Result<DnsName, ResolveError> {
    let mut dns = DnsName::from_labels(name.as_str().split('.').map(str::as_bytes))
        .map_err(|e| ResolveError::Failed(e.to_string().into()))?;
    dns.set_fqdn(true);
    Ok(dns)
}

impl Hickory {
    /// Both families at once. When one has addresses and the other fails or is late, the one is enough: what was not seen is
    /// not dialled.
    async fn both(&self, name: DnsName) -> Result<Answers, ResolveError> {
        let v4 = self.one(name.clone(), RecordType::A);
        let v6 = self.one(name, RecordType::AAAA);
        tokio::pin!(v4, v6);
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => {
                let wait = if v4.is_ok() { STRAGGLER } else { self.deadline };
                (v4, timeout(wait, v6).await.unwrap_or(Err(ResolveError::Timeout)))
            }
            v6 = &mut v6 => {
                let wait = if v6.is_ok() { STRAGGLER } else { self.deadline };
                (timeout(wait, v4).await.unwrap_or(Err(ResolveError::Timeout)), v6)
            }
        };
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => {
                let valid_for = v4.valid_for().min(v6.valid_for());
                let mut addrs = v4.addrs;
                addrs.extend(v6.addrs);
                Ok(Answers::new(addrs, valid_for))
            }
            (Ok(one), Err(error)) | (Err(error), Ok(one)) => {
                let valid_for = if error == ResolveError::NoSuchName { one.valid_for } else { one.valid_for.min(HALF_ANSWER) };
                Ok(Answers::new(one.addrs, valid_for))
            }
            (Err(ResolveError::NoSuchName), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }

    async fn one(&self, name: DnsName, kind: RecordType) -> Result<Answers, ResolveError> {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => collect(&lookup),
            Err(error) => Err(explain(&error)),
        }
    }
}

/// Every address in the answer, and the smallest TTL of all its records.
fn collect(lookup: &Lookup) -> Result<Answers, ResolveError> {
    let records = lookup.answers();
    let addrs: Vec<IpAddr> = records.iter().filter_map(|r| r.data.ip_addr()).collect();
    if addrs.is_empty() {
        return Err(ResolveError::NoSuchName);
    }
    if addrs.len() > MAX_ANSWERS {
        return Err(ResolveError::Failed(format!("{} addresses are more than {MAX_ANSWERS}", addrs.len()).into()));
    }
    if records.iter().filter(|r| matches!(r.data, RData::CNAME(_))).count() > MAX_CNAMES {
        return Err(ResolveError::Failed("the chain of CNAME records is too long".into()));
    }
    let ttl = records.iter().map(|r| r.ttl).min().unwrap_or(0);
    Ok(Answers::new(addrs, Duration::from_secs(ttl.into())))
}

fn explain(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain | ResponseCode::NoError => ResolveError::NoSuchName,
            code => ResolveError::Failed(code.to_string().into()),
        },
        NetError::Timeout => ResolveError::Timeout,
        other => ResolveError::Failed(other.to_string().into()),
    }
}
