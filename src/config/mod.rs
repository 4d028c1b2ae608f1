//! Configuration: what the user typed (`raw`), what the program needs (`types`), and the
//! problems found on the way (`problem`). Validated types hold paths and rules, never loaded keys.

pub mod types;

pub use types::*;
