"""stunnel: two services in one process as the gateway, one service as the acceptor."""

from systems.base import System, addr, openssl_of, said


class Stunnel(System):
    name = "stunnel"
    mode = "tcp"
    allowlist = False
    descriptors = 5            # both services are in one process, which takes about half its limit
    program = "stunnel4"
    program_env = "STUNNEL"

    @classmethod
    def version(cls):
        return " ".join(next(line for line in said(cls.binary(), "-version").splitlines()
                             if line.startswith("stunnel ")).split()[:2])

    @classmethod
    def tls(cls):
        return openssl_of(said(cls.binary(), "-version"))

    def common(self, role):
        return f"""foreground = yes
pid =
debug = 3
output = {self.site.dir}/{role}.log
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersionMin = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
curves = X25519
libwrap = no
TIMEOUTidle = 300
"""

    def start(self):
        s, p = self.site, self.site.pki
        inner = s.dir / "inner.sock"
        inner.unlink(missing_ok=True)
        gateway = self.write("gateway.conf", self.common("gateway") + f"""[clients]
accept = {addr(s.gateway)}
connect = {inner}
cert = {p.gateway.crt}
key = {p.gateway.key}
[acceptor]
client = yes
accept = {inner}
connect = {addr(s.acceptor_dial)}
cert = {p.client.crt}
key = {p.client.key}
CAfile = {p.ca}
verifyChain = yes
checkHost = acceptor.test
sni = acceptor.test
""")
        acceptor = self.write("acceptor.conf", self.common("acceptor") + f"""[gateways]
accept = {addr(s.acceptor)}
connect = {addr(s.backend)}
cert = {p.acceptor.crt}
key = {p.acceptor.key}
CAfile = {p.ca}
verifyChain = yes
requireCert = yes
""")
        self.run("acceptor", [self.binary(), acceptor])
        self.run("gateway", [self.binary(), gateway])
        self.wait_ready()


SYSTEMS = [Stunnel]
