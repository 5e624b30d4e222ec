//! Where a request comes from: the key that `rateLimit` and `inFlightReq` count by (`sourceCriterion`), and the
//! address that `ipAllowList` judges (`ipStrategy`).
//!
//! Invariants: an address is compared in canonical form (IPv4-mapped IPv6 is IPv4, no zone, no port); what cannot be
//! read as an address is never taken for one; a key is short whatever a client sends.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName, header};
use ipnet::Ipv6Net;
use sha2::{Digest as _, Sha256};

use crate::config::middleware::{IpStrategy, SourceCriterion};
use crate::middleware::BuildError;
use crate::units::net::CidrSet;

/// Longest text that is its own key, bytes; a longer one is replaced by its SHA-256.
const MAX_KEY: usize = 64;

/// The source of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// An address.
    Ip(IpAddr),
    /// Any other text: a header's value, a host, an entry of X-Forwarded-For that is no address. Empty when the
    /// request has no such thing: those requests share one key.
    Text(&'a [u8]),
}

impl Source<'_> {
    /// Calls `use_key` with bytes that stand for this source: at most 65 of them.
    pub fn with_key<T>(&self, use_key: impl FnOnce(&[u8]) -> T) -> T {
        let mut key = [0; MAX_KEY + 1];
        let parts: (u8, &[u8]) = match self {
            Self::Ip(IpAddr::V4(v4)) => (b'4', &v4.octets()),
            Self::Ip(IpAddr::V6(v6)) => (b'6', &v6.octets()),
            Self::Text(text) if text.len() <= MAX_KEY => (b't', text),
            Self::Text(text) => (b'd', &Sha256::digest(text)),
        };
        let (tag, bytes) = parts;
        key[0] = tag;
        key[1..=bytes.len()].copy_from_slice(bytes);
        use_key(&key[..=bytes.len()])
    }
}

/// `ipStrategy`: which address of a request counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressStrategy {
    pick: Pick,
    ipv6_subnet: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pick {
    /// The peer, as the entry point sees it.
    Peer,
    /// The n-th entry of X-Forwarded-For from the right, from 1.
    Depth(usize),
    /// The first entry of X-Forwarded-For from the right that is in none of these networks.
    Excluding(CidrSet),
}

impl AddressStrategy {
    /// Reads an `ipStrategy`; none at all means the peer. `depth` wins over `excludedIPs`, as in Traefik.
    ///
    /// # Errors
    /// An entry of `excludedIPs` is neither an address nor a network, or the subnet is longer than an address.
    pub fn new(config: Option<&IpStrategy>, path: &str) -> Result<Self, BuildError> {
        let Some(config) = config else {
            return Ok(Self {
                pick: Pick::Peer,
                ipv6_subnet: None,
            });
        };
        if let Some(length) = config.ipv6_subnet.filter(|length| *length > 128) {
            let message = format!("an IPv6 prefix has at most 128 bits, not {length}");
            return Err(BuildError::new(format!("{path}.ipv6Subnet"), message));
        }
        let pick = if config.depth > 0 {
            Pick::Depth(config.depth)
        } else if config.excluded_ips.is_empty() {
            Pick::Peer
        } else {
            let networks = CidrSet::parse(&config.excluded_ips)
                .map_err(|message| BuildError::new(format!("{path}.excludedIPs"), message))?;
            Pick::Excluding(networks)
        };
        // As in Traefik: the address that `excludedIPs` finds is taken as it is.
        let ipv6_subnet = config.ipv6_subnet.filter(|_| !matches!(pick, Pick::Excluding(_)));
        Ok(Self { pick, ipv6_subnet })
    }

    /// The source by this strategy. X-Forwarded-For must be what the entry point let through, without the peer.
    #[must_use]
    pub fn source<'a>(&self, headers: &'a HeaderMap, peer: IpAddr) -> Source<'a> {
        let entry = match &self.pick {
            Pick::Peer => return Source::Ip(self.cut(peer.to_canonical())),
            Pick::Depth(depth) => forwarded_for(headers).nth(depth - 1),
            Pick::Excluding(networks) => forwarded_for(headers)
                .filter(|entry| !entry.is_empty())
                .find(|entry| parse_address(entry).is_none_or(|address| !networks.contains(address))),
        };
        let entry = entry.unwrap_or_default();
        parse_address(entry).map_or(Source::Text(entry), |address| Source::Ip(self.cut(address)))
    }

    /// The address by this strategy; `None` when there is none or it cannot be read, which no allow list lets pass.
    #[must_use]
    pub fn address(&self, headers: &HeaderMap, peer: IpAddr) -> Option<IpAddr> {
        match self.source(headers, peer) {
            Source::Ip(address) => Some(address),
            Source::Text(_) => None,
        }
    }

    fn cut(&self, address: IpAddr) -> IpAddr {
        match (address, self.ipv6_subnet) {
            (IpAddr::V6(v6), Some(length)) => {
                IpAddr::V6(Ipv6Net::new(v6, length).map_or(Ipv6Addr::UNSPECIFIED, |net| net.network()))
            }
            _ => address,
        }
    }
}

/// The entries of all X-Forwarded-For lines from the right, trimmed. There is at least one if there is any line.
fn forwarded_for(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// Reads `10.0.0.1`, `10.0.0.1:80`, `::1`, `[::1]`, `[::1]:80`, each with or without a zone.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (
                host,
                if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':')?)
                },
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let host = host.split_once('%').map_or(host, |(host, _zone)| host);
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// `sourceCriterion`: what tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// An address.
    Address(AddressStrategy),
    /// The first value of a header.
    Header(HeaderName),
    /// The request's host, with its port, without regard to case.
    Host,
}

impl Criterion {
    /// Reads a `sourceCriterion`; `default` is what counts when it names none. `path` is that of the criterion.
    ///
    /// # Errors
    /// More than one criterion, or one that cannot be read.
    pub fn new(config: Option<&SourceCriterion>, default: Self, path: &str) -> Result<Self, BuildError> {
        let Some(config) = config else { return Ok(default) };
        let header = Some(config.request_header_name.as_str()).filter(|name| !name.is_empty());
        match (&config.ip_strategy, header, config.request_host) {
            (None, None, false) => Ok(default),
            (Some(strategy), None, false) => {
                AddressStrategy::new(Some(strategy), &format!("{path}.ipStrategy")).map(Self::Address)
            }
            (None, Some(name), false) => HeaderName::from_bytes(name.as_bytes()).map(Self::Header).map_err(|_| {
                BuildError::new(
                    format!("{path}.requestHeaderName"),
                    format!("`{name}` is no name of a header"),
                )
            }),
            (None, None, true) => Ok(Self::Host),
            _ => Err(BuildError::new(path, "more than one source criterion")
                .help("keep one of ipStrategy, requestHeaderName and requestHost")),
        }
    }

    /// The peer's address: Traefik's default for `rateLimit`.
    #[must_use]
    pub const fn peer() -> Self {
        Self::Address(AddressStrategy {
            pick: Pick::Peer,
            ipv6_subnet: None,
        })
    }

    /// Calls `use_source` with the request's source.
    pub fn with_source<T>(&self, headers: &HeaderMap, peer: IpAddr, use_source: impl FnOnce(&Source<'_>) -> T) -> T {
        match self {
            Self::Address(strategy) => use_source(&strategy.source(headers, peer)),
            Self::Header(name) => use_source(&Source::Text(
                headers.get(name).map(http::HeaderValue::as_bytes).unwrap_or_default(),
            )),
            Self::Host => {
                let host = headers
                    .get(header::HOST)
                    .map(http::HeaderValue::as_bytes)
                    .unwrap_or_default();
                if host.iter().any(u8::is_ascii_uppercase) {
                    use_source(&Source::Text(&host.to_ascii_lowercase()))
                } else {
                    use_source(&Source::Text(host))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn strategy(depth: usize, excluded: &[&str], ipv6_subnet: Option<u8>) -> AddressStrategy {
        let config = IpStrategy {
            depth,
            excluded_ips: excluded.iter().map(|s| (*s).to_owned()).collect(),
            ipv6_subnet,
        };
        AddressStrategy::new(Some(&config), "x").unwrap()
    }

    #[track_caller]
    fn check(strategy: &AddressStrategy, forwarded_for: &[&str], expected: Option<&str>) {
        let lines: Vec<_> = forwarded_for.iter().map(|value| ("x-forwarded-for", *value)).collect();
        let expected = expected.map(|text| text.parse().unwrap());
        assert_eq!(
            strategy.address(&headers(&lines), PEER),
            expected,
            "{strategy:?} {forwarded_for:?}"
        );
    }

    #[test]
    fn the_peer_is_the_default() {
        check(
            &AddressStrategy::new(None, "x").unwrap(),
            &["9.9.9.9"],
            Some("192.0.2.7"),
        );
        check(&strategy(0, &[], None), &["9.9.9.9"], Some("192.0.2.7"));
        let mapped = "::ffff:192.0.2.7".parse().unwrap();
        assert_eq!(
            strategy(0, &[], Some(64)).address(&HeaderMap::new(), mapped),
            Some(PEER)
        );
    }

    #[test]
    fn depth_counts_from_the_right_over_all_lines() {
        let second = strategy(2, &[], None);
        check(&second, &["9.9.9.9, 10.0.0.1,8.8.8.8"], Some("10.0.0.1"));
        check(&second, &["10.0.0.1", "8.8.8.8"], Some("10.0.0.1"));
        check(&second, &["10.0.0.1"], None);
        check(&second, &[], None);
        check(&second, &["junk, 8.8.8.8"], None);
        check(&second, &["10.0.0.1:4711, 8.8.8.8"], Some("10.0.0.1"));
    }

    #[test]
    fn excluded_addresses_are_skipped() {
        let strategy = strategy(0, &["8.8.8.8", "7.0.0.0/8"], Some(64));
        check(&strategy, &["9.9.9.9, 10.0.0.1, 8.8.8.8"], Some("10.0.0.1"));
        check(&strategy, &["10.0.0.1, 7.1.1.1, , 8.8.8.8"], Some("10.0.0.1"));
        check(&strategy, &["8.8.8.8"], None);
        check(&strategy, &["10.0.0.1, junk, 8.8.8.8"], None);
        check(&strategy, &["2001:db8::1"], Some("2001:db8::1"));
    }

    #[test]
    fn ipv6_subnets() {
        let strategy = strategy(1, &[], Some(64));
        check(&strategy, &["2001:db8::1"], Some("2001:db8::"));
        check(&strategy, &["2001:db8:0:1::1"], Some("2001:db8:0:1::"));
        check(&strategy, &["10.0.0.1"], Some("10.0.0.1"));
        check(&strategy, &["::ffff:10.0.0.1"], Some("10.0.0.1"));
    }

    #[test]
    fn addresses_as_proxies_write_them() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("[::1]", Some("::1")),
            ("[::1]:80", Some("::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:x", None),
            ("[::1", None),
            ("[::1]x", None),
            ("010.0.0.1", None),
            ("10.0.0.1, 10.0.0.2", None),
            ("unknown", None),
        ] {
            assert_eq!(
                parse_address(text.as_bytes()),
                expected.map(|e| e.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn criteria() {
        let key = |criterion: &Criterion, headers: &HeaderMap| {
            criterion.with_source(headers, PEER, |source| source.with_key(<[u8]>::to_vec))
        };
        let request = headers(&[("host", "A.test:80"), ("x-id", "one"), ("x-id", "two")]);
        assert_eq!(key(&Criterion::Host, &request), b"ta.test:80");
        assert_eq!(
            key(&Criterion::Header(HeaderName::from_static("x-id")), &request),
            b"tone"
        );
        assert_eq!(
            key(&Criterion::Header(HeaderName::from_static("x-none")), &request),
            b"t"
        );
        assert_eq!(key(&Criterion::peer(), &request), b"4\xc0\x00\x02\x07");
    }

    #[test]
    fn exactly_one_criterion() {
        let both = SourceCriterion {
            request_host: true,
            request_header_name: "X".to_owned(),
            ip_strategy: None,
        };
        assert!(Criterion::new(Some(&both), Criterion::Host, "x").is_err());
        let none = SourceCriterion::default();
        assert_eq!(Criterion::new(Some(&none), Criterion::Host, "x"), Ok(Criterion::Host));
        let bad = SourceCriterion {
            request_header_name: "a b".to_owned(),
            ..SourceCriterion::default()
        };
        assert!(Criterion::new(Some(&bad), Criterion::Host, "x").is_err());
    }

    #[test]
    fn keys_are_short_and_distinct() {
        let long = vec![b'x'; 10_000];
        let other = [&long[..], b"y"].concat();
        let key = |text: &[u8]| Source::Text(text).with_key(<[u8]>::to_vec);
        assert_eq!(key(&long).len(), 33);
        assert_ne!(key(&long), key(&other));
        assert_eq!(key(&long[..64]).len(), 65);
    }
}
