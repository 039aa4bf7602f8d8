//! The socket under hyper: cleartext or TLS, with bytes put back in front, and a close that lets the client read the answer.

use std::{
    future::Future as _,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

use super::flow::Flow;

/// Most bytes that are read and thrown away after an early final answer.
pub(super) const LINGER_BYTES: usize = 1024 * 1024;
/// How long the kernel may wait for the client to take a byte of what was sent before the close.
#[cfg(target_os = "linux")]
const UNDELIVERED: Duration = Duration::from_secs(30);
/// Room for what comes first.
const FIRST_READ: usize = 8 * 1024;

pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream {
            Stream::Plain($io) => $call,
            #[cfg(feature = "tls")]
            Stream::Tls($io) => $call,
        }
    };
}

enum Closing {
    No,
    /// The write side is being closed; `true` if the read side has to be emptied after that.
    Write(bool),
    Drain(usize),
    Done,
}

/// One connection's byte stream. It holds its place under the connection cap, also when it has become a tunnel.
pub(super) struct Io {
    stream: Stream,
    /// Bytes that were read before it was clear whose they are, still to be delivered.
    prefix: BytesMut,
    flow: Arc<Flow>,
    closing: Closing,
    read_eof: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Io {
    pub(super) fn new(stream: Stream, prefix: BytesMut, flow: Arc<Flow>, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, prefix, flow, closing: Closing::No, read_eof: false, _place: place }
    }

    /// Takes the bytes that are still to be delivered.
    pub(super) fn take_prefix(&mut self) -> BytesMut {
        std::mem::take(&mut self.prefix)
    }

    /// Puts bytes back, to be delivered first.
    pub(super) fn put_back(&mut self, bytes: BytesMut) {
        self.prefix = bytes;
    }

    /// Reads into `buf` without a look at the framing: for a reader that frames by itself. 0 is the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        use tokio::io::AsyncReadExt as _;
        let n = ready!(each!(&mut self.stream, io => pin!(io.read_buf(buf)).poll(cx)))?;
        if n == 0 {
            self.read_eof = true;
        }
        Poll::Ready(Ok(n))
    }
}

/// The kernel goes on with what it has not yet delivered, and a client that does not read makes it keep that for ever: up to some
/// hundred kilobytes for each connection, under no cap of ours. So a stalled one is reset, and others have bounded patience.
impl Drop for Io {
    fn drop(&mut self) {
        let socket = match &self.stream {
            Stream::Plain(io) => SockRef::from(io),
            #[cfg(feature = "tls")]
            Stream::Tls(io) => SockRef::from(io.get_ref().0),
        };
        if self.flow.stalled() {
            let _ = socket.set_linger(Some(Duration::ZERO));
        } else {
            #[cfg(target_os = "linux")]
            let _ = socket.set_tcp_user_timeout(Some(UNDELIVERED));
        }
    }
}

pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads as many bytes as it takes to tell HTTP/2 with prior knowledge from HTTP/1.1 (RFC 9113 §3.4): they, and whether the client
/// opens with the HTTP/2 preface.
pub(super) async fn sniff(stream: &mut Stream) -> io::Result<(BytesMut, bool)> {
    use tokio::io::AsyncReadExt as _;
    let mut seen = BytesMut::with_capacity(FIRST_READ);
    loop {
        if each!(stream, io => io.read_buf(&mut seen).await)? == 0 {
            return Ok((seen, false));
        }
        let opening = seen.get(..PREFACE.len()).unwrap_or(&seen);
        if !PREFACE.starts_with(opening) {
            return Ok((seen, false));
        }
        if opening.len() == PREFACE.len() {
            return Ok((seen, true));
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !me.prefix.is_empty() {
            let bytes = me.prefix.split_to(me.prefix.len().min(buf.remaining()));
            buf.put_slice(&bytes);
            me.flow.socket_read(&bytes);
            if me.prefix.is_empty() {
                me.prefix = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(each!(&mut me.stream, io => Pin::new(io).poll_read(cx, buf)))?;
        match buf.filled().get(before..) {
            Some(bytes) if !bytes.is_empty() => me.flow.socket_read(bytes),
            _ => me.read_eof = true,
        }
        Poll::Ready(Ok(()))
    }
}

impl Io {
    fn note(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(n)) => self.flow.socket_written(*n),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.flow.socket_full(),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let result = each!(&mut me.stream, io => Pin::new(io).poll_write(cx, buf));
        me.note(&result);
        result
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let result = each!(&mut me.stream, io => Pin::new(io).poll_write_vectored(cx, bufs));
        me.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.stream, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let result = each!(&mut me.stream, io => Pin::new(io).poll_flush(cx));
        match &result {
            Poll::Pending => me.flow.socket_full(),
            // TLS keeps bytes of its own, and their last ones go out here.
            Poll::Ready(Ok(())) => me.flow.socket_flushed(),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    /// Closes the write side. Where the client may still be sending, what it sends is then read and thrown away for a bounded
    /// amount and time: closing at once would answer it with a reset, and the reset would destroy the answer on its way.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            match &mut me.closing {
                Closing::No => {
                    let sending = me.flow.may_be_sending() && !me.read_eof && !me.flow.upgraded();
                    me.closing = Closing::Write(sending);
                }
                Closing::Write(drain) => {
                    let drain = *drain;
                    ready!(each!(&mut me.stream, io => Pin::new(io).poll_shutdown(cx)))?;
                    me.closing = if drain { Closing::Drain(LINGER_BYTES) } else { Closing::Done };
                    if drain {
                        me.flow.linger();
                    }
                }
                Closing::Drain(0) => return Poll::Pending,
                Closing::Drain(left) => {
                    let mut scratch = [0; 8 * 1024];
                    let mut buf = ReadBuf::new(&mut scratch);
                    let result = ready!(each!(&mut me.stream, io => Pin::new(io).poll_read(cx, &mut buf)));
                    let n = buf.filled().len();
                    if result.is_err() || n == 0 {
                        me.closing = Closing::Done;
                        continue;
                    }
                    *left = left.saturating_sub(n);
                    if *left == 0 {
                        // Enough was read. A close would still reset what the client sends on, and lose the answer; so the rest
                        // is left to fill the client's window until the keeper ends the lingering.
                        return Poll::Pending;
                    }
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
