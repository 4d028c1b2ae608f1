//! TLS alerts (RFC 8446 section 6) and library errors, in our words: which alert a refused peer is
//! sent, and what an alert or a broken handshake means to the operator.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::admit::{Denial, Denied};

/// Which end of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We accepted the connection.
    Server,
    /// We opened it.
    Client,
}

/// How the detail begins when the other end knows none of the protocols that we offered.
const NO_PROTOCOL: &str = "the peer sent alert no_application_protocol";

/// The connection failed because we offered ALPN to a server with other protocols: it may be
/// tried again with [`ClientTls::without_alpn`](super::ClientTls::without_alpn).
#[must_use]
pub fn wants_no_alpn(denied: &Denied) -> bool {
    denied.detail.starts_with(NO_PROTOCOL)
}

/// The error that makes rustls send the fitting alert to a refused peer.
pub(super) fn refusal(reason: Denial) -> Error {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever is no fault of the certificate itself is a rule's refusal"
    )]
    let error = match reason {
        // bad_certificate
        Denial::CertificateMalformed | Denial::CertificateInvalid => CertificateError::BadEncoding,
        Denial::ServerNameMismatch => CertificateError::NotValidForName,
        // unknown_ca
        Denial::CertificateUnknownIssuer => CertificateError::UnknownIssuer,
        Denial::RevocationUnknown | Denial::CrlExpired => CertificateError::UnknownRevocationStatus,
        // certificate_expired
        Denial::CertificateExpired => CertificateError::Expired,
        Denial::CertificateNotYetValid => CertificateError::NotValidYet,
        // certificate_revoked
        Denial::CertificateRevoked => CertificateError::Revoked,
        // unsupported_certificate
        Denial::CertificateWrongUsage => CertificateError::InvalidPurpose,
        // access_denied
        _ => CertificateError::ApplicationVerificationFailure,
    };
    Error::InvalidCertificate(error)
}

/// What an I/O error of a TLS stream means, during the handshake or after it (in TLS 1.3 the
/// server's refusal reaches the client with its first read).
#[must_use]
pub fn explain(error: &io::Error, side: Side) -> Denied {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(tls) = inner {
        return explain_tls(tls, side);
    }
    match (error.kind(), side) {
        // after the handshake
        (io::ErrorKind::UnexpectedEof, _) if error.to_string().contains("close_notify") => {
            Denied::new(
                match side {
                    Side::Server => Denial::Truncated,
                    Side::Client => Denial::UpstreamBroken,
                },
                "closed without close_notify",
            )
        }
        (io::ErrorKind::UnexpectedEof, Side::Server) => Denied::new(
            Denial::Truncated,
            "the peer closed before the handshake was complete",
        ),
        (
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe,
            Side::Client,
        ) => Denied::new(
            Denial::UpstreamRefused,
            "closed without an alert: is our source address in its trusted_ips?",
        ),
        (
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted,
            Side::Server,
        ) => Denied::new(Denial::PeerReset, error.to_string()),
        (_, Side::Server) => Denied::new(Denial::HandshakeFailed, error.to_string()),
        (_, Side::Client) => Denied::new(Denial::UpstreamBroken, error.to_string()),
    }
}

fn explain_tls(error: &Error, side: Side) -> Denied {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's errors are open; what has no better name is a failed handshake"
    )]
    match error {
        Error::AlertReceived(alert) => received(*alert, side),
        Error::PeerIncompatible(why) => incompatible(why),
        Error::NoApplicationProtocol => Denied::new(
            Denial::NoSharedTls,
            "none of the application protocols (ALPN) that the peer offered",
        ),
        Error::NoCertificatesPresented => Denied::new(
            Denial::CertificateMissing,
            "a certificate was asked for, and none was sent",
        ),
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            Denied::new(Denial::NotTls, "the first byte begins no TLS record")
        }
        Error::InvalidCertificate(CertificateError::BadSignature) => Denied::new(
            Denial::HandshakeFailed,
            "the peer did not prove that it holds its certificate's key",
        ),
        other => Denied::new(Denial::HandshakeFailed, other.to_string()),
    }
}

fn received(alert: AlertDescription, side: Side) -> Denied {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "alerts without a hint of their own"
    )]
    let hint = match alert {
        AlertDescription::UnknownCA => {
            "it does not trust our certificate's issuer, or lacks its CRL"
        }
        AlertDescription::BadCertificate => "it finds our certificate malformed or wrongly named",
        AlertDescription::UnsupportedCertificate => {
            "our certificate is not made for this end of a connection (key usage, extended key usage)"
        }
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::CertificateExpired => "our certificate has expired, or a clock is wrong",
        AlertDescription::CertificateUnknown => "it does not accept our certificate",
        AlertDescription::CertificateRequired => "it asks for a certificate and got none",
        AlertDescription::AccessDenied => "our certificate is good, but no rule there names it",
        AlertDescription::ProtocolVersion => "no TLS version in common",
        AlertDescription::HandshakeFailure => {
            "no cipher suite, group or signature in common, or a certificate that it wants"
        }
        AlertDescription::InsufficientSecurity => "our ciphers are too weak for it",
        AlertDescription::UnrecognisedName => "it does not know the server name",
        AlertDescription::NoApplicationProtocol => "it knows none of the protocols we offer",
        AlertDescription::DecryptError => "it could not check our signature",
        AlertDescription::UserCanceled => "it gave up",
        AlertDescription::InternalError => "something is wrong at its end",
        _ => "see RFC 8446 section 6",
    };
    let detail = format!("the peer sent alert {}: {hint}", name(alert));
    let reason = match (alert, side) {
        (AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity, _) => {
            Denial::NoSharedTls
        }
        (_, Side::Client) => Denial::UpstreamRefused,
        (_, Side::Server) => Denial::HandshakeFailed,
    };
    Denied::new(reason, detail)
}

fn incompatible(why: &PeerIncompatible) -> Denied {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library's list is open; its own words are kept"
    )]
    let detail = match why {
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite in common".to_owned(),
        PeerIncompatible::NoKxGroupsInCommon => "no key exchange group in common".to_owned(),
        PeerIncompatible::NoSignatureSchemesInCommon => {
            "no signature scheme in common with our certificate's key".to_owned()
        }
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "no TLS version in common: the peer's are below min_version".to_owned()
        }
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            "TLS 1.2 without extended master secret".to_owned()
        }
        other => format!("{other:?}"),
    };
    Denied::new(Denial::NoSharedTls, detail)
}

/// The alert's name as RFC 8446 writes it: `UnknownCA` is `unknown_ca`.
fn name(alert: AlertDescription) -> String {
    if let AlertDescription::UnknownCA = alert {
        return "unknown_ca".to_owned();
    }
    if let AlertDescription::UnrecognisedName = alert {
        return "unrecognized_name".to_owned();
    }
    let mut out = String::new();
    for (i, c) in format!("{alert:?}").chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
