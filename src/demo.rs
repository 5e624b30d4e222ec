//! What `gantry demo` runs beside the front door: two stand-in segmentation models and the volume to feed them.

pub mod model_server;
pub mod phantom;
pub mod segment;

pub mod front;

use std::path::Path;

pub use front::run;

/// Writes a phantom volume to `file`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_phantom(file: &Path, seed: u64) -> anyhow::Result<()> {
    phantom::write_phantom(file, seed).map_err(|e| anyhow::anyhow!("error: cannot write `{}`: {e}", file.display()))
}
