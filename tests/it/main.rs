//! Black-box tests of the real binary, by feature. See [`harness`] for the words that they are written in.
//!
//! `GANTRY_TEST_BINARY=/path/to/traefik cargo test --test it` checks what the tests expect against the reference.

#![allow(
    unreachable_pub,
    reason = "nothing is exported from a test binary; `pub` marks what tests are written with"
)]

#[macro_use]
mod harness;

mod auth;
mod balancing;
mod cli;
mod drain;
mod errors;
mod forwarding;
mod framing;
mod hostile;
mod limits;
mod metrics;
mod ratelimit;
mod reload;
mod routing;
mod tls;
mod websocket;
mod wire;
