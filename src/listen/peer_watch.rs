//! Who went away while his request runs.
//!
//! hyper reads a connection only when it wants bytes. While a body is held back, or was never asked for, a client that
//! goes would be noticed only when something is written to it, which for an inference may be minutes later. So the
//! worker asks the kernel, once a sweep and with one system call for all connections, whose peer has closed.
//!
//! The one place with `unsafe` code: `poll(2)` takes raw descriptors, since hyper owns the sockets.

use std::os::fd::RawFd;

/// Of `fds`, the ones whose peer has closed its side or is gone, in order.
///
/// A half-closed connection counts as gone, as in hyper itself and in nginx: a client that wants its answer keeps its
/// side open.
#[must_use]
pub fn closed(fds: &[RawFd]) -> Vec<bool> {
    let mut polls: Vec<libc::pollfd> = fds
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLRDHUP,
            revents: 0,
        })
        .collect();
    let Ok(count) = libc::nfds_t::try_from(polls.len()) else {
        return vec![false; fds.len()];
    };
    // SAFETY: `polls` is a valid, exclusively borrowed array of `count` initialised `pollfd`s for the whole call, and a
    // timeout of 0 never blocks. The kernel only writes `revents`. A descriptor that is no longer open is reported by
    // POLLNVAL, which is not counted; one that was reused cannot be in `fds`, since a connection leaves the worker's
    // list in the same poll of its task that closes its socket, on this same thread.
    #[expect(unsafe_code, reason = "poll(2) on descriptors that hyper owns; the audited module")]
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, 0) };
    if ready <= 0 {
        return vec![false; fds.len()];
    }
    polls
        .iter()
        .map(|p| p.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn tells_a_peer_that_went_from_one_that_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let mut going = TcpStream::connect(address).expect("a connection");
        let (first, _) = listener.accept().expect("a peer");
        let _staying = TcpStream::connect(address).expect("a connection");
        let (second, _) = listener.accept().expect("a peer");
        let fds = [first.as_raw_fd(), second.as_raw_fd()];
        going.write_all(b"unread").expect("room");
        assert_eq!(closed(&fds), [false, false]);
        drop(going);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while closed(&fds) != [true, false] {
            assert!(std::time::Instant::now() < end, "the close is never seen");
            std::thread::yield_now();
        }
    }
}
