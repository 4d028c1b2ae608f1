//! Handshakes at the end that opens, as in `handshake.rs`.

use std::{sync::Arc, time::Duration};

use rustls::{CommonState, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::{
    ClientTls, MUX_LINK_ALPN, REUSED_LINK_ALPN, TlsStream,
    alert::{Side, explain},
    chains::Chain,
    handshake::{Judge, SessionFacts, broken, chain_of, is_ours, session_facts},
    pace,
    pending::{PENDING, Pending},
    records,
};
use crate::{
    admit::{Denied, Grant, PeerFacts},
    net::{Buffered, WriteLast},
};

/// How long an end may take that nobody waits for.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection that we opened.
#[derive(Debug)]
pub struct Connected<IO> {
    /// Bytes of the server.
    pub stream: TlsStream<IO>,
    /// The certificates that the server showed, leaf first.
    pub chain: Chain,
    /// The proven server.
    pub peer: Arc<PeerFacts>,
    /// Why it was let in.
    pub grant: Grant,
    /// The other end is our acceptor: `portcullis/1`, `/2` or `/3` is agreed.
    pub ours: bool,
    /// It is `portcullis/2`: the connection carries one client after the other.
    pub reused: bool,
    /// It is `portcullis/3`: the connection carries many clients at once.
    pub mux: bool,
    /// What was agreed.
    pub session: SessionFacts,
}

/// Opens TLS to a server, which is proven and judged before anything is sent to it.
///
/// In TLS 1.3 this ends before the server has judged *our* certificate: its refusal comes with the
/// first read ([`explain`] reads it).
///
/// # Errors
/// Why there is no connection.
pub async fn connect<IO>(
    io: Buffered<IO>,
    client: &ClientTls,
    server_name: ServerName<'static>,
    judge: Judge,
) -> Result<Connected<IO>, Denied>
where
    IO: AsyncRead + WriteLast + Unpin,
{
    opened(io, client, server_name, judge, false).await
}

/// The same for who writes or reads at once: if the server is one of ours, what we say last in the
/// handshake goes out with what is written first, or as soon as a read waits.
///
/// # Errors
/// Why there is no connection.
pub async fn connect_ahead<IO>(
    io: Buffered<IO>,
    client: &ClientTls,
    server_name: ServerName<'static>,
    judge: Judge,
) -> Result<Connected<IO>, Denied>
where
    IO: AsyncRead + WriteLast + Unpin,
{
    let mut connected = opened(io, client, server_name, judge, true).await?;
    if !connected.ours {
        // nobody knows who speaks first there, and when
        let said = connected.stream.flush().await;
        said.map_err(|error| explain(&error, Side::Client))?;
    }
    Ok(connected)
}

/// Gives a connection up that is good: its other end hears the whole handshake, and an end.
pub async fn leave<IO>(mut stream: TlsStream<IO>)
where
    IO: AsyncRead + WriteLast + Unpin,
{
    drop(tokio::time::timeout(FAREWELL, stream.shutdown()).await);
}

async fn opened<IO>(
    mut io: Buffered<IO>,
    client: &ClientTls,
    server_name: ServerName<'static>,
    judge: Judge,
    ahead: bool,
) -> Result<Connected<IO>, Denied>
where
    IO: AsyncRead + WriteLast + Unpin,
{
    let pending = Pending::new(judge);
    // all of it in the scope: sessions are looked for before the first wait
    let config = client.current();
    let done = if client.own_records() {
        let handshake = records::client(&mut io, config, server_name.clone(), ahead);
        let handshake = PENDING.scope(pending.clone(), handshake);
        match pace::paced(handshake, pace::shared()).await {
            Ok(done) => {
                let opened = Opened::of(done.common());
                let stream = done.into_stream(io).map_err(|error| broken(&error))?;
                Ok((TlsStream::Own(Box::new(stream)), opened))
            }
            Err(error) => Err(error),
        }
    } else {
        let handshake = async {
            let connector = TlsConnector::from(config);
            connector.connect(server_name.clone(), io).await
        };
        let handshake = PENDING.scope(pending.clone(), handshake);
        let done = pace::paced(handshake, pace::shared()).await;
        done.map(|stream| {
            let opened = Opened::of(stream.get_ref().1);
            (TlsStream::Rustls(Box::new(stream.into())), opened)
        })
    };
    let (stream, opened) = done.map_err(|error| match pending.take() {
        Some(Err(denied)) => denied,
        _ => explain(&error, Side::Client),
    })?;
    let Opened {
        session,
        alpn,
        chain,
    } = opened;
    let outcome = match pending.take() {
        Some(outcome) if !session.resumed => outcome,
        // no verifier runs on a resumed session: it is done here
        _ => client
            .prove(&chain, &server_name)
            .and_then(|peer| pending.judge(Some(&peer)).map(|grant| (peer, grant))),
    };
    client.settled(&outcome);
    let (peer, grant) = match outcome {
        Ok(proven) => proven,
        Err(denied) => {
            leave(stream).await;
            return Err(denied);
        }
    };
    Ok(Connected {
        ours: alpn.as_deref().is_some_and(is_ours),
        reused: alpn.as_deref() == Some(REUSED_LINK_ALPN),
        mux: alpn.as_deref() == Some(MUX_LINK_ALPN),
        session,
        chain,
        stream,
        peer,
        grant,
    })
}

/// What a handshake came to, at the end that opened it.
struct Opened {
    session: SessionFacts,
    alpn: Option<Vec<u8>>,
    chain: Chain,
}

impl Opened {
    fn of(common: &CommonState) -> Self {
        Self {
            session: session_facts(common),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            chain: chain_of(common),
        }
    }
}
