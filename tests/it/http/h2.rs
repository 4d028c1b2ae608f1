//! HTTP/2 by hand: the `h2` crate, at both ends, on a small runtime of the test's own.

#![allow(
    clippy::disallowed_methods,
    reason = "tasks end with the runtime of their test"
)]

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
pub(super) use h2::Reason;
use h2::{client, server};
use http::{HeaderMap, Request, Response};
use rustls::pki_types::ServerName;

use super::Chain;
use crate::world::{Backend, Client, PATIENCE};

pub(super) type Sender = client::SendRequest<Bytes>;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Runs a future to its end, in bounded time.
pub(super) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(PATIENCE * 2, future)
                .await
                .expect("in time")
        })
}

impl Chain {
    /// An HTTP/2 connection; what drives it ends with the runtime.
    pub(super) async fn h2(&self) -> Sender {
        self.h2_as(&self.world.client()).await
    }

    pub(super) async fn h2_as(&self, client: &Client) -> Sender {
        over(self.h2_stream(client).await).await
    }

    pub(super) async fn h2_stream(
        &self,
        client: &Client,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        stream_to(self.edge, client).await
    }
}

/// TLS to `site.test` at this address.
pub(super) async fn stream_to(
    edge: SocketAddr,
    client: &Client,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let config = client.clone().alpn("h2").config();
    let socket = tokio::net::TcpStream::connect(edge).await.unwrap();
    // as clients of HTTP/2 do: else its small frames wait for an acknowledgement
    socket.set_nodelay(true).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("site.test").unwrap(), socket)
        .await
        .unwrap()
}

/// An HTTP/2 connection over what is there already.
pub(super) async fn over(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) -> Sender {
    let (sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        drop(connection.await);
    });
    sender.ready().await.unwrap()
}

/// A request for `site.test`.
pub(super) fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("https://site.test{path}"))
        .version(http::Version::HTTP_2)
}

/// The rest of an answer; an error where it is cut.
pub(super) async fn whole(response: client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer {
        head: Response::from_parts(parts, ()),
        body,
        trailers,
    })
}

/// Whether nothing more comes; an empty frame may say so.
pub(super) async fn ended(body: &mut h2::RecvStream) -> bool {
    match body.data().await {
        None => true,
        Some(data) => data.unwrap().is_empty() && body.is_end_stream(),
    }
}

/// Sends a request without a body and reads its answer.
pub(super) async fn ask(sender: &Sender, request: Request<()>) -> Result<Answer, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, _stream) = sender.send_request(request, true)?;
    whole(response).await
}

/// Sends a body and trailers, reads the answer.
pub(super) async fn post(
    sender: &Sender,
    request: Request<()>,
    body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    let last = trailers.is_none();
    stream.send_data(Bytes::copy_from_slice(body), last)?;
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers)?;
    }
    whole(response).await
}

/// A backend that speaks HTTP/2 in clear text: it gives back body and trailers, and says in
/// headers what it was asked.
pub(super) fn echo(address: SocketAddr) -> Backend {
    speaking(address, give_back)
}

/// A backend that speaks HTTP/2 in clear text and answers so.
pub(super) fn speaking<F>(
    address: SocketAddr,
    answer: impl Fn(Request<h2::RecvStream>, server::SendResponse<Bytes>) -> F
    + Copy
    + Send
    + Sync
    + 'static,
) -> Backend
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    Backend::serve(address, move |stream| {
        stream.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // a client that goes away ends this connection, no more
        drop(runtime.block_on(serve(stream, answer)));
    })
}

async fn serve<F>(
    stream: std::net::TcpStream,
    answer: impl Fn(Request<h2::RecvStream>, server::SendResponse<Bytes>) -> F,
) -> io::Result<()>
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let mut connection = server::handshake(stream).await.map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        let answered = answer(request, respond);
        tokio::spawn(async move {
            drop(answered.await);
        });
    }
    Ok(())
}

async fn give_back(
    request: Request<h2::RecvStream>,
    mut respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let mut head = Response::builder()
        .header("x-method", parts.method.as_str())
        .header("x-path", parts.uri.path())
        .header("x-scheme", parts.uri.scheme_str().unwrap_or_default())
        .header(
            "x-authority",
            parts.uri.authority().map_or("", |a| a.as_str()),
        );
    for (name, value) in &parts.headers {
        head = head.header(format!("x-got-{name}"), value);
    }
    let mut out = respond.send_response(head.body(()).unwrap(), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        out.send_data(data, false)?;
    }
    match body.trailers().await? {
        Some(trailers) => out.send_trailers(trailers),
        None => out.send_data(Bytes::new(), true),
    }
}

/// A backend that answers 413 at once, and reads no body.
pub(super) fn hasty(address: SocketAddr) -> Backend {
    speaking(address, |_request, mut respond| async move {
        let head = Response::builder().status(413).body(()).unwrap();
        let mut out = respond.send_response(head, false)?;
        out.send_data(Bytes::from_static(b"early"), true)
    })
}
