//! Streams of HTTP/2 whose peer is shut out while they are under way: at the side of the callers,
//! and on the link.

use std::time::{Duration, Instant};

use bytes::Bytes;
use portcullis::pki::{Reason, Role};

use super::{
    Chain, backend,
    h2::{self, block, over},
    site,
};
use crate::world::{Leaf, Running, World, until};

/// What is promised, from the write to the end of the last connection.
const PROMISED: Duration = Duration::from_secs(2);

/// A request whose body is given back as it comes, for as long as it comes.
struct Flow {
    send: ::h2::SendStream<Bytes>,
    receive: ::h2::RecvStream,
}

impl Flow {
    async fn open(sender: &h2::Sender, path: &str) -> Self {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = h2::request("POST", path).body(()).unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        let receive = response.await.unwrap().into_body();
        let mut flow = Self { send, receive };
        assert!(flow.works().await);
        flow
    }

    async fn works(&mut self) -> bool {
        let sent = self.send.send_data(Bytes::from_static(b"ping"), false);
        sent.is_ok() && matches!(self.receive.data().await, Some(Ok(data)) if data == "ping")
    }

    /// Waits for its end, which must not look like one.
    async fn cut(&mut self) {
        let end = self.receive.data().await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }
}

fn ended(process: &Running, who: &str) -> usize {
    process.count(|line| {
        line["message"] == "access"
            && line["reason"] == "rules_changed"
            && line["identity"].as_str().is_some_and(|i| i.ends_with(who))
    })
}

#[test]
fn a_revoked_caller_loses_its_streams_and_no_other_does() {
    let world = World::new();
    let leaves = ["one", "two"].map(|name| world.issue(Role::Client, name, &[]));
    let echo = h2::echo(world.address());
    let listener = format!(
        "client_ca = {:?}\nclient_crl = {:?}\nclients = [\"spiffe://example.internal/client/*\"]",
        world.authority.trust(),
        world.authority.crl()
    );
    let chain = Chain::new(world, echo.address, &listener, "protocol = \"h2\"");
    block(async {
        let connect = async |leaf: &Leaf| {
            let client = chain.world.client().certificate(leaf);
            over(chain.h2_stream(&client).await).await
        };
        let (victim, bystander) = (connect(&leaves[0]).await, connect(&leaves[1]).await);
        let mut victims = [
            Flow::open(&victim, "/first").await,
            Flow::open(&victim, "/second").await,
        ];
        let mut other = Flow::open(&bystander, "/other").await;
        let begun = Instant::now();
        let authority = &chain.world.authority;
        authority
            .revoke("client/one", Reason::KeyCompromise)
            .unwrap();
        for flow in &mut victims {
            flow.cut().await;
        }
        assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
        assert!(other.works().await);
    });
    for path in ["/first", "/second"] {
        let line = chain.line(path);
        assert_eq!(line["reason"], "rules_changed", "{line}");
        let detail = line["detail"].as_str().unwrap();
        assert!(detail.contains("certificate_revoked"), "{line}");
        assert!(
            detail.contains("client/one") && detail.contains("serial"),
            "{line}"
        );
    }
    assert_eq!(ended(&chain.gateway, "/two"), 0);
}

#[test]
fn a_revoked_gateway_loses_its_streams_and_no_other_does() {
    let world = World::new();
    let echo = h2::echo(world.address());
    let to = echo.address.to_string();
    let (acceptor, link) = world.http_acceptor(&to, "protocol = \"h2\"");
    let edges = ["edge-1", "edge-2"].map(|name| {
        let leaf = match name {
            "edge-1" => world.leaf(Role::Gateway, name),
            _ => world.issue(Role::Gateway, name, &[]),
        };
        let edge = world.address();
        let text = world.common_as(&leaf, name, "")
            + &format!(
                "[[listener]]\nname = \"public\"\naddress = \"{edge}\"\nmode = \"http\"\n{}\n\
                 [[route]]\nbackend = \"legacy\"\n{}",
                site(&world),
                backend(
                    &world,
                    "legacy",
                    link,
                    "protocol = \"h2\"\npool = { ready = 0 }"
                )
            );
        (world.start_as("gateway", name, &text), edge)
    });
    let [(_first, at_victim), (_second, at_other)] = &edges;
    block(async {
        let connect = async |to: &std::net::SocketAddr| {
            let stream = h2::stream_to(*to, &world.client()).await;
            over(stream).await
        };
        let (victim, bystander) = (connect(at_victim).await, connect(at_other).await);
        let mut victims = [
            Flow::open(&victim, "/first").await,
            Flow::open(&victim, "/second").await,
        ];
        let mut other = Flow::open(&bystander, "/other").await;
        let begun = Instant::now();
        let authority = &world.authority;
        authority
            .revoke("gateway/edge-1", Reason::KeyCompromise)
            .unwrap();
        for flow in &mut victims {
            flow.cut().await;
        }
        assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
        assert!(other.works().await);
    });
    until("the lines of the link", || {
        (ended(&acceptor, "/edge-1") > 0).then_some(())
    });
    assert_eq!(ended(&acceptor, "/edge-2"), 0);
}
