//! Certificates and keys for others' TLS: PKCS#12 (RFC 7292) with the key under PBES2 (PBKDF2 with
//! HMAC-SHA-256, AES-256-CBC) and a MAC by SHA-256, which OpenSSL, GnuTLS, Java and Windows read;
//! PEM and DER of the certificates alone.

use aws_lc_rs::{digest, hmac};
use ipnet::IpNet;
use pkcs8::{PrivateKeyInfoRef, pkcs5::pbes2::Parameters};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    Authority, PkiError, Record,
    algorithm::{key_from_file, to_pem},
    issue::Desk,
    renew::named,
    store,
    verify::certificates,
};
use crate::{
    config::{SecretRef, secret},
    identity::CertFacts,
};

/// What PBKDF2 takes for the key.
const KEY_ROUNDS: u32 = 600_000;
/// What the MAC's derivation takes: it guards integrity under the same password.
const MAC_ROUNDS: u32 = 100_000;
/// Java's tools take no shorter password.
const SHORTEST: usize = 6;

/// The password of an exported key.
pub struct ExportPassword(Zeroizing<Vec<u8>>);

impl ExportPassword {
    /// Reads it from where it is kept.
    ///
    /// # Errors
    /// It can't be had, is shorter than 6 characters, or holds others than ASCII, which programs
    /// encode in different ways.
    pub fn load(place: &SecretRef) -> Result<Self, PkiError> {
        let short = SecretRef::AllowShort(Box::new(place.clone()));
        let bytes = secret::load(&short, true).map_err(|e| PkiError::invalid(e.to_string()))?;
        if bytes.len() < SHORTEST || !bytes.is_ascii() {
            return Err(PkiError::invalid(format!(
                "the password in {place} must be {SHORTEST} or more characters of ASCII: programs \
                 do not agree on others"
            )));
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for ExportPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExportPassword(…)")
    }
}

/// In which form.
#[derive(Debug)]
pub enum ExportFormat {
    /// Certificates and key.
    Pkcs12(ExportPassword),
    /// The leaf and its issuing CA.
    Pem,
    /// The leaf.
    Der,
}

impl Authority {
    /// The certificate in force of `NAME` or `ROLE/NAME`, in another form.
    ///
    /// # Errors
    /// Nothing, or more than one role, goes by that name; or its key is not here.
    pub fn export(
        &self,
        name: &str,
        format: &ExportFormat,
    ) -> Result<(Record, Zeroizing<Vec<u8>>), PkiError> {
        let mut desk = Desk::open(self)?;
        let (record, chain) = self.chain_of(&desk, name)?;
        let folder = self.certificate_folder(record.role, &record.name);
        let bytes = match format {
            ExportFormat::Der => chain.first().map(|leaf| leaf.to_vec()).unwrap_or_default(),
            ExportFormat::Pem => {
                let blocks = chain.iter().map(|der| to_pem("CERTIFICATE", der));
                blocks.collect::<Result<String, _>>()?.into_bytes()
            }
            ExportFormat::Pkcs12(password) => {
                let key = folder.join("key.pem");
                if !key.exists() {
                    return Err(PkiError::invalid(format!(
                        "the key of {} is not in {}: where it is, `openssl pkcs12 -export` does this",
                        record.title(),
                        folder.display()
                    )));
                }
                let key = key_from_file(&key, None)?;
                let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
                let label = format!("{}/{}", record.role, record.name);
                let bytes = pkcs12(key.serialized_der(), &chain, &label, password)?;
                let facts = [
                    ("role", record.role.as_str()),
                    ("name", record.name.as_str()),
                    ("serial", record.serial.as_str()),
                ];
                // a key leaves the store
                desk.change.audit(desk.now, "export", &facts);
                desk.commit()?;
                bytes
            }
        };
        Ok((record, Zeroizing::new(bytes)))
    }

    /// What was issued by that name, and its chain, which holds a leaf.
    fn chain_of(
        &self,
        desk: &Desk<'_>,
        name: &str,
    ) -> Result<(Record, Vec<CertificateDer<'static>>), PkiError> {
        let record = named(&desk.state, name)?;
        let folder = self.certificate_folder(record.role, &record.name);
        let path = folder.join("cert.pem");
        let chain = certificates(&store::read(&path)?, &path)?;
        if chain.is_empty() {
            let path = path.display();
            return Err(PkiError::invalid(format!("{path} holds no certificate")));
        }
        Ok((record, chain))
    }

    /// What a backend or partner with its own TLS has to know of `NAME` or `ROLE/NAME`, as one
    /// text: whose certificate it is, its fingerprints, where its connections come from, the
    /// certificate, and the roots that it chains to. No key.
    ///
    /// # Errors
    /// Nothing, or more than one role, goes by that name; its certificate can't be read.
    pub fn partner_sheet(
        &self,
        name: &str,
        egress: &[IpNet],
    ) -> Result<(Record, String), PkiError> {
        let desk = Desk::open(self)?;
        let (record, chain) = self.chain_of(&desk, name)?;
        let leaf = chain.first().map_or(&[][..], AsRef::as_ref);
        let facts = CertFacts::read(leaf).map_err(|e| PkiError::invalid(e.to_string()))?;
        let dns = facts.dns.iter().map(|name| format!("dns:{name}"));
        let ips = facts.ips.iter().map(|ip| format!("ip:{ip}"));
        let names: Vec<String> = facts.uris.iter().cloned().chain(dns).chain(ips).collect();
        let networks: Vec<String> = egress.iter().map(ToString::to_string).collect();
        let sheet = [
            ("subject", facts.subject.clone()),
            ("issuer", facts.issuer.clone()),
            ("serial", facts.serial.to_string()),
            ("names", names.join(", ")),
            ("key", facts.key.clone()),
            ("valid from", facts.not_before.to_string()),
            ("valid until", facts.not_after.to_string()),
            ("sha256", facts.fingerprint.to_string()),
            ("spki sha256", facts.spki.to_string()),
            ("connects from", networks.join(", ")),
        ];
        let mut text = format!(
            "{}/{}, for those it connects to\n\n",
            record.role, record.name
        );
        for (key, value) in sheet {
            text += &format!("{key:<14} {value}\n");
        }
        text += "\nthe certificate:\n";
        text += &to_pem("CERTIFICATE", leaf)?;
        for above in chain.get(1..).unwrap_or_default() {
            text += "\nits issuer, which it sends along:\n";
            text += &to_pem("CERTIFICATE", above)?;
        }
        let trust = self.trust();
        for root in certificates(&store::read(&trust)?, &trust)? {
            text += "\na root to trust, together with the names above:\n";
            text += &to_pem("CERTIFICATE", &root)?;
        }
        Ok((record, text))
    }
}

mod oid {
    //! Object identifiers, as their DER content.
    pub(super) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    pub(super) const SHROUDED_KEY_BAG: &[u8] = &[
        0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02,
    ];
    pub(super) const CERT_BAG: &[u8] = &[
        0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03,
    ];
    pub(super) const X509_CERTIFICATE: &[u8] =
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
    pub(super) const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
    pub(super) const LOCAL_KEY_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
    pub(super) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
}

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BMP: u8 = 0x1e;
const EXPLICIT_0: u8 = 0xa0;

/// One element of DER.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let short = length.iter().skip_while(|byte| **byte == 0);
    match u8::try_from(content.len()) {
        Ok(small) if small < 0x80 => out.push(small),
        _ => {
            let octets: Vec<u8> = short.copied().collect();
            out.push(0x80 | u8::try_from(octets.len()).unwrap_or(u8::MAX));
            out.extend(octets);
        }
    }
    out.extend(content);
    out
}

fn integer(value: u32) -> Vec<u8> {
    // a leading zero keeps it positive
    let bytes = [&[0], &value.to_be_bytes()[..]].concat();
    let start = bytes
        .windows(2)
        .take_while(|two| matches!(two, [0, next] if *next < 0x80))
        .count();
    tlv(INTEGER, &[bytes.get(start..).unwrap_or_default()])
}

/// UTF-16, big-endian; of ASCII here.
fn bmp(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| [0, *byte]).collect()
}

fn pkcs12(
    key: &[u8],
    chain: &[&[u8]],
    label: &str,
    password: &ExportPassword,
) -> Result<Vec<u8>, PkiError> {
    let wrong = |e: &dyn ToString| PkiError::crypto("write PKCS#12", e.to_string());
    let (mut key_salt, mut iv, mut mac_salt) = ([0; 16], [0; 16], [0; 16]);
    for random in [&mut key_salt, &mut iv, &mut mac_salt] {
        aws_lc_rs::rand::fill(random).map_err(|e| wrong(&e))?;
    }
    let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(KEY_ROUNDS, &key_salt, iv)
        .map_err(|e| wrong(&e))?;
    let shrouded = PrivateKeyInfoRef::try_from(key)
        .and_then(|key| key.encrypt_with_params(parameters, password.0.as_slice()))
        .map_err(|e| wrong(&e))?;

    let id = digest::digest(&digest::SHA256, chain.first().copied().unwrap_or_default());
    let attribute = |of: &[u8], value: Vec<u8>| {
        let value = tlv(SET, &[&value]);
        tlv(SEQUENCE, &[&tlv(OID, &[of]), &value])
    };
    let name = attribute(oid::FRIENDLY_NAME, tlv(BMP, &[&bmp(label.as_bytes())]));
    let local = attribute(oid::LOCAL_KEY_ID, tlv(OCTETS, &[id.as_ref()]));
    let attributes = tlv(SET, &[&name, &local]);

    let key_bag = tlv(
        SEQUENCE,
        &[
            &tlv(OID, &[oid::SHROUDED_KEY_BAG]),
            &tlv(EXPLICIT_0, &[shrouded.as_bytes()]),
            &attributes,
        ],
    );
    let cert_bags: Vec<Vec<u8>> = chain
        .iter()
        .enumerate()
        .map(|(at, der)| {
            let value = tlv(EXPLICIT_0, &[&tlv(OCTETS, &[der])]);
            let certificate = tlv(SEQUENCE, &[&tlv(OID, &[oid::X509_CERTIFICATE]), &value]);
            // the key is the leaf's
            let own: &[u8] = if at == 0 { &attributes } else { &[] };
            let bag = tlv(EXPLICIT_0, &[&certificate]);
            tlv(SEQUENCE, &[&tlv(OID, &[oid::CERT_BAG]), &bag, own])
        })
        .collect();
    let cert_bags: Vec<&[u8]> = cert_bags.iter().map(Vec::as_slice).collect();
    let contents = tlv(
        SEQUENCE,
        &[
            &content_info(&tlv(SEQUENCE, &cert_bags)),
            &content_info(&tlv(SEQUENCE, &[&key_bag])),
        ],
    );

    let mac_key = derive_mac_key(&password.0, &mac_salt);
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &mac_key), &contents);
    let null: &[u8] = &[0x05, 0x00];
    let algorithm = tlv(SEQUENCE, &[&tlv(OID, &[oid::SHA256]), null]);
    let mac_data = tlv(
        SEQUENCE,
        &[
            &tlv(SEQUENCE, &[&algorithm, &tlv(OCTETS, &[mac.as_ref()])]),
            &tlv(OCTETS, &[&mac_salt]),
            &integer(MAC_ROUNDS),
        ],
    );
    Ok(tlv(
        SEQUENCE,
        &[&integer(3), &content_info(&contents), &mac_data],
    ))
}

/// ContentInfo of type data (RFC 5652 section 4).
fn content_info(content: &[u8]) -> Vec<u8> {
    let octets = tlv(EXPLICIT_0, &[&tlv(OCTETS, &[content])]);
    tlv(SEQUENCE, &[&tlv(OID, &[oid::DATA]), &octets])
}

/// RFC 7292 appendix B.2 for SHA-256, ID 3, and as many bytes as one round gives.
fn derive_mac_key(password: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    const BLOCK: usize = 64;
    let filled = |bytes: &[u8]| -> Vec<u8> {
        let length = bytes.len().div_ceil(BLOCK) * BLOCK;
        bytes.iter().copied().cycle().take(length).collect()
    };
    let word = Zeroizing::new([bmp(password), vec![0, 0]].concat());
    let mut input = Zeroizing::new(vec![3; BLOCK]);
    input.extend(filled(salt));
    input.extend(filled(&word));
    let mut hash = digest::digest(&digest::SHA256, &input);
    for _ in 1..MAC_ROUNDS {
        hash = digest::digest(&digest::SHA256, hash.as_ref());
    }
    Zeroizing::new(hash.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_integers_are_der() {
        assert_eq!(tlv(OCTETS, &[&[1], &[2]]), [4, 2, 1, 2]);
        assert_eq!(tlv(OCTETS, &[&[7; 0x80]])[..4], [4, 0x81, 0x80, 7]);
        assert_eq!(tlv(OCTETS, &[&[7; 0x100]])[..5], [4, 0x82, 1, 0, 7]);
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(3), [2, 1, 3]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(100_000), [2, 3, 1, 0x86, 0xa0]);
        assert_eq!(integer(u32::MAX), [2, 5, 0, 255, 255, 255, 255]);
    }
}
