"""What an adapter is: a gateway and acceptor pair that can be started, weighed and stopped."""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import procs
from pki import Pki


@dataclass
class Site:
    """Where one chain lives: its files and addresses."""
    dir: Path
    pki: Pki
    gateway: tuple             # the gateway listens here
    acceptor: tuple            # the acceptor listens here
    acceptor_dial: tuple       # the gateway connects here (differs when a relay sits between)
    backend: tuple
    allowed: str = "127.0.0.0/26"   # source range that the acceptor lets in
    connections: int = 8000    # clients at once that the chain is told to take


def addr(pair):
    return f"{pair[0]}:{pair[1]}"


def said(*argv):
    """All that a program prints."""
    done = subprocess.run(argv, capture_output=True, text=True)
    return done.stdout + done.stderr


def openssl_of(text):
    """The OpenSSL (or kin) that a program says it runs with, else that it was built with."""
    found = re.findall(r"(?i)(built|compiled|running)\s+(?:with|on)\s+(?:OpenSSL version : )?"
                       r"((?:OpenSSL|LibreSSL|AWS-LC|BoringSSL|wolfSSL) ?[\w.+-]*)", text)
    return sorted(found, key=lambda pair: pair[0].lower() != "running")[0][1]


def cores():
    """How many cores this process and its children may use."""
    return len(os.sched_getaffinity(0))


@dataclass
class System:
    """Subclass this: set the class attributes and write start()."""
    site: Site
    popens: list = field(default_factory=list)

    name = ""
    mode = "http"              # "http" or "tcp"
    http2 = False              # clients may speak HTTP/2
    allowlist = True           # the acceptor checks source ranges
    descriptors = 2            # open files that one TCP-mode connection costs its hungriest process
    idle_descriptors = 2       # the same of one idle client: an HTTP gateway may keep one alone
    program = ""               # looked up on PATH ...
    program_env = ""           # ... unless this variable names the file

    @classmethod
    def binary(cls):
        named = os.environ.get(cls.program_env) if cls.program_env else None
        if named:
            return named if os.access(named, os.X_OK) else None
        return shutil.which(cls.program)

    @classmethod
    def missing(cls):
        """Why the system can't run here, or None."""
        if not cls.binary():
            hint = f" (set {cls.program_env} to its path)" if cls.program_env else ""
            return f"program {cls.program or cls.name} not found{hint}"
        return None

    @classmethod
    def version(cls):
        return ""

    @classmethod
    def tls(cls):
        """The TLS library and its version: no comparison is published without it."""
        raise NotImplementedError

    def start(self):
        raise NotImplementedError

    def write(self, name, text):
        path = self.site.dir / name
        path.write_text(text)
        return path

    def run(self, name, argv, env=None):
        env = {"OPENSSL_CONF": str(self.site.pki.openssl_conf), **(env or {})}
        popen = procs.spawn(argv, self.site.dir / f"{name}.log", env)
        self.popens.append(popen)
        return popen

    def wait_ready(self):
        procs.wait_port(self.site.acceptor, popens=self.popens)
        procs.wait_port(self.site.gateway, popens=self.popens)
        time.sleep(0.2)

    def pids(self):
        return procs.tree(p.pid for p in self.popens)

    def gateway(self):
        """The gateway's process: the acceptor is started before it."""
        return self.popens[-1]

    def stop(self):
        for popen in reversed(self.popens):
            procs.stop(popen)
        self.popens.clear()
