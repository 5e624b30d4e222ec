//! How busy the workers are, so that a new connection goes to one that is not.
//!
//! The kernel spreads connections over `SO_REUSEPORT` sockets by a hash, which is uneven for few of them: four uploads
//! might share one worker. A worker that has two or more connections above the least loaded one hands a new socket over
//! before the first byte is read.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::entry_point::EntryPoint;

/// Sockets on their way to another worker; above that, a worker keeps what it accepted.
const HAND_OVER: usize = 256;

/// An accepted socket on its way to another worker.
#[derive(Debug)]
pub struct Handed {
    /// The socket.
    pub socket: TcpStream,
    /// The peer.
    pub peer: SocketAddr,
    /// Where it came in.
    pub entry_point: Arc<EntryPoint>,
}

/// The loads of all workers and the ways to them.
#[derive(Debug)]
pub struct Loads {
    connections: Vec<AtomicUsize>,
    ways: Vec<mpsc::Sender<Handed>>,
}

impl Loads {
    /// For `workers` workers; with the receiving ends, one each.
    #[must_use]
    pub fn new(workers: usize) -> (Arc<Self>, Vec<mpsc::Receiver<Handed>>) {
        let (ways, ends) = (0..workers).map(|_| mpsc::channel(HAND_OVER)).unzip();
        (
            Arc::new(Self {
                connections: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
                ways,
            }),
            ends,
        )
    }

    /// A connection of worker `index` began.
    pub fn add(&self, index: usize) {
        self.connections[index].fetch_add(1, Ordering::Relaxed);
    }

    /// It ended.
    pub fn remove(&self, index: usize) {
        self.connections[index].fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of worker `index`, those on their way to it among them.
    #[must_use]
    pub fn of(&self, index: usize) -> usize {
        self.connections[index].load(Ordering::Relaxed)
    }

    /// Whom worker `index` should give its next connection to, if not itself.
    #[must_use]
    pub fn better_than(&self, index: usize) -> Option<usize> {
        let own = self.connections[index].load(Ordering::Relaxed);
        let (best, least) = self
            .connections
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .enumerate()
            .min_by_key(|(_, connections)| *connections)?;
        (own >= least + 2).then_some(best)
    }

    /// Hands a socket to worker `to`, whose load the caller has added it to.
    ///
    /// # Errors
    /// The socket, when that worker takes no more.
    pub fn hand(&self, to: usize, handed: Handed) -> Result<(), Handed> {
        self.ways[to].try_send(handed).map_err(|e| match e {
            mpsc::error::TrySendError::Full(handed) | mpsc::error::TrySendError::Closed(handed) => handed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_over_only_where_the_difference_is_two_or_more() {
        let (loads, _ends) = Loads::new(2);
        assert_eq!(loads.better_than(0), None);
        loads.add(0);
        assert_eq!(loads.better_than(0), None);
        loads.add(0);
        assert_eq!(loads.better_than(0), Some(1));
        loads.add(1);
        assert_eq!(loads.better_than(0), None);
        loads.remove(0);
        assert_eq!((loads.better_than(1), loads.of(0), loads.of(1)), (None, 1, 1));
    }
}
