//! The one home of TLS versions, cipher suites and key exchange groups. No process-wide default
//! provider is ever installed: whoever needs one is handed it.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::{self, cipher_suite, kx_group},
    },
};

use super::records;
use crate::config::{Cipher, KeyExchange, TlsOptions, TlsVersion};

/// TLS 1.3 alone.
static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
/// TLS 1.3 and 1.2.
static FROM_1_2: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

/// The provider with the configured groups and suites, in the configured order.
#[must_use]
pub fn provider(options: &TlsOptions) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites(&options.ciphers),
        kx_groups: options.key_exchange.iter().copied().map(group).collect(),
        ..aws_lc_rs::default_provider()
    })
}

/// All that there is, to look at a server that may be anybody's.
pub(super) fn everything() -> (
    Arc<CryptoProvider>,
    &'static [&'static SupportedProtocolVersion],
) {
    (Arc::new(aws_lc_rs::default_provider()), &FROM_1_2)
}

/// Versions from `min_version` (or `default`) up.
#[must_use]
pub(super) fn versions(
    options: &TlsOptions,
    default: TlsVersion,
) -> &'static [&'static SupportedProtocolVersion] {
    match options.min_version.unwrap_or(default) {
        TlsVersion::V1_3 => &ONLY_1_3,
        TlsVersion::V1_2 => &FROM_1_2,
    }
}

fn group(group: KeyExchange) -> &'static dyn SupportedKxGroup {
    match group {
        KeyExchange::X25519MlKem768 => kx_group::X25519MLKEM768,
        KeyExchange::X25519 => kx_group::X25519,
        KeyExchange::Secp256r1 => kx_group::SECP256R1,
        KeyExchange::Secp384r1 => kx_group::SECP384R1,
    }
}

/// All 1.3 suites before all 1.2 ones: forward-secret AEADs only, each version in our order.
fn suites(ciphers: &[Cipher]) -> Vec<SupportedCipherSuite> {
    let v1_3 = ciphers.iter().map(|cipher| match cipher {
        Cipher::Aes128Gcm => records::suite(records::Cipher::Aes128Gcm),
        Cipher::Aes256Gcm => records::suite(records::Cipher::Aes256Gcm),
        Cipher::ChaCha20Poly1305 => records::suite(records::Cipher::ChaCha20Poly1305),
    });
    let v1_2 = ciphers.iter().flat_map(|cipher| match cipher {
        Cipher::Aes128Gcm => [
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        Cipher::Aes256Gcm => [
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        Cipher::ChaCha20Poly1305 => [
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
    });
    v1_3.chain(v1_2).collect()
}
