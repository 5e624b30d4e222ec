//! stub
pub use crate::config::Resources;
pub use crate::diag::{Diagnostic, did_you_mean};
