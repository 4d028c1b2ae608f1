"""HAProxy as gateway and as acceptor, in HTTP mode and in TCP mode."""

from systems.base import System, addr, openssl_of, said


class Haproxy(System):
    program = "haproxy"
    program_env = "HAPROXY"
    reuse = ""

    @classmethod
    def version(cls):
        return "HAProxy " + said(cls.binary(), "-v").split()[2].split("-")[0]

    @classmethod
    def tls(cls):
        return openssl_of(said(cls.binary(), "-vv"))

    def common(self):
        return f"""global
    maxconn {self.site.connections}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode {self.mode}
    maxconn {self.site.connections}
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s
"""

    def start(self):
        s, p = self.site, self.site.pki
        alpn = "alpn h2,http/1.1" if self.http2 else ""
        always = "http-reuse always" if self.mode == "http" else ""
        gateway = self.write("gateway.cfg", self.common() + f"""frontend clients
    bind {addr(s.gateway)} ssl crt {p.gateway.pem} curves X25519 {alpn}
    default_backend acceptor
backend acceptor
    {always}
    server acceptor {addr(s.acceptor_dial)} ssl crt {p.client.pem} ca-file {p.ca} verify required verifyhost acceptor.test sni str(acceptor.test) {self.reuse}
""")
        acceptor = self.write("acceptor.cfg", self.common() + f"""frontend gateways
    bind {addr(s.acceptor)} ssl crt {p.acceptor.pem} curves X25519 ca-file {p.ca} verify required
    tcp-request connection reject unless {{ src {s.allowed} }}
    tcp-request session reject unless {{ ssl_c_s_dn(cn) -m str gateway-client }}
    default_backend legacy
backend legacy
    {always}
    server legacy {addr(s.backend)}
""")
        self.run("acceptor", [self.binary(), "-db", "-f", acceptor])
        self.run("gateway", [self.binary(), "-db", "-f", gateway])
        self.wait_ready()


class HaproxyHttp(Haproxy):
    name = "haproxy-http"
    http2 = True


class HaproxyTcp(Haproxy):
    name = "haproxy-tcp"
    mode = "tcp"


class HaproxyTcpFull(HaproxyTcp):
    """As haproxy-tcp, but every upstream handshake is a full one."""
    name = "haproxy-tcp-full"
    reuse = "no-ssl-reuse"


SYSTEMS = [HaproxyHttp, HaproxyTcp, HaproxyTcpFull]
