//! Which addresses are somebody's on the public internet, by IANA's registries of special-purpose addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

const SPECIAL_V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 32), "unspecified"),
    (v4(0, 0, 0, 0, 8), "\"this network\""),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    // Azure's metadata and agent service: public by number, and within every one of its machines.
    (v4(168, 63, 129, 16, 32), "cloud metadata"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignment"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmark"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// What is special among the global unicast addresses, and the names of some that are not global.
const SPECIAL_V6: [(Ipv6Net, &str); 8] = [
    (v6(0, 0, 128), "unspecified"),
    (v6(0xfc00, 0, 7), "private"),
    (v6(0xfe80, 0, 10), "link-local"),
    (v6(0xff00, 0, 8), "multicast"),
    // Teredo, benchmark and ORCHID are all in here.
    (v6(0x2001, 0, 23), "protocol assignment"),
    (v6(0x2001, 0xdb8, 32), "documentation"),
    (v6(0x3fff, 0, 20), "documentation"),
    (v6(0x64, 0xff9b, 32), "local NAT64"),
];

/// All that is assigned as global unicast; anything else is special, now or when somebody uses it.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// The IPv4 address that packets to this one end up at, if a translator takes them there; else the address itself.
pub(crate) fn destination(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
    }
}

/// The kind of a special address; `None` for a public one.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    match destination(address) {
        IpAddr::V4(v4) => SPECIAL_V4.iter().find(|(net, _)| net.contains(&v4)).map(|(_, kind)| *kind),
        IpAddr::V6(v6) if v6 == Ipv6Addr::LOCALHOST => Some("loopback"),
        IpAddr::V6(v6) => SPECIAL_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(_, kind)| *kind)
            .or_else(|| (!GLOBAL_V6.contains(&v6)).then_some("reserved")),
    }
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // Mapped; NAT64 by its well-known prefix; 6to4; ISATAP.
        [0, 0, 0, 0, 0, 0xffff, g, h]
        | [0x64, 0xff9b, 0, 0, 0, 0, g, h]
        | [0x2002, g, h, ..]
        | [_, _, _, _, 0 | 0x200, 0x5efe, g, h] => last(g, h),
        _ => None,
    }
}
