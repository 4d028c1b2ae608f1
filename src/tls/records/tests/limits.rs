//! Counts that end, and what an idle connection holds.

use rustls::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{KEY_RECORDS, key::Key, session::Session},
    *,
};

#[tokio::test]
async fn a_key_is_changed_before_it_is_worn() {
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    a.session.skip_to(Some(KEY_RECORDS - 2), None);
    b.session.skip_to(None, Some(KEY_RECORDS - 2));
    for round in 0u8..6 {
        a.write_all(&[round; 10]).await.unwrap();
        let mut got = [0; 10];
        b.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 10]);
    }
    // two records under the old key and the update, four under the new one
    assert_eq!(a.session.counts().0, 4);
    // nobody asked for the other direction
    assert!(!b.session.update_due());
}

#[tokio::test]
async fn a_number_is_never_used_again() {
    let (mut a, mut b) = pair(&ends(), 1 << 16).await;
    a.session.skip_to(Some(u64::MAX - 1), None);
    // the update itself takes the last number: the key that follows begins again
    b.session.skip_to(None, Some(u64::MAX - 1));
    a.write_all(b"x").await.unwrap();
    b.read_exact(&mut [0]).await.unwrap();
    // a peer that goes on for ever is stopped
    a.session.skip_to(Some(5), None);
    b.session.skip_to(None, Some(u64::MAX));
    a.write_all(b"x").await.unwrap();
    let error = b.read(&mut [0]).await.unwrap_err();
    let error = error.get_ref().unwrap().downcast_ref::<Error>().cloned();
    assert_eq!(error, Some(Error::DecryptError));
    // and so are we
    a.session.skip_to(Some(u64::MAX), None);
    assert!(a.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_handshake_in_crumbs_is_not_kept_without_end() {
    let (mut near, far) = tokio::io::duplex(1 << 12);
    let mut far = Buffered::new(far);
    let ends = ends();
    // a ClientHello of 65,535 octets, each in a record
    let crumbs = async {
        let mut sent = 0;
        for octet in [1, 0, 0xff, 0xff].into_iter().chain([0; 65_535]) {
            if near.write_all(&[22, 3, 1, 0, 1, octet]).await.is_err() {
                break;
            }
            sent += 6;
        }
        sent
    };
    let answered = async {
        let done = server(&mut far, ends.server.clone(), Vec::new()).await;
        drop(far);
        done.is_err()
    };
    let (sent, refused) = tokio::join!(crumbs, answered);
    assert!(refused && sent < 200_000, "{sent}");
}

/// A record of the handshake that announces more than any may have is refused before it is there.
#[tokio::test]
async fn a_handshake_record_is_not_waited_for_beyond_its_limit() {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let mut far = Buffered::new(far);
    near.write_all(&[22, 3, 1, 0xff, 0xff]).await.unwrap();
    near.write_all(&vec![0; (1 << 14) + 2048]).await.unwrap();
    // `near` stays open: more might come
    let refused = server(&mut far, ends().server, Vec::new());
    let refused = tokio::time::timeout(std::time::Duration::from_secs(20), refused).await;
    assert!(refused.expect("no wait").is_err());
    drop(near);
}

/// What one end of an idle connection takes beside what is on the heap of rustls and aws-lc.
#[test]
fn an_idle_connection_is_small() {
    for (what, size, most) in [
        ("stream", size_of::<RecordStream<crate::net::Socket>>(), 512),
        ("session", size_of::<Session>(), 360),
        ("key", size_of::<Key>(), 144),
        (
            "the stream in other hands",
            size_of::<crate::tls::TlsStream<crate::net::Socket>>(),
            16,
        ),
    ] {
        assert!(size <= most, "{what}: {size} octets, {most} at most");
    }
}

mod scripts {
    use proptest::prelude::*;

    use super::super::super::harness::read;

    fn record() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![6 => Just(23u8), 2 => Just(1), 1 => Just(22), 1 => Just(21), 1 => any::<u8>()];
        (kind, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, content)| {
            let mut record = vec![kind, u8::try_from(content.len()).unwrap()];
            record.extend(content);
            record
        })
    }

    proptest! {
        /// Whatever an authenticated peer sends: data arrives in order, and nothing else does.
        #[test]
        fn what_is_read_was_sent(
            head in any::<[u8; 3]>(),
            records in proptest::collection::vec(record(), 0..40),
        ) {
            let script = [head.to_vec(), records.concat()].concat();
            let got = read(&script).unwrap();
            prop_assert!(got.sent.starts_with(&got.data));
        }

        /// Whatever stands on the wire without the keys: nothing of it is data.
        #[test]
        fn nothing_is_read_without_the_keys(head in any::<[u8; 3]>(), bytes in any::<Vec<u8>>()) {
            let mut script = head.to_vec();
            for part in bytes.chunks(255) {
                script.extend([0, u8::try_from(part.len()).unwrap()]);
                script.extend(part);
            }
            let got = read(&script).unwrap();
            prop_assert!(got.data.is_empty() && got.end.is_err());
        }
    }
}
