//! What is asked of a responder: RFC 6960 section 4.1 in the form of RFC 5019 section 2.1, one
//! certificate, SHA-1 names, no extension, so that answers can be made ahead and cached.

use std::net::IpAddr;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use super::der::element;
use crate::{config::DialAddress, wire::base64};

/// id-ad-ocsp (RFC 5280 section 4.2.2.1).
const ID_AD_OCSP: &str = "1.3.6.1.5.5.7.48.1";
/// id-pe-tlsfeature (RFC 7633).
const ID_PE_TLSFEATURE: &str = "1.3.6.1.5.5.7.1.24";
/// status_request, as a feature: a certificate with it is worth nothing without a staple.
const STATUS_REQUEST: [u8; 3] = [0x02, 0x01, 0x05];
/// The algorithm SHA-1. It names issuers here and protects nothing: the answer is signed.
const SHA1: [u8; 11] = [
    0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00,
];
/// No certificate's address of a responder is longer.
const LONGEST: usize = 1024;
/// RFC 5019 section 5: up to here a question is a GET, which caches can answer.
const LONGEST_GET: usize = 255;

/// What a certificate says of its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Where it can be asked for.
    pub responders: Vec<String>,
    /// Clients that know the extension refuse the certificate without a staple.
    pub must_staple: bool,
}

impl Named {
    /// Reads a certificate; one that can't be read says nothing.
    #[must_use]
    pub fn by(certificate: &[u8]) -> Self {
        let mut named = Self::default();
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return named;
        };
        for extension in parsed.extensions() {
            if let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() {
                for place in access.iter() {
                    if let GeneralName::URI(uri) = &place.access_location
                        && place.access_method.to_id_string() == ID_AD_OCSP
                    {
                        named.responders.push((*uri).to_owned());
                    }
                }
            } else if extension.oid.to_id_string() == ID_PE_TLSFEATURE {
                named.must_staple = extension
                    .value
                    .windows(STATUS_REQUEST.len())
                    .any(|feature| feature == STATUS_REQUEST);
            }
        }
        named
    }
}

/// Where a responder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responder {
    /// As the certificate has it.
    pub url: String,
    /// What is dialled.
    pub address: DialAddress,
    /// `Host`.
    pub host: String,
    /// Path and query.
    path: String,
}

impl Responder {
    fn parse(url: &str) -> Result<Self, String> {
        let unusable = |why: &str| format!("its responder {url:?} can't be asked: {why}");
        if url.len() > LONGEST {
            return Err(format!(
                "its responder's address is longer than {LONGEST} bytes"
            ));
        }
        let uri: http::Uri = url.parse().map_err(|error| unusable(&format!("{error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(unusable("only http:// is spoken with responders"));
        }
        let authority = uri.authority().ok_or_else(|| unusable("no host"))?;
        if authority.as_str().contains('@') {
            return Err(unusable("a user name"));
        }
        let host = authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => 80,
            None => return Err(unusable("its port is none")),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = match bare.parse::<IpAddr>() {
            Ok(ip) => DialAddress::Ip((ip, port).into()),
            Err(_) if bare.is_empty() => return Err(unusable("no host")),
            Err(_) => DialAddress::Host(host.to_owned(), port),
        };
        Ok(Self {
            url: url.to_owned(),
            address,
            host: authority.as_str().to_owned(),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }

    /// The target of a GET, where one will do.
    fn get_target(&self, request: &[u8]) -> Option<String> {
        if self.path.contains('?') {
            return None;
        }
        let slash = if self.path.ends_with('/') { "" } else { "/" };
        let mut target = format!("{}{slash}", self.path);
        for letter in base64::encode(request).chars() {
            match letter {
                '+' => target.push_str("%2B"),
                '/' => target.push_str("%2F"),
                '=' => target.push_str("%3D"),
                other => target.push(other),
            }
        }
        (target.len() <= LONGEST_GET).then_some(target)
    }
}

/// A certificate's question, and what its answer is measured by.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whom to ask.
    pub responder: Responder,
    /// The whole OCSPRequest.
    request: Vec<u8>,
    pub(super) name_hash: Vec<u8>,
    pub(super) key_hash: Vec<u8>,
    /// As the certificate has it.
    pub(super) serial: Vec<u8>,
    pub(super) issuer: CertificateDer<'static>,
}

/// How a question is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent<'a> {
    /// With this target.
    Get(String),
    /// To this target, with this body.
    Post(&'a str, &'a [u8]),
}

impl Question {
    /// About the first certificate of a chain, to the responder at `url`.
    ///
    /// # Errors
    /// Why it can't be asked, to be read after the certificate's name.
    pub fn new(
        url: &str,
        leaf: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
    ) -> Result<Self, String> {
        let unreadable = |_error| "it can't be read".to_owned();
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(unreadable)?;
        let (_, above) = X509Certificate::from_der(issuer).map_err(unreadable)?;
        let name_hash = sha1(parsed.issuer().as_raw());
        let key_hash = sha1(&above.public_key().subject_public_key.data);
        let serial = parsed.raw_serial().to_vec();
        let id = element(
            0x30,
            &[
                &SHA1,
                &element(0x04, &[&name_hash]),
                &element(0x04, &[&key_hash]),
                &element(0x02, &[&serial]),
            ],
        );
        // CertID, Request, requestList, TBSRequest, OCSPRequest
        let request = (0..4).fold(id, |inner, _| element(0x30, &[&inner]));
        Ok(Self {
            responder: Responder::parse(url)?,
            request,
            name_hash,
            key_hash,
            serial,
            issuer: issuer.clone().into_owned(),
        })
    }

    /// As it is sent (RFC 6960 appendix A).
    #[must_use]
    pub fn sent(&self) -> Sent<'_> {
        match self.responder.get_target(&self.request) {
            Some(target) => Sent::Get(target),
            None => Sent::Post(&self.responder.path, &self.request),
        }
    }
}

pub(super) fn sha1(octets: &[u8]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, octets);
    hash.as_ref().to_vec()
}
