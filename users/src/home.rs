//! Home shards: the one shard of a process that keeps what is known about a name or an address.
//!
//! # Invariants
//! Every shard computes the same home, so a guesser has one budget, not one for each core.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The home of a key among `shards` (at least 1): an account's canonical name, or [`AddressKey::octets`].
pub fn home(key: &[u8], shards: usize) -> usize {
    // FNV-1a with a finaliser: nothing is stored by it, so it may change between releases.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for &octet in key {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (hash % shards.max(1) as u64) as usize
}

/// An address as far as it tells clients apart: IPv4 whole, IPv6 by its /64, since a client has a /64 to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey(IpAddr);

impl AddressKey {
    pub fn new(address: IpAddr) -> AddressKey {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 64);
                AddressKey(IpAddr::V6(Ipv6Addr::from_bits(network)))
            }
            v4 => AddressKey(v4),
        }
    }

    /// The key for [`home`].
    pub fn octets(&self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address).octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_have_one_key() {
        let key = |text: &str| AddressKey::new(text.parse().expect("an address"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn homes_are_spread_and_in_range() {
        let mut counts = [0; 7];
        for n in 0..7000 {
            counts[home(format!("user{n}@example.test").as_bytes(), 7)] += 1;
        }
        assert!(counts.iter().all(|&count| (700..1300).contains(&count)), "{counts:?}");
        assert_eq!(home(b"x", 0), 0);
        assert_eq!(home(b"x", 1), 0);
    }
}
