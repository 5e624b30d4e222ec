//! What the operator asks: `/ping` and `/metrics`.

pub mod metrics;
pub mod ping;
