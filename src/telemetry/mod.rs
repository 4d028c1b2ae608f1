//! What the process says of itself: metrics, access records, the log.

pub mod access;
pub mod log;
pub mod metrics;
mod resting;

pub use resting::Resting;
