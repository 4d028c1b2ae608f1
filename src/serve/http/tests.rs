//! What a connection at rest keeps.

use tokio::net::TcpStream;

use super::*;

struct Nobody(ConnectionId);

impl Client for Nobody {
    fn id(&self) -> ConnectionId {
        self.0
    }

    fn sni(&self) -> Option<&str> {
        None
    }

    fn local(&self) -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }
}

struct Nowhere;

impl Upstream for Nowhere {
    fn is_http2(&self) -> bool {
        false
    }

    fn is_reused(&self) -> bool {
        false
    }

    async fn send(
        &mut self,
        _request: Request<RequestBody>,
        _interim: Interim<'_>,
    ) -> Result<Response<AnswerBody>, SendFailed> {
        std::future::pending().await
    }

    fn keep(self, _answer: AnswerBody) {}

    fn ended(
        &self,
        _rules: &watch::Receiver<Arc<Snapshot>>,
    ) -> impl Future<Output = Denied> + Send + 'static {
        std::future::pending()
    }
}

struct Silent(#[expect(dead_code, reason = "as large as a role's")] Arc<()>);

impl Service<Request<ClientBody>> for Silent {
    type Response = Answer<Nowhere>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Self::Response, Infallible>>;

    fn call(&self, _request: Request<ClientBody>) -> Self::Future {
        std::future::pending()
    }
}

fn size<A, B, C, D, E, F: Future>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

/// Counted by type: TLS keeps more, which is counted in `tls`, and so does tokio for a task, its
/// timers and its socket.
#[test]
fn a_connection_at_rest_keeps_little() {
    let kept = [
        (
            "future",
            size(Connection::<Nobody>::carried::<Silent, Nowhere>),
        ),
        ("shared", size_of::<Connection<Nobody>>()),
        ("activity", size_of::<Activity>()),
        ("timer", size_of::<tokio::time::Sleep>()),
        ("socket", size_of::<TcpStream>()),
        (
            "stream",
            size_of::<crate::tls::records::RecordStream<crate::net::Socket>>(),
        ),
        ("io", size_of::<ClientIo>()),
        ("shared by bodies", size_of::<http1::Http1>()),
    ];
    let sum: usize = kept.iter().map(|(_, size)| size).sum();

    assert!(sum <= 2_350, "{sum}: {kept:?}");
}
