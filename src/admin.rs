//! What the operator asks: `/ping` and `/metrics`, and about the servers' own metrics `/sd` and `/federate`.

pub mod federate;
pub mod metrics;
pub mod ping;
pub mod sd;
