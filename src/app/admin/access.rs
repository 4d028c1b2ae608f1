//! What guards the admin listener: its token and its certificate, loaded with everything else.

use zeroize::Zeroizing;

use crate::{
    clock,
    config::{self, Admin, TlsOptions},
    tls::{EdgeMaterial, ServerTls},
};

/// The loaded form of `[admin]`.
pub struct AdminAccess {
    pub(super) token: Option<Zeroizing<Vec<u8>>>,
    pub(super) tls: Option<ServerTls>,
}

impl AdminAccess {
    /// Loads the token and the certificate.
    ///
    /// # Errors
    /// Every file that can't be used.
    pub fn load(admin: &Admin, options: &TlsOptions) -> Result<Self, Vec<String>> {
        let token = admin
            .token
            .as_ref()
            .map(|secret| config::secret::load(secret, false))
            .transpose()
            .map_err(|error| vec![format!("admin.token: {error}")])?;
        let Some(files) = &admin.certificate else {
            return Ok(Self { token, tls: None });
        };
        let parts = [(
            files.certificate.as_path(),
            files.key.as_path(),
            files.key_passphrase.as_ref(),
        )];
        let material = EdgeMaterial::load_parts(parts, None, options, None, clock::now()).map_err(
            |errors| -> Vec<String> { errors.iter().map(ToString::to_string).collect() },
        )?;
        let tls = ServerTls::server(&material, options, vec![b"http/1.1".to_vec()], false)
            .map_err(|error| vec![error.to_string()])?;
        Ok(Self {
            token,
            tls: Some(tls),
        })
    }
}
