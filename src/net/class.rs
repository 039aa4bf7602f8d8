//! Address classes: the IANA special-purpose registries as one table, and the lookup in it.
//!
//! Rules:
//! 1. An IPv4-mapped IPv6 address is the IPv4 address inside.
//! 2. `64:ff9b::/96` (NAT64, RFC 6052) has the class of the IPv4 address inside.
//! 3. The longest prefix of the table wins.
//! 4. Of IPv6 only `2000::/3` less the table is global; of IPv4 everything less the table.
//! 5. The rows that the registries call globally reachable helpers (AS112, PCP and TURN anycast, AMT, `ORCHIDv2`, DRIP) are not
//!    [`AddressClass::Global`] here: nothing that a caller may name lives there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// When the IANA special-purpose registries that this table follows were last updated.
pub const IANA_REGISTRY_DATE: &str = "2025-10-09";

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident $word:literal;)*) => {
        /// The class of an address. Only [`Self::Global`] may be reached without an exception.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum AddressClass { $($(#[$doc])* $name,)* }

        impl AddressClass {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The class as a stable `snake_case` word.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $word,)* } }
        }
    };
}

classes! {
    /// `global`: globally reachable unicast.
    Global "global";
    /// `loopback`: `127.0.0.0/8` and `::1` (RFC 1122, RFC 4291).
    Loopback "loopback";
    /// `private`: RFC 1918.
    Private "private";
    /// `link_local`: `169.254.0.0/16` and `fe80::/10` (RFC 3927, RFC 4291).
    LinkLocal "link_local";
    /// `shared`: carrier-grade NAT, `100.64.0.0/10` (RFC 6598).
    Shared "shared";
    /// `metadata`: a cloud's instance metadata or host service. Only naming the exact address lifts it.
    Metadata "metadata";
    /// `multicast`: `224.0.0.0/4` and `ff00::/8`.
    Multicast "multicast";
    /// `documentation`: RFC 5737, RFC 3849, RFC 9637.
    Documentation "documentation";
    /// `benchmarking`: RFC 2544, RFC 5180.
    Benchmarking "benchmarking";
    /// `this_network`: `0.0.0.0/8` but for `0.0.0.0` itself (RFC 791).
    ThisNetwork "this_network";
    /// `unspecified`: `0.0.0.0` and `::`. Only naming the exact address lifts it.
    Unspecified "unspecified";
    /// `broadcast`: `255.255.255.255`.
    Broadcast "broadcast";
    /// `reserved`: `240.0.0.0/4` and all of IPv6 that is outside `2000::/3` and has no name here.
    Reserved "reserved";
    /// `protocol_assignments`: `192.0.0.0/24` and `2001::/23` (RFC 6890, RFC 2928) and the helpers inside.
    ProtocolAssignments "protocol_assignments";
    /// `helper`: globally reachable anycast helpers (AS112, AMT): nothing a caller has business with.
    Helper "helper";
    /// `relay_anycast`: `192.88.99.0/24`, the withdrawn 6to4 relay anycast (RFC 7526).
    RelayAnycast "relay_anycast";
    /// `unique_local`: `fc00::/7` (RFC 4193).
    UniqueLocal "unique_local";
    /// `site_local`: `fec0::/10`, deprecated (RFC 3879).
    SiteLocal "site_local";
    /// `discard`: `100::/64` and `100:0:0:1::/64` (RFC 6666, RFC 9780).
    Discard "discard";
    /// `segment_routing`: `5f00::/16` (RFC 9602).
    SegmentRouting "segment_routing";
    /// `orchid`: `2001:10::/28`, `2001:20::/28` and `2001:30::/28` (RFC 4843, RFC 7343, RFC 9374).
    Orchid "orchid";
    /// `nat64`: `64:ff9b:1::/48`, a translation prefix for local use (RFC 8215).
    Nat64 "nat64";
    /// `6to4`: `2002::/16` (RFC 3056).
    SixToFour "6to4";
    /// `teredo`: `2001::/32` (RFC 4380).
    Teredo "teredo";
    /// `ipv4_compatible`: `::/96`, deprecated (RFC 4291 §`2.5.5.1`).
    Ipv4Compatible "ipv4_compatible";
    /// `siit`: `::ffff:0:0:0/96` (RFC 2765).
    Siit "siit";
}

impl AddressClass {
    /// Whether the address may be reached without an exception.
    #[must_use]
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Global)
    }

    /// Whether the class is one that carries an IPv4 address through a translator or a tunnel that nobody has named to us.
    /// Such an address is refused whatever exceptions there are.
    #[must_use]
    pub(crate) const fn is_transition(self) -> bool {
        matches!(self, Self::Nat64 | Self::SixToFour | Self::Teredo | Self::Ipv4Compatible | Self::Siit)
    }

    /// Whether no network, however it is allowed, covers the address: only its own `/32` or `/128` does.
    #[must_use]
    pub const fn is_hard_floor(self) -> bool {
        matches!(self, Self::Metadata | Self::Unspecified)
    }
}

impl std::fmt::Display for AddressClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

use AddressClass as C;

type Row4 = ([u8; 4], u8, C);
type Row6 = ([u16; 8], u8, C);

/// IPv4, IANA registry of [`IANA_REGISTRY_DATE`] plus multicast and metadata.
const TABLE4: &[Row4] = &[
    ([0, 0, 0, 0], 0, C::Global),
    ([0, 0, 0, 0], 8, C::ThisNetwork),
    ([0, 0, 0, 0], 32, C::Unspecified),
    ([10, 0, 0, 0], 8, C::Private),
    ([100, 64, 0, 0], 10, C::Shared),
    ([100, 100, 100, 200], 32, C::Metadata), // Alibaba
    ([127, 0, 0, 0], 8, C::Loopback),
    ([168, 63, 129, 16], 32, C::Metadata), // Azure WireServer, in public space
    ([169, 254, 0, 0], 16, C::LinkLocal),
    ([169, 254, 0, 23], 32, C::Metadata),    // Tencent
    ([169, 254, 42, 42], 32, C::Metadata),   // Scaleway
    ([169, 254, 169, 250], 32, C::Metadata), // Rancher
    ([169, 254, 169, 253], 32, C::Metadata), // AWS VPC DNS
    ([169, 254, 169, 254], 32, C::Metadata), // AWS, Azure, GCP, Oracle, OpenStack and others
    ([169, 254, 170, 2], 32, C::Metadata),   // AWS ECS
    ([169, 254, 170, 23], 32, C::Metadata),  // AWS EKS
    ([172, 16, 0, 0], 12, C::Private),
    ([192, 0, 0, 0], 24, C::ProtocolAssignments),
    ([192, 0, 0, 9], 32, C::Helper),     // PCP anycast (RFC 7723), T
    ([192, 0, 0, 10], 32, C::Helper),    // TURN anycast (RFC 8155), T
    ([192, 0, 0, 192], 32, C::Metadata), // Oracle
    ([192, 0, 2, 0], 24, C::Documentation),
    ([192, 31, 196, 0], 24, C::Helper), // AS112-v4 (RFC 7535), T
    ([192, 52, 193, 0], 24, C::Helper), // AMT (RFC 7450), T
    ([192, 88, 99, 0], 24, C::RelayAnycast),
    ([192, 168, 0, 0], 16, C::Private),
    ([192, 175, 48, 0], 24, C::Helper), // AS112 (RFC 7534), T
    ([198, 18, 0, 0], 15, C::Benchmarking),
    ([198, 51, 100, 0], 24, C::Documentation),
    ([203, 0, 113, 0], 24, C::Documentation),
    ([224, 0, 0, 0], 4, C::Multicast),
    ([240, 0, 0, 0], 4, C::Reserved),
    ([255, 255, 255, 255], 32, C::Broadcast),
];

/// IPv6, likewise. The mapped block and `64:ff9b::/96` have no row: they are unwrapped before the lookup.
const TABLE6: &[Row6] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 0, C::Reserved),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, C::Ipv4Compatible),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, C::Unspecified),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, C::Loopback),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, C::Siit),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, C::Nat64),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, C::Discard),
    ([0x100, 0, 0, 1, 0, 0, 0, 0], 64, C::Discard),
    ([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, C::Global),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, C::ProtocolAssignments),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, C::Teredo),
    ([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, C::Helper), // PCP anycast, T
    ([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, C::Helper), // TURN anycast, T
    ([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, C::Helper), // DNS-SD SRP anycast (RFC 9665), T
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, C::Benchmarking),
    ([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, C::Helper),     // AMT, T
    ([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, C::Helper), // AS112-v6, T
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, C::Orchid),  // ORCHID, deprecated
    ([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, C::Orchid),  // ORCHIDv2, T
    ([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, C::Orchid),  // DRIP, T
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, C::Documentation),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, C::SixToFour),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, C::Helper), // AS112 direct delegation, T
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, C::Documentation),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, C::SegmentRouting),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, C::UniqueLocal),
    ([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, C::Metadata),     // Scaleway
    ([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128, C::Metadata), // Akamai (Linode)
    ([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, C::Metadata), // Oracle
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, C::Metadata),    // AWS EKS
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253], 128, C::Metadata),   // AWS VPC DNS
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, C::Metadata),   // AWS
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, C::Metadata),    // GCP
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, C::LinkLocal),
    ([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, C::Metadata), // OpenStack
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, C::SiteLocal),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, C::Multicast),
];

macro_rules! flatten {
    ($flatten:ident, $ty:ty, $table:ident, $to_int:expr, $name:ident) => {
        /// The table, flattened at compile time.
        #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "runs at compile time")]
        const fn $flatten() -> Segments<$ty, { $table.len() * 2 }> {
            const N: usize = $table.len();
            const BITS: u32 = <$ty>::BITS;
            let mut first = [0; N];
            let mut last = [0; N];
            let mut starts = [0; N * 2];
            let mut used = 0;
            let mut i = 0;
            while i < N {
                let len = $table[i].1 as u32;
                let host = if len == 0 {
                    <$ty>::MAX
                } else if len == BITS {
                    0
                } else {
                    <$ty>::MAX >> len
                };
                first[i] = $to_int($table[i].0);
                assert!(first[i] & host == 0, "host bits are set in a row");
                last[i] = first[i] | host;
                starts[used] = first[i];
                used += 1;
                // Behind the very last address there is no segment; a second start at 0 changes nothing.
                starts[used] = last[i].wrapping_add(1);
                used += 1;
                i += 1;
            }
            i = 1;
            while i < used {
                let value = starts[i];
                let mut j = i;
                while j > 0 && starts[j - 1] > value {
                    starts[j] = starts[j - 1];
                    j -= 1;
                }
                starts[j] = value;
                i += 1;
            }
            let mut class = [C::Reserved; N * 2];
            i = 0;
            while i < used {
                let (mut best, mut row) = (0, 0);
                while row < N {
                    if first[row] <= starts[i] && starts[i] <= last[row] && $table[row].1 as u32 >= best {
                        best = $table[row].1 as u32;
                        class[i] = $table[row].2;
                    }
                    row += 1;
                }
                i += 1;
            }
            assert!(used < 256, "the index counts in bytes");
            let mut index = [used as u8; 257];
            let mut byte = 0;
            while byte < 256 {
                let mut below = 0;
                while below < used && starts[below] <= (byte as $ty) << (BITS - 8) {
                    below += 1;
                }
                index[byte] = below as u8;
                byte += 1;
            }
            Segments { starts, class, index }
        }

        static $name: Segments<$ty, { $table.len() * 2 }> = $flatten();
    };
}

/// A table as segments sorted by their first address, each with the class of the longest prefix that covers it.
struct Segments<T, const N: usize> {
    starts: [T; N],
    class: [C; N],
    /// For each first byte of an address, how many segments begin at or before the first address of that byte: the search
    /// looks at the few that begin inside.
    index: [u8; 257],
}

impl<T: Copy + PartialOrd, const N: usize> Segments<T, N> {
    fn class_of(&self, bits: T, first_byte: u8) -> AddressClass {
        let byte = usize::from(first_byte);
        let (Some(from), Some(to)) = (self.index.get(byte), self.index.get(byte + 1)) else { return C::Reserved };
        let (from, to) = (usize::from(*from), usize::from(*to));
        let inside = self.starts.get(from..to).unwrap_or(&[]);
        let at = from + inside.partition_point(|start| *start <= bits);
        self.class.get(at.wrapping_sub(1)).copied().unwrap_or(C::Reserved)
    }
}

const fn int4([a, b, c, d]: [u8; 4]) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

#[expect(clippy::many_single_char_names, reason = "eight groups have no better names")]
const fn int6([a, b, c, d, e, f, g, h]: [u16; 8]) -> u128 {
    Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits()
}

flatten!(flatten4, u32, TABLE4, int4, SEGMENTS4);
flatten!(flatten6, u128, TABLE6, int6, SEGMENTS6);

/// The class of an address (see the rules in the module's documentation).
#[must_use]
pub fn classify(ip: IpAddr) -> AddressClass {
    match ip {
        IpAddr::V4(ip) => classify4(ip),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            match bits >> 32 {
                MAPPED | NAT64 => classify4(low32(bits)),
                _ => SEGMENTS6.class_of(bits, bits.to_be_bytes()[0]),
            }
        }
    }
}

fn classify4(ip: Ipv4Addr) -> AddressClass {
    SEGMENTS4.class_of(ip.to_bits(), ip.octets()[0])
}

/// `::ffff:0:0/96`, less the 32 low bits.
const MAPPED: u128 = 0xffff;
/// `64:ff9b::/96`, less the 32 low bits.
const NAT64: u128 = int6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0]) >> 32;

#[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are what is asked for")]
fn low32(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(bits as u32)
}

/// IPv4-mapped IPv6 addresses (RFC 4291 §2.5.5.2) as the IPv4 address inside.
#[must_use]
pub fn unwrap_mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The IPv4 address inside an address of the well-known NAT64 prefix `64:ff9b::/96` (RFC 6052).
#[must_use]
pub fn nat64_inner(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = ip.to_bits();
    (bits >> 32 == NAT64).then(|| low32(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(text: &str) -> &'static str {
        classify(text.parse().unwrap()).as_str()
    }

    /// The class by the table alone: the slow and obvious way.
    fn by_hand(ip: IpAddr) -> C {
        match ip {
            IpAddr::V4(v4) => {
                let hit = |r: &&Row4| r.1 == 0 || (v4.to_bits() ^ int4(r.0)) >> (32 - r.1) == 0;
                TABLE4.iter().filter(hit).max_by_key(|r| r.1).unwrap().2
            }
            IpAddr::V6(v6) => {
                let hit = |r: &&Row6| r.1 == 0 || (v6.to_bits() ^ int6(r.0)) >> (128 - r.1) == 0;
                TABLE6.iter().filter(hit).max_by_key(|r| r.1).unwrap().2
            }
        }
    }

    #[test]
    fn every_edge_of_every_range() {
        let mut walked = 0;
        for (prefix, len, _) in TABLE4 {
            let first = int4(*prefix);
            let last = first | u32::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
            for at in [first, last, first.wrapping_sub(1), last.wrapping_add(1), first / 2 + last / 2] {
                let ip = IpAddr::V4(at.into());
                assert_eq!(classify(ip), by_hand(ip), "{ip}");
                walked += 1;
            }
        }
        for (prefix, len, _) in TABLE6 {
            let first = int6(*prefix);
            let last = first | u128::MAX.checked_shr(u32::from(*len)).unwrap_or(0);
            for at in [first, last, first.wrapping_sub(1), last.wrapping_add(1), first / 2 + last / 2] {
                if matches!(at >> 32, MAPPED | NAT64) {
                    continue;
                }
                let ip = IpAddr::V6(at.into());
                assert_eq!(classify(ip), by_hand(ip), "{ip}");
                walked += 1;
            }
        }
        assert!(walked > 300);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one line an edge")]
    fn edges_by_name() {
        for (ip, want) in [
            ("0.0.0.0", "unspecified"),
            ("0.0.0.1", "this_network"),
            ("0.255.255.255", "this_network"),
            ("1.0.0.0", "global"),
            ("9.255.255.255", "global"),
            ("10.0.0.0", "private"),
            ("10.255.255.255", "private"),
            ("11.0.0.0", "global"),
            ("100.63.255.255", "global"),
            ("100.64.0.0", "shared"),
            ("100.127.255.255", "shared"),
            ("100.128.0.0", "global"),
            ("126.255.255.255", "global"),
            ("127.0.0.0", "loopback"),
            ("127.255.255.255", "loopback"),
            ("128.0.0.0", "global"),
            ("168.63.129.15", "global"),
            ("168.63.129.16", "metadata"),
            ("168.63.129.17", "global"),
            ("169.253.255.255", "global"),
            ("169.254.0.0", "link_local"),
            ("169.254.169.254", "metadata"),
            ("169.255.0.0", "global"),
            ("172.15.255.255", "global"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("172.32.0.0", "global"),
            ("191.255.255.255", "global"),
            ("192.0.0.0", "protocol_assignments"),
            ("192.0.0.9", "helper"),
            ("192.0.0.10", "helper"),
            ("192.0.0.192", "metadata"),
            ("192.0.1.0", "global"),
            ("192.0.2.1", "documentation"),
            ("192.0.3.0", "global"),
            ("192.31.196.1", "helper"),
            ("192.52.193.1", "helper"),
            ("192.88.99.1", "relay_anycast"),
            ("192.88.100.0", "global"),
            ("192.167.255.255", "global"),
            ("192.168.0.0", "private"),
            ("192.169.0.0", "global"),
            ("192.175.48.1", "helper"),
            ("198.17.255.255", "global"),
            ("198.18.0.0", "benchmarking"),
            ("198.19.255.255", "benchmarking"),
            ("198.20.0.0", "global"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("223.255.255.255", "global"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.0", "reserved"),
            ("255.255.255.254", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("100.100.100.200", "metadata"),
            ("8.8.8.8", "global"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::2", "ipv4_compatible"),
            ("::7f00:1", "ipv4_compatible"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:8.8.8.8", "global"),
            ("::ffff:0:a00:1", "siit"),
            ("::1:0:0", "reserved"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::8.8.8.8", "global"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("64:ff9b:0:0:0:1::", "reserved"),
            ("64:ff9b:1::1", "nat64"),
            ("64:ff9b:2::", "reserved"),
            ("100::1", "discard"),
            ("100:0:0:1::1", "discard"),
            ("100:0:0:2::", "reserved"),
            ("1fff:ffff::", "reserved"),
            ("2000::", "global"),
            ("2001::1", "teredo"),
            ("2001:1::", "protocol_assignments"),
            ("2001:1::1", "helper"),
            ("2001:1::4", "protocol_assignments"),
            ("2001:2::1", "benchmarking"),
            ("2001:2:1::", "protocol_assignments"),
            ("2001:3::1", "helper"),
            ("2001:4:112::1", "helper"),
            ("2001:10::1", "orchid"),
            ("2001:2f::", "orchid"),
            ("2001:3f:ffff::", "orchid"),
            ("2001:40::", "protocol_assignments"),
            ("2001:1ff:ffff::", "protocol_assignments"),
            ("2001:200::", "global"),
            ("2001:db8::1", "documentation"),
            ("2001:db9::", "global"),
            ("2002:7f00:1::", "6to4"),
            ("2003::", "global"),
            ("2606:4700:4700::1111", "global"),
            ("2620:4f:8000::1", "helper"),
            ("2620:4f:8001::", "global"),
            ("3ffe::1", "global"),
            ("3fff::1", "documentation"),
            ("3fff:fff:ffff::", "documentation"),
            ("3fff:1000::", "global"),
            ("4000::", "reserved"),
            ("5f00::1", "segment_routing"),
            ("fbff::", "reserved"),
            ("fc00::", "unique_local"),
            ("fdff::1", "unique_local"),
            ("fd00:ec2::254", "metadata"),
            ("fd00:ec2::253", "metadata"),
            ("fd00:ec2::23", "metadata"),
            ("fd00:42::42", "metadata"),
            ("fe00::", "reserved"),
            ("fe80::1", "link_local"),
            ("fe80::a9fe:a9fe", "metadata"),
            ("febf::1", "link_local"),
            ("fec0::1", "site_local"),
            ("feff::1", "site_local"),
            ("ff00::", "multicast"),
            ("ff02::1", "multicast"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ] {
            assert_eq!(c(ip), want, "{ip}");
        }
    }

    #[test]
    fn the_ipv4_inside_nat64() {
        assert_eq!(nat64_inner("64:ff9b::1.2.3.4".parse().unwrap()), Some(Ipv4Addr::new(1, 2, 3, 4)));
        for other in ["::ffff:127.0.0.1", "64:ff9b:1::7f00:1", "2606::1"] {
            assert_eq!(nat64_inner(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn only_global_is_global_and_words_are_distinct() {
        let mut words: Vec<_> = C::ALL.iter().map(|c| c.as_str()).collect();
        assert!(C::ALL.iter().filter(|c| c.is_global()).eq([&C::Global]));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), C::ALL.len());
    }
}
