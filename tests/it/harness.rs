//! What a black-box test is written with.
//!
//! ```ignore
//! let backend = Backend::start();
//! let gateway = gateway().to(&backend).run();
//! let answer = gateway.get("/a").header("X-One", "1").send();
//! answer.assert_status(200);
//! assert_eq!(backend.last().header("x-one"), Some("1"));
//! ```
//!
//! The gateway is the real binary in a folder of its own; backends and clients are threads of the test that read and
//! write bytes themselves, with a parser that is not the gateway's. `GANTRY_TEST_BINARY` names another binary that
//! takes the same YAML: with Traefik's, the tests' expectations are checked against the reference. Tests of what
//! Gantry does differently begin with `only_gantry!()`.
//!
//! Tests beside other people's programs ([`peer`]) are left out where those are not installed; with
//! `GANTRY_TEST_PEERS=required`, as in `tests/run.sh`, they fail instead.
//!
//! Nothing here sleeps for a fixed time: waiting is for a condition, with a deadline.

use std::time::Duration;

pub mod alertmanager;
pub mod backend;
pub mod certificate;
pub mod client;
pub mod gateway;
pub mod h2;
pub mod message;
pub mod pebble;
pub mod peer;
pub mod prometheus;
pub mod scripted;

pub use self::alertmanager::Alertmanager;
pub use self::backend::{Answer, Backend, Outcome, Seen};
pub use self::client::{Client, Reply};
pub use self::gateway::{Gateway, gateway};
pub use self::pebble::Pebble;
pub use self::prometheus::Prometheus;
pub use self::scripted::Scripted;

/// How long anything may take that has to happen.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Waits until a condition holds, and fails with the source text of the condition when it does not in time.
#[macro_export]
macro_rules! assert_eventually {
    ($condition:expr) => { $crate::assert_eventually!($condition, "") };
    ($condition:expr, $($message:tt)+) => {{
        let deadline = std::time::Instant::now() + $crate::harness::DEADLINE;
        while !$condition {
            assert!(
                std::time::Instant::now() < deadline,
                "never came: {} {}", stringify!($condition), format_args!($($message)+)
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }};
}

/// Ends a test of something that other gateways do differently.
#[macro_export]
macro_rules! only_gantry {
    () => {
        if !$crate::harness::gateway::is_gantry() {
            return;
        }
    };
}
