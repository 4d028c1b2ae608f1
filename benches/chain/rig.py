"""The parts around the system under test: built tools, backends, and new sites."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import procs
from pki import Pki
from systems.base import Site, addr

HERE = Path(__file__).parent
BULK_BYTES = 64 << 20


class Rig:
    """Builds the C tools, makes the PKI, runs the backends; a context manager."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="portcullis-chain-"))
        self.popens = []
        self.meter = procs.Meter       # what stands round each measured block
        self._sites = 0

    def __enter__(self):
        try:
            self.tlsload = self.build("tlsload", "-lssl", "-lcrypto")
            backend = self.build("backend")
            self.pki = Pki(self.dir / "pki")
            self.tool_env = {"OPENSSL_CONF": str(self.pki.openssl_conf)}
            self.web = ("127.0.0.1", procs.free_port())
            self.sink = ("127.0.0.1", procs.free_port())
            self.echo = ("127.0.0.1", procs.free_port())
            self._start_web()
            self._start(self.sink, [backend, self.sink[0], self.sink[1], self.echo[1]])
            self.redis = self._start_redis()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        for popen in reversed(self.popens):
            procs.stop(popen)
        shutil.rmtree(self.dir, ignore_errors=True)

    def build(self, name, *libraries):
        out = self.dir / name
        subprocess.run(["gcc", "-O2", "-Wall", "-o", out, HERE / "tools" / f"{name}.c", *libraries],
                       check=True)
        return out

    def _start(self, address, argv):
        popen = procs.spawn(argv, self.dir / "backends.log")
        self.popens.append(popen)
        procs.wait_port(address, popens=[popen])

    def _start_web(self):
        """nginx: /1k answers 1 KiB from memory, /bulk a 64 MiB file by sendfile."""
        with open(self.dir / "bulk", "wb") as f:
            for _ in range(BULK_BYTES >> 20):
                f.write(b"portcullis bench" * (1 << 16))
        config = self.dir / "web.conf"
        config.write_text(f"""daemon off;
user root;
worker_processes 1;
pid {self.dir}/web.pid;
error_log {self.dir}/web.log error;
events {{ worker_connections 40000; }}
http {{
    access_log off;
    client_body_temp_path {self.dir}/web-body;
    proxy_temp_path {self.dir}/web-proxy;
    fastcgi_temp_path {self.dir}/web-fastcgi;
    uwsgi_temp_path {self.dir}/web-uwsgi;
    scgi_temp_path {self.dir}/web-scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=10;
    server {{
        listen {addr(self.web)} backlog=4096;
        default_type application/octet-stream;
        location = /1k {{ return 200 "{'x' * 1024}"; }}
        location = /bulk {{ alias {self.dir}/bulk; }}
    }}
}}
""")
        self._start(self.web, ["nginx", "-c", config, "-e", self.dir / "web.log"])

    def _start_redis(self):
        if not shutil.which("redis-server"):
            return None
        address = ("127.0.0.1", procs.free_port())
        self._start(address, ["redis-server", "--bind", address[0], "--port", address[1],
                              "--save", "", "--appendonly", "no", "--dir", self.dir])
        return address

    def site(self, backend, relay=None, connections=Site.connections):
        """A fresh site in front of a backend; `relay` is dialled in place of the acceptor."""
        self._sites += 1
        directory = self.dir / f"site{self._sites}"
        directory.mkdir()
        acceptor = ("127.0.0.1", procs.free_port())
        return Site(directory, self.pki, ("127.0.0.1", procs.free_port()), acceptor,
                    relay or acceptor, backend, connections=connections)
