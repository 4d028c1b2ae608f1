//! Records that no peer of ours would send: each has its error, and its alert.

use rstest::rstest;
use rustls::{AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{super::*, *};

const REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
const NOT_REQUESTED: [u8; 5] = [24, 0, 0, 1, 0];

impl Hostile {
    /// A record with this inner plaintext.
    fn inner(&mut self, inner: &[u8]) -> Vec<u8> {
        self.keys.write.seal_inner(inner).unwrap()
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.inner(&[content, &[kind]].concat())
    }

    pub(super) fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(23, content)
    }

    /// A key update as it should be.
    fn update(&mut self, request: u8) -> Vec<u8> {
        let record = self.record(22, &[24, 0, 0, 1, request]);
        self.keys.write = self.keys.write.successor().unwrap();
        record
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Content and type of the next record that we sent.
    async fn next(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; HEADER];
        self.io.read_exact(&mut header).await.unwrap();
        assert_eq!(header[..3], [23, 3, 3]);
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.unwrap();
        let inner = self.keys.read.open(&mut payload).unwrap();
        let (kind, content) = inner.split_last().unwrap();
        (*kind, content.to_vec())
    }

    async fn alert(&mut self) -> AlertDescription {
        let (kind, content) = self.next().await;
        assert_eq!((kind, content.len()), (21, 2));
        AlertDescription::from(content[1])
    }
}

/// Our end reads what the peer sent: what it gave, and the error at its end.
async fn reads(stream: &mut RecordStream<DuplexStream>) -> (Vec<u8>, Error) {
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let inner = error.get_ref().unwrap().downcast_ref::<Error>();
    let error = inner.unwrap().clone();
    // and again: a broken stream never looks ended
    assert!(stream.read(&mut [0; 4]).await.is_err());
    assert!(stream.write(b"x").await.is_err());
    (got, error)
}

fn inappropriate(got_type: ContentType) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type,
    }
}

fn unexpected(got_type: HandshakeType) -> Error {
    Error::InappropriateHandshakeMessage {
        expect_types: vec![HandshakeType::KeyUpdate],
        got_type,
    }
}

/// What the peer sends: records made of these.
#[derive(Clone)]
enum Sent {
    /// Octets as they are.
    Raw(Vec<u8>),
    /// This inner plaintext.
    Inner(Vec<u8>),
    /// This type and content.
    Is(u8, Vec<u8>),
    /// One whose tag is wrong.
    Forged,
}

use Sent::{Forged, Inner, Is, Raw};

#[rstest]
#[case::tag(vec![Forged], Error::DecryptError, AlertDescription::BadRecordMac)]
#[case::shorter_than_a_tag(vec![Raw(vec![23, 3, 3, 0, 15])], Error::DecryptError, AlertDescription::BadRecordMac)]
#[case::empty(vec![Raw(vec![23, 3, 3, 0, 0])], Error::DecryptError, AlertDescription::BadRecordMac)]
#[case::longer_than_any(vec![Raw(vec![23, 3, 3, 0x41, 1])], Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow)]
#[case::largest_length(vec![Raw(vec![23, 3, 3, 0xff, 0xff])], Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow)]
#[case::more_content(vec![Is(23, vec![1; MAX_CONTENT + 1])], Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow)]
#[case::more_padding(vec![Inner([&[1u8, 23][..], &[0; MAX_CONTENT]].concat())], Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow)]
#[case::zeros(vec![Inner(vec![0; 40])], PeerMisbehaved::IllegalTlsInnerPlaintext.into(), AlertDescription::UnexpectedMessage)]
#[case::nothing(vec![Inner(vec![])], PeerMisbehaved::IllegalTlsInnerPlaintext.into(), AlertDescription::UnexpectedMessage)]
#[case::plain_ccs(vec![Raw(vec![20, 3, 3, 0, 1, 1])], PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into(), AlertDescription::UnexpectedMessage)]
#[case::plain_alert(vec![Raw(vec![21, 3, 3, 0, 2, 1, 0])], inappropriate(ContentType::Alert), AlertDescription::UnexpectedMessage)]
#[case::plain_handshake(vec![Raw(vec![22, 3, 3, 0, 5, 24, 0, 0, 1, 0])], inappropriate(ContentType::Handshake), AlertDescription::UnexpectedMessage)]
#[case::no_type(vec![Raw(vec![77, 3, 3, 0, 5])], InvalidMessage::InvalidContentType.into(), AlertDescription::UnexpectedMessage)]
#[case::no_version(vec![Raw(vec![23, 9, 3, 0, 50])], InvalidMessage::UnknownProtocolVersion.into(), AlertDescription::DecodeError)]
#[case::ccs_inside(vec![Is(20, vec![1])], PeerMisbehaved::IllegalMiddleboxChangeCipherSpec.into(), AlertDescription::UnexpectedMessage)]
#[case::no_type_inside(vec![Is(99, vec![1])], InvalidMessage::InvalidContentType.into(), AlertDescription::UnexpectedMessage)]
#[case::empty_handshake(vec![Is(22, vec![])], inappropriate(ContentType::Handshake), AlertDescription::UnexpectedMessage)]
#[case::empty_alert(vec![Is(21, vec![])], inappropriate(ContentType::Alert), AlertDescription::UnexpectedMessage)]
#[case::half_an_alert(vec![Is(21, vec![2])], InvalidMessage::TrailingData("Alert").into(), AlertDescription::DecodeError)]
#[case::two_alerts(vec![Is(21, vec![1, 90, 1, 90])], InvalidMessage::TrailingData("Alert").into(), AlertDescription::DecodeError)]
#[case::no_request(vec![Is(22, vec![24, 0, 0, 1, 2])], InvalidMessage::InvalidKeyUpdate.into(), AlertDescription::IllegalParameter)]
#[case::empty_update(vec![Is(22, vec![24, 0, 0, 0])], InvalidMessage::InvalidKeyUpdate.into(), AlertDescription::IllegalParameter)]
#[case::long_update(vec![Is(22, vec![24, 0, 0, 2, 0, 0])], InvalidMessage::InvalidKeyUpdate.into(), AlertDescription::IllegalParameter)]
#[case::behind_an_update(vec![Is(22, [NOT_REQUESTED, NOT_REQUESTED].concat())], PeerMisbehaved::KeyEpochWithPendingFragment.into(), AlertDescription::UnexpectedMessage)]
#[case::half_behind_an_update(vec![Is(22, [&REQUESTED[..], &[24]].concat())], PeerMisbehaved::KeyEpochWithPendingFragment.into(), AlertDescription::UnexpectedMessage)]
#[case::data_inside_a_message(vec![Is(22, vec![24, 0]), Is(23, vec![1])], PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into(), AlertDescription::UnexpectedMessage)]
#[case::end_inside_a_message(vec![Is(22, vec![24, 0]), Is(21, vec![1, 0])], PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into(), AlertDescription::UnexpectedMessage)]
#[case::hello_again(vec![Is(22, vec![1, 0, 0, 9])], unexpected(HandshakeType::ClientHello), AlertDescription::UnexpectedMessage)]
#[case::finished_again(vec![Is(22, vec![20])], unexpected(HandshakeType::Finished), AlertDescription::UnexpectedMessage)]
#[case::certificate_asked_for(vec![Is(22, vec![13, 0, 0, 3, 0, 0, 0])], unexpected(HandshakeType::CertificateRequest), AlertDescription::UnexpectedMessage)]
#[case::empties(vec![Is(23, vec![]); 33], PeerMisbehaved::TooManyEmptyFragments.into(), AlertDescription::UnexpectedMessage)]
#[case::padded_empties(vec![Inner([&[23u8][..], &[0; 90]].concat()); 33], PeerMisbehaved::TooManyEmptyFragments.into(), AlertDescription::UnexpectedMessage)]
#[case::warnings(vec![Is(21, vec![1, 90]); 5], PeerMisbehaved::TooManyWarningAlertsReceived.into(), AlertDescription::UnexpectedMessage)]
#[tokio::test]
async fn each_fault_has_its_alert(
    #[values(Ours::Client, Ours::Server)] ours: Ours,
    #[case] sent: Vec<Sent>,
    #[case] expected: Error,
    #[case] alert: AlertDescription,
) {
    let (mut stream, mut hostile) = against(ours).await;
    // what came before is not lost
    let before = hostile.data(b"before");
    hostile.send(&before).await;
    for one in sent {
        let record = match one {
            Raw(bytes) => bytes,
            Inner(inner) => hostile.inner(&inner),
            Is(kind, content) => hostile.record(kind, &content),
            Forged => {
                let mut record = hostile.data(b"data");
                *record.last_mut().unwrap() ^= 1;
                record
            }
        };
        hostile.send(&record).await;
    }
    let (got, error) = reads(&mut stream).await;
    assert_eq!(got, b"before");
    assert_eq!(error, expected);
    assert_eq!(hostile.alert().await, alert);
    // nothing follows an alert, not even close_notify
    stream.shutdown().await.unwrap();
    assert_eq!(hostile.io.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_server_takes_no_ticket_and_a_client_no_broken_one() {
    let ticket = [4, 0, 0, 1, 0];
    let (mut stream, mut hostile) = against(Ours::Server).await;
    let record = hostile.record(22, &ticket);
    hostile.send(&record).await;
    let expected = unexpected(HandshakeType::NewSessionTicket);
    assert_eq!(reads(&mut stream).await.1, expected);
    assert_eq!(hostile.alert().await, AlertDescription::UnexpectedMessage);

    let (mut stream, mut hostile) = against(Ours::Client).await;
    let record = hostile.record(22, &ticket);
    hostile.send(&record).await;
    let (_, error) = reads(&mut stream).await;
    assert!(matches!(error, Error::InvalidMessage(_)), "{error:?}");
    assert_eq!(hostile.alert().await, AlertDescription::DecodeError);

    // longer than any message may be: refused before it is kept
    let (mut stream, mut hostile) = against(Ours::Client).await;
    let record = hostile.record(22, &[4, 1, 0, 0]);
    hostile.send(&record).await;
    let expected = Error::from(InvalidMessage::HandshakePayloadTooLarge);
    assert_eq!(reads(&mut stream).await.1, expected);
}

/// Whoever changes its key: the first secrets, by which tickets are taken, are put away.
#[rstest]
#[case(true)]
#[case(false)]
#[tokio::test]
async fn no_ticket_is_taken_after_a_change_of_keys(#[case] theirs: bool) {
    let (mut stream, mut hostile) = against(Ours::Client).await;
    let mut bytes = Vec::new();
    if theirs {
        bytes.extend(hostile.update(0));
    } else {
        stream.session.skip_to(Some(KEY_RECORDS), None);
        stream.write_all(b"data").await.unwrap();
    }
    // a broken one, which would end the connection of who takes it
    bytes.extend(hostile.record(22, &[4, 0, 0, 1, 0]));
    bytes.extend(hostile.data(b"hello"));
    hostile.send(&bytes).await;
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
}

/// lifetime, age_add, nonce, ticket, no extensions.
fn ticket() -> Vec<u8> {
    let mut body = vec![0, 0, 14, 16, 1, 2, 3, 4, 2, 0, 1, 0, 200];
    body.extend([9; 200]);
    body.extend([0, 0]);
    let mut message = vec![4, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    message
}

#[tokio::test]
async fn messages_share_records_or_take_several() {
    let (mut stream, mut hostile) = against(Ours::Client).await;
    // two tickets in one record, then one in pieces, then one and a half
    let both = [ticket(), ticket()].concat();
    let mut bytes = hostile.record(22, &both);
    for piece in ticket().chunks(3) {
        bytes.extend(hostile.record(22, piece));
    }
    let (whole, half) = (ticket(), ticket());
    bytes.extend(hostile.record(22, &[&whole, &half[..100]].concat()));
    bytes.extend(hostile.record(22, &half[100..]));
    // a key update in pieces
    bytes.extend(hostile.record(22, &NOT_REQUESTED[..2]));
    bytes.extend(hostile.record(22, &NOT_REQUESTED[2..]));
    hostile.keys.write = hostile.keys.write.successor().unwrap();
    bytes.extend(hostile.data(b"at last"));
    hostile.send(&bytes).await;
    let mut got = [0; 7];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"at last");
    assert!(stream.session.message_is_empty());
}

#[rstest]
#[case(Ours::Client)]
#[case(Ours::Server)]
#[tokio::test]
async fn key_updates_are_followed_answered_once_and_bounded(#[case] ours: Ours) {
    let (mut stream, mut hostile) = against(ours).await;
    let mut bytes = Vec::new();
    for _ in 0..3 {
        bytes.extend(hostile.update(1));
    }
    bytes.extend(hostile.data(b"one"));
    for _ in 0..32 {
        bytes.extend(hostile.update(0));
    }
    bytes.extend(hostile.data(b"two"));
    hostile.send(&bytes).await;
    let mut got = [0; 6];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"onetwo");
    // three requests, one answer, before the data
    stream.write_all(b"data").await.unwrap();
    assert_eq!(hostile.next().await, (22, NOT_REQUESTED.to_vec()));
    hostile.keys.read = hostile.keys.read.successor().unwrap();
    assert_eq!(hostile.next().await, (23, b"data".to_vec()));
    stream.write_all(b"more").await.unwrap();
    assert_eq!(hostile.next().await, (23, b"more".to_vec()));
    // and no more than 32 without data in between, though there be empty records
    let mut bytes = Vec::new();
    for _ in 0..33 {
        bytes.extend(hostile.update(1));
        if bytes.len() < 300 {
            bytes.extend(hostile.data(b""));
        }
    }
    hostile.send(&bytes).await;
    let expected = Error::from(PeerMisbehaved::TooManyKeyUpdateRequests);
    assert_eq!(reads(&mut stream).await.1, expected);
    assert_eq!(hostile.alert().await, AlertDescription::UnexpectedMessage);
}

#[tokio::test]
async fn what_hides_lengths_is_taken_away() {
    let (mut stream, mut hostile) = against(Ours::Server).await;
    let mut bytes = hostile.inner(&[b"padded", &[23u8][..], &[0; 200]].concat());
    // 32 empty records are borne
    for _ in 0..32 {
        bytes.extend(hostile.data(b""));
    }
    // the most that there may be: content and type, without room for padding
    let mut most = vec![0xab; MAX_CONTENT];
    most.push(23);
    bytes.extend(hostile.inner(&most));
    bytes.extend(hostile.record(21, &[1, 90]));
    bytes.extend(hostile.record(21, &[1, 0]));
    // what follows the end is nobody's
    bytes.extend([1, 2, 3]);
    hostile.send(&bytes).await;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 6 + MAX_CONTENT);
    assert!(got.starts_with(b"padded\xab") && got.ends_with(b"\xab"));
}

#[rstest]
#[case(2, 40)]
#[case(1, 40)]
#[case(2, 90)]
#[case(3, 0)]
#[tokio::test]
async fn an_alert_ends_both_directions(#[case] level: u8, #[case] description: u8) {
    let (mut stream, mut hostile) = against(Ours::Client).await;
    let record = hostile.record(21, &[level, description]);
    hostile.send(&record).await;
    let expected = Error::AlertReceived(AlertDescription::from(description));
    assert_eq!(reads(&mut stream).await.1, expected);
    // it is not answered
    stream.shutdown().await.unwrap();
    assert_eq!(hostile.io.read(&mut [0; 9]).await.unwrap(), 0);
}
