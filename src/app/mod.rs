//! Composition: from a validated configuration to a process at work. Everything is loaded and
//! checked, then everything is bound, then it runs.

pub mod admin;
pub mod crl_numbers;
pub mod demo;
pub mod exposure;
mod fixed;
pub mod forget;
mod jumps;
mod leaving;
pub mod load;
pub mod notify;
pub mod reload;
pub mod renew;
pub mod run;
mod scheduling;
pub mod signals;
mod staplers;
pub mod watch;

pub use load::{Loaded, load};
pub use run::{Bound, StartError, run};
