//! Listening sockets: one per worker and address, with `SO_REUSEPORT`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Length of the queue of connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// How long a connection is silent before the kernel asks whether the other side is still there, and how often it asks:
/// as Go does it. Without it a peer that lost its network would hold a tunnel, or a waiting request, for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Lets the kernel notice when the other side of `socket` is gone. What a listener accepts inherits it.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    let often = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    SockRef::from(socket).set_tcp_keepalive(&often)
}

/// The socket address of an entry point's `host:port`; an empty host is every address, IPv6 and IPv4.
///
/// # Errors
/// When it is none, or its name has no address.
pub fn resolve(address: &str) -> io::Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    if let Some(port) = address.strip_prefix(':') {
        let port = port
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a port"))?;
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
}

/// Opens `count` sockets on one address. Unless `shared`, the address must not be in use by anybody.
///
/// # Errors
/// When the address is taken or cannot be had.
pub fn listen(address: SocketAddr, count: usize, shared: bool) -> io::Result<Vec<TcpListener>> {
    match open(address, count, shared) {
        // A machine without IPv6: every address means every IPv4 address then.
        Err(e) if address.ip() == Ipv6Addr::UNSPECIFIED && e.kind() != io::ErrorKind::AddrInUse => open(
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
            count,
            shared,
        ),
        other => other,
    }
}

fn open(address: SocketAddr, count: usize, shared: bool) -> io::Result<Vec<TcpListener>> {
    let mut address = address;
    if !shared {
        // SO_REUSEPORT would share the port with whoever else has set it: a taken port must be an error.
        let probe = socket(address)?;
        probe.bind(&address.into())?;
        probe.listen(1)?;
        if address.port() == 0 {
            address = probe.local_addr()?.as_socket().unwrap_or(address);
        }
    }
    (0..count)
        .map(|_| {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            keep_alive(&socket)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_and_workers_share_one() {
        let listeners = listen("127.0.0.1:0".parse().expect("an address"), 2, false).expect("a free port");
        let address = listeners[0].local_addr().expect("an address");
        assert_eq!(listeners[1].local_addr().expect("an address"), address);
        let _client = std::net::TcpStream::connect(address).expect("a connection");
        let accepted = listeners
            .iter()
            .cycle()
            .find_map(|l| l.accept().ok())
            .expect("a peer")
            .0;
        assert!(
            SockRef::from(&accepted).keepalive().expect("a socket option"),
            "accepted sockets inherit it"
        );
        let taken = listen(address, 1, false).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(listen(address, 1, true).is_ok(), "reusePort shares it");
    }
}
