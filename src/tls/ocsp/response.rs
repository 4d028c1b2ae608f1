//! A responder's answer (RFC 6960 section 4.2): read, then proven. These bytes come over plain
//! http from anybody who stands in between.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Answer, LARGEST, Question, Reason, Refused, SKEW, Status,
    der::{Elements, Kind, bad},
    question::sha1,
};
use crate::{
    identity::{Serial, UnixSeconds},
    tls::{material::signed_by, signed::Signed},
};

/// id-pkix-ocsp-basic.
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// SHA-1.
const SHA1: [u8; 5] = [0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// A responder sends its own certificate, and perhaps those above.
const CERTIFICATES: usize = 8;

/// Who says of himself to have signed.
#[derive(Debug, Clone, Copy)]
enum Signer<'a> {
    /// His subject, whole.
    Name(&'a [u8]),
    /// SHA-1 of his key.
    Key(&'a [u8]),
}

/// An answer as it was read: nothing is proven.
#[derive(Debug)]
struct Read<'a> {
    signer: Signer<'a>,
    produced_at: UnixSeconds,
    singles: Vec<Single<'a>>,
    signed: Signed,
    certificates: Vec<&'a [u8]>,
}

/// What it says of one certificate.
#[derive(Debug)]
struct Single<'a> {
    algorithm: &'a [u8],
    name_hash: &'a [u8],
    key_hash: &'a [u8],
    serial: &'a [u8],
    /// `None`: unknown.
    status: Option<Status>,
    this_update: UnixSeconds,
    next_update: Option<UnixSeconds>,
}

/// Reads an answer and proves nothing, for whoever looks for what breaks the reader.
#[must_use]
pub fn parse_only(der: &[u8]) -> bool {
    read(der).is_ok()
}

impl Question {
    /// Reads an answer and proves it.
    ///
    /// # Errors
    /// Why it is not to be shown.
    pub fn judge(
        &self,
        der: &[u8],
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<Answer, Refused> {
        let read = read(der)?;
        let single = self.single(&read.singles)?;
        let signer_ends = self.prove(&read, provider, now)?;
        let Some(status) = single.status else {
            return Err(Refused::new(
                Reason::Unknown,
                "the responder does not know the certificate",
            ));
        };
        let out_of_date = |detail: String| Err(Refused::new(Reason::OutOfDate, detail));
        let Some(next_update) = single.next_update else {
            return out_of_date("it has no nextUpdate (RFC 5019 section 2.2.4)".to_owned());
        };
        let until = next_update.min(signer_ends);
        let this_update = single.this_update;
        if next_update <= this_update {
            return out_of_date(format!("nextUpdate {next_update} is not behind thisUpdate"));
        }
        for (what, at) in [
            ("thisUpdate", this_update),
            ("producedAt", read.produced_at),
        ] {
            if at.0 > now.0.saturating_add(SKEW) {
                return out_of_date(format!("{what} {at} is to come: is the clock right?"));
            }
        }
        if until <= now {
            return out_of_date(format!("it ended {} ({until})", until.relative_to(now)));
        }
        Ok(Answer {
            der: der.to_vec(),
            status,
            this_update,
            until,
        })
    }

    /// The one that is about our certificate.
    fn single<'r>(&self, singles: &'r [Single<'r>]) -> Result<&'r Single<'r>, Refused> {
        let serial = Serial::new(&self.serial);
        let mut ours = singles.iter().filter(|single| {
            single.algorithm == SHA1
                && single.name_hash == self.name_hash
                && single.key_hash == self.key_hash
                && Serial::new(single.serial) == serial
        });
        match (ours.next(), ours.next()) {
            (Some(single), None) => Ok(single),
            (None, _) => Err(Refused::new(
                Reason::OtherCertificate,
                format!("nothing in it is about serial {serial} of this issuer"),
            )),
            (Some(_), Some(_)) => Err(Refused::new(
                Reason::OtherCertificate,
                "it answers twice for one certificate",
            )),
        }
    }

    /// The issuer signed, or somebody to whom it gave exactly that right (RFC 6960 section
    /// 4.2.2.2). When the signer's certificate ends.
    fn prove(
        &self,
        read: &Read<'_>,
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<UnixSeconds, Refused> {
        let (_, issuer) = X509Certificate::from_der(&self.issuer)
            .map_err(|_error| bad("issuer's certificate"))?;
        let mut refused = Refused::new(
            Reason::UntrustedSigner,
            "it is signed neither by the issuer nor by a certificate that comes with it",
        );
        let by = |certificate: &X509Certificate<'_>| {
            let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
            read.signed.is_by(&key, provider)
        };
        let wrong = || {
            Refused::new(
                Reason::BadSignature,
                "its signature does not fit its signer",
            )
        };
        if read.signer.is(&issuer) {
            if by(&issuer) {
                return Ok(ends(&issuer));
            }
            refused = wrong();
        }
        for der in &read.certificates {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else {
                continue;
            };
            if !read.signer.is(&certificate) {
                continue;
            }
            match self.delegated(der, &certificate, &issuer, provider, now) {
                Ok(()) if by(&certificate) => return Ok(ends(&certificate)),
                Ok(()) => refused = wrong(),
                Err(why) => refused = Refused::new(Reason::UntrustedSigner, why),
            }
        }
        Err(refused)
    }

    /// Whether the issuer gave this certificate the right to answer for it.
    fn delegated(
        &self,
        der: &[u8],
        certificate: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        provider: &CryptoProvider,
        now: UnixSeconds,
    ) -> Result<(), String> {
        let name = certificate.subject();
        if certificate.issuer().as_raw() != issuer.subject().as_raw()
            || !signed_by(&CertificateDer::from(der), &self.issuer, provider)
        {
            return Err(format!(
                "the responder's certificate {name} is not by our certificate's issuer"
            ));
        }
        let may_answer = certificate
            .extended_key_usage()
            .ok()
            .flatten()
            .is_some_and(|usage| usage.value.ocsp_signing);
        if !may_answer {
            return Err(format!(
                "the responder's certificate {name} lacks extended key usage OCSPSigning"
            ));
        }
        let may_sign = certificate
            .key_usage()
            .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.digital_signature()));
        if !may_sign {
            return Err(format!(
                "the responder's certificate {name} lacks key usage digitalSignature"
            ));
        }
        let begins = UnixSeconds(certificate.validity().not_before.timestamp());
        if now < begins || ends(certificate) < now {
            return Err(format!(
                "the responder's certificate {name} is valid from {begins} to {}",
                ends(certificate)
            ));
        }
        Ok(())
    }
}

impl Signer<'_> {
    fn is(self, certificate: &X509Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => certificate.subject().as_raw() == name,
            Self::Key(hash) => sha1(&certificate.public_key().subject_public_key.data) == hash,
        }
    }
}

fn ends(certificate: &X509Certificate<'_>) -> UnixSeconds {
    UnixSeconds(certificate.validity().not_after.timestamp())
}

/// OCSPResponse.
fn read(der: &[u8]) -> Result<Read<'_>, Refused> {
    if der.len() > LARGEST {
        return Err(Refused::new(Reason::Malformed, "it is larger than 64 KiB"));
    }
    let mut outer = Elements(der);
    let mut response = outer.sequence("response")?;
    outer.end("end")?;
    let status = response.take(Kind::Enumerated, "status")?;
    if status != [0] {
        return Err(responder_error(status));
    }
    let mut explicit = Elements(response.take(Kind::Context(0), "content")?);
    response.end("end")?;
    let mut content = explicit.sequence("content")?;
    explicit.end("content's end")?;
    if content.take(Kind::Oid, "type")? != BASIC {
        return Err(Refused::new(Reason::Malformed, "it is no basic response"));
    }
    let basic = content.take(Kind::OctetString, "basic response")?;
    content.end("content's end")?;
    read_basic(basic)
}

fn responder_error(status: &[u8]) -> Refused {
    let word = match status {
        [1] => "malformedRequest",
        [2] => "internalError",
        [3] => "tryLater",
        [5] => "sigRequired",
        [6] => "unauthorized",
        _ => "an unknown status",
    };
    Refused::new(Reason::ResponderError, format!("it answered {word}"))
}

/// BasicOCSPResponse.
fn read_basic(der: &[u8]) -> Result<Read<'_>, Refused> {
    let mut outer = Elements(der);
    let mut basic = outer.sequence("basic response")?;
    outer.end("basic response's end")?;
    let (data, whole) = basic.take_whole(Kind::Sequence, "response data")?;
    let mut algorithm = basic.sequence("signature algorithm")?;
    let oid = algorithm.take(Kind::Oid, "signature algorithm")?;
    let bits = basic.take(Kind::BitString, "signature")?;
    let Some((0, signature)) = bits.split_first() else {
        return Err(bad("signature"));
    };
    let mut certificates = Vec::new();
    if let Some(explicit) = basic.optional(Kind::Context(0)) {
        let mut explicit = Elements(explicit);
        let mut list = explicit.sequence("certificates")?;
        explicit.end("certificates' end")?;
        while !list.is_empty() {
            let (_, certificate) = list.take_whole(Kind::Sequence, "certificate")?;
            if certificates.len() == CERTIFICATES {
                return Err(Refused::new(
                    Reason::Malformed,
                    format!("more than {CERTIFICATES} certificates come with it"),
                ));
            }
            certificates.push(certificate);
        }
    }
    basic.end("basic response's end")?;
    let signed = Signed::new(oid, whole, signature).ok_or_else(|| bad("signature algorithm"))?;

    let mut data = Elements(data);
    if let Some(version) = data.optional(Kind::Context(0)) {
        // v1 is the default, and some write it all the same
        if version != [0x02, 0x01, 0x00] {
            return Err(Refused::new(Reason::Malformed, "its version is not 1"));
        }
    }
    let signer = match data.optional(Kind::Context(1)) {
        Some(name) => Signer::Name(name),
        None => {
            let mut explicit = Elements(data.take(Kind::Context(2), "responder's name")?);
            Signer::Key(explicit.take(Kind::OctetString, "responder's key")?)
        }
    };
    let produced_at = data.time("producedAt")?;
    let mut list = data.sequence("list of answers")?;
    let mut singles = Vec::new();
    while !list.is_empty() {
        singles.push(read_single(list.sequence("single answer")?)?);
    }
    if let Some(extensions) = data.optional(Kind::Context(1)) {
        no_critical(extensions)?;
    }
    data.end("response data's end")?;
    Ok(Read {
        signer,
        produced_at,
        singles,
        signed,
        certificates,
    })
}

/// SingleResponse.
fn read_single(mut single: Elements<'_>) -> Result<Single<'_>, Refused> {
    let mut id = single.sequence("certificate's id")?;
    let mut hash = id.sequence("hash algorithm")?;
    let algorithm = hash.take(Kind::Oid, "hash algorithm")?;
    let name_hash = id.take(Kind::OctetString, "issuer's name")?;
    let key_hash = id.take(Kind::OctetString, "issuer's key")?;
    let serial = id.take(Kind::Integer, "serial")?;
    id.end("certificate's id")?;
    let status = if let Some(good) = single.optional(Kind::Context(0)) {
        Elements(good).end("status")?;
        Some(Status::Good)
    } else if let Some(revoked) = single.optional(Kind::Context(1)) {
        Some(Status::Revoked(Elements(revoked).time("revocationTime")?))
    } else {
        let _unknown = single.take(Kind::Context(2), "status")?;
        None
    };
    let this_update = single.time("thisUpdate")?;
    let next_update = match single.optional(Kind::Context(0)) {
        Some(time) => {
            let mut explicit = Elements(time);
            let time = explicit.time("nextUpdate")?;
            explicit.end("nextUpdate")?;
            Some(time)
        }
        None => None,
    };
    if let Some(extensions) = single.optional(Kind::Context(1)) {
        no_critical(extensions)?;
    }
    single.end("single answer's end")?;
    Ok(Single {
        algorithm,
        name_hash,
        key_hash,
        serial,
        status,
        this_update,
        next_update,
    })
}

/// We know no extension, so none may be critical.
fn no_critical(explicit: &[u8]) -> Result<(), Refused> {
    let mut explicit = Elements(explicit);
    let mut list = explicit.sequence("extensions")?;
    explicit.end("extensions' end")?;
    while !list.is_empty() {
        let mut extension = list.sequence("extension")?;
        let _oid = extension.take(Kind::Oid, "extension")?;
        let critical = extension.optional(Kind::Boolean);
        let _value = extension.take(Kind::OctetString, "extension")?;
        extension.end("extension's end")?;
        if critical.is_some_and(|octets| octets != [0]) {
            return Err(Refused::new(
                Reason::Malformed,
                "it has a critical extension",
            ));
        }
    }
    Ok(())
}
