//! Both ends of the link over a pipe.

use super::mint::*;
use crate::tls::{ClientTls, LinkRole, NameCheck, ServerTls, accept, connect};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn link_carries_bytes_between_proven_ends() {
    let folder = Folder::new();
    let ca = Ca::root("root");
    let sub = ca.below("issuing");
    let gateway = sub.leaf(client("spiffe://example.internal/gateway/edge-1"));
    let acceptor = sub.leaf(server("legacy.internal"));
    let gateway = load(
        &folder.identity("g", &gateway, &[&sub], &[&ca]),
        LinkRole::Gateway,
    )
    .unwrap();
    let acceptor = load(
        &folder.identity("a", &acceptor, &[&sub], &[&ca]),
        LinkRole::Acceptor,
    )
    .unwrap();
    let server = ServerTls::link(&acceptor, &options()).unwrap();
    let client = ClientTls::link(&gateway, &options(), NameCheck::ServerName).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from("legacy.internal").unwrap();
    let (accepted, connected) = tokio::join!(
        accept(far, &server, anybody()),
        connect(near, &client, name, anybody())
    );
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    assert!(accepted.ours() && connected.ours);
    assert_eq!(
        accepted.grant.identity,
        "spiffe://example.internal/gateway/edge-1"
    );
    assert_eq!(connected.grant.identity, "dns:legacy.internal");
    assert_eq!(accepted.sni.as_deref(), Some("legacy.internal"));
    assert_eq!(accepted.session.version, "TLSv1.3");
    assert_eq!(accepted.session.group, "X25519MLKEM768");
    connected.stream.write_all(b"ping").await.unwrap();
    connected.stream.flush().await.unwrap();
    let mut got = [0; 4];
    accepted.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
}
