//! Which alert an error is answered with, and how it looks to who reads or writes.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

/// The alert for what a peer did; `None`: it sent one itself.
pub(super) fn alert_for(error: &Error) -> Option<AlertDescription> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's errors are open; ours are those above"
    )]
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            AlertDescription::UnexpectedMessage
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::PeerMisbehaved(
            PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived
            | PeerMisbehaved::TooManyEmptyFragments,
        )
        | Error::PeerMisbehaved(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}

pub(super) fn broken(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What rustls says of a stream that ends without close_notify.
pub(super) fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "peer closed connection without sending TLS close_notify",
    )
}
