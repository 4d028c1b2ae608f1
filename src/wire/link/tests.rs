use proptest::prelude::*;

use super::*;

fn id() -> ConnectionId {
    ConnectionId([7; 16])
}

fn open_frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, u8::try_from(payload.len()).unwrap()];
    bytes.extend(payload);
    bytes
}

fn with_id(rest: &[u8]) -> Vec<u8> {
    let mut payload = vec![1, 0, 1, 0, 16];
    payload.extend([7; 16]);
    payload.extend(rest);
    open_frame(&payload)
}

#[test]
fn the_bytes_of_each_frame_are_as_documented() {
    assert_eq!(encode(&Frame::Admitted), [2, 0, 0, 0]);
    assert_eq!(
        encode(&Frame::Refused("crl_expired".into())),
        b"\x03\0\0\x0bcrl_expired"
    );
    let open = Open {
        source: Some("192.0.2.1:258".parse().unwrap()),
        authority: Some("a".into()),
        http: true,
        ..Open::new(id())
    };
    let tail = [2, 0, 7, 4, 192, 0, 2, 1, 1, 2, 4, 0, 1, b'a', 6, 0, 0];
    assert_eq!(encode(&Frame::Open(Box::new(open))), with_id(&tail));
}

#[test]
fn unknown_fields_are_skipped() {
    let (frame, len) = decode(&with_id(&[99, 0, 2, 1, 2])).unwrap().unwrap();
    assert_eq!((frame, len), (Frame::Open(Box::new(Open::new(id()))), 30));
    assert_eq!(
        decode(&[2, 0, 0, 4, 9, 0, 1, 1, 77]),
        Ok(Some((Frame::Admitted, 8)))
    );
}

#[rstest::rstest]
#[case::type_zero(vec![0], FrameError::Type(0))]
#[case::reserved_data(vec![4, 0, 0, 0], FrameError::Type(4))]
#[case::too_long_is_told_by_the_header(vec![1, 0, 0x10, 1], FrameError::TooLong(4097))]
#[case::empty_open(open_frame(&[]), FrameError::Short("version"))]
#[case::no_mode(open_frame(&[1]), FrameError::Short("mode"))]
#[case::version(open_frame(&[2, 0]), FrameError::Version(2))]
#[case::mode(open_frame(&[1, 1]), FrameError::Mode(1))]
#[case::no_id(open_frame(&[1, 0]), FrameError::NoConnection)]
#[case::overrun(with_id(&[4, 0, 9, b'a']), FrameError::Overrun)]
#[case::repeated(with_id(&[4, 0, 1, b'a', 4, 0, 1, b'b']), FrameError::Repeated(4))]
#[case::family(with_id(&[2, 0, 7, 5, 1, 2, 3, 4, 0, 1]), FrameError::Field { kind: 2, expected: "family, address and port" })]
#[case::http_says_more(with_id(&[6, 0, 1, 1]), FrameError::Field { kind: 6, expected: "nothing" })]
#[case::trailing(with_id(&[3, 0, 8, 4, 1, 2, 3, 4, 0, 1, 0]), FrameError::Field { kind: 3, expected: "family, address and port" })]
#[case::line_in_name(with_id(&[4, 0, 1, b'\n']), FrameError::Field { kind: 4, expected: "1 to 255 visible ASCII bytes" })]
#[case::line_in_identity(with_id(&[5, 0, 1, b'\n']), FrameError::Field { kind: 5, expected: "1 to 512 bytes of plain text" })]
#[case::no_code(vec![3, 0, 0, 0], FrameError::Code)]
#[case::loud_code(b"\x03\0\0\x01A".to_vec(), FrameError::Code)]
#[case::admitted_overrun(vec![2, 0, 0, 1, 1], FrameError::Overrun)]
fn malformed_frames_say_what_was_expected(#[case] bytes: Vec<u8>, #[case] error: FrameError) {
    assert_eq!(decode(&bytes), Err(error));
}

#[test]
fn facts_that_do_not_fit_are_left_out() {
    let open = Open {
        authority: Some("x".repeat(256)),
        identity: Some("a\nb".into()),
        ..Open::new(id())
    };
    let bytes = encode(&Frame::Open(Box::new(open)));
    assert_eq!(
        decode(&bytes),
        Ok(Some((Frame::Open(Box::new(Open::new(id()))), bytes.len())))
    );
    assert_eq!(
        encode(&Frame::Refused("no such\n".into())),
        b"\x03\0\0\x07refused"
    );
}

#[test]
fn every_denial_can_be_told() {
    for denial in crate::admit::Denial::ALL {
        let frame = Frame::Refused(denial.code().to_owned());
        let bytes = encode(&frame);
        assert_eq!(decode(&bytes), Ok(Some((frame, bytes.len()))));
    }
}

fn address() -> impl Strategy<Value = Option<SocketAddr>> {
    proptest::option::of(any::<SocketAddr>().prop_map(|address| {
        // Scope and flow do not travel; mapped addresses come out as IPv4.
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }))
}

fn frame() -> impl Strategy<Value = Frame> {
    let open = (
        any::<[u8; 16]>(),
        address(),
        address(),
        proptest::option::of("[!-~]{1,255}"),
        proptest::option::of("[^\\p{Cc}]{1,128}"),
        any::<bool>(),
    )
        .prop_map(|(id, source, destination, authority, identity, http)| {
            let connection = ConnectionId(id);
            Frame::Open(Box::new(Open {
                connection,
                source,
                destination,
                authority,
                identity,
                http,
            }))
        });
    prop_oneof![
        open,
        Just(Frame::Admitted),
        "[a-z0-9_]{1,64}".prop_map(Frame::Refused)
    ]
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_went(frame in frame(), behind in any::<Vec<u8>>()) {
        let mut bytes = encode(&frame);
        let len = bytes.len();
        for cut in 0..len {
            prop_assert_eq!(decode(&bytes[..cut]), Ok(None));
        }
        bytes.extend(behind);
        prop_assert_eq!(decode(&bytes), Ok(Some((frame, len))));
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0u8..5, bytes in any::<Vec<u8>>()) {
        if let Ok(Some((_, len))) = decode(&bytes) {
            prop_assert!(len <= bytes.len());
        }
        let mut framed = vec![kind, 0, 0, u8::try_from(bytes.len().min(255)).unwrap(), 1, 0];
        framed.extend(&bytes);
        if let Ok(Some((_, len))) = decode(&framed) {
            prop_assert!(len <= framed.len());
        }
    }
}
