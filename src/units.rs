//! The values that users type into configuration: durations, byte sizes, regular expressions, networks, secrets.
//!
//! Traefik is written in Go, so its users know Go's spelling of these values. Each module takes that spelling,
//! refuses what Go refuses and says what is wrong in words. Nothing here does IO or knows about configuration keys.

pub mod byte_size;
pub mod duration;
pub mod net;
pub mod regex;
pub mod secret;
