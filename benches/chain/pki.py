"""The test PKI, made with the openssl command: one CA, ECDSA P-256 leaves, and a rogue twin."""

import subprocess
from pathlib import Path

CIPHERSUITE = "TLS_AES_128_GCM_SHA256"

OPENSSL_CONF = f"""openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
MinProtocol = TLSv1.3
Ciphersuites = {CIPHERSUITE}
Groups = X25519
"""


class Leaf:
    """A certificate: .crt, .key and .pem (both in one file, as haproxy wants it)."""

    def __init__(self, base):
        self.crt, self.key, self.pem = (base.with_suffix(s) for s in (".crt", ".key", ".pem"))


class Pki:
    def __init__(self, directory):
        self.dir = Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.openssl_conf = self.dir / "openssl.cnf"
        self.openssl_conf.write_text(OPENSSL_CONF)
        self.ca = self._authority("ca")
        self.gateway = self._leaf("gateway", "gateway.test", "ca", "serverAuth")
        self.acceptor = self._leaf("acceptor", "acceptor.test", "ca", "serverAuth",
                                   "spiffe://bench.test/acceptor/legacy")
        self.client = self._leaf("gateway-client", "gateway-client", "ca", "clientAuth",
                                 "spiffe://bench.test/gateway/edge")
        self.rogue_ca = self._authority("rogue-ca")
        self.rogue_client = self._leaf("rogue-client", "gateway-client", "rogue-ca", "clientAuth",
                                       "spiffe://bench.test/gateway/edge")
        self.rogue_acceptor = self._leaf("rogue-acceptor", "acceptor.test", "rogue-ca", "serverAuth",
                                         "spiffe://bench.test/acceptor/legacy")

    def _openssl(self, *args):
        subprocess.run(["openssl", *map(str, args)], check=True, cwd=self.dir,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _key(self, name):
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        (self.dir / f"{name}.key").chmod(0o600)

    def _authority(self, name):
        self._key(name)
        self._openssl("req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN=bench {name}",
                      "-days", "30", "-out", f"{name}.crt",
                      "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        return self.dir / f"{name}.crt"

    def renew_client(self):
        """The gateway's certificate again, with a new key."""
        self._leaf("gateway-client", "gateway-client", "ca", "clientAuth",
                   "spiffe://bench.test/gateway/edge")

    def _leaf(self, name, dns, issuer, usage, uri=None):
        leaf = Leaf(self.dir / name)
        extensions = self.dir / f"{name}.ext"
        names = [f"DNS:{dns}", "DNS:localhost", "IP:127.0.0.1"] + ([f"URI:{uri}"] if uri else [])
        extensions.write_text(f"subjectAltName={','.join(names)}\n"
                              f"extendedKeyUsage={usage}\nkeyUsage=critical,digitalSignature\n"
                              "basicConstraints=critical,CA:FALSE\n")
        self._key(name)
        self._openssl("req", "-new", "-key", leaf.key, "-subj", f"/CN={dns}", "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.crt",
                      "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "30",
                      "-extfile", extensions, "-out", leaf.crt)
        leaf.pem.write_bytes(leaf.crt.read_bytes() + leaf.key.read_bytes())
        return leaf
