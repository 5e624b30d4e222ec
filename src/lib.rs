//! Gantry: the front door for MRI segmentation model containers.
//!
//! The library holds everything; `main.rs` only calls [`cli::main`]. ARCHITECTURE.md has the bird's-eye view and
//! the layer rules, which `tests/tidy.rs` checks.

pub mod units;

pub mod diag;

pub mod imaging;

pub mod observe;

pub mod config;

pub mod rule;

pub mod provider;

pub mod compile;
pub mod runtime;
pub mod tls;

pub mod http;
pub mod listen;
pub mod middleware;
pub mod model;
pub mod router;
pub mod service;
pub mod upstream;

pub mod acme;
pub mod admin;
pub mod cli;
pub mod demo;
pub mod gateway;
