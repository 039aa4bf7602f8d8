//! PROXY protocol, version 2 (binary), as `HAProxy` defines it. Version 1 is not spoken: its text can be mistaken for HTTP.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest address block with its extensions. The protocol allows 64 KiB; what balancers send stays under 1 KiB.
const MAX_BLOCK: usize = 4096;

/// Why a connection's PROXY header is not accepted.
#[derive(Debug)]
pub(super) enum ProxyHeaderError {
    Untrusted,
    Io(std::io::Error),
    Malformed(&'static str),
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => f.write_str("the peer is not a trusted balancer"),
            Self::Io(error) => write!(f, "no PROXY header: {error}"),
            Self::Malformed(what) => write!(f, "malformed PROXY header: {what}"),
        }
    }
}

/// Whether `peer` may say who its client is.
pub(super) fn is_trusted(trusted: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// Reads the header; `None` where the balancer speaks for itself (a health check) or does not know the client.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.map_err(ProxyHeaderError::Io)?;
    let (source, len) = parse_head(head).map_err(ProxyHeaderError::Malformed)?;
    let mut block = vec![0; len];
    stream.read_exact(&mut block).await.map_err(ProxyHeaderError::Io)?;
    if source == Source::Own {
        return Ok(None);
    }
    source.parse(&block).map(Some).ok_or(ProxyHeaderError::Malformed("the address block is too short"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Own,
    V4,
    V6,
}

fn parse_head(head: [u8; 16]) -> Result<(Source, usize), &'static str> {
    let [signature @ .., version, family, high, low] = head;
    if signature != SIGNATURE {
        return Err("no signature");
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_BLOCK {
        return Err("too long");
    }
    let source = match (version, family) {
        (0x20, _) | (0x21, 0x00) => Source::Own,
        (0x21, 0x11) => Source::V4,
        (0x21, 0x21) => Source::V6,
        (0x21, _) => return Err("not TCP over IP"),
        _ => return Err("unknown version or command"),
    };
    Ok((source, len))
}

impl Source {
    /// The client in an address block; `None` if it is too short. The extensions behind the addresses are left alone.
    fn parse(self, block: &[u8]) -> Option<SocketAddr> {
        let (ip, port): (IpAddr, _) = match self {
            Self::Own => return None,
            Self::V4 => (Ipv4Addr::from(*block.first_chunk::<4>()?).into(), block.get(8..12)?),
            Self::V6 => (Ipv6Addr::from(*block.first_chunk::<16>()?).into(), block.get(32..36)?),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port.first_chunk::<2>()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version, family]);
        bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        bytes.extend(block);
        bytes
    }

    fn run(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut left = bytes;
        let result = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(read(&mut left));
        (result.map_err(|e| e.to_string()), left.len())
    }

    #[test]
    fn addresses_and_nothing_behind_the_block() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb, 4, 0, 1, 9];
        let mut bytes = header(0x21, 0x11, &v4);
        bytes.extend(b"GET /");
        assert_eq!(run(&bytes), (Ok(Some("192.0.2.1:4711".parse().unwrap())), 5));
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        v6[15] = 7;
        v6[32..34].copy_from_slice(&[0, 80]);
        assert_eq!(run(&header(0x21, 0x21, &v6)).0, Ok(Some("[2001::7]:80".parse().unwrap())));
        assert_eq!(run(&header(0x20, 0x11, &v4)).0, Ok(None));
        assert_eq!(run(&header(0x21, 0x00, &[])).0, Ok(None));
    }

    #[test]
    fn everything_else_is_refused() {
        for bytes in [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x11, &[0; 5000]),
            header(0x21, 0x11, &[0; 12])[..20].to_vec(),
            Vec::new(),
        ] {
            assert!(run(&bytes).0.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn trust() {
        let nets = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        for (peer, yes) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("2001:db8::9", true), ("::1", false)]
        {
            assert_eq!(is_trusted(&nets, peer.parse().unwrap()), yes, "{peer}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), version in 0x20u8..0x23, family: u8) {
            let _ = run(&bytes);
            let _ = run(&header(version, family, &bytes));
        }
    }
}
