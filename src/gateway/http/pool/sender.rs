//! A kept link connection, and one that was taken for a request.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use http::{Request, Response};
use rustls_pki_types::CertificateDer;
use tokio::sync::{SetOnce, watch};

use super::{Shared, Standing, supervision};
use crate::{
    admit::{Denial, Denied},
    gateway::backend::{AcceptorState, Lease},
    identity::UnixSeconds,
    serve::{
        Snapshot,
        http::{
            Upstream,
            body::RequestBody,
            client::{Kind, SendFailed},
            expect::Interim,
            hop::AnswerBody,
        },
        mux,
    },
    workers::Home,
};

/// How long a connection that took no request may take to say what it broke of: it has ended.
const MOMENT: Duration = Duration::from_millis(100);

/// One link connection that can take a request.
pub(super) struct LinkSender {
    pub(super) kind: Kind,
    pub(super) opened: Instant,
    /// When its chain ends; from `retires` on it takes no new request.
    pub(super) until: Option<UnixSeconds>,
    pub(super) retires: Option<UnixSeconds>,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    pub(super) acceptor: Arc<AcceptorState>,
    /// The thread that hears it.
    pub(super) home: Home,
    /// The link that it is a stream of.
    pub(super) shared: Option<mux::Link>,
    /// What one of HTTP/2 broke of, once it has ended. In HTTP/1.1 whoever uses it is told.
    pub(super) ended: Option<Arc<SetOnce<Option<Denied>>>>,
    /// Whether one of HTTP/2 still may be used. In HTTP/1.1 that is looked at with all that goes out.
    pub(super) standing: Option<Standing>,
}

/// A link connection taken for one request.
pub(in crate::gateway::http) struct Sender {
    pub(super) link: LinkSender,
    pub(super) lease: Lease,
    pub(super) home: Weak<Shared>,
    /// It carried a request before.
    pub(super) reused: bool,
}

impl Sender {
    /// The acceptor's name.
    pub(in crate::gateway::http) fn acceptor(&self) -> &str {
        self.lease.acceptor()
    }
}

impl Upstream for Sender {
    fn is_reused(&self) -> bool {
        self.reused
    }

    fn is_http2(&self) -> bool {
        matches!(self.link.kind, Kind::Http2(_))
    }

    fn broke(&self) -> impl Future<Output = Option<Denied>> + Send + 'static {
        let ended = self.link.ended.clone();
        async move {
            let ended = ended?;
            let why = tokio::time::timeout(MOMENT, ended.wait()).await;
            why.ok().and_then(Clone::clone)
        }
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
        interim: Interim<'_>,
    ) -> Result<Response<AnswerBody>, SendFailed> {
        if let Some(standing) = &self.link.standing
            && let Err(why) = standing.judged()
        {
            let detail = format!("{}: {why}", why.reason.code());
            return Err(SendFailed {
                denied: Denied::new(Denial::UpstreamBroken, detail),
                unsent: Some(Box::new(request)),
                repeatable: None,
            });
        }
        self.link.kind.send(request, interim).await
    }

    fn ended(
        &self,
        rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> impl Future<Output = Denied> + Send + 'static {
        let link = &self.link;
        let mut over = supervision(&self.lease, &link.chain, link.until, rules);
        async move { over.ended().await }
    }

    fn keep(mut self, answer: AnswerBody) {
        if self.link.kind.restore(answer)
            && let Some(home) = self.home.upgrade()
        {
            let _kept = home.put(self.link);
        }
    }
}
