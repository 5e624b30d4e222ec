//! Sets of IP addresses as users write them: single addresses and CIDR networks.
//!
//! An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`, what a dual-stack socket reports) is the IPv4 address, on both
//! sides; a zone (`%eth0`) is ignored. Both are classic ways around an allow list (threats.md, section 3).
//! As in Go, `::/0` holds IPv6 addresses only.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A set of addresses, kept as sorted ranges that do not overlap: a look-up is a binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl CidrSet {
    /// Reads addresses (`10.0.0.1`, `::1`) and networks (`10.0.0.0/8`). Host bits of a network are ignored.
    ///
    /// # Errors
    /// Names the first entry that is neither.
    pub fn parse<I>(entries: I) -> Result<Self, String>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut set = Self::default();
        for entry in entries {
            match parse_network(entry.as_ref())? {
                IpNet::V4(net) => set.v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => set.v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        Ok(set)
    }

    /// Whether the address is in the set. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => holds(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => holds(&self.v6, u128::from(v6)),
        }
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Reads one address or network in canonical form: IPv4-mapped IPv6 becomes IPv4, host bits are cleared, a single
/// address is a network of full length.
///
/// # Errors
/// Names the entry and what is wrong with it.
pub fn parse_network(entry: &str) -> Result<IpNet, String> {
    let (address_text, length_text) = match entry.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (entry, None),
    };
    let bare = address_text
        .split_once('%')
        .map_or(address_text, |(address, _zone)| address);
    let address: IpAddr = bare
        .parse()
        .map_err(|_| format!("`{entry}` is not an IP address or CIDR network, such as 10.0.0.0/8"))?;
    let full = if address.is_ipv4() { 32 } else { 128 };
    let length = match length_text {
        None => full,
        Some(text) => prefix_length(text)
            .filter(|length| *length <= full)
            .ok_or_else(|| format!("`{entry}`: the prefix length must be a number from 0 to {full}"))?,
    };
    let net = IpNet::new(address, length)
        .map_err(|error| format!("`{entry}`: {error}"))?
        .trunc();
    Ok(canonical(net))
}

fn prefix_length(text: &str) -> Option<u8> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// `::ffff:0:0/96` and what lies in it is IPv4.
fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Ok(mapped) = Ipv4Net::new(v4, v6.prefix_len() - 96)
    {
        return IpNet::V4(mapped);
    }
    net
}

fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable();
    // CIDR blocks nest or are disjoint, so dropping what lies inside its forerunner is enough.
    ranges.dedup_by(|later, kept| later.1 <= kept.1);
}

fn holds<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after > 0 && value <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn set(entries: &[&str]) -> CidrSet {
        CidrSet::parse(entries).expect("valid entries")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("valid address")
    }

    #[test]
    fn holds_addresses_and_networks() {
        let set = set(&[
            "10.0.0.0/8",
            "192.168.1.7",
            "10.1.0.0/16",
            "2001:db8::/32",
            "::1",
            "10.0.0.0/8",
        ]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "192.168.1.7",
            "2001:db8:ffff::1",
            "::1",
            "::ffff:10.3.2.1",
        ] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.168.1.8",
            "2001:db9::",
            "::2",
            "::ffff:11.0.0.1",
            "0.0.0.1",
        ] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn ipv4_mapped_entries_are_ipv4() {
        let set = set(&["::ffff:10.0.0.0/104", "::ffff:192.168.0.1"]);
        assert!(set.contains(ip("10.9.9.9")));
        assert!(set.contains(ip("::ffff:192.168.0.1")));
        assert!(!set.contains(ip("192.168.0.2")));
        assert_eq!(set, CidrSet::parse(["10.0.0.0/8", "192.168.0.1/32"]).expect("valid"));
    }

    #[test]
    fn all_of_one_family_is_not_all_of_the_other() {
        assert!(!set(&["::/0"]).contains(ip("10.0.0.1")));
        assert!(!set(&["0.0.0.0/0"]).contains(ip("::1")));
        assert!(set(&["0.0.0.0/0"]).contains(ip("255.255.255.255")));
        assert!(set(&["::/0"]).contains(ip("ffff::")));
    }

    #[test]
    fn zones_and_host_bits_are_ignored() {
        assert!(set(&["fe80::1%eth0"]).contains(ip("fe80::1")));
        assert!(set(&["fe80::1%eth0/64"]).contains(ip("fe80::2")));
        assert!(set(&["10.1.2.3/8"]).contains(ip("10.9.9.9")));
    }

    #[test]
    fn errors_name_the_entry() {
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "010.0.0.1",
            "host",
            "1.2.3.4:80",
        ] {
            let error = CidrSet::parse(["127.0.0.1", bad]).expect_err(bad);
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
        assert!(CidrSet::parse([""; 0]).expect("empty").is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(
            nets in proptest::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            addresses in proptest::collection::vec(any::<u32>(), 20),
        ) {
            let nets: Vec<IpNet> = nets.iter()
                .map(|(a, l)| IpNet::new(IpAddr::V4(Ipv4Addr::from(*a)), *l).expect("valid").trunc()).collect();
            let set = CidrSet::parse(nets.iter().map(ToString::to_string)).expect("valid");
            for address in addresses {
                let address = IpAddr::V4(Ipv4Addr::from(address));
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
