//! What proves us to a backend.

use std::path::PathBuf;

use super::{DialAddress, SecretRef, ServerName, TlsOptions};
use crate::wire::signature::{Algorithm, Component};

/// `[backend.NAME.credentials]`: at least one, and no two write the same header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `headers`.
    pub headers: Vec<SecretHeader>,
    /// `bearer`, `basic`, `digest`, `oauth2`: what writes `Authorization`.
    pub authorization: Option<Authorization>,
    /// `signature`.
    pub signature: Option<RequestSignature>,
}

/// `signature`: how requests are signed (RFC 9421).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    /// Names the signature in its fields.
    pub label: String,
    /// `key_id`.
    pub key_id: String,
    /// `tag`.
    pub tag: Option<String>,
    /// `algorithm`.
    pub algorithm: Algorithm,
    /// `key`.
    pub key: SecretRef,
    /// `key_encoding = "base64"`: what the secret says is base64 of the key.
    pub key_is_base64: bool,
    /// `components`; at least one, none twice.
    pub components: Vec<Component>,
    /// `body_bytes`: how much of a body is kept for its hash.
    pub body_bytes: usize,
}

/// An entry of `headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHeader {
    /// Its name.
    pub name: http::HeaderName,
    /// Its whole value.
    pub value: SecretRef,
}

/// What writes `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// `bearer`.
    Bearer(SecretRef),
    /// `basic`.
    Basic(Login),
    /// `digest`.
    Digest(DigestLogin),
    /// `oauth2`.
    OAuth2(Box<OAuth2>),
}

/// `oauth2`: where tokens come from (RFC 6749, client credentials).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// Host and port of `token_url`, to connect to.
    pub address: DialAddress,
    /// What its certificate must carry: the host of `token_url`.
    pub server_name: ServerName,
    /// `Host`, as `token_url` has it.
    pub host: String,
    /// Path and query of `token_url`.
    pub target: String,
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: SecretRef,
    /// `scopes`.
    pub scopes: Vec<String>,
    /// `client_authentication`.
    pub authentication: ClientAuthentication,
    /// `trust`: roots of the endpoint's certificate.
    pub trust: PathBuf,
    /// `[tls]`.
    pub tls: TlsOptions,
}

/// Where a client's secret stands in a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// In `Authorization`.
    Basic,
    /// In the form.
    Post,
}

/// `digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestLogin {
    /// Name and password.
    pub login: Login,
    /// `body_bytes`: how much of a body is kept, to be sent once more.
    pub body_bytes: usize,
}

/// A user name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Without a colon.
    pub username: String,
    /// The password.
    pub password: SecretRef,
}
