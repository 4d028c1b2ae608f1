"""What the kernel alone costs two hops: the same work through two relays that only read and write.

No peer, as nothing is encrypted, checked or limited: a bound for what any chain can reach on this
machine, to be seen beside the figures of `chain` from the same day."""

import re

import measure
from rig import BULK_BYTES
from scenarios import SECONDS, command, worst
from systems.base import System, addr


class Floor(System):
    name = "floor"
    mode = "tcp"
    allowlist = False

    @classmethod
    def version(cls):
        return "two relays (benches/chain/tools/relay.c)"

    @classmethod
    def tls(cls):
        return "none"

    def start(self):
        s = self.site
        self.run("acceptor", [self.relay, *s.acceptor, *s.backend])
        self.run("gateway", [self.relay, *s.gateway, *s.acceptor])
        self.wait_ready()


def wrk(rig, system, connections, path, *options, threads=1):
    out = command(["wrk", f"-t{threads}", f"-c{connections}", *options, f"-d{SECONDS}s", f"http://{addr(system.site.gateway)}{path}"],
                  SECONDS + 20, rig.tool_env)
    problems = re.findall(r"(?:Non-2xx|Socket errors).*", out)
    count, span = re.search(r"(\d+) requests in ([\d.]+)s", out).groups()
    return int(count), float(span), problems


def requests(rig, make, generators=1):
    with make(rig.web) as system, rig.meter(system) as meter:
        count, span, problems = wrk(rig, system, 64 * generators, "/1k", threads=generators)
    return {"req/s": count / span, "CPU us/req": meter.cpu * 1e6 / count, **meter.machine, "problems": problems}


def new_connections(rig, make):
    with make(rig.web) as system, rig.meter(system) as meter:
        count, span, problems = wrk(rig, system, 32, "/1k", "-H", "Connection: close")
    return {"conn/s": count / span, "CPU us/conn": meter.cpu * 1e6 / count, **meter.machine, "problems": problems}


def download(rig, make):
    figures, machine, problems = {}, [], []
    with make(rig.web) as system:
        for connections in (1, 8):
            with rig.meter(system) as meter:
                count, _, found = wrk(rig, system, connections, "/bulk")
            figures[f"CPU s/GB x{connections}"] = meter.cpu / (count * BULK_BYTES / 1e9)
            machine.append(meter.machine)
            problems += found
    return {**figures, **worst(machine), "problems": problems}


def redis(rig, make):
    figures, machine = {}, []
    with make(rig.redis) as system:
        host, port = system.site.gateway
        for pipeline, count in {1: 40_000, 16: 400_000}.items():
            with rig.meter(system) as meter:
                command(["redis-benchmark", "-h", host, "-p", port, "-c", 50, "-n", count, "-P", pipeline,
                         "-t", "set,get", "--csv"], 90, rig.tool_env)
            figures[f"CPU us/op P{pipeline}"] = meter.cpu * 1e6 / (2 * count)
            machine.append(meter.machine)
    return {**figures, **worst(machine), "problems": []}


WORK = {"s1": requests, "s2t": new_connections, "s3": download, "s8": redis}


def run(rig, results, runs):
    Floor.relay = rig.build("relay")
    for _ in range(runs):
        for key, work in WORK.items():
            if key == "s8" and not rig.redis:
                continue
            figures = work(rig, lambda backend: measure.started(rig, Floor, backend))
            shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "problems")
            print(f"{key} floor: {shown} {'; '.join(figures['problems'])}".rstrip(), flush=True)
            results.add(Floor, [key], figures)
