//! The network that the agent provides on hosts without a bridge.

use std::fmt;
use std::net::Ipv4Addr;

/// The shortest and the longest prefix of its addresses: all of 10.0.0.0/8, or room for 5 guests.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;
/// The most addresses that libvirt has in a range of DHCP.
const RANGE_MAX: u32 = 65_535;

/// The addresses of the agent's own network: the first is the host's, and guests have the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    network: u32,
    prefix: u8,
}

impl Nat {
    /// Name of the bridge of this network, which NICs name.
    pub const BRIDGE: &'static str = "mistify0";
    /// Name of this network in libvirt.
    pub const NETWORK: &'static str = "mistify-nat";

    /// Parses a text such as `192.168.77.0/24`; returns `None` for another text, for an address with bits behind the
    /// prefix, and for a prefix that is shorter than 8 or longer than 29.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, prefix) = text.split_once('/')?;
        let network = network.parse::<Ipv4Addr>().ok()?.to_bits();
        let prefix = prefix.parse().ok().filter(|prefix| PREFIXES.contains(prefix))?;
        let nat = Self { network, prefix };
        (network & !nat.mask() == 0 && network != 0).then_some(nat)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    /// Returns the host's address.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    /// Returns the length of the prefix in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns the first and the last address that guests get by DHCP.
    pub fn range(self) -> (Ipv4Addr, Ipv4Addr) {
        let (first, last) = (self.network + 2, (self.network | !self.mask()) - 1);
        (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last.min(first + RANGE_MAX - 1)))
    }

    /// Whether a guest can have the address: all but the network's, the host's and the broadcast address.
    pub fn has(self, address: Ipv4Addr) -> bool {
        let address = address.to_bits();
        (self.network + 2..self.network | !self.mask()).contains(&address)
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_host_has_the_first_address_of_a_network() {
        for (text, host, first, last) in [
            ("192.168.77.0/24", "192.168.77.1", "192.168.77.2", "192.168.77.254"),
            ("192.0.2.8/29", "192.0.2.9", "192.0.2.10", "192.0.2.14"),
            ("10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.1.0.0"),
        ] {
            let nat = Nat::parse(text).unwrap();
            assert_eq!(nat.to_string(), text);
            assert_eq!(nat.host(), address(host));
            assert_eq!(nat.range(), (address(first), address(last)));
        }
        for wrong in [
            "",
            "192.168.77.0",
            "192.168.77.1/24",
            "192.168.77.0/30",
            "0.0.0.0/8",
            "10.0.0.0/7",
            "fd00::/64",
            "192.168.77.0/x",
            "192.168.77.0/24/24",
        ] {
            assert_eq!(Nat::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn guests_have_all_other_addresses() {
        let nat = Nat::parse("192.0.2.8/29").unwrap();
        for (text, has) in [
            ("192.0.2.7", false),
            ("192.0.2.8", false),
            ("192.0.2.9", false),
            ("192.0.2.10", true),
            ("192.0.2.14", true),
            ("192.0.2.15", false),
            ("192.0.2.16", false),
        ] {
            assert_eq!(nat.has(address(text)), has, "{text}");
        }
        assert!(Nat::parse("10.0.0.0/8").unwrap().has(address("10.255.255.254")));
    }
}
