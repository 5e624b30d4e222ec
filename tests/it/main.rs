//! Black-box tests of the real binary, by feature. See [`harness`] for the words that they are written in.
//!
//! `GANTRY_TEST_BINARY=/path/to/traefik cargo test --test it` checks what the tests expect against the reference.

#![allow(
    unreachable_pub,
    reason = "nothing leaves a test binary; `pub` marks the words of tests"
)]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails loudly")]

#[macro_use]
mod harness;

mod accuracy;
mod acme;
mod alerts;
mod auth;
mod balancing;
mod cli;
mod client_certificates;
mod discovery;
mod drain;
mod errors;
mod feedback;
mod forwarding;
mod framing;
mod hostile;
mod limits;
mod metrics;
mod ratelimit;
mod reload;
mod routing;
mod scrape;
mod series;
mod tls;
mod websocket;
mod wire;
