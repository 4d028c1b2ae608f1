//! Handshakes over a pipe, both ends on one thread: what a connection costs before its first byte.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkGroup, Criterion, measurement::WallTime};
use portcullis::{
    admit::{Denied, Grant, PeerFacts},
    clock,
    net::Buffered,
    tls::{
        Accepted, ClientTls, Connected, EdgeMaterial, Judge, LinkRole, NameCheck, ServerTls,
        accept, connect,
    },
};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    runtime::Runtime,
};
use tokio_rustls::TlsConnector;

use crate::material::{ACCEPTOR, Material};

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn anybody() -> Judge {
    Arc::new(|peer: Option<&PeerFacts>| {
        Ok::<_, Denied>(Grant {
            rule: "any".to_owned(),
            identity: String::new(),
            until: peer.map(|p| p.chain_not_after),
        })
    })
}

fn name() -> ServerName<'static> {
    ServerName::try_from(ACCEPTOR).unwrap()
}

/// Both ends of a link, after one byte each way: tickets travel with it.
pub(crate) async fn link(
    server: &ServerTls,
    client: &ClientTls,
) -> (Accepted<DuplexStream>, Connected<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (accepted, connected) = tokio::join!(
        Box::pin(accept(Buffered::new(far), server, anybody())),
        Box::pin(connect(Buffered::new(near), client, name(), anybody()))
    );
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    accepted.stream.write_all(b"!").await.unwrap();
    accepted.stream.flush().await.unwrap();
    connected.stream.read_u8().await.unwrap();
    (accepted, connected)
}

/// A client of the gateway, and whether its session was resumed.
async fn edge(server: &ServerTls, client: &TlsConnector) -> HandshakeKind {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (accepted, connected) = tokio::join!(
        accept(Buffered::new(far), server, anybody()),
        client.connect(name(), near)
    );
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    accepted.stream.write_all(b"!").await.unwrap();
    accepted.stream.flush().await.unwrap();
    connected.read_u8().await.unwrap();
    connected.get_ref().1.handshake_kind().unwrap()
}

pub(crate) fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    let runtime = runtime();
    let material = Material::new();

    let (own, common) = material.generation(LinkRole::Gateway);
    let client = || ClientTls::link(&own, &common.tls, NameCheck::ServerName).unwrap();
    let (theirs, options) = material.generation(LinkRole::Acceptor);
    let server = ServerTls::link(&theirs, &options.tls).unwrap();
    group.bench_function("link, full", |bencher| {
        // a client that has met nobody before
        bencher.to_async(&runtime).iter_batched(
            client,
            |client| async { drop(link(&server, &{ client }).await) },
            BatchSize::SmallInput,
        );
    });
    let again = client();
    let resumed = runtime.block_on(async {
        drop(link(&server, &again).await);
        let (_, connected) = link(&server, &again).await;
        connected.session.resumed
    });
    if resumed {
        group.bench_function("link, resumed", |bencher| {
            bencher
                .to_async(&runtime)
                .iter(|| async { drop(link(&server, &again).await) });
        });
    }

    let edge_material = EdgeMaterial::load_parts(
        [(
            material.path("acceptor.pem").as_path(),
            material.path("acceptor.key").as_path(),
            None,
        )],
        None,
        &common.tls,
        None,
        clock::now(),
    )
    .unwrap();
    let server = ServerTls::server(&edge_material, &common.tls, Vec::new(), false).unwrap();
    let mut roots = RootCertStore::empty();
    let trust = CertificateDer::from_pem_file(material.path("trust.pem")).unwrap();
    roots.add(trust).unwrap();
    let config = || {
        ClientConfig::builder_with_provider(own.provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth()
    };
    group.bench_function("edge, full", |bencher| {
        bencher.to_async(&runtime).iter_batched(
            || TlsConnector::from(Arc::new(config())),
            |client| async { edge(&server, &{ client }).await },
            BatchSize::SmallInput,
        );
    });
    let again = TlsConnector::from(Arc::new(config()));
    let kind = runtime.block_on(async {
        edge(&server, &again).await;
        edge(&server, &again).await
    });
    assert_eq!(kind, HandshakeKind::Resumed);
    group.bench_function("edge, resumed", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(|| async { edge(&server, &again).await });
    });
    least(&mut group, &material, own.provider());
    group.finish();
}

/// What no handshake does without.
fn least(group: &mut BenchmarkGroup<'_, WallTime>, material: &Material, provider: &CryptoProvider) {
    let exchanges = provider.kx_groups.iter();
    let exchange = exchanges
        .min_by_key(|exchange| exchange.name() != NamedGroup::X25519)
        .unwrap();
    let peer = exchange.start().unwrap();
    let key = PrivateKeyDer::from_pem_file(material.path("acceptor.key")).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let offered = [SignatureScheme::ECDSA_NISTP256_SHA256];
    let signer = key.choose_scheme(&offered).unwrap();
    group.bench_function("one key exchange and one signature", |bencher| {
        bencher.iter(|| {
            let done = exchange.start_and_complete(peer.pub_key()).unwrap();
            (done.secret, signer.sign(&[7; 130]).unwrap())
        });
    });
}
