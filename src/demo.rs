//! What `gantry demo` runs beside the front door: two stand-in segmentation models and the volume to feed them.

pub mod model_server;
pub mod nifti;
pub mod phantom;
pub mod segment;
