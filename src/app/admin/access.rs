//! What guards the admin listener; loaded with everything else.

use zeroize::Zeroizing;

use crate::tls::ServerTls;

/// The loaded form of `[admin]`.
pub struct AdminAccess {
    /// What everything but health wants over TCP.
    pub token: Option<Zeroizing<Vec<u8>>>,
    /// `[admin.tls]`.
    pub tls: Option<ServerTls>,
}
