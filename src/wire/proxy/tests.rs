use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader, Tlv as OracleTlv};

use super::*;

fn complete(bytes: &[u8]) -> (Header, usize) {
    match parse(bytes) {
        Ok(Parsed::Complete { header, len }) => (header, len),
        other => panic!("expected a header, got {other:?}"),
    }
}

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = v2::SIGNATURE.to_vec();
    bytes.extend([version_command, family]);
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn v4_body(tlvs: &[u8]) -> Vec<u8> {
    [
        &[192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb][..],
        tlvs,
    ]
    .concat()
}

#[test]
fn a_v1_line_gives_its_addresses() {
    let (header, len) = complete(b"PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\r\n\x16\x03");
    assert_eq!(len, 44);
    assert_eq!(header.source(), Some("192.0.2.1:8080".parse().unwrap()));
    assert_eq!(
        header.destination(),
        Some("198.51.100.2:443".parse().unwrap())
    );
    let (header, _) = complete(b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 0 65535\r\n");
    assert_eq!(header.source(), Some("192.0.2.1:0".parse().unwrap()));
    assert_eq!(
        header.destination(),
        Some("[2001:db8::1]:65535".parse().unwrap())
    );
}

#[rstest::rstest]
#[case(b"PROXY UNKNOWN\r\n")]
#[case(b"PROXY UNKNOWN ff:ff anything goes here\r\n")]
fn unknown_is_a_probe(#[case] line: &[u8]) {
    let (header, len) = complete(line);
    assert!(header.is_probe());
    assert_eq!(len, line.len());
}

#[rstest::rstest]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 8080 443 \r\n")]
#[case("PROXY TCP4  192.0.2.1 198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP4 192.0.2.1\t198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP4 192.0.2.01 198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP4 192.0.2 198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP4 ::1 ::1 8080 443\r\n")]
#[case("PROXY TCP6 192.0.2.1 198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 08080 443\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 8080 65536\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 +80 443\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 8080\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 8080 443 1\r\n")]
#[case("PROXY UDP4 192.0.2.1 198.51.100.2 8080 443\r\n")]
#[case("PROXY UNKNOWNX\r\n")]
#[case("PROXY tcp4 192.0.2.1 198.51.100.2 8080 443\r\n")]
#[case("PROXY TCP4 192.0.2.1 198.51.100.2 80\r80 443\r\n")]
fn other_v1_lines_are_refused(#[case] line: &str) {
    assert!(
        matches!(parse(line.as_bytes()), Err(ProxyError::Line { .. })),
        "{:?}",
        parse(line.as_bytes())
    );
}

#[test]
fn a_v1_line_ends_within_107_bytes() {
    let mut line = b"PROXY UNKNOWN ".to_vec();
    line.resize(105, b'x');
    assert!(matches!(
        parse(&[&line[..], b"\r\n"].concat()),
        Ok(Parsed::Complete { len: 107, .. })
    ));
    assert_eq!(
        parse(&[&line[..], b"x\r\n"].concat()),
        Err(ProxyError::UnterminatedLine)
    );
}

#[rstest::rstest]
#[case(b"", false)]
#[case(b"P", true)]
#[case(b"PROXY TCP4", true)]
#[case(b"POST / HT", false)]
#[case(b"\r\n\r\n\0", true)]
#[case(b"\r\n\r\nG", false)]
#[case(b"\x16\x03\x01", false)]
fn a_header_is_told_by_its_first_bytes(#[case] first: &[u8], #[case] is: bool) {
    assert_eq!(looks_like_proxy(first), is);
    if !is && !first.is_empty() {
        assert_eq!(parse(first), Err(ProxyError::NotProxy));
    }
}

#[test]
fn what_may_still_be_something_else_is_told_apart() {
    for first in [&b"P"[..], b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT"] {
        assert!(may_become_proxy(first), "{first:?}");
    }
    for first in [
        &b""[..],
        b"\x16\x03",
        b"PO",
        b"PROXY ",
        b"PROXY TCP4",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\r\nGET",
    ] {
        assert!(!may_become_proxy(first), "{first:?}");
    }
}

#[rstest::rstest]
#[case::version(v2(0x11, 0x11, &v4_body(&[])), ProxyError::Version(1))]
#[case::command(v2(0x22, 0x11, &v4_body(&[])), ProxyError::Command(2))]
#[case::family(v2(0x21, 0x41, &v4_body(&[])), ProxyError::Family(0x41))]
#[case::transport(v2(0x21, 0x10, &v4_body(&[])), ProxyError::Family(0x10))]
#[case::udp4(v2(0x21, 0x12, &v4_body(&[])), ProxyError::Datagram(0x12))]
#[case::udp6(v2(0x21, 0x22, &[0; 36]), ProxyError::Datagram(0x22))]
#[case::unix_datagram(v2(0x21, 0x32, &[0; 216]), ProxyError::Datagram(0x32))]
#[case::short(v2(0x21, 0x21, &v4_body(&[])), ProxyError::AddressesShort { expected: 36, actual: 12 })]
#[case::overrun(v2(0x21, 0x11, &v4_body(&[4, 0, 0, 5, 0, 1])), ProxyError::TlvOverrun(31))]
#[case::half_tlv(v2(0x21, 0x11, &v4_body(&[4])), ProxyError::TlvOverrun(28))]
#[case::twice(v2(0x21, 0x11, &v4_body(&[2, 0, 1, b'a', 2, 0, 1, b'b'])), ProxyError::TlvRepeated(2))]
#[case::crc_length(v2(0x21, 0x11, &v4_body(&[3, 0, 1, 0])), ProxyError::TlvLength { kind: 3, actual: 1, expected: "4" })]
#[case::crc(v2(0x21, 0x11, &v4_body(&[3, 0, 4, 0, 0, 0, 0])), ProxyError::Checksum { stated: 0, computed: 0xdca6_b6bb })]
#[case::too_long(v2(0x20, 0x00, &[0; 4081]), ProxyError::TooLong(4097))]
fn malformed_v2_headers_say_what_was_expected(#[case] bytes: Vec<u8>, #[case] error: ProxyError) {
    assert_eq!(parse(&bytes), Err(error));
}

#[test]
fn a_long_unique_id_is_refused_and_cut_when_written() {
    let tlv = [&[5, 0, 129][..], &[1; 129]].concat();
    assert!(matches!(
        parse(&v2(0x21, 0x11, &v4_body(&tlv))),
        Err(ProxyError::TlvLength {
            kind: 5,
            actual: 129,
            ..
        })
    ));
    let address = "192.0.2.1:1".parse().unwrap();
    let extras = Extras {
        unique_id: Some(&[1; 129]),
        authority: None,
    };
    let (header, _) = complete(&encode_v2(address, address, extras));
    assert_eq!(header.tlv(Tlv::UNIQUE_ID), Some(&[1; 128][..]));
}

#[test]
fn local_and_unspec_are_probes_whatever_they_carry() {
    for bytes in [
        v2(0x20, 0x11, &v4_body(&[])),
        v2(0x20, 0x11, &[]),
        v2(0x20, 0xff, &[1, 2, 3]),
        v2(0x20, 0x12, &v4_body(&[])),
        v2(0x21, 0x00, &[1, 2, 3]),
    ] {
        let (header, len) = complete(&bytes);
        assert!(header.is_probe());
        assert_eq!(len, bytes.len());
    }
}

#[test]
fn unix_paths_lose_their_padding() {
    let mut body = vec![0; 216];
    body[..4].copy_from_slice(b"/run");
    body[108..111].copy_from_slice(b"\0ab");
    let (header, _) = complete(&v2(0x21, 0x31, &body));
    let addresses = Addresses::Unix {
        source: b"/run".to_vec(),
        destination: b"\0ab".to_vec(),
    };
    assert_eq!(header.addresses, addresses);
    assert_eq!(header.source(), None);
}

#[test]
fn the_checksum_is_crc32c() {
    // The check value of the CRC catalogues.
    assert_eq!(v2::crc32c_without(b"123456789", 100), 0xe306_9283);
}

/// A header that carries its own checksum.
fn with_checksum(tail: &[u8]) -> Vec<u8> {
    let mut bytes = v2(
        0x21,
        0x11,
        &v4_body(&[&[3, 0, 4, 0, 0, 0, 0][..], tail].concat()),
    );
    let crc = v2::crc32c_without(&bytes, 31);
    bytes[31..35].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let one = || {
        prop_oneof![
            any::<(std::net::Ipv4Addr, u16)>().prop_map(SocketAddr::from),
            any::<(Ipv6Addr, u16)>()
                .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port)),
        ]
    };
    (one(), one())
}

proptest! {
    #[test]
    fn what_we_write_we_read(
        (source, destination) in addresses(),
        id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=128)),
        name in proptest::option::of("[a-z.]{1,255}"),
        behind in any::<Vec<u8>>(),
    ) {
        let line = encode_v1(source, destination);
        prop_assert!(line.len() <= V1_MAX_LEN);
        let extras = Extras { unique_id: id.as_deref(), authority: name.as_deref() };
        for bytes in [line, encode_v2(source, destination, extras)] {
            // However the bytes arrive, nothing behind the header is asked for.
            let mut have = 0;
            while let Parsed::Incomplete { need } = parse(&bytes[..have]).unwrap() {
                prop_assert!(need > have && need <= bytes.len());
                have = need;
            }
            let (header, len) = complete(&[&bytes[..], &behind].concat());
            prop_assert_eq!(len, bytes.len());
            prop_assert_eq!(header.source(), Some(source));
            prop_assert_eq!(header.destination(), Some(destination));
            if header.version == Version::V2 {
                prop_assert_eq!(header.tlv(Tlv::UNIQUE_ID), id.as_deref());
                prop_assert_eq!(header.tlv(Tlv::AUTHORITY), name.as_deref().map(str::as_bytes));
            }
        }
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum(tail in any::<Vec<u8>>(), bit in 0usize..96) {
        let noop = [&[4][..], &u16::try_from(tail.len()).unwrap().to_be_bytes(), &tail].concat();
        let mut bytes = with_checksum(&noop);
        prop_assert!(complete(&bytes).0.tlv(Tlv::CRC32C).is_some());
        bytes[16 + bit / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(parse(&bytes), Err(ProxyError::Checksum { .. })), "bit {bit}");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>(), family in any::<u8>(), version in 0x1eu8..0x24) {
        for start in [&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::", &v2::SIGNATURE] {
            check(&[start, &bytes].concat());
        }
        check(&v2(version, family, &bytes));
        check(&v2(version, 0x11, &v4_body(&bytes)));
    }

    #[test]
    fn lines_like_ours_agree_with_the_oracle(
        line in "PROXY (TCP4|TCP6|UNKNOWN)( [0-9.:a-f]{1,12}){2}( [0-9]{1,6}){1,3}\r\n"
    ) {
        check(line.as_bytes());
    }

    #[test]
    fn the_oracle_reads_what_we_write_and_the_other_way((source, destination) in addresses(), id in proptest::collection::vec(any::<u8>(), 1..=128)) {
        let extras = Extras { unique_id: Some(&id), authority: Some("a.example") };
        check(&encode_v1(source, destination));
        check(&encode_v2(source, destination, extras));
        if source.is_ipv4() == destination.is_ipv4() {
            let mut written = Vec::new();
            ProxyHeader::with_tlvs(
                Some(ProxiedAddress::stream(source, destination)),
                [OracleTlv::Authority("a.example".into()), OracleTlv::UniqueId((&id[..]).into())],
            )
            .encode_v2(&mut written)
            .unwrap();
            prop_assert_eq!(written, encode_v2(source, destination, extras));
        }
    }
}

/// Ours is the stricter reader: whatever it takes, the oracle takes with the same meaning.
fn check(bytes: &[u8]) {
    let oracle = ProxyHeader::parse(bytes, ParseConfig::default());
    match parse(bytes) {
        Ok(Parsed::Complete { header, len }) => {
            assert!(len <= bytes.len() && looks_like_proxy(bytes));
            // What a LOCAL or UNSPEC header carries is skipped by us, judged by the oracle; and it
            // reads no Unix paths. Its text TLVs must be UTF-8, and SSL well-formed.
            let Addresses::Inet {
                source,
                destination,
            } = header.addresses
            else {
                return;
            };
            let (theirs, their_len) = match oracle {
                Ok(read) => read,
                Err(_) if !header.tlvs.is_empty() => return,
                Err(error) => panic!("{bytes:?}: ours took it, the oracle says {error}"),
            };
            assert_eq!(their_len, len);
            let theirs = theirs.proxied_address().unwrap();
            assert_eq!(unmapped(theirs.source), source);
            assert_eq!(unmapped(theirs.destination), destination);
        }
        Ok(Parsed::Incomplete { need }) => {
            assert!(need > bytes.len() && need <= V2_MAX_LEN);
            assert!(
                oracle.is_err(),
                "{bytes:?}: the oracle has a header, ours waits"
            );
        }
        Err(_) => {}
    }
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
