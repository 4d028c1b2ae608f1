//! One connection without its socket: what a record is, and what it does.

use std::{sync::OnceLock, time::Instant};

use rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    client::ClientConnectionData, kernel::KernelConnection,
};

use super::{
    Content, EMPTY_RECORDS, HEADER, KEY_RECORDS, KEY_UPDATES, MAX_CONTENT, MAX_MESSAGE,
    MAX_PAYLOAD, OVERHEAD, TAG, WARNINGS, key::Key,
};

/// Keeps a client's tickets.
pub(super) type Tickets = KernelConnection<ClientConnectionData>;

/// The keys of both directions.
pub(super) struct Keys {
    pub(super) read: Key,
    pub(super) write: Key,
}

/// Keys that nothing used for so many milliseconds rest, as soon as that is noticed.
pub(super) const REST: u32 = 200;
/// Octets of a handshake message's header.
const MESSAGE_HEADER: usize = 4;
/// Octets of a KeyUpdate in its record.
pub(super) const KEY_UPDATE_RECORD: usize = MESSAGE_HEADER + 1 + OVERHEAD;
/// Octets of an alert in its record.
pub(super) const ALERT_RECORD: usize = 2 + OVERHEAD;

/// Keys and counters.
pub(super) struct Session {
    read: Key,
    write: Key,
    /// We opened the connection: tickets may come.
    client: bool,
    /// Where they go, until there is data: servers send theirs at once, and what keeps them takes
    /// more room than all else.
    tickets: Option<Box<Tickets>>,
    /// Of a handshake message that has not come whole.
    message: Option<Box<Begun>>,
    key_updates: u8,
    empty_records: u8,
    warnings: u8,
    /// The peer wants a key update of ours before our next data.
    update_owed: bool,
    /// How many records there were, and since when there are no more, in milliseconds. Small: each
    /// connection has it.
    quiet: (u32, u32),
}

/// The beginning of a message. Boxed where it is kept: there is seldom one.
struct Begun(Vec<u8>);

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// So many octets of data, at the front of where it was opened.
    Data(usize),
    /// Nothing for who reads.
    Nothing,
    /// close_notify: the peer sends no more.
    Closed,
}

/// Octets of the record that `bytes` begins with; `None`: its header is not whole.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(&[kind, major, _minor, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    if kind != Content::Data as u8 {
        #[expect(clippy::wildcard_enum_match_arm, reason = "any other octet is no type")]
        return Err(match ContentType::from(kind) {
            // allowed during the handshake, and no more
            ContentType::ChangeCipherSpec => {
                PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into()
            }
            got_type @ (ContentType::Alert | ContentType::Handshake) => {
                Error::InappropriateMessage {
                    expect_types: vec![ContentType::ApplicationData],
                    got_type,
                }
            }
            _ => InvalidMessage::InvalidContentType.into(),
        });
    }
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_PAYLOAD {
        return Err(Error::PeerSentOversizedRecord);
    }
    if len < TAG {
        return Err(Error::DecryptError);
    }
    Ok(Some(HEADER.saturating_add(len)))
}

/// Since it was asked first.
fn millis() -> u32 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let since = FIRST.get_or_init(Instant::now).elapsed().as_millis();
    // seven weeks on it begins anew
    u32::try_from(since & u128::from(u32::MAX)).unwrap_or(0)
}

impl Session {
    pub(super) fn new(keys: Keys, client: bool, tickets: Option<Tickets>) -> Self {
        Self {
            read: keys.read,
            write: keys.write,
            client,
            tickets: tickets.map(Box::new),
            message: None,
            key_updates: KEY_UPDATES,
            empty_records: EMPTY_RECORDS,
            warnings: WARNINGS,
            update_owed: false,
            quiet: (0, 0),
        }
    }

    /// Nothing moves for now: where it has not for a while, the keys rest. To make them ready for
    /// each of many short exchanges costs more than to open and seal those.
    pub(super) fn pause(&mut self) {
        if self.read.is_at_rest() && self.write.is_at_rest() {
            return;
        }
        let records = self.read.count().wrapping_add(self.write.count());
        // the last bits tell them apart
        let records = u32::try_from(records & u64::from(u32::MAX)).unwrap_or(0);
        let now = millis();
        let (at, since) = self.quiet;
        if at != records {
            self.quiet = (records, now);
        } else if now.wrapping_sub(since) >= REST {
            self.read.rest();
            self.write.rest();
        }
    }

    /// Whether it is a client that has said something since the handshake: an answer is awaited.
    pub(super) fn is_asked(&self) -> bool {
        !self.client && self.read.count() > 0
    }

    /// Whether the peer may send such a message at all. A server is told nothing but key updates.
    fn expects(&self, kind: HandshakeType) -> bool {
        kind == HandshakeType::KeyUpdate || self.client && kind == HandshakeType::NewSessionTicket
    }

    /// Opens a record's payload where it is.
    pub(super) fn open(&mut self, payload: &mut [u8]) -> Result<Opened, Error> {
        let inner = self.read.open(payload)?;
        self.opened(inner)
    }

    /// Opens it into `inner`, which is `TAG` shorter.
    pub(super) fn open_into(&mut self, payload: &[u8], inner: &mut [u8]) -> Result<Opened, Error> {
        self.read.open_into(payload, inner)?;
        self.opened(inner)
    }

    /// Content, its type, and zeros that hide its length.
    fn opened(&mut self, inner: &[u8]) -> Result<Opened, Error> {
        // RFC 8446 section 5.4
        if inner.len() > MAX_CONTENT + 1 {
            return Err(Error::PeerSentOversizedRecord);
        }
        let content = inner.iter().rposition(|octet| *octet != 0);
        let (content, kind) = content
            .and_then(|at| Some((inner.get(..at)?, *inner.get(at)?)))
            .ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        let kind = ContentType::from(kind);
        if self.message.is_some() && kind != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "any other octet is no type")]
        match kind {
            ContentType::ApplicationData => self.data(content),
            ContentType::Handshake if !content.is_empty() => {
                self.handshake(content).map(|()| Opened::Nothing)
            }
            ContentType::Alert if !content.is_empty() => self.alert(content),
            // RFC 8446 section 5.4: these are never empty
            ContentType::Handshake | ContentType::Alert => Err(Error::InappropriateMessage {
                expect_types: vec![ContentType::ApplicationData],
                got_type: kind,
            }),
            ContentType::ChangeCipherSpec => {
                Err(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into())
            }
            _ => Err(InvalidMessage::InvalidContentType.into()),
        }
    }

    fn data(&mut self, content: &[u8]) -> Result<Opened, Error> {
        if content.is_empty() {
            self.empty_records = self
                .empty_records
                .checked_sub(1)
                .ok_or(PeerMisbehaved::TooManyEmptyFragments)?;
            return Ok(Opened::Nothing);
        }
        self.empty_records = EMPTY_RECORDS;
        self.key_updates = KEY_UPDATES;
        self.tickets = None;
        Ok(Opened::Data(content.len()))
    }

    /// RFC 8446 section 6.
    fn alert(&mut self, content: &[u8]) -> Result<Opened, Error> {
        let &[level, description] = content else {
            return Err(InvalidMessage::TrailingData("Alert").into());
        };
        let description = AlertDescription::from(description);
        match (level, description) {
            (1 | 2, AlertDescription::CloseNotify) => Ok(Opened::Closed),
            (1, AlertDescription::UserCanceled) => {
                self.warnings = self
                    .warnings
                    .checked_sub(1)
                    .ok_or(PeerMisbehaved::TooManyWarningAlertsReceived)?;
                Ok(Opened::Nothing)
            }
            // "all other alerts are error alerts, whatever their level says"
            _ => Err(Error::AlertReceived(description)),
        }
    }

    /// RFC 8446 section 5.1: messages may share a record, or take several.
    fn handshake(&mut self, content: &[u8]) -> Result<(), Error> {
        let Some(mut begun) = self.message.take() else {
            let rest = self.messages(content)?;
            let rest = content.get(content.len() - rest..).unwrap_or_default();
            self.message = (!rest.is_empty()).then(|| Box::new(Begun(rest.to_vec())));
            return Ok(());
        };
        begun.0.extend_from_slice(content);
        let rest = self.messages(&begun.0)?;
        begun.0.drain(..begun.0.len() - rest);
        if rest > 0 {
            begun.0.shrink_to_fit();
            self.message = Some(begun);
        }
        Ok(())
    }

    /// Acts on the whole messages; how many octets of the next are there.
    fn messages(&mut self, mut bytes: &[u8]) -> Result<usize, Error> {
        while let Some((&kind, _)) = bytes.split_first() {
            let got_type = HandshakeType::from(kind);
            // judged by its first octet: nothing is kept of what is not expected
            if !self.expects(got_type) {
                return Err(Error::InappropriateHandshakeMessage {
                    expect_types: vec![HandshakeType::KeyUpdate],
                    got_type,
                });
            }
            let Some((&[_, high, mid, low], rest)) = bytes.split_first_chunk::<MESSAGE_HEADER>()
            else {
                break;
            };
            let len = u32::from_be_bytes([0, high, mid, low]);
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len > MAX_MESSAGE {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            if got_type == HandshakeType::KeyUpdate && len != 1 {
                return Err(InvalidMessage::InvalidKeyUpdate.into());
            }
            let Some((body, rest)) = rest.split_at_checked(len) else {
                break;
            };
            match body {
                [request] if got_type == HandshakeType::KeyUpdate => {
                    // what follows is under another key, so it can't be in this record
                    if !rest.is_empty() {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    self.key_update(*request)?;
                }
                _ => {
                    if let Some(tickets) = &mut self.tickets {
                        tickets.handle_new_session_ticket(body)?;
                    }
                }
            }
            bytes = rest;
        }
        Ok(bytes.len())
    }

    /// RFC 8446 section 4.6.3.
    fn key_update(&mut self, request: u8) -> Result<(), Error> {
        if request > 1 {
            return Err(InvalidMessage::InvalidKeyUpdate.into());
        }
        self.key_updates = self
            .key_updates
            .checked_sub(1)
            .ok_or(PeerMisbehaved::TooManyKeyUpdateRequests)?;
        self.read = self.read.successor()?;
        // what takes tickets holds the first secrets, which an update is to put away
        self.tickets = None;
        // several requests are answered once
        self.update_owed |= request == 1;
        Ok(())
    }

    /// Whether a KeyUpdate has to go before the next data.
    pub(super) fn update_due(&self) -> bool {
        self.update_owed || self.write.count() >= KEY_RECORDS
    }

    /// Seals a KeyUpdate, and takes the next key.
    pub(super) fn seal_update(&mut self, record: &mut [u8]) -> Result<(), Error> {
        // update_not_requested
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, 0];
        self.write.seal_into(&message, Content::Handshake, record)?;
        self.write = self.write.successor()?;
        self.tickets = None;
        self.update_owed = false;
        Ok(())
    }

    pub(super) fn seal_alert(
        &mut self,
        description: AlertDescription,
        record: &mut [u8],
    ) -> Result<(), Error> {
        // a warning, or fatal
        let level = if description == AlertDescription::CloseNotify {
            1
        } else {
            2
        };
        let alert = [level, description.into()];
        self.write.seal_into(&alert, Content::Alert, record)
    }

    /// Seals data from elsewhere into a record.
    pub(super) fn seal_from(&mut self, data: &[u8], record: &mut [u8]) -> Result<(), Error> {
        self.write.seal_into(data, Content::Data, record)
    }

    /// Seals data that stands in its place.
    pub(super) fn seal(&mut self, record: &mut [u8]) -> Result<(), Error> {
        self.write.seal(Content::Data, record)
    }

    /// For tests: a peer asked for a key update.
    #[cfg(test)]
    pub(super) fn owe_update(&mut self) {
        self.update_owed = true;
    }

    /// For tests: nothing is kept of a message.
    #[cfg(test)]
    pub(super) fn message_is_empty(&self) -> bool {
        self.message.is_none()
    }

    /// For tests: no key is ready for use, and no ticket is waited for.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.read.is_at_rest() && self.write.is_at_rest() && self.tickets.is_none()
    }

    /// For tests: records written and read.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.write.count(), self.read.count())
    }

    /// For tests: as if so many records had been written, or read.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, written: Option<u64>, read: Option<u64>) {
        if let Some(written) = written {
            self.write.skip_to(written);
        }
        if let Some(read) = read {
            self.read.skip_to(read);
        }
    }
}
