//! What Gantry says about itself: metrics, the access log and the application log.
//!
//! This is the lowest layer beside `units` and `diag`: everything may call it, and it knows nothing of configuration,
//! routers or services beyond the label strings that it is given. Two rules hold throughout:
//!
//! * Nothing here can hold up a request. Metrics are written to cells that one worker owns; log lines go through a
//!   bounded queue to a thread, and are dropped and counted where that thread or the disk cannot keep up.
//! * Nothing that identifies a patient gets out unless the operator asked for it: label values come from the
//!   configuration only, query and header values are redacted or dropped by default, and every byte that a peer sent
//!   is escaped before it is written.

pub mod access_log;
pub mod clock;
pub mod escape;
pub mod exposition;
pub mod log;
pub mod metrics;
pub mod sink;
