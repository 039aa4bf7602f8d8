use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{ConnectError, ConnectedIo, Dial, TcpDialer};
use crate::{
    ConfigError,
    egress::{ApprovedAddr, ApprovedAddrs, Denial, DenialReason, EgressPermit, LOCALHOST, Resolution},
    net::unwrap_mapped,
    resolve::{Resolve, ResolveError},
};

/// Most addresses that are tried for one connection.
pub const MAX_ATTEMPTS: usize = 4;

/// Opens connections for permits. Clones share everything.
#[derive(Clone, Debug)]
pub struct GuardedConnector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    resolver: Box<dyn Resolve>,
    dialer: Box<dyn Dial>,
    connect_timeout: Duration,
    dns_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Tls,
}

/// An open connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Connected {
    /// The stream, TLS included.
    pub io: ConnectedIo,
    /// The other end, as it was judged.
    pub peer: SocketAddr,
    /// Whether HTTP/2 was agreed on (ALPN).
    pub is_h2: bool,
    /// How long the steps took.
    pub timings: ConnectTimings,
}

/// How long the steps of a connection took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectTimings {
    /// The look-up, from the memory or from the server.
    pub dns: Duration,
    /// TCP, failed attempts included.
    pub connect: Duration,
    /// The TLS handshake; zero without TLS.
    pub tls: Duration,
}

impl GuardedConnector {
    /// Chooses resolver, dialer, deadlines and TLS.
    #[must_use]
    pub fn builder() -> GuardedConnectorBuilder {
        GuardedConnectorBuilder::default()
    }

    /// Looks up and judges, once: the addresses that [`Self::connect`] would try, in order.
    ///
    /// # Errors
    /// A denial or a failed look-up.
    pub async fn plan(&self, permit: &EgressPermit) -> Result<Vec<SocketAddr>, ConnectError> {
        let approved = self.approve(permit).await?;
        Ok(attempts(&approved).map(ApprovedAddr::get).collect())
    }

    /// Opens a connection to the permit's origin. `http1_only` leaves HTTP/2 out of ALPN, as a WebSocket upgrade needs.
    ///
    /// # Errors
    /// A denial, or the step that failed.
    pub async fn connect(&self, permit: &EgressPermit, http1_only: bool) -> Result<Connected, ConnectError> {
        let started = Instant::now();
        let approved = self.approve(permit).await?;
        #[cfg(not(feature = "tls"))]
        if permit.origin().scheme().is_secure() {
            return Err(no_tls());
        }
        let resolved = Instant::now();
        let deadline = resolved + self.0.connect_timeout;
        let (stream, peer) = self.dial(&approved, deadline).await?;
        let connected = Instant::now();
        let mut timings = ConnectTimings { dns: resolved - started, connect: connected - resolved, tls: Duration::ZERO };
        if !permit.origin().scheme().is_secure() {
            return Ok(Connected { io: ConnectedIo::plain(stream), peer, is_h2: false, timings });
        }
        let (io, is_h2) = match timeout_at(deadline, self.secure(permit, stream, http1_only)).await {
            Ok(result) => result?,
            Err(_) => return Err(ConnectError::timeout("the TLS handshake")),
        };
        timings.tls = connected.elapsed();
        Ok(Connected { io, peer, is_h2, timings })
    }

    async fn approve(&self, permit: &EgressPermit) -> Result<ApprovedAddrs, ConnectError> {
        match permit.resolution() {
            Resolution::Literal(ip) => Ok(permit.judge(&[ip])?),
            Resolution::Localhost => Ok(permit.judge(&LOCALHOST)?),
            Resolution::Dns(name) => {
                let answers = match timeout(self.0.dns_timeout, self.0.resolver.resolve(name)).await {
                    Ok(answers) => answers?,
                    Err(_) => return Err(ResolveError::Timeout.into()),
                };
                Ok(permit.judge(answers.addrs())?)
            }
        }
    }

    /// Tries the approved addresses one after the other. Each gets an equal share of the time that is left.
    async fn dial(&self, approved: &ApprovedAddrs, deadline: Instant) -> Result<(TcpStream, SocketAddr), ConnectError> {
        let mut left = u32::try_from(attempts(approved).count()).unwrap_or(1);
        let mut failure = None;
        for addr in attempts(approved) {
            let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left -= 1;
            match timeout(share, self.0.dialer.dial(addr)).await {
                Ok(Ok(stream)) => {
                    check_peer(stream.peer_addr(), addr)?;
                    return Ok((stream, addr.get()));
                }
                // A refusal says more than a silence: it is kept for the answer.
                Ok(Err(error)) => failure = Some(ConnectError::connect(error)),
                Err(_) => failure = failure.or_else(|| Some(ConnectError::timeout("connect"))),
            }
        }
        Err(failure.unwrap_or_else(|| ConnectError::connect(io::ErrorKind::AddrNotAvailable.into())))
    }

    #[cfg(feature = "tls")]
    async fn secure(
        &self,
        permit: &EgressPermit,
        stream: TcpStream,
        http1_only: bool,
    ) -> Result<(ConnectedIo, bool), ConnectError> {
        let stream = self.0.tls.handshake(permit.origin().host(), stream, http1_only).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((ConnectedIo::tls(stream), is_h2))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, _: &EgressPermit, _: TcpStream, _: bool) -> Result<(ConnectedIo, bool), ConnectError> {
        Err(no_tls())
    }
}

#[cfg(not(feature = "tls"))]
fn no_tls() -> ConnectError {
    ConnectError::tls(io::Error::new(io::ErrorKind::Unsupported, "built without the `tls` feature"), "tls_protocol_error")
}

fn attempts(approved: &ApprovedAddrs) -> impl Iterator<Item = ApprovedAddr> + '_ {
    approved.iter().take(MAX_ATTEMPTS)
}

/// A dialer is code of the user's: where its stream leads is asked of the kernel.
fn check_peer(peer: io::Result<SocketAddr>, dialled: ApprovedAddr) -> Result<(), ConnectError> {
    let peer = peer.map_err(ConnectError::connect)?;
    if unwrap_mapped(peer.ip()) == dialled.get().ip() && peer.port() == dialled.get().port() {
        return Ok(());
    }
    Err(Denial::new(DenialReason::Peer, format!("dialled {}, connected to {peer}", dialled.get())).into())
}

/// Builds a [`GuardedConnector`].
#[derive(Debug, Default)]
pub struct GuardedConnectorBuilder {
    resolver: Option<Box<dyn Resolve>>,
    dialer: Option<Box<dyn Dial>>,
    connect_timeout: Option<Duration>,
    dns_timeout: Option<Duration>,
    #[cfg(feature = "tls")]
    roots: Vec<rustls::pki_types::CertificateDer<'static>>,
    #[cfg(feature = "tls")]
    tls: Option<rustls::ClientConfig>,
}

/// The default of both deadlines.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A deadline beyond this is none, and adding it to a clock could overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl GuardedConnectorBuilder {
    /// Who answers for names. Default: the system's name servers through hickory, where the feature is on.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Some(Box::new(resolver));
        self
    }

    /// Who opens sockets. Default: [`TcpDialer`].
    #[must_use]
    pub fn dialer(mut self, dialer: impl Dial) -> Self {
        self.dialer = Some(Box::new(dialer));
        self
    }

    /// How long all attempts and the TLS handshake may take together. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How long the look-up may take, whatever the resolver thinks. Default: 5 s.
    #[must_use]
    pub fn dns_timeout(mut self, timeout: Duration) -> Self {
        self.dns_timeout = Some(timeout);
        self
    }

    /// Trusts these authorities besides the public ones.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn extra_roots(mut self, roots: impl IntoIterator<Item = rustls::pki_types::CertificateDer<'static>>) -> Self {
        self.roots.extend(roots);
        self
    }

    /// Replaces the TLS configuration, roots included. ALPN is set by the connector.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_config(mut self, config: rustls::ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Makes the connector.
    ///
    /// # Errors
    /// No resolver was given and there is no default one; a root certificate that is not one; roots beside a configuration
    /// that has its own.
    pub fn build(self) -> Result<GuardedConnector, ConfigError> {
        let resolver = match self.resolver {
            Some(resolver) => resolver,
            None => default_resolver()?,
        };
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            Some(_) if !self.roots.is_empty() => {
                return Err(ConfigError::new("extra_roots", "have no effect beside a TLS configuration of your own"));
            }
            Some(config) => Tls::from_config(config),
            None => Tls::with_roots(self.roots)?,
        };
        Ok(GuardedConnector(Arc::new(Inner {
            resolver,
            dialer: self.dialer.unwrap_or_else(|| Box::new(TcpDialer)),
            connect_timeout: self.connect_timeout.unwrap_or(TIMEOUT).min(LONGEST),
            dns_timeout: self.dns_timeout.unwrap_or(TIMEOUT),
            #[cfg(feature = "tls")]
            tls,
        })))
    }
}

#[cfg(feature = "hickory")]
fn default_resolver() -> Result<Box<dyn Resolve>, ConfigError> {
    Ok(Box::new(crate::resolve::HickoryResolver::system()?))
}

#[cfg(not(feature = "hickory"))]
fn default_resolver() -> Result<Box<dyn Resolve>, ConfigError> {
    Err(ConfigError::new("resolver", "is missing: without the `hickory` feature there is no default one"))
}
