//! Traffic secrets: where keys come from (RFC 8446 sections 7.2 and 7.3).
//!
//! rustls would keep computing them too, in an object that takes ten times the room and holds the
//! peer's certificates once more. It tells a secret to the configuration's key log, and to nothing
//! else; ours notes it for the handshake that is being polled.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, NONCE_LEN},
    hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk},
};
use rustls::{CipherSuite, ConnectionTrafficSecrets, Error, ExtractedSecrets, KeyLog};
use zeroize::Zeroizing;

/// Octets of the longest secret, that of SHA-384.
const LONGEST: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    /// That of a suite.
    pub(super) fn named(suite: CipherSuite) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the others are not of TLS 1.3, or not built in"
        )]
        Some(match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Self::Aes128Gcm,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Self::Aes256Gcm,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Self::ChaCha20Poly1305,
            _ => return None,
        })
    }

    pub(super) fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => HKDF_SHA256,
            Self::Aes256Gcm => HKDF_SHA384,
        }
    }

    /// Octets of its secrets.
    fn secret_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes256Gcm => LONGEST,
        }
    }
}

/// A key as a handshake made it. Its octets are wiped when it is dropped.
pub(super) struct Agreed {
    pub(super) cipher: Cipher,
    /// The number of the next record.
    pub(super) next: u64,
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) iv: [u8; NONCE_LEN],
}

impl Agreed {
    /// `None`: it is no key of this cipher.
    pub(super) fn new(cipher: Cipher, next: u64, key: &[u8], iv: &[u8]) -> Option<Self> {
        if key.len() != cipher.aead().key_len() {
            return None;
        }
        let mut octets = Zeroizing::new([0; 32]);
        octets.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self {
            cipher,
            next,
            key: octets,
            iv: iv.try_into().ok()?,
        })
    }

    /// One that rustls gave away.
    pub(super) fn extracted((next, secrets): &(u64, ConnectionTrafficSecrets)) -> Option<Self> {
        let (cipher, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Cipher::ChaCha20Poly1305, key, iv)
            }
            _ => return None,
        };
        Self::new(cipher, *next, key.as_ref(), iv.as_ref())
    }
}

/// application_traffic_secret_N of one direction. Wiped when it is dropped.
pub(super) struct Secret {
    pub(super) cipher: Cipher,
    octets: Zeroizing<[u8; LONGEST]>,
}

impl Secret {
    pub(super) fn new(cipher: Cipher, octets: &[u8]) -> Option<Self> {
        if octets.len() != cipher.secret_len() {
            return None;
        }
        let mut kept = Zeroizing::new([0; LONGEST]);
        kept.get_mut(..octets.len())?.copy_from_slice(octets);
        Some(Self {
            cipher,
            octets: kept,
        })
    }

    /// HKDF-Expand-Label without context.
    pub(super) fn expand(&self, label: &[u8], to: &mut [u8]) -> Result<(), Error> {
        let failed = || Error::General("no key could be derived".to_owned());
        let secret = self.octets.get(..self.cipher.secret_len());
        let prk = Prk::new_less_safe(self.cipher.hkdf(), secret.ok_or_else(failed)?);
        let len = u16::try_from(to.len()).map_err(|_long| failed())?;
        let label_len = u8::try_from(label.len().saturating_add(6)).map_err(|_long| failed())?;
        let info = [&len.to_be_bytes()[..], &[label_len], b"tls13 ", label, &[0]];
        prk.expand(&info, Len(to.len()))
            .and_then(|okm| okm.fill(to))
            .map_err(|_opaque| failed())
    }

    /// application_traffic_secret_N+1.
    pub(super) fn next(&self) -> Result<Self, Error> {
        let mut octets = Zeroizing::new([0; LONGEST]);
        let place = octets.get_mut(..self.cipher.secret_len());
        self.expand(b"traffic upd", place.unwrap_or_default())?;
        Ok(Self {
            cipher: self.cipher,
            octets,
        })
    }
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// What rustls calls the secret whose key opens the client's records in the handshake.
const EARLY: &str = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";

/// What a handshake's secrets are told to.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) client: Option<Zeroizing<Vec<u8>>>,
    pub(super) server: Option<Zeroizing<Vec<u8>>>,
    /// The client's in the handshake, noted if it announced early data.
    pub(super) handshake: Option<Zeroizing<Vec<u8>>>,
    pub(super) early: bool,
    /// The newest key of what we read, where the suite notes it.
    pub(super) read: Option<Agreed>,
    /// The same of what we write.
    pub(super) write: Option<Agreed>,
}

impl Notes {
    /// The keys of a suite that notes none.
    pub(super) fn take_keys(&mut self, secrets: &ExtractedSecrets) {
        self.read = Agreed::extracted(&secrets.rx);
        self.write = Agreed::extracted(&secrets.tx);
    }
}

tokio::task_local! {
    /// Those of the handshake that is being polled.
    pub(super) static NOTES: Arc<Mutex<Notes>>;
}

/// Changes the notes of the handshake that is being polled; whose records rustls keeps has none.
pub(super) fn note(change: impl FnOnce(&mut Notes)) {
    let _outside = NOTES.try_with(|notes| {
        // a note is there or it is not, whatever a panicking holder did
        change(&mut notes.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Notes the two secrets of data, and what early data is told from. Nothing of them leaves the process.
#[derive(Debug)]
struct Noter;

/// What a configuration's `key_log` has to be.
pub(crate) fn noter() -> Arc<dyn KeyLog> {
    Arc::new(Noter)
}

impl KeyLog for Noter {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        note(|notes| {
            let secret = Some(Zeroizing::new(secret.to_vec()));
            match label {
                "CLIENT_TRAFFIC_SECRET_0" => notes.client = secret,
                "SERVER_TRAFFIC_SECRET_0" => notes.server = secret,
                EARLY if notes.early => notes.handshake = secret,
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0" => true,
            EARLY => NOTES
                .try_with(|notes| notes.lock().is_ok_and(|notes| notes.early))
                .unwrap_or(false),
            _ => false,
        }
    }
}
