//! One request and its answer: bodies, the per-request context, error answers, sanitising, and the story itself
//! in [`serve`].
//!
//! Everything here runs on a worker thread. Nothing parses configuration, looks anything up by a configuration
//! string, or waits for the control plane.

pub mod access;
pub mod body;
pub mod content_coding;
pub mod error;
pub mod exchange;
pub mod forwarded;
pub mod hop_by_hop;
pub mod local;
pub mod present;
pub mod sanitise;
pub mod serve;
pub mod served;
pub mod stream;
pub mod target;
pub mod tunnel;
pub mod worker;

/// A request on its way through the gateway.
pub type Request = ::http::Request<body::RequestBody>;
/// An answer on its way back to the client.
pub type Response = ::http::Response<body::ResponseBody>;
/// A boxed future of the data plane. Not `Send`: it lives and dies on one worker.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
