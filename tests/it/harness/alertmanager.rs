//! A real Alertmanager.

use std::net::SocketAddr;

use super::peer::Peer;

/// A running Alertmanager without a cluster; it is killed when this goes out of scope.
#[derive(Debug)]
pub struct Alertmanager(Peer);

impl Alertmanager {
    /// Starts it with a configuration; `None` where it is not installed.
    pub fn start(config: &str) -> Option<Self> {
        let file = ("alertmanager.yml", config);
        let arguments = ["--storage.path=data", "--cluster.listen-address="];
        // The name that Debian gives it.
        Peer::start("prometheus-alertmanager", file, &arguments).map(Self)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.0.log()
    }
}
