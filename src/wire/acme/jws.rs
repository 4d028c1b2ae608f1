//! Signed requests of ACME (RFC 8555 section 6.2): flattened JWS (RFC 7515) by an account's key,
//! which is of P-256 (ES256), and the thumbprint that challenges are answered with (RFC 7638).

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::wire::base64::encode_url;

/// The key of an account.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    x: String,
    y: String,
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountKey").finish_non_exhaustive()
    }
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// A key that has no account yet.
    Key,
    /// The account with this URL.
    Account(&'a str),
}

fn part(value: &Value) -> String {
    encode_url(value.to_string().as_bytes())
}

impl AccountKey {
    /// A new one.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, String> {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|error| error.to_string())?;
        Self::from_pkcs8(made.as_ref())
    }

    /// One that was made before.
    ///
    /// # Errors
    /// It is no key of P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|error| format!("no PKCS#8 key of P-256: {error}"))?;
        // SEC 1 section 2.3.3, uncompressed
        let point = pair.public_key().as_ref();
        let (x, y) = point
            .split_first()
            .filter(|(form, rest)| **form == 4 && rest.len() == 64)
            .and_then(|(_, rest)| rest.split_at_checked(32))
            .ok_or("no uncompressed point of P-256")?;
        Ok(Self {
            x: encode_url(x),
            y: encode_url(y),
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            pair,
        })
    }

    /// For its file.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn jwk(&self) -> Value {
        json!({ "crv": "P-256", "kty": "EC", "x": self.x, "y": self.y })
    }

    /// RFC 7638: members in the order of their names, and nothing between them.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let text = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            self.x, self.y
        );
        encode_url(digest(&SHA256, text.as_bytes()).as_ref())
    }

    /// RFC 8555 section 8.1: what proves that a challenge is answered for this account.
    #[must_use]
    pub fn authorization(&self, token: &str) -> String {
        format!("{token}.{}", self.thumbprint())
    }

    /// A request's body. `payload` is JSON, or nothing for what is read.
    ///
    /// # Errors
    /// No randomness.
    pub fn sign(
        &self,
        signer: Signer<'_>,
        nonce: &str,
        url: &str,
        payload: &str,
    ) -> Result<String, String> {
        let protected = match signer {
            Signer::Key => json!({ "alg": "ES256", "jwk": self.jwk(), "nonce": nonce, "url": url }),
            Signer::Account(kid) => {
                json!({ "alg": "ES256", "kid": kid, "nonce": nonce, "url": url })
            }
        };
        let (protected, payload) = (part(&protected), encode_url(payload.as_bytes()));
        let message = format!("{protected}.{payload}");
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|error| error.to_string())?;
        let signature = encode_url(signature.as_ref());
        Ok(
            json!({ "protected": protected, "payload": payload, "signature": signature })
                .to_string(),
        )
    }

    /// Section 7.3.4: this key is bound to an account that the CA knows from elsewhere.
    #[must_use]
    pub fn bound_to(&self, key_id: &str, secret: &[u8], url: &str) -> Value {
        let protected = part(&json!({ "alg": "HS256", "kid": key_id, "url": url }));
        let payload = part(&self.jwk());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        json!({ "protected": protected, "payload": payload, "signature": encode_url(tag.as_ref()) })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::wire::base64::decode_url;

    fn text(jws: &Value, part: &str) -> String {
        jws[part].as_str().unwrap().to_owned()
    }

    fn read(part: &str) -> Value {
        serde_json::from_slice(&decode_url(part).unwrap()).unwrap()
    }

    #[test]
    fn what_is_signed_can_be_verified_and_names_its_key_and_its_place() {
        let key = AccountKey::generate().unwrap();
        let signed = key
            .sign(Signer::Key, "n-1", "https://ca.example/new", "{\"a\":1}")
            .unwrap();
        let signed: Value = serde_json::from_str(&signed).unwrap();
        let protected = read(&text(&signed, "protected"));
        assert_eq!(protected["alg"], "ES256");
        assert_eq!(protected["nonce"], "n-1");
        assert_eq!(protected["url"], "https://ca.example/new");
        let coordinate = |name: &str| decode_url(protected["jwk"][name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let message = format!(
            "{}.{}",
            text(&signed, "protected"),
            text(&signed, "payload")
        );
        let signature = decode_url(&text(&signed, "signature")).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
            .verify(message.as_bytes(), &signature)
            .unwrap();
        // no account: the key; an account: its URL alone
        let kept = AccountKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(kept.thumbprint(), key.thumbprint());
        let signed = kept.sign(Signer::Account("https://ca.example/7"), "n", "u", "");
        let signed: Value = serde_json::from_str(&signed.unwrap()).unwrap();
        let protected = read(&text(&signed, "protected"));
        assert_eq!(protected["kid"], "https://ca.example/7");
        assert!(protected.get("jwk").is_none());
        assert_eq!(text(&signed, "payload"), "");
    }

    #[test]
    fn a_binding_holds_the_key_under_the_secret() {
        let key = AccountKey::generate().unwrap();
        let bound = key.bound_to("kid-1", b"secret", "https://ca.example/new");
        assert_eq!(read(&text(&bound, "payload")), key.jwk());
        let protected = read(&text(&bound, "protected"));
        assert_eq!(
            protected,
            json!({ "alg": "HS256", "kid": "kid-1", "url": "https://ca.example/new" })
        );
        let message = format!("{}.{}", text(&bound, "protected"), text(&bound, "payload"));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let tag = decode_url(&text(&bound, "signature")).unwrap();
        hmac::verify(&secret, message.as_bytes(), &tag).unwrap();
        assert!(AccountKey::from_pkcs8(b"no key").is_err());
    }
}
