//! What the user wrote: the structs of this module are the configuration's documentation.

#[macro_use]
mod settings;

pub mod dynamic;
pub mod entry_point;
pub mod log;
pub mod metrics;
pub mod middleware;
pub mod router;
pub mod service;
pub mod static_config;
pub mod tls;
pub mod transport;
