"""portcullis itself: HTTP mode, and TCP mode over each kind of link."""

import json
import os
import re
from pathlib import Path

from systems.base import System, addr, said

ROOT = Path(__file__).parents[3]


def q(value):
    """A TOML string."""
    return json.dumps(str(value))


class Portcullis(System):
    program = "portcullis"
    program_env = "PORTCULLIS"
    tunnel = None              # TCP mode: how clients travel to the acceptor
    acceptor_mode = "tcp"      # behind an HTTP gateway of ours an acceptor may pass bytes
    workers = 0                # 0: one for each core

    @classmethod
    def binary(cls):
        built = ROOT / "target" / "release" / "portcullis"
        if not os.environ.get(cls.program_env) and os.access(built, os.X_OK):
            return str(built)
        return super().binary()

    @classmethod
    def version(cls):
        return said(cls.binary(), "--version").strip()

    @classmethod
    def tls(cls):
        lock = (ROOT / "Cargo.lock").read_text()
        of = {name: re.search(f'name = "{name}"\nversion = "(.*)"', lock).group(1)
              for name in ("rustls", "aws-lc-rs")}
        return f"rustls {of['rustls']} with aws-lc-rs {of['aws-lc-rs']}"

    def common(self, leaf):
        return f"""[identity]
certificate = {q(leaf.crt)}
key = {q(leaf.key)}
trust = {q(self.site.pki.ca)}

[tls]
min_version = "1.3"
key_exchange = ["x25519"]
ciphers = ["aes128-gcm"]

[limits]
connections = {self.site.connections}
connections_per_ip = 0

[runtime]
workers = {self.workers}

[log]
level = "warn"
access = false

"""

    def start(self):
        s, p = self.site, self.site.pki
        tunnel = f'tunnel = "{self.tunnel}"\n' if self.tunnel else ""
        gateway = self.write("gateway.toml", self.common(p.client) + f"""[[listener]]
name = "public"
address = {q(addr(s.gateway))}
mode = "{self.mode}"
certificate = {q(p.gateway.crt)}
key = {q(p.gateway.key)}

[[route]]
backend = "legacy"

[backend.legacy]
acceptors = [{q(addr(s.acceptor_dial))}]
server_name = "acceptor.test"
{tunnel}""")
        acceptor = self.write("acceptor.toml", self.common(p.acceptor) + f"""[[listener]]
name = "legacy"
address = {q(addr(s.acceptor))}
mode = "{self.acceptor_mode}"
backend = {q(addr(s.backend))}
trusted_ips = [{q(s.allowed)}]
gateways = ["spiffe://bench.test/gateway/edge"]
""")
        self.run("acceptor", [self.binary(), "acceptor", "--config", acceptor])
        self.run("gateway", [self.binary(), "gateway", "--config", gateway])
        self.wait_ready()


class PortcullisHttp(Portcullis):
    name = "portcullis-http"
    http2 = True
    idle_descriptors = 1


class PortcullisHttpBoth(Portcullis):
    """As portcullis-http, but the acceptor reads and checks every request too."""
    name = "portcullis-http-both"
    http2 = True
    idle_descriptors = 1
    acceptor_mode = "http"


class PortcullisTcp(Portcullis):
    """A link connection for each client, as the others have it."""
    name = "portcullis-tcp"
    mode = "tcp"
    tunnel = "direct"


class PortcullisReuse(Portcullis):
    """One client after the other on kept links."""
    name = "portcullis-reuse"
    mode = "tcp"
    tunnel = "reuse"


class PortcullisMux(Portcullis):
    """What "auto" is between two ends of ours."""
    name = "portcullis-mux"
    mode = "tcp"
    tunnel = "mux"


SYSTEMS = [PortcullisHttp, PortcullisHttpBoth, PortcullisTcp, PortcullisReuse, PortcullisMux]
