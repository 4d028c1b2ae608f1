//! A small authority for tests: roots, intermediates, leaves and CRLs in a temporary folder.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::{
    admit::{Denied, Grant, PeerFacts},
    config::{Cipher, Identity, KeyExchange, Records, Revocation, TlsOptions, TlsVersion},
    identity::UnixSeconds,
    tls::{Generation, Judge, LinkRole, MaterialError},
};

pub(super) type Algorithm = &'static rcgen::SignatureAlgorithm;

/// A CA with its key.
pub(super) struct Ca {
    pub(super) pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

/// A leaf with its key.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    pub(super) key: String,
    pub(super) serial: Vec<u8>,
}

/// What a leaf shall be.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) usage: Vec<ExtendedKeyUsagePurpose>,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) ips: Vec<IpAddr>,
    pub(super) algorithm: Algorithm,
}

pub(super) fn client(name: &'static str) -> Spec {
    Spec {
        name,
        usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
        from: -1,
        to: 30,
        ips: Vec::new(),
        algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
    }
}

pub(super) fn server(name: &'static str) -> Spec {
    Spec {
        usage: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..client(name)
    }
}

fn day(days: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(crate::clock::now().0).unwrap() + Duration::days(days)
}

pub(super) fn now() -> UnixSeconds {
    crate::clock::now()
}

pub(super) fn in_days(days: i64) -> UnixSeconds {
    UnixSeconds(day(days).unix_timestamp())
}

fn random_serial() -> SerialNumber {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes[0] = (bytes[0] & 0x7f) | 1;
    SerialNumber::from_slice(&bytes)
}

fn named(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

fn ca_params(name: &str, from: i64, to: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = day(from);
    params.not_after = day(to);
    params.serial_number = Some(random_serial());
    params
}

impl Ca {
    pub(super) fn root(name: &str) -> Self {
        Self::root_living(name, -1, 365)
    }

    pub(super) fn root_living(name: &str, from: i64, to: i64) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name, from, to);
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The same key in another self-signed certificate.
    pub(super) fn certified_again(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::from_pem(&self.issuer.key().serialize_pem()).unwrap();
        let mut params = ca_params(name, -1, 365);
        change(&mut params);
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn below(&self, name: &str) -> Self {
        self.below_with(name, |_| {})
    }

    pub(super) fn below_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name, -1, 180);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            pem: cert.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn leaf(&self, spec: Spec) -> Leaf {
        self.leaf_with(spec, |_| {})
    }

    pub(super) fn leaf_with(
        &self,
        spec: Spec,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let key = KeyPair::generate_for(spec.algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = named(spec.name);
        params.subject_alt_names = san(spec.name);
        params
            .subject_alt_names
            .extend(spec.ips.into_iter().map(SanType::IpAddress));
        params.extended_key_usages = spec.usage;
        params.not_before = day(spec.from);
        params.not_after = day(spec.to);
        let serial = random_serial();
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Leaf {
            pem: cert.pem(),
            der: cert.der().to_vec(),
            key: key.serialize_pem(),
            serial: serial.to_bytes(),
        }
    }

    /// A CRL that is current, with this number.
    pub(super) fn crl(&self, number: u64, revoked: &[&[u8]]) -> String {
        self.crl_until(number, revoked, 7)
    }

    pub(super) fn crl_until(&self, number: u64, revoked: &[&[u8]], days: i64) -> String {
        self.crl_params(number, revoked, days)
            .signed_by(&self.issuer)
            .unwrap()
            .pem()
            .unwrap()
    }

    pub(super) fn crl_params(
        &self,
        number: u64,
        revoked: &[&[u8]],
        days: i64,
    ) -> CertificateRevocationListParams {
        CertificateRevocationListParams {
            this_update: day(days.min(0) - 7),
            next_update: day(days),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: day(-1),
                    reason_code: Some(rcgen::RevocationReason::KeyCompromise),
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }
}

fn san(name: &str) -> Vec<SanType> {
    let text = name.try_into().unwrap();
    if name.starts_with("spiffe:") {
        vec![SanType::URI(text)]
    } else {
        vec![SanType::DnsName(text)]
    }
}

/// What `openssl req -x509` makes: CA:TRUE, no names, no extended key usage.
pub(super) fn openssl_self_signed(name: &str) -> (Leaf, Ca) {
    let key = KeyPair::generate().unwrap();
    let key_pem = key.serialize_pem();
    let mut params = ca_params(name, -1, 30);
    params.key_usages = Vec::new();
    let cert = params.self_signed(&key).unwrap();
    let leaf = Leaf {
        pem: cert.pem(),
        der: cert.der().to_vec(),
        key: key_pem,
        serial: Vec::new(),
    };
    let ca = Ca {
        pem: cert.pem(),
        issuer: Issuer::new(params, key),
    };
    (leaf, ca)
}

pub(super) fn options() -> TlsOptions {
    TlsOptions {
        min_version: None,
        key_exchange: vec![KeyExchange::X25519MlKem768, KeyExchange::X25519],
        ciphers: vec![
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
            Cipher::ChaCha20Poly1305,
        ],
        records: Records::Own,
    }
}

pub(super) fn options_1_2() -> TlsOptions {
    TlsOptions {
        min_version: Some(TlsVersion::V1_2),
        ..options()
    }
}

/// A folder of material.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    #[expect(clippy::disallowed_methods, reason = "a throw-away file")]
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// An identity with this chain (leaf, then `above`) that trusts `trust`.
    pub(super) fn identity(
        &self,
        name: &str,
        leaf: &Leaf,
        above: &[&Ca],
        trust: &[&Ca],
    ) -> Identity {
        let chain: String = std::iter::once(leaf.pem.as_str())
            .chain(above.iter().map(|ca| ca.pem.as_str()))
            .collect();
        let roots: String = trust.iter().map(|ca| ca.pem.as_str()).collect();
        Identity {
            certificate: self.write(&format!("{name}.pem"), chain),
            key: self.write(&format!("{name}.key"), &leaf.key),
            key_passphrase: None,
            trust: (!trust.is_empty()).then(|| self.write(&format!("{name}-trust.pem"), roots)),
            bundles: Vec::new(),
            pinned: Vec::new(),
            revocation: None,
            denied: crate::admit::DeniedList::default(),
            renewal: None,
            span: 0..0,
        }
    }

    pub(super) fn revocation(&self, crls: &[String]) -> Revocation {
        Revocation {
            files: crls
                .iter()
                .enumerate()
                .map(|(at, pem)| self.write(&format!("{at}.crl"), pem))
                .collect(),
            tolerate_expired: false,
            leaf_only: false,
        }
    }
}

pub(super) fn load(
    identity: &Identity,
    role: LinkRole,
) -> Result<Arc<Generation>, Vec<MaterialError>> {
    Generation::load(identity, &options(), role, None, now())
}

pub(super) fn anybody() -> Judge {
    Arc::new(|peer: Option<&PeerFacts>| {
        Ok::<_, Denied>(Grant {
            rule: "any".to_owned(),
            identity: peer.map_or_else(|| "-".to_owned(), |p| p.leaf.display_name()),
            until: peer.map(|p| p.chain_not_after),
        })
    })
}
