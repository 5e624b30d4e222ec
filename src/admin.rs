//! What the operator asks: `/ping` and `/metrics`, and about the servers' own metrics `/sd` and `/federate`; and what
//! somebody tells who knows how good an answer was: `/feedback`.

pub mod federate;
pub mod feedback;
pub mod metrics;
pub mod ping;
pub mod sd;
mod shelf;
