//! Who the client is, read out of what the hops in front have written. Pure decisions over hostile text.
//!
//! 1. Only what a trusted hop has written is believed. The list is read from the right: every address that is itself a trusted hop
//!    is passed over, the first other one is the client. Never the leftmost value, which the client writes as it likes.
//! 2. All field lines count, in their order, as one list (RFC 9110 §5.3).
//! 3. Whatever is not an address (`unknown`, an obfuscated name, junk) ends the reading: the client is then the last hop that was
//!    believed, never something further left.
//! 4. At most [`MAX_HOPS`] entries are looked at.
//! 5. One header is believed, the one that the operator's hops write. A hop that sets only one of the two passes the other on as
//!    the client wrote it.

mod elements;
mod networks;

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, header};

use crate::{context::ClientAddr, net::unwrap_mapped};

pub use networks::Networks;

/// How many entries are looked at, from the right.
pub const MAX_HOPS: usize = 32;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Which header the trusted hops write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedField {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ForwardedField {
    /// The field's name.
    #[must_use]
    pub fn header_name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => header::FORWARDED,
        }
    }
}

/// The client behind `peer`, as far as `trusted` hops vouch for it.
#[must_use]
pub fn client_addr(peer: SocketAddr, headers: &HeaderMap, field: ForwardedField, trusted: &Networks) -> ClientAddr {
    let peer_ip = unwrap_mapped(peer.ip());
    if !trusted.contains(peer_ip) {
        return ClientAddr::new(peer_ip, peer, false);
    }
    let mut client = peer_ip;
    for text in from_the_right(headers, field).take(MAX_HOPS) {
        let Some(ip) = text.and_then(|t| elements::address(t, field)) else { break };
        client = ip;
        if !trusted.contains(ip) {
            break;
        }
    }
    ClientAddr::new(client, peer, true)
}

/// The entries of all lines, the last one first. `None` is a line that cannot be read.
fn from_the_right(headers: &HeaderMap, field: ForwardedField) -> impl Iterator<Item = Option<&str>> {
    let name = field.header_name();
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    lines.into_iter().rev().flat_map(move |line| match line.to_str() {
        Ok(text) => elements::split_from_the_right(text, field),
        Err(_) => elements::Entries::unreadable(),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn ask(peer: &str, field: ForwardedField, lines: &[&str]) -> String {
        let trusted = Networks::parse(["10.0.0.0/8", "fd00::/8"]).unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(field.header_name(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client_addr(SocketAddr::new(peer.parse().unwrap(), 4711), &headers, field, &trusted).ip().to_string()
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right_over_trusted_hops() {
        let ask = |peer, lines: &[&str]| ask(peer, ForwardedField::XForwardedFor, lines);
        for (peer, lines, want) in [
            // An untrusted peer is the client, whatever it writes.
            ("192.0.2.9", &["1.1.1.1"][..], "192.0.2.9"),
            ("::ffff:192.0.2.9", &[], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            // What the client has put in front does not count.
            ("10.0.0.1", &["127.0.0.1, 8.8.8.8, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["8.8.8.8, 198.51.100.7, 10.1.1.1,10.2.2.2"], "198.51.100.7"),
            // Several lines are one list; the last line is the nearest.
            ("10.0.0.1", &["8.8.8.8", "198.51.100.7, 10.1.1.1", "10.9.9.9"], "198.51.100.7"),
            ("10.0.0.1", &["10.3.3.3, 10.4.4.4"], "10.3.3.3"),
            // Ports and brackets as some hops write them.
            ("10.0.0.1", &["198.51.100.7:1234"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            // Junk ends the reading at the last hop that was believed.
            ("10.0.0.1", &["8.8.8.8, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8, , 10.5.5.5"], "10.5.5.5"),
            ("10.0.0.1", &["8.8.8.8, 010.1.1.1"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8, fe80::1%eth0"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8", "\u{fc}", "10.5.5.5"], "10.5.5.5"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(ask(peer, lines), want, "{peer} {lines:?}");
        }
        let endless = vec!["10.7.7.7"; 1000].join(",");
        assert_eq!(ask("10.0.0.1", &["8.8.8.8", &endless]), "10.7.7.7");
    }

    #[test]
    fn forwarded_is_read_from_the_right_over_trusted_hops() {
        let ask = |lines: &[&str]| ask("10.0.0.1", ForwardedField::Forwarded, lines);
        for (lines, want) in [
            (&["for=198.51.100.7"][..], "198.51.100.7"),
            (&["For=\"[2001:db8::1]:4711\";proto=https;by=10.0.0.1"], "2001:db8::1"),
            (&["for=8.8.8.8, proto=http ; FOR=\"198.51.100.7:80\" , for=10.1.1.1"], "198.51.100.7"),
            (&["for=8.8.8.8", "for=198.51.100.7, for=10.1.1.1"], "198.51.100.7"),
            // A comma or an escaped quote inside quotes separates nothing.
            (&["for=8.8.8.8, host=\"a, for=9.9.9.9\\\", \";for=198.51.100.7"], "198.51.100.7"),
            (&["for=\"198.51.100\\.7\""], "198.51.100.7"),
            // Not an address, none at all, or two: the reading ends there.
            (&["for=8.8.8.8, for=unknown"], "10.0.0.1"),
            (&["for=8.8.8.8, for=_gazonk, for=10.1.1.1"], "10.1.1.1"),
            (&["for=8.8.8.8, proto=https"], "10.0.0.1"),
            (&["for=8.8.8.8, for=198.51.100.7;for=9.9.9.9"], "10.0.0.1"),
            // An open quote makes the whole line unreadable.
            (&["for=8.8.8.8, host=\"a, for=10.1.1.1"], "10.0.0.1"),
            (&["for=8.8.8.8", "for=\"", "for=10.1.1.1"], "10.1.1.1"),
        ] {
            assert_eq!(ask(lines), want, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_client_cannot_write_itself_another_address(junk in "[ -~]{0,80}", forwarded in any::<bool>()) {
            // The nearest hop appends what it saw, on a line of its own or after a comma.
            let field = if forwarded { ForwardedField::Forwarded } else { ForwardedField::XForwardedFor };
            let seen = if forwarded { "for=198.51.100.7" } else { "198.51.100.7" };
            prop_assert_eq!(ask("10.0.0.1", field, &[&junk, seen]), "198.51.100.7");
            let joined = ask("10.0.0.1", field, &[&format!("{junk}, {seen}")]);
            // An open quote swallows what follows; then the hop itself is the client.
            prop_assert!(joined == "198.51.100.7" || joined == "10.0.0.1", "{}", joined);
        }
    }
}
