//! Opening a TCP connection to an approved address.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::net::TcpStream;

use crate::egress::ApprovedAddr;

/// The future of a dial. Boxed, because dials happen for new connections only.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Opens connections. What it returns is checked: a stream that leads elsewhere is dropped unused.
pub trait Dial: fmt::Debug + Send + Sync + 'static {
    /// Opens a TCP connection to this address and no other.
    fn dial(&self, addr: ApprovedAddr) -> Dialing<'_>;
}

impl<D: Dial + ?Sized> Dial for Arc<D> {
    fn dial(&self, addr: ApprovedAddr) -> Dialing<'_> {
        (**self).dial(addr)
    }
}

/// The operating system's sockets, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial(&self, addr: ApprovedAddr) -> Dialing<'_> {
        Box::pin(async move {
            let stream = TcpStream::connect(addr.get()).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

/// Dials nothing: records every address and refuses. The proof, in tests, of what would have been dialled. Clones share their
/// memory.
#[derive(Clone, Debug, Default)]
pub struct RecordingDialer(Arc<Mutex<Vec<SocketAddr>>>);

impl RecordingDialer {
    /// What was to be dialled, in order.
    #[must_use]
    pub fn dials(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Dial for RecordingDialer {
    fn dial(&self, addr: ApprovedAddr) -> Dialing<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(addr.get());
        Box::pin(std::future::ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, "recorded, not dialled"))))
    }
}
