//! Cipher suites that note each key as rustls derives it, and make it ready for use only where rustls
//! uses it. Who takes the records over has the keys of data then: none is derived a second time, nor
//! expanded for nobody.

use std::sync::LazyLock;

use rustls::{
    ConnectionTrafficSecrets, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{
        aws_lc_rs::cipher_suite,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter,
            MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm,
            UnsupportedOperationError,
        },
    },
};

use super::{
    TAG,
    secrets::{Agreed, Cipher, Notes, note},
};

/// The one of a cipher.
pub(crate) fn suite(cipher: Cipher) -> SupportedCipherSuite {
    static AES_128_GCM: LazyLock<Option<Tls13CipherSuite>> =
        LazyLock::new(|| noting(Cipher::Aes128Gcm));
    static AES_256_GCM: LazyLock<Option<Tls13CipherSuite>> =
        LazyLock::new(|| noting(Cipher::Aes256Gcm));
    static CHACHA20_POLY1305: LazyLock<Option<Tls13CipherSuite>> =
        LazyLock::new(|| noting(Cipher::ChaCha20Poly1305));
    let noting = match cipher {
        Cipher::Aes128Gcm => &AES_128_GCM,
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    // rustls makes no other of this name: were it one of TLS 1.2, its keys would be derived again
    noting
        .as_ref()
        .map_or_else(|| plain(cipher), SupportedCipherSuite::Tls13)
}

fn plain(cipher: Cipher) -> SupportedCipherSuite {
    match cipher {
        Cipher::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
        Cipher::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
        Cipher::ChaCha20Poly1305 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

fn noting(cipher: Cipher) -> Option<Tls13CipherSuite> {
    let plain = plain(cipher).tls13()?;
    Some(Tls13CipherSuite {
        common: rustls::crypto::CipherSuiteCommon {
            suite: plain.common.suite,
            hash_provider: plain.common.hash_provider,
            confidentiality_limit: plain.common.confidentiality_limit,
        },
        hkdf_provider: plain.hkdf_provider,
        // three in a process's life
        aead_alg: Box::leak(Box::new(Noting {
            cipher,
            aead: plain.aead_alg,
        })),
        quic: None,
    })
}

struct Noting {
    cipher: Cipher,
    aead: &'static dyn Tls13AeadAlgorithm,
}

impl Noting {
    /// Notes a key that is new. It is the one of data, unless another follows.
    fn noted(&self, key: &AeadKey, iv: &Iv, direction: fn(&mut Notes) -> &mut Option<Agreed>) {
        note(|notes| *direction(notes) = Agreed::new(self.cipher, 0, key.as_ref(), iv.as_ref()));
    }
}

impl Tls13AeadAlgorithm for Noting {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.noted(&key, &iv, |notes| &mut notes.write);
        Box::new(Encrypter(Made::Not(self.aead, Some((key, iv)))))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.noted(&key, &iv, |notes| &mut notes.read);
        Box::new(Decrypter(Made::Not(self.aead, Some((key, iv)))))
    }

    fn key_len(&self) -> usize {
        self.aead.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.aead.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.aead.fips()
    }
}

/// What becomes a key in use when it is used first.
enum Made<M: ?Sized> {
    Not(&'static dyn Tls13AeadAlgorithm, Option<(AeadKey, Iv)>),
    Ready(Box<M>),
}

impl<M: ?Sized> Made<M> {
    fn ready(
        &mut self,
        make: fn(&dyn Tls13AeadAlgorithm, AeadKey, Iv) -> Box<M>,
    ) -> Option<&mut M> {
        if let Self::Not(aead, parts) = self {
            let (key, iv) = parts.take()?;
            *self = Self::Ready(make(*aead, key, iv));
        }
        match self {
            Self::Ready(made) => Some(made),
            Self::Not(..) => None,
        }
    }
}

struct Encrypter(Made<dyn MessageEncrypter>);

impl MessageEncrypter for Encrypter {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        note(|notes| count(&mut notes.write, number));
        self.0
            .ready(|aead, key, iv| aead.encrypter(key, iv))
            .ok_or(Error::EncryptError)?
            .encrypt(message, number)
    }

    /// The type's octet and the tag: so in each suite of TLS 1.3.
    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len.saturating_add(1 + TAG)
    }
}

struct Decrypter(Made<dyn MessageDecrypter>);

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        message: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        note(|notes| count(&mut notes.read, number));
        self.0
            .ready(|aead, key, iv| aead.decrypter(key, iv))
            .ok_or(Error::DecryptError)?
            .decrypt(message, number)
    }
}

/// A record of the newest key: no other is used any more.
fn count(agreed: &mut Option<Agreed>, number: u64) {
    if let Some(agreed) = agreed {
        agreed.next = number.saturating_add(1);
    }
}
