//! What is read and written for each request and each client of a link.

use std::{hint::black_box, net::IpAddr};

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis::wire::{
    forwarded::{Hop, Scheme, Stamp, Trust, prepare_request, strip_hop_by_hop},
    framing::{Chunks, Head, Progress},
    link::{ConnectionId, Frame, Open, decode, encode},
};

/// What a browser sends.
const HEAD: &str = "GET /path/to/page?with=query HTTP/1.1\r\n\
    Host: api.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    X-Forwarded-For: 198.51.100.7\r\n\
    Connection: keep-alive\r\n\r\n";

fn headers() -> HeaderMap {
    HEAD.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("messages");
    let (mut head, mut spare) = (Head::default(), HeaderMap::new());
    group.bench_function("head read", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(HEAD.as_bytes());
            let end = head.read(bytes, 32 * 1024).unwrap().unwrap();
            let arrived = head.take(&bytes[..end], std::mem::take(&mut spare));
            spare = arrived.unwrap().parts.headers;
        });
    });
    let chunked = format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(64) + "0\r\n\r\n";
    group.bench_function("64 chunks judged", |bencher| {
        bencher.iter(|| {
            let (mut chunks, mut bytes) = (Chunks::default(), black_box(chunked.as_bytes()));
            while let Progress::Passed(n) | Progress::Data(n) = chunks.read(bytes).unwrap() {
                bytes = &bytes[n..];
            }
        });
    });
    let hop = Hop {
        client: IpAddr::from([203, 0, 113, 9]),
        by: None,
        scheme: Scheme::Https,
        host: "api.example.org",
    };
    let stamp = Stamp::new(&hop);
    group.bench_function("headers rewritten", |bencher| {
        bencher.iter_batched(
            headers,
            |mut headers| {
                strip_hop_by_hop(&mut headers);
                prepare_request(&mut headers, &stamp, Trust::Untrusted);
                headers
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("stamp written", |bencher| {
        bencher.iter(|| Stamp::new(black_box(&hop)));
    });
    let open = Frame::Open(Box::new(Open {
        source: Some(([203, 0, 113, 9], 50_000).into()),
        destination: Some(([192, 0, 2, 1], 443).into()),
        authority: Some("api.example.org".to_owned()),
        ..Open::new(ConnectionId([7; 16]))
    }));
    group.bench_function("OPEN written", |bencher| {
        bencher.iter(|| encode(black_box(&open)));
    });
    let bytes = encode(&open);
    group.bench_function("OPEN read", |bencher| {
        bencher.iter(|| decode(black_box(&bytes)).unwrap());
    });
    group.finish();
}
