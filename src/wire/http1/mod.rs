//! HTTP/1.1 heads (RFC 9112), each read once and written once. What a request's head says of its
//! message's end is judged in [`crate::wire::framing`].

pub mod answer;
pub mod body;
pub mod names;
pub mod reply;
pub mod request;
pub mod write;

#[cfg(test)]
mod tests;

/// What the lines of `Connection` say of the connection itself (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    close: bool,
    keep: bool,
}

impl Connection {
    /// One of its lines.
    pub fn line(&mut self, value: &[u8]) {
        for member in members(value) {
            self.close |= member.eq_ignore_ascii_case(b"close");
            self.keep |= member.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection stays. One `close` is enough, and HTTP/1.0 closes unless told.
    #[must_use]
    pub fn keeps(self, old: bool) -> bool {
        !self.close && (self.keep || !old)
    }
}

/// Whether a list has this member, in any letter case.
#[must_use]
pub fn has_token(list: &[u8], token: &[u8]) -> bool {
    members(list).any(|member| member.eq_ignore_ascii_case(token))
}

/// The members of a list (RFC 9110 section 5.6.1).
pub fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}
