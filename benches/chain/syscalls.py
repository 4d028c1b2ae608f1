"""System calls of one 1 KiB exchange on a kept connection, by strace over both processes."""

import os
import signal
import subprocess
import time

import measure
from scenarios import tlsload

CONNECTIONS = (1, 16)


def run(rig, results, chosen):
    for cls in chosen:
        for connections in CONNECTIONS:
            short = count(rig, cls, connections, 1)
            long = count(rig, cls, connections, 3)
            # what opening and closing cost is in both, and falls out
            more = long["done"] - short["done"]
            figures = {}
            for process in ("gateway", "acceptor"):
                names = set(short[process]) | set(long[process])
                figures[process] = {name: (long[process].get(name, 0) - short[process].get(name, 0)) / more
                                    for name in names}
            shown = ", ".join(f"{p} {sum(figures[p].values()):.2f}" for p in figures)
            print(f"{time.strftime('%H:%M:%S')} {cls.name} x{connections}: {shown} a request", flush=True)
            results.add(cls, [f"x{connections}", cls.name], figures)


def count(rig, cls, connections, seconds):
    """Calls by name of gateway and acceptor while so many seconds of load last."""
    with measure.started(rig, cls, rig.web) as system:
        tlsload(rig, "get", system, "-c", connections, "-p", "/1k", seconds=0.3)
        traces = {}
        for process, popen in zip(("acceptor", "gateway"), system.popens):
            out = system.site.dir / f"{process}.strace"
            pids = measure.procs.tree([popen.pid])
            argv = ["strace", "-f", "-c", "-S", "name", "-o", out]
            for pid in pids:
                argv += ["-p", str(pid)]
            traces[process] = (out, subprocess.Popen(argv, stdout=subprocess.DEVNULL,
                                                     stderr=subprocess.DEVNULL), pids)
        for _, _, pids in traces.values():
            wait_traced(pids)
        result = {"done": tlsload(rig, "get", system, "-c", connections, "-p", "/1k", seconds=seconds)["done"]}
        for process, (out, strace, _) in traces.items():
            strace.send_signal(signal.SIGINT)
            strace.wait(10)
            result[process] = parse(out.read_text())
    return result


def wait_traced(pids):
    """Until every thread has its tracer."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        threads = [f"/proc/{pid}/task/{t}/status" for pid in pids for t in os.listdir(f"/proc/{pid}/task")]
        if all("TracerPid:\t0" not in open(t).read() for t in threads):
            return
        time.sleep(0.02)
    raise RuntimeError("strace did not attach: may it trace here?")


def parse(table):
    """{call: count} of strace's summary."""
    calls = {}
    for line in table.splitlines():
        cells = line.split()
        if len(cells) >= 5 and cells[0][0].isdigit() and cells[-1] != "total":
            calls[cells[-1]] = int(cells[3])
    return calls
