"""Checks that a chain is what it claims: mTLS is enforced on both sides, and with what TLS."""

import contextlib
import select
import socket
import ssl
import subprocess
import threading

import procs

GROUPS = {0x001d: "X25519", 0x0017: "P-256", 0x11ec: "X25519MLKEM768"}
SUITES = {0x1301: "AES128-GCM", 0x1302: "AES256-GCM", 0x1303: "CHACHA20"}
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
GET = b"GET /1k HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"


def server_hello(data):
    """(suite, group, resumed) from the first bytes a TLS 1.3 server sends, or None."""
    if len(data) < 50 or data[0] != 22 or data[5] != 2:
        return None
    if data[11:43] == RETRY:
        return "hello-retry", None, False
    at = 44 + data[43]
    suite = int.from_bytes(data[at:at + 2], "big")
    end = at + 5 + int.from_bytes(data[at + 3:at + 5], "big")
    at, group, resumed = at + 5, None, False
    while at + 4 <= min(end, len(data)):
        kind, size = (int.from_bytes(data[at + i:at + i + 2], "big") for i in (0, 2))
        if kind == 51:
            group = int.from_bytes(data[at + 4:at + 6], "big")
        resumed |= kind == 41
        at += 4 + size
    return SUITES.get(suite, hex(suite)), GROUPS.get(group, group), resumed


class Relay:
    """A TCP relay that notes every ServerHello that passes."""

    def __init__(self, target):
        self.target, self.hellos = target, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client):
        with contextlib.suppress(OSError), client:
            with socket.create_connection(self.target()) as server:
                first = True
                while True:
                    for source in select.select([client, server], [], [], 30)[0]:
                        data = source.recv(65536)
                        if not data:
                            return
                        if source is server and first:
                            first = False
                            self.hellos.append(server_hello(data))
                        (server if source is client else client).sendall(data)

    def close(self):
        self.listener.close()


def fetch(address, pki, identity=None, source=None):
    """GET /1k over TLS; returns (outcome, negotiated). Only '200' counts as let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if identity:
        context.load_cert_chain(identity.crt, identity.key)
    try:
        with socket.create_connection(address, 5, (source, 0) if source else None) as raw:
            with context.wrap_socket(raw, server_hostname="localhost") as tls:
                tls.sendall(GET)
                data = b""
                while chunk := tls.recv(65536):
                    data += chunk
                if not data:
                    return "closed without an answer", None
                return data.split(b" ", 2)[1].decode(errors="replace"), tls.cipher()[0]
    except OSError as e:
        return getattr(e, "reason", None) or type(e).__name__, None


def negotiated(address, pki):
    """Suite and group a default OpenSSL client gets from a listener."""
    out = subprocess.run(["openssl", "s_client", "-connect", f"{address[0]}:{address[1]}", "-tls1_3",
                          "-cert", pki.client.crt, "-key", pki.client.key],
                         input="", capture_output=True, text=True, timeout=10).stdout
    pick = [line.strip() for line in out.splitlines()
            if line.startswith(("New, ", "Server Temp Key", "Peer Temp Key"))]
    return "; ".join(pick)


@contextlib.contextmanager
def rogue_acceptor(pki):
    """A TLS server with a certificate of another CA that answers 200 to anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.rogue_acceptor.crt, pki.rogue_acceptor.key)
    listener = socket.create_server(("127.0.0.1", procs.free_port()))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True) as tls:
                    tls.recv(65536)
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.close()


def verify(rig, cls):
    """Run all checks on one system; returns a list of (check, passed, detail)."""
    checks, pki = [], rig.pki
    relay = Relay(lambda: site.acceptor)
    site = rig.site(rig.web, relay.address)
    system = cls(site)
    try:
        system.start()
        for _ in range(3):
            outcome, _ = fetch(site.gateway, pki)
        checks.append(("through the chain", outcome == "200", outcome))
        checks.append(("client leg", True, negotiated(site.gateway, pki)))
        hellos = [h for h in relay.hellos if h]
        checks.append(("mTLS leg", bool(hellos), "; ".join(
            f"{h[0]} {h[1]}{' resumed' if h[2] else ''}" for h in hellos)))
        outcome, _ = fetch(site.acceptor, pki, pki.client)
        checks.append(("acceptor takes the gateway certificate", outcome == "200", outcome))
        outcome, _ = fetch(site.acceptor, pki)
        checks.append(("acceptor refuses no certificate", outcome != "200", outcome))
        outcome, _ = fetch(site.acceptor, pki, pki.rogue_client)
        checks.append(("acceptor refuses another CA's certificate", outcome != "200", outcome))
        outcome, _ = fetch(site.acceptor, pki, pki.gateway)
        checks.append(("acceptor refuses a server certificate as a client's", outcome != "200", outcome))
        if cls.allowlist:
            outcome, _ = fetch(site.acceptor, pki, pki.client, source="127.0.0.200")
            checks.append(("acceptor refuses a source outside the range", outcome != "200", outcome))
    finally:
        system.stop()
        relay.close()
    with rogue_acceptor(pki) as address:
        system = cls(rig.site(rig.web, address))
        try:
            system.start()
            outcome, _ = fetch(system.site.gateway, pki)
            checks.append(("gateway refuses another CA's acceptor", outcome != "200", outcome))
        finally:
            system.stop()
    return checks


def run(rig, chosen):
    bad = 0
    for cls in chosen:
        print(f"{cls.name}: {cls.version()}, {cls.tls()}")
        for check, passed, detail in verify(rig, cls):
            bad += not passed
            print(f"  {'ok  ' if passed else 'FAIL'} {check}: {detail}", flush=True)
    return 1 if bad else 0
