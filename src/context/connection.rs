//! What the server knows about the connection a request came by.

use std::{fmt, net::SocketAddr, sync::Arc};

/// The connection of a request: the other end, whether it is TLS, and the certificates the client has shown.
#[derive(Clone)]
pub struct ConnectionInfo {
    peer: SocketAddr,
    tls: bool,
    client_certs: Option<Arc<[Box<[u8]>]>>,
}

impl ConnectionInfo {
    /// A cleartext connection from `peer`.
    #[must_use]
    pub fn new(peer: SocketAddr) -> Self {
        Self { peer, tls: false, client_certs: None }
    }

    /// The same connection over TLS, with the client's verified chain in DER, its own certificate first.
    #[must_use]
    pub fn with_tls(mut self, client_certs: Option<Arc<[Box<[u8]>]>>) -> Self {
        self.tls = true;
        self.client_certs = client_certs;
        self
    }

    /// The other end: from the socket, or from a PROXY header that a trusted balancer has sent.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the client speaks TLS to this server.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The client's certificate chain in DER, verified against the listener's `client_ca`; its own certificate first.
    #[must_use]
    pub fn client_certs(&self) -> Option<&[Box<[u8]>]> {
        self.client_certs.as_deref()
    }
}

impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certs = self.client_certs.as_ref().map_or(0, |c| c.len());
        f.debug_struct("ConnectionInfo").field("peer", &self.peer).field("tls", &self.tls).field("client_certs", &certs).finish()
    }
}
