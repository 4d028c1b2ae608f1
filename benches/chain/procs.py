"""Start, stop and weigh processes. Everything is by process id; nothing is by name."""

import hashlib
import os
import random
import socket
import subprocess
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def spawn(argv, log, env=None):
    """Start a program with its output in `log`; returns the Popen."""
    with open(log, "ab") as out:
        return subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out,
                                stderr=out, env={**os.environ, **(env or {})})


def stop(popen, grace=3.0):
    if popen.poll() is not None:
        return
    popen.terminate()
    try:
        popen.wait(grace)
    except subprocess.TimeoutExpired:
        for pid in reversed(tree([popen.pid])):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        popen.wait(5)


def tree(roots):
    """The given process ids and all their descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(_stat(int(entry))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def _stat(pid):
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2:].split()


def cpu_seconds(pids):
    """User plus system time of the processes, all threads (ended threads included)."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICK


def machine_seconds():
    """(busy, idle) CPU seconds of the whole machine."""
    user, nice, system, idle, wait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / TICK, (idle + wait) / TICK


def family_seconds():
    """CPU seconds of this process and all its descendants, ended ones included."""
    ticks = 0
    for pid in tree([os.getpid()]):
        try:
            ticks += sum(map(int, _stat(pid)[11:15]))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return ticks / TICK


def memory_kib(pids):
    """(RSS, PSS) of the processes in KiB. Kernel socket buffers are in neither."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                rss += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss += int(line.split()[1])
    return rss, pss


def threads(pids):
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)


_used_ports = set()


def free_port():
    """A loopback port below the range that outgoing connections take theirs from."""
    for _ in range(1000):
        port = random.randrange(20000, 32000)
        if port in _used_ports:
            continue
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        _used_ports.add(port)
        return port
    raise RuntimeError("no free port")


def wait_port(address, seconds=10.0, popens=()):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for popen in popens:
            if popen.poll() is not None:
                raise RuntimeError(f"{popen.args[0]} ended with status {popen.returncode}")
        try:
            socket.create_connection(address, 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on {address[0]}:{address[1]}")


def core_speed():
    """GB hashed in one CPU second: shows when the host gives slower cores than before."""
    block, began = bytes(1 << 20), time.thread_time()
    for _ in range(64):
        hashlib.sha256(block).digest()
    return 64 * len(block) / 1e9 / (time.thread_time() - began)


class Meter:
    """Times a block: wall seconds, CPU seconds of a system's processes, and of the machine's
    cores the share left idle and the share taken by processes that are none of ours.
    `machine` holds what a sample tells beside its result: that, the gateway's part of the CPU
    time, and how fast a core was."""

    def __init__(self, system):
        self.pids = system.pids()
        self.gateway = tree([system.gateway().pid])

    def __enter__(self):
        self._machine, self._family = machine_seconds(), family_seconds()
        self._wall = time.monotonic()
        self._cpu, self._of_gateway = cpu_seconds(self.pids), cpu_seconds(self.gateway)
        return self

    def __exit__(self, *exc):
        if exc[0] is None:
            self.cpu = cpu_seconds(self.pids) - self._cpu
            of_gateway = cpu_seconds(self.gateway) - self._of_gateway
            self.wall = time.monotonic() - self._wall
            busy, idle = (b - a for a, b in zip(self._machine, machine_seconds()))
            foreign = busy - (family_seconds() - self._family)
            self.machine = {"gateway": of_gateway / self.cpu if self.cpu else 0.0,
                            "idle": max(0.0, min(1.0, idle / (busy + idle))),
                            "other": max(0.0, foreign / (busy + idle)),
                            "speed": core_speed()}
