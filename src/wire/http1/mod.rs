//! HTTP/1.1 heads (RFC 9112), each read once and written once. What a head says of its message's
//! end is judged in [`crate::wire::framing`].

pub mod answer;
pub mod body;
pub mod names;
pub mod request;

#[cfg(test)]
mod tests;
