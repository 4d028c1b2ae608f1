//! A gateway with everything open that can be open through one: both kinds of tunnel, a switched
//! connection, and kept ones.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
};

use portcullis::pki::Role;

use super::{Backend, Client, Leaf, Running, TlsStream, World, echo, get};

/// Whether a word comes back.
pub(crate) fn answers(stream: &mut TlsStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"word").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"word"
}

/// Waits for the end; whether it broke off, without a close that would make it look complete.
pub(crate) fn broken(stream: &mut TlsStream) -> bool {
    stream.read_exact(&mut [0]).is_err()
}

/// Sends a request that switches protocols, to what gives back what comes.
pub(crate) fn switch(stream: &mut TlsStream) {
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    assert!(answers(stream));
}

/// Answers requests with their `X-Secret`, switches where it is asked to, and gives back what then
/// comes.
pub(crate) fn switching(world: &World) -> Backend {
    Backend::serve(world.address(), |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            if text.to_ascii_lowercase().contains("upgrade: echo") {
                let go = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(go).unwrap();
                return echo(&mut stream);
            }
            let secret = text.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("x-secret").then_some(value)
            });
            let body = secret.unwrap_or("none");
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Where an edge's links go.
#[derive(Clone, Copy)]
pub(crate) struct Links {
    pub(crate) http: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// The text of three listeners, each with its route and backend: http, a tunnel with a link of its
/// own, and one over links that are used again. `client` stands in the listeners, `link` in the
/// backends, `web` in the http one.
pub(crate) struct Ways<'a> {
    /// What their names begin with.
    pub(crate) prefix: &'a str,
    pub(crate) bind: IpAddr,
    pub(crate) links: Links,
    pub(crate) client: &'a str,
    pub(crate) link: &'a str,
    pub(crate) web: &'a str,
}

impl Ways<'_> {
    /// The text, and where clients connect.
    pub(crate) fn text(&self, world: &World) -> (String, [SocketAddr; 3]) {
        let site = world.leaf(Role::Server, "site");
        let at = [(); 3].map(|()| world.address());
        let Self {
            prefix,
            bind,
            links,
            client,
            link,
            web,
        } = self;
        let web = format!("pool = {{ ready = 0 }}\n{web}");
        let ways = [
            ("web", "http", links.http, web.as_str()),
            ("direct", "tcp", links.tcp, "tunnel = \"direct\""),
            ("reused", "tcp", links.tcp, "tunnel = \"reuse\""),
        ];
        let text = ways.iter().zip(at).map(|((name, mode, acceptor, more), address)| {
            format!(
                "[[listener]]\nname = \"{prefix}{name}\"\naddress = \"{address}\"\nmode = \"{mode}\"\n\
                 certificate = {:?}\nkey = {:?}\n{client}\n\
                 [[route]]\nlistener = \"{prefix}{name}\"\nbackend = \"{prefix}{name}\"\n\
                 [backend.{prefix}{name}]\nacceptors = [\"{acceptor}\"]\nbind = \"{bind}\"\n\
                 server_name = \"legacy.internal\"\n{link}\n{more}\n",
                site.certificate, site.key
            )
        });
        (text.collect(), at)
    }
}

/// What a client has open.
pub(crate) struct Open {
    pub(crate) direct: TlsStream,
    pub(crate) reused: TlsStream,
    pub(crate) switched: TlsStream,
    pub(crate) kept: TlsStream,
}

impl Open {
    /// The addresses are those of [`Ways::text`].
    pub(crate) fn new(client: &Client, [web, direct, reused]: [SocketAddr; 3]) -> Self {
        let connect = |to| client.connect(to, "site.test").unwrap();
        let mut open = Self {
            direct: connect(direct),
            reused: connect(reused),
            switched: connect(web),
            kept: connect(web),
        };
        assert!(answers(&mut open.direct) && answers(&mut open.reused));
        switch(&mut open.switched);
        assert_eq!(get(&mut open.kept, "/").0, 200);
        open
    }

    /// All but the one that serves requests.
    pub(crate) fn tunnels(&mut self) -> [&mut TlsStream; 3] {
        [&mut self.direct, &mut self.reused, &mut self.switched]
    }

    /// Whether all that stays open still works.
    pub(crate) fn works(&mut self) -> bool {
        self.tunnels().into_iter().all(answers) && get(&mut self.kept, "/").0 == 200
    }
}

/// One gateway, and what is open through it.
pub(crate) struct Edge {
    pub(crate) gateway: Running,
    /// Its http listener.
    pub(crate) at: SocketAddr,
    pub(crate) open: Open,
}

impl Edge {
    /// `leaf` is who it is, `bind` where it comes from; `credentials` stand in the http backend.
    pub(crate) fn start(
        world: &World,
        name: &str,
        leaf: &Leaf,
        bind: IpAddr,
        links: Links,
        credentials: &str,
    ) -> Self {
        let ways = Ways {
            prefix: "",
            bind,
            links,
            client: "",
            link: "",
            web: credentials,
        };
        let (text, at) = ways.text(world);
        let text = world.common_as(leaf, name, "") + &text;
        Self {
            gateway: world.start_as("gateway", name, &text),
            at: at[0],
            open: Open::new(&world.client(), at),
        }
    }
}
