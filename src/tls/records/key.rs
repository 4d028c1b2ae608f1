//! The key of one direction, and its count of records.

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::Error;
use zeroize::Zeroizing;

use super::{
    Content, HEADER, TAG,
    secrets::{Agreed, Secret},
};

/// A key. Its octets are wiped when it is dropped, here and by aws-lc.
pub(super) struct Key {
    secret: Secret,
    key: Zeroizing<[u8; 32]>,
    iv: [u8; NONCE_LEN],
    /// The number of the next record. Never wraps: the last number is not used.
    next: u64,
    /// Made ready for use, which takes ten times the room; `None`: at rest.
    ready: Option<LessSafeKey>,
}

impl Key {
    /// The key of a secret, for the record with this number.
    pub(super) fn new(secret: Secret, next: u64) -> Result<Self, Error> {
        let (key, iv) = made_of(&secret)?;
        Ok(Self {
            secret,
            key,
            iv,
            next,
            ready: None,
        })
    }

    /// The key that rustls made of `secret`.
    pub(super) fn agreed(agreed: Option<Agreed>, secret: Option<&[u8]>) -> Result<Self, Error> {
        let Agreed {
            cipher,
            next,
            key,
            iv,
        } = agreed.ok_or_else(unfit)?;
        let secret = secret.and_then(|octets| Secret::new(cipher, octets));
        let key = Self {
            secret: secret.ok_or_else(unfit)?,
            key,
            iv,
            next,
            ready: None,
        };
        debug_assert!(key.is_of_its_secret(), "the secret of another handshake");
        Ok(key)
    }

    /// Whether it was made of what the next one is made of.
    fn is_of_its_secret(&self) -> bool {
        made_of(&self.secret).is_ok_and(|(key, iv)| *key == *self.key && iv == self.iv)
    }

    /// The key after this one.
    pub(super) fn successor(&self) -> Result<Self, Error> {
        // another handshake's secret shows here, and not as garbage to the peer
        if !self.is_of_its_secret() {
            return Err(unfit());
        }
        Self::new(self.secret.next()?, 0)
    }

    /// Gives back what use takes, until the next use.
    pub(super) fn rest(&mut self) {
        self.ready = None;
    }

    fn ready(&mut self) -> Option<&LessSafeKey> {
        if self.ready.is_none() {
            let aead = self.secret.cipher.aead();
            let key = UnboundKey::new(aead, self.key.get(..aead.key_len())?).ok()?;
            self.ready = Some(LessSafeKey::new(key));
        }
        self.ready.as_ref()
    }

    /// Records so far.
    pub(super) fn count(&self) -> u64 {
        self.next
    }

    /// RFC 8446 section 5.3.
    fn nonce(&mut self) -> Option<Nonce> {
        let number = self.next;
        self.next = number.checked_add(1)?;
        let mut nonce = self.iv;
        for (octet, of_number) in nonce.iter_mut().skip(4).zip(number.to_be_bytes()) {
            *octet ^= of_number;
        }
        Some(Nonce::assume_unique_for_key(nonce))
    }

    /// Opens what stands behind a record's header, where it is; the inner plaintext.
    pub(super) fn open<'a>(&mut self, payload: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let aad = header(payload.len()).ok_or_else(|| Error::PeerSentOversizedRecord)?;
        let nonce = self.nonce().ok_or_else(|| Error::DecryptError)?;
        let aead = self.ready().ok_or_else(|| Error::DecryptError)?;
        aead.open_in_place(nonce, Aad::from(aad), payload)
            .map_err(|_forged| Error::DecryptError)
    }

    /// The same into another place, which is as long as the inner plaintext.
    pub(super) fn open_into(&mut self, payload: &[u8], inner: &mut [u8]) -> Result<(), Error> {
        let aad = header(payload.len()).ok_or_else(|| Error::PeerSentOversizedRecord)?;
        let (text, tag) = payload
            .split_at_checked(inner.len())
            .ok_or_else(|| Error::DecryptError)?;
        let nonce = self.nonce().ok_or_else(|| Error::DecryptError)?;
        let aead = self.ready().ok_or_else(|| Error::DecryptError)?;
        aead.open_separate_gather(nonce, Aad::from(aad), text, tag, inner)
            .map_err(|_forged| Error::DecryptError)
    }

    /// Whether it opens what stands behind a record's header, which is left as it is and not
    /// counted.
    pub(super) fn fits(&mut self, payload: &[u8]) -> bool {
        let number = self.next;
        let mut inner = vec![0; payload.len().saturating_sub(TAG)];
        let fits = self.open_into(payload, &mut inner).is_ok();
        self.next = number;
        fits
    }

    /// Seals `content` into `record`, which has exactly the room: header, content, type and tag.
    pub(super) fn seal_into(
        &mut self,
        content: &[u8],
        kind: Content,
        record: &mut [u8],
    ) -> Result<(), Error> {
        let (text, rest, nonce, aad) = self.prepared(content.len(), record)?;
        let aead = self.ready().ok_or_else(|| Error::EncryptError)?;
        aead.seal_out_of_place_scatter(nonce, aad, content, text, &[kind as u8], rest)
            .map_err(|_opaque| Error::EncryptError)
    }

    /// The same where the content stands in its place in the record already.
    pub(super) fn seal(&mut self, kind: Content, record: &mut [u8]) -> Result<(), Error> {
        let len = record.len().saturating_sub(super::OVERHEAD);
        let (text, rest, nonce, aad) = self.prepared(len, record)?;
        let aead = self.ready().ok_or_else(|| Error::EncryptError)?;
        aead.seal_in_place_scatter(nonce, aad, text, &[kind as u8], rest)
            .map_err(|_opaque| Error::EncryptError)
    }

    /// Writes the header; the content's place, that of type and tag, and what the cipher wants.
    #[expect(
        clippy::type_complexity,
        reason = "four things, used twice, a few lines on"
    )]
    fn prepared<'a>(
        &mut self,
        len: usize,
        record: &'a mut [u8],
    ) -> Result<(&'a mut [u8], &'a mut [u8], Nonce, Aad<[u8; HEADER]>), Error> {
        let (head, payload) = record
            .split_first_chunk_mut::<HEADER>()
            .ok_or_else(|| Error::EncryptError)?;
        *head = header(payload.len()).ok_or_else(|| Error::EncryptError)?;
        let aad = Aad::from(*head);
        let (text, rest) = payload
            .split_at_mut_checked(len)
            .ok_or_else(|| Error::EncryptError)?;
        if rest.len() != TAG + 1 {
            return Err(Error::EncryptError);
        }
        let nonce = self.nonce().ok_or_else(|| Error::EncryptError)?;
        Ok((text, rest, nonce, aad))
    }

    /// For tests: a record with any inner plaintext.
    #[cfg(any(test, fuzzing))]
    pub(super) fn seal_inner(&mut self, inner: &[u8]) -> Result<Vec<u8>, Error> {
        let head = header(inner.len().saturating_add(TAG)).ok_or_else(|| Error::EncryptError)?;
        let nonce = self.nonce().ok_or_else(|| Error::EncryptError)?;
        let aead = self.ready().ok_or_else(|| Error::EncryptError)?;
        let mut sealed = inner.to_vec();
        aead.seal_in_place_append_tag(nonce, Aad::from(head), &mut sealed)
            .map_err(|_opaque| Error::EncryptError)?;
        Ok([head.to_vec(), sealed].concat())
    }

    /// It is not ready for use.
    pub(super) fn is_at_rest(&self) -> bool {
        self.ready.is_none()
    }

    /// For tests: as if so many records had been.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, next: u64) {
        self.next = next;
    }
}

/// RFC 8446 section 7.3.
fn made_of(secret: &Secret) -> Result<(Zeroizing<[u8; 32]>, [u8; NONCE_LEN]), Error> {
    let mut key = Zeroizing::new([0; 32]);
    let mut iv = [0; NONCE_LEN];
    let len = secret.cipher.aead().key_len();
    secret.expand(b"key", key.get_mut(..len).unwrap_or_default())?;
    secret.expand(b"iv", &mut iv)?;
    Ok((key, iv))
}

fn unfit() -> Error {
    Error::General("the secrets of the handshake were not told".to_owned())
}

/// The header of every encrypted record; it is authenticated with it.
fn header(payload: usize) -> Option<[u8; HEADER]> {
    let [high, low] = u16::try_from(payload).ok()?.to_be_bytes();
    Some([Content::Data as u8, 3, 3, high, low])
}
