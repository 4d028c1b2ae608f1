//! The handshake, made by rustls on bytes that we hand it.
//!
//! It is shown one record more at a time: what comes behind the handshake's last record is not for
//! it, and stays closed.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, CommonState, Error, InvalidMessage, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{
    HEADER, MAX_CONTENT, MAX_MESSAGE,
    early::Early,
    error::broken,
    key::Key,
    secrets::{NOTES, Notes},
    session::{Keys, Session, Tickets},
    stream::RecordStream,
};
use crate::net::Buffered;

/// A handshake that is over.
pub(crate) struct Finished<C> {
    pub(super) connection: C,
    /// What came behind it.
    pub(super) rest: Vec<u8>,
    /// Its last words, which were not sent: a server's ticket, a client's Finished.
    pub(super) unsent: Vec<u8>,
    notes: Arc<Mutex<Notes>>,
}

/// What both ends have in common.
pub(crate) trait Handshake {
    type Data;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Handshake for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl Handshake for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

/// Answers a ClientHello, of which `hello` was read.
///
/// # Errors
/// As tokio-rustls has them.
pub(crate) async fn server<IO>(
    io: &mut Buffered<IO>,
    config: Arc<ServerConfig>,
    hello: Vec<u8>,
) -> io::Result<Finished<UnbufferedServerConnection>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connection = UnbufferedServerConnection::new(config).map_err(broken)?;
    noted(connection, io, hello, Some(Early::default())).await
}

/// Opens a connection to `name`. `ahead`: Finished goes out with what is written first.
///
/// # Errors
/// As tokio-rustls has them.
pub(crate) async fn client<IO>(
    io: &mut Buffered<IO>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    ahead: bool,
) -> io::Result<Finished<UnbufferedClientConnection>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connection = UnbufferedClientConnection::new(config, name).map_err(broken)?;
    let mut done = noted(connection, io, Vec::new(), None).await?;
    if !ahead {
        flush(io, &mut done.unsent).await?;
    }
    Ok(done)
}

impl<C: Handshake> Finished<C> {
    /// What was agreed.
    pub(crate) fn common(&self) -> &CommonState {
        self.connection.common()
    }

    fn noted(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Finished<UnbufferedServerConnection> {
    /// The keys.
    pub(super) fn keys(self) -> Result<Keys, Error> {
        let mut notes = self.noted();
        if notes.read.is_none() || notes.write.is_none() {
            let (secrets, _kernel) = self.connection.dangerous_into_kernel_connection()?;
            notes.take_keys(&secrets);
        }
        Ok(Keys {
            read: Key::agreed(notes.read, notes.client.as_deref().map(Vec::as_slice))?,
            write: Key::agreed(notes.write, notes.server.as_deref().map(Vec::as_slice))?,
        })
    }

    /// Takes the records over.
    ///
    /// # Errors
    /// The configuration does not hand out its secrets.
    pub(crate) fn into_stream<IO>(mut self, io: Buffered<IO>) -> Result<RecordStream<IO>, Error> {
        let rest = std::mem::take(&mut self.rest);
        let unsent = std::mem::take(&mut self.unsent);
        let session = Session::new(self.keys()?, false, None);
        Ok(RecordStream::new(io, rest, session).behind(unsent))
    }
}

impl Finished<UnbufferedClientConnection> {
    /// The keys, and what keeps tickets.
    pub(super) fn keys(self) -> Result<(Keys, Tickets), Error> {
        let mut notes = self.noted();
        // derives them again, for the sake of the tickets
        let (secrets, kernel) = self.connection.dangerous_into_kernel_connection()?;
        notes.take_keys(&secrets);
        let keys = Keys {
            read: Key::agreed(notes.read, notes.server.as_deref().map(Vec::as_slice))?,
            write: Key::agreed(notes.write, notes.client.as_deref().map(Vec::as_slice))?,
        };
        Ok((keys, kernel))
    }

    /// Takes the records over.
    ///
    /// # Errors
    /// The configuration does not hand out its secrets.
    pub(crate) fn into_stream<IO>(mut self, io: Buffered<IO>) -> Result<RecordStream<IO>, Error> {
        let rest = std::mem::take(&mut self.rest);
        let unsent = std::mem::take(&mut self.unsent);
        let (keys, tickets) = self.keys()?;
        let session = Session::new(keys, true, Some(tickets));
        Ok(RecordStream::new(io, rest, session).behind(unsent))
    }
}

enum Step {
    Again,
    Read,
    Done,
    Failed(Error),
}

/// Makes the handshake, and notes its secrets.
async fn noted<C, IO>(
    mut connection: C,
    io: &mut Buffered<IO>,
    hello: Vec<u8>,
    early: Option<Early>,
) -> io::Result<Finished<C>>
where
    C: Handshake,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let notes = Arc::default();
    let driven = drive(&mut connection, io, hello, early, &notes);
    let (rest, unsent) = NOTES.scope(Arc::clone(&notes), driven).await?;
    Ok(Finished {
        connection,
        rest,
        unsent,
        notes,
    })
}

/// Makes the handshake; what came behind it, and what is left to be sent.
async fn drive<C, IO>(
    connection: &mut C,
    io: &mut Buffered<IO>,
    mut incoming: Vec<u8>,
    mut early: Option<Early>,
    notes: &Mutex<Notes>,
) -> io::Result<(Vec<u8>, Vec<u8>)>
where
    C: Handshake,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut outgoing = Vec::new();
    // octets of `incoming` that rustls may see
    let mut shown = 0usize;
    loop {
        let (step, gone) = step(
            connection,
            incoming.get_mut(..shown).unwrap_or_default(),
            &mut outgoing,
        );
        incoming.drain(..gone.min(shown));
        shown = shown.saturating_sub(gone);
        match step {
            Step::Again => {}
            Step::Read => {
                shown = loop {
                    let end = next_record(io, &mut incoming, shown, &mut outgoing).await?;
                    let records = incoming.get(..end).unwrap_or_default();
                    let skipped = early.as_mut().is_some_and(|early| {
                        early.skips(records, shown, connection.common(), notes)
                    });
                    if !skipped {
                        break end;
                    }
                    incoming.drain(shown..end);
                };
            }
            Step::Done if connection.common().is_handshaking() => {
                return Err(broken(Error::HandshakeNotComplete));
            }
            Step::Done => {
                incoming.drain(..shown);
                return Ok((incoming, outgoing));
            }
            Step::Failed(error) => {
                let bytes = incoming.get_mut(..shown).unwrap_or_default();
                last_word(connection, bytes, &mut outgoing);
                // the alert may be lost; the error is not
                let _told = flush(io, &mut outgoing).await;
                return Err(broken(error));
            }
        }
    }
}

/// One step of rustls; how many octets it is done with.
fn step<C: Handshake>(
    connection: &mut C,
    bytes: &mut [u8],
    outgoing: &mut Vec<u8>,
) -> (Step, usize) {
    let UnbufferedStatus { discard, state, .. } = connection.process(bytes);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // written before anything is waited for
            data.done();
            Step::Again
        }
        Ok(ConnectionState::BlockedHandshake) => Step::Read,
        Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
        // no record is shown that could hold data, or an end
        Ok(_) => Step::Failed(Error::HandshakeNotComplete),
        Err(error) => Step::Failed(error),
    };
    (step, discard)
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Step {
    let start = outgoing.len();
    let mut room = 0;
    // the first attempt says how much room it takes
    for _ in 0..2 {
        outgoing.resize(start.saturating_add(room), 0);
        match data.encode(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start.saturating_add(written));
                return Step::Again;
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => break,
        }
    }
    Step::Failed(Error::EncryptError)
}

/// Fetches the alert that goes with a failure. rustls looks at no record meanwhile; the octets are
/// those that it may still point to.
fn last_word<C: Handshake>(connection: &mut C, bytes: &mut [u8], outgoing: &mut Vec<u8>) {
    while connection.common().wants_write() {
        if !matches!(step(connection, bytes, outgoing).0, Step::Again) {
            break;
        }
    }
}

async fn flush<IO>(io: &mut Buffered<IO>, outgoing: &mut Vec<u8>) -> io::Result<()>
where
    IO: AsyncWrite + Unpin,
{
    if !outgoing.is_empty() {
        io.write_all(outgoing).await?;
        outgoing.clear();
    }
    io.flush().await
}

/// rustls refuses a record that announces as much by its header alone.
const REFUSED: usize = MAX_CONTENT + 2048;

/// Reads until a whole record stands behind the first `shown` octets; where it ends. What is to be
/// sent goes out before anything is waited for. All that was read is taken out of the socket's
/// buffer, which is lent: a handshake that waits for its turn must not hold on to it.
///
/// rustls keeps what it was shown of a message that is not whole: one in crumbs is refused before
/// the crumbs' headers take many times its room.
async fn next_record<IO>(
    io: &mut Buffered<IO>,
    incoming: &mut Vec<u8>,
    shown: usize,
    outgoing: &mut Vec<u8>,
) -> io::Result<usize>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if shown > MAX_MESSAGE.saturating_add(REFUSED) {
        return Err(broken(InvalidMessage::HandshakePayloadTooLarge.into()));
    }
    loop {
        let have = incoming.get(shown..).unwrap_or_default();
        let whole = match have.first_chunk::<HEADER>() {
            None => HEADER,
            Some(&[.., high, low]) => {
                // rustls refuses one of this length by its header, and wants a shorter one whole
                let len = usize::from(u16::from_be_bytes([high, low])).min(REFUSED);
                HEADER.saturating_add(len)
            }
        };
        if whole <= have.len() {
            return Ok(shown.saturating_add(whole));
        }
        if io.buffered().is_empty() {
            flush(io, outgoing).await?;
            if io.fill().await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "tls handshake eof",
                ));
            }
        }
        let got = io.buffered();
        incoming.extend_from_slice(got);
        let n = got.len();
        io.consume(n);
    }
}
