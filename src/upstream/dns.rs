//! Names to addresses. hickory resolves in process: it needs no thread per look-up and works in a static binary.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use hickory_resolver::TokioResolver;

/// The resolver of one worker; it reads `/etc/resolv.conf` and `/etc/hosts` when it is first needed.
#[derive(Default)]
pub struct Dns {
    resolver: OnceLock<TokioResolver>,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dns")
    }
}

impl Dns {
    /// The addresses of `host`, IPv4 first. Literal addresses and `localhost` are not looked up.
    ///
    /// # Errors
    /// When the name has no address or no resolver answers.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        if bare.eq_ignore_ascii_case("localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()]);
        }
        let resolver = match self.resolver.get() {
            Some(resolver) => resolver,
            None => {
                let made = TokioResolver::builder_tokio()
                    .and_then(|b| b.build())
                    .map_err(io::Error::other)?;
                self.resolver.get_or_init(|| made)
            }
        };
        let found = resolver.lookup_ip(bare).await.map_err(io::Error::other)?;
        let mut ips: Vec<IpAddr> = found.iter().collect();
        ips.sort_by_key(IpAddr::is_ipv6);
        if ips.is_empty() {
            return Err(io::Error::other(format!("{bare} has no address")));
        }
        Ok(ips)
    }
}
