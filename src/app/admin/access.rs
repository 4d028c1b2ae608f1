//! What guards the admin listener; loaded with everything else.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::tls::{EdgeMaterial, ServerTls};

/// The loaded form of `[admin]`.
pub struct AdminAccess {
    /// What everything but health wants over TCP.
    pub token: Option<Zeroizing<Vec<u8>>>,
    /// `[admin.tls]`.
    pub tls: Option<ServerTls>,
    /// What it was made of.
    pub material: Option<Arc<EdgeMaterial>>,
}
