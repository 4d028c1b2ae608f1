//! One connection and one request through both roles.

use std::io::{Read as _, Write as _};

use crate::world::{Backend, World};

#[test]
fn bytes_pass_both_ways_and_ends_stay_ends() {
    let world = World::new();
    let backend = Backend::echo(world.address());
    let (acceptor, link) = world.plain_acceptor(&backend.address.to_string(), "");
    let (gateway, edge) = world.plain_gateway("tcp", link, "", "");
    let mut stream = world.client().connect(edge, "site.test").unwrap();
    stream.write_all(b"through the gate").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert_eq!(back, "through the gate");
    let (left, right) = (gateway.access("admitted"), acceptor.access("admitted"));
    assert_eq!(left["connection"], right["connection"]);
    assert_eq!(
        right["identity"],
        "spiffe://example.internal/gateway/edge-1"
    );
    assert_eq!(left["bytes_in"], 16);
    assert_eq!(right["bytes_out"], 16);
}
