//! Bytes from one side to the other: the loop alone, and with TLS under one side.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use criterion::{Criterion, Throughput};
use portcullis::{
    net::{Hold, RelayCause, RelayOptions, relay},
    tls::{ClientTls, LinkRole, NameCheck, ServerTls},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::{
    handshake::{link, runtime},
    material::Material,
};

const BYTES: usize = 4 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Gives so many octets, takes any number, at no cost.
struct Free(usize);

impl Hold for Free {}

impl AsyncRead for Free {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.0.min(into.remaining()).min(ZEROS.len());
        into.put_slice(&ZEROS[..n]);
        self.0 -= n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Free {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Bytes(u64::try_from(BYTES).unwrap()));
    let runtime = runtime();
    group.bench_function("loop", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            let (mut from, mut to) = (Free(BYTES), Free(0));
            let end = relay(&mut from, &mut to, &RelayOptions::default()).await;
            assert_eq!(end.a_to_b, u64::try_from(BYTES).unwrap());
        });
    });

    let material = Material::new();
    let (own, common) = material.generation(LinkRole::Gateway);
    let client = ClientTls::link(&own, &common.tls, NameCheck::ServerName).unwrap();
    let (theirs, common) = material.generation(LinkRole::Acceptor);
    let server = ServerTls::link(&theirs, &common.tls).unwrap();
    // sealed at one end, opened at the other, with a pipe's two copies between
    group.bench_function("over TLS", |bencher| {
        bencher.to_async(&runtime).iter_custom(|times| {
            let (server, client) = (&server, &client);
            async move {
                let (mut accepted, mut connected) = link(server, client).await;
                let whole = BYTES * usize::try_from(times).unwrap();
                let began = std::time::Instant::now();
                let send = async {
                    let mut left = whole;
                    while left > 0 {
                        let n = left.min(ZEROS.len());
                        connected.stream.write_all(&ZEROS[..n]).await.unwrap();
                        left -= n;
                    }
                    connected.stream.shutdown().await.unwrap();
                };
                let (mut to, options) = (Free(0), RelayOptions::default());
                let (end, ()) = tokio::join!(relay(&mut accepted.stream, &mut to, &options), send);
                assert!(matches!(end.cause, RelayCause::Finished));
                assert_eq!(end.a_to_b, u64::try_from(whole).unwrap());
                began.elapsed()
            }
        });
    });
    group.finish();
}
