//! Where connections come in: sockets, the bytes under hyper, timers, and the handing over between workers.

pub mod accept;
pub mod connection;
pub mod deadline;
pub mod entry_point;
pub mod handshakes;
pub mod io;
pub mod loads;
pub mod peer_watch;
pub mod serve_connection;
pub mod socket;
