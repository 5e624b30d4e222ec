//! The way to a server: connections, pools, one attempt after another.
//!
//! HTTP/1.1 towards servers is written and read here, strictly; HTTP/2 is hyper's. [`forward`] is the entry point.
//! What Gantry itself asks of servers goes through [`fetch`].

pub mod chunked;
pub mod dial;
pub mod dns;
pub mod fetch;
pub mod forward;
pub mod http1;
pub mod http1_body;
pub mod http1_head;
pub mod http2;
pub mod pool;
pub mod pump;
pub mod scrape;
pub mod stream;
pub mod transport;
pub mod upgrade;
