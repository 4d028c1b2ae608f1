//! A CA, an end of the link for each role, and what a configuration makes of them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis::{
    clock,
    config::{self, Common, Config},
    pki::store,
    tls::{Generation, LinkRole},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A name of each role.
pub(crate) const ACCEPTOR: &str = "legacy.internal";
pub(crate) const GATEWAY: &str = "spiffe://example.internal/gateway/edge-1";

/// Files in a folder that goes when it is dropped.
pub(crate) struct Material {
    folder: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

fn day(days: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(clock::now().0).unwrap() + Duration::days(days)
}

impl Material {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "bench root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = day(-1);
        params.not_after = day(30);
        let root = params.self_signed(&key).unwrap().pem();
        let material = Self {
            folder,
            ca: Issuer::new(params, key),
        };
        material.write("trust.pem", &root);
        material.leaf(
            "acceptor",
            SanType::DnsName(ACCEPTOR.try_into().unwrap()),
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        material.leaf(
            "gateway",
            SanType::URI(GATEWAY.try_into().unwrap()),
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        material
    }

    fn leaf(&self, name: &str, san: SanType, usage: ExtendedKeyUsagePurpose) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![usage];
        params.not_before = day(-1);
        params.not_after = day(20);
        let pem = params.signed_by(&key, &self.ca).unwrap().pem();
        self.write(&format!("{name}.pem"), &pem);
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        store::write_file(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A list of so many revoked certificates, none of them ours.
    pub(crate) fn crl(&self, entries: u64) {
        let revoked_certs = (0..entries)
            .map(|n| RevokedCertParams {
                serial_number: SerialNumber::from((n << 8) + (1 << 40)),
                revocation_time: day(-1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: day(-1),
            next_update: day(7),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = params.signed_by(&self.ca).unwrap().pem().unwrap();
        self.write("crl.pem", &pem);
    }

    /// What a configuration makes of the files of one role.
    pub(crate) fn common(&self, role: LinkRole) -> Common {
        let name = if role == LinkRole::Gateway {
            "gateway"
        } else {
            "acceptor"
        };
        let crl = if self.path("crl.pem").exists() {
            "crl = \"crl.pem\""
        } else {
            ""
        };
        let text = format!(
            r#"
            [identity]
            certificate = "{name}.pem"
            key = "{name}.key"
            trust = "trust.pem"
            {crl}
            [[listener]]
            address = "127.0.0.1:9443"
            mode = "tcp"
            backend = "127.0.0.1:8080"
            trusted_ips = ["127.0.0.1"]
            gateways = ["{GATEWAY}"]
            "#
        );
        match config::parse(&text, Path::new(&self.path("acceptor.toml"))) {
            Ok(Config::Acceptor(acceptor)) => acceptor.common,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) fn generation(&self, role: LinkRole) -> (Arc<Generation>, Common) {
        let common = self.common(role);
        let generation =
            Generation::load(&common.identity, &common.tls, role, None, clock::now()).unwrap();
        (generation, common)
    }
}
