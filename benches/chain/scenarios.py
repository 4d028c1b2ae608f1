"""The scenarios: each drives one started system and returns its figures.

A scenario has `key`, `title`, the system modes it applies to, and `run(rig, make)`, where
`make(backend)` is a context manager that yields a started system in front of that backend.
Figures are a dict, metric name to number; `problems` in it is a list of strings.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import procs
from rig import BULK_BYTES
from systems.base import addr

SECONDS = 5


def command(argv, seconds, env=None, check=True):
    """Run a load generator; the time-out bounds it whatever it does."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True,
                          timeout=seconds, env={**os.environ, **(env or {})})
    if check and done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stderr[-400:] or done.stdout[-400:]}")
    return done.stdout


def tlsload(rig, mode, system, *options, seconds=SECONDS, copies=1):
    argv = [rig.tlsload, mode, *system.site.gateway, "-d", seconds, *options]
    if copies == 1:
        return json.loads(command(argv, seconds + 30, rig.tool_env))
    with ThreadPoolExecutor(copies) as at_once:
        each = [json.loads(out) for out in at_once.map(lambda _: command(argv, seconds + 30, rig.tool_env), range(copies))]
    counts = ("done", "bytes", "failed", "not_200", "resumed")
    return {**{key: sum(r[key] for r in each) for key in counts}, "elapsed": max(r["elapsed"] for r in each),
            "error": next((r["error"] for r in each if r["error"]), "")}


def load_problems(result):
    found = []
    for key in ("failed", "not_200", "resumed"):
        if result[key]:
            found.append(f"{result[key]} {key} {result['error']}".strip())
    return found


def worst(machine):
    """One set of machine figures from those of several measured blocks."""
    return {"gateway": sum(m["gateway"] for m in machine) / len(machine), "idle": min(m["idle"] for m in machine), "other": max(m["other"] for m in machine),
            "speed": min(m["speed"] for m in machine)}


class Scenario:
    modes = ("http", "tcp")
    needs = ()                 # programs
    generators = 1             # of load, each with a thread and so many connections of its own
    http2_only = False

    @classmethod
    def applies(cls, system):
        return system.mode in cls.modes and (system.http2 or not cls.http2_only)

    @classmethod
    def missing(cls):
        return next((p for p in cls.needs if not shutil.which(p)), None)


class S1(Scenario):
    key = "s1"
    title = "HTTP keep-alive, 1 KiB responses, wrk -t1 -c64"
    needs = ("wrk",)

    def run(self, rig, make):
        with make(rig.web) as system:
            def wrk(seconds):
                return command(["wrk", f"-t{self.generators}", f"-c{64 * self.generators}", f"-d{seconds}s",
                                f"https://{addr(system.site.gateway)}/1k"], seconds + 20, rig.tool_env)
            wrk(1)
            with rig.meter(system) as meter:
                out = wrk(SECONDS)
        count, span = re.search(r"(\d+) requests in ([\d.]+)s", out).groups()
        problems = re.findall(r"(?:Non-2xx|Socket errors).*", out)
        return {"req/s": int(count) / float(span), "CPU us/req": meter.cpu * 1e6 / int(count),
                **meter.machine, "problems": problems}


class NewConnections(Scenario):
    def run(self, rig, make):
        with make(rig.web) as system:
            tlsload(rig, "new", system, "-c", 8, "-s", 8, seconds=0.5)
            with rig.meter(system) as meter:
                r = tlsload(rig, "new", system, "-c", 32, "-s", 8, copies=self.generators)
        return {"conn/s": r["done"] / r["elapsed"], "CPU us/conn": meter.cpu * 1e6 / r["done"],
                **meter.machine, "problems": load_problems(r)}


class S2(NewConnections):
    key = "s2"
    title = "new TLS connection per request, no resumption, 32 at once (HTTP mode: upstream kept)"
    modes = ("http",)


class S2t(NewConnections):
    key = "s2t"
    title = "new TLS connection per request, no resumption, 32 at once (TCP mode: new mTLS upstream each)"
    modes = ("tcp",)


class Bulk(Scenario):
    def run(self, rig, make):
        figures, machine, problems = {}, [], []
        with make(self.backend(rig)) as system:
            for connections in (1, 8):
                with rig.meter(system) as meter:
                    r = tlsload(rig, self.mode, system, "-c", connections, *self.options, copies=self.generators)
                figures[f"GB/s x{connections}"] = r["bytes"] / r["elapsed"] / 1e9
                figures[f"CPU s/GB x{connections}"] = meter.cpu / (r["bytes"] / 1e9)
                machine.append(meter.machine)
                problems += load_problems(r)
        return {**figures, **worst(machine), "problems": problems}


class S3(Bulk):
    key = "s3"
    title = "bulk download, 64 MiB bodies, 1 and 8 connections"
    mode = "get"
    options = ("-p", "/bulk")

    def backend(self, rig):
        return rig.web


class S4(Bulk):
    key = "s4"
    title = "bulk upload, 64 MiB bodies, 1 and 8 connections"
    mode = "put"
    options = ("-b", BULK_BYTES)

    def backend(self, rig):
        return rig.sink


class S5(Scenario):
    key = "s5"
    title = "latency at a fixed 2000 req/s over 64 open connections, 1 KiB (counted from when each was due)"
    rate = 2000

    def run(self, rig, make):
        with make(rig.web) as system:
            load = ("-c", 64, "-r", self.rate)
            tlsload(rig, "rate", system, *load, seconds=1)
            with rig.meter(system) as meter:
                r = tlsload(rig, "rate", system, *load)
        problems = load_problems(r)
        if r["done"] < 0.99 * self.rate * SECONDS:
            problems.append(f"only {r['done']} responses")
        return {"p50 us": r["p50_us"], "p99 us": r["p99_us"], "p99.9 us": r["p999_us"],
                "CPU us/req": meter.cpu * 1e6 / r["done"], **meter.machine, "problems": problems}


class S6(Scenario):
    key = "s6"
    title = "memory with no and with 5000 idle keep-alive TLS connections"
    connections = 5000
    descriptors = None         # of one connection, if not what the system says

    def run(self, rig, make):
        with make(rig.web) as system:
            tlsload(rig, "get", system, "-c", 1, "-p", "/1k", seconds=0.2)
            time.sleep(1)
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            wanted = min(self.connections, (limit - 400) // (self.descriptors or system.descriptors))
            rss0, pss0 = procs.memory_kib(system.pids())
            argv = [rig.tlsload, "hold", *system.site.gateway, "-c", wanted,
                    "-d", 110, "-s", 8, "-p", "/1k"]
            holder = subprocess.Popen([str(a) for a in argv], text=True, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, env={**os.environ, **rig.tool_env})
            try:
                held = int(holder.stdout.readline().split()[1])
                time.sleep(2)
                pids = system.pids()
                rss, pss = procs.memory_kib(pids)
                threads = procs.threads(pids)
            finally:
                r = json.loads(holder.communicate(timeout=30)[0].splitlines()[-1])
        problems = load_problems(r)
        if held != wanted or r["alive"] != held:
            problems.append(f"held {held}, {r['alive']} alive at the end")
        return {"PSS MiB idle": pss0 / 1024, "RSS MiB idle": rss0 / 1024,
                "PSS MiB held": pss / 1024, "RSS MiB held": rss / 1024,
                "conns": held, "KiB/conn": (pss - pss0) / max(held, 1), "threads": threads, "problems": problems}


class S7(Scenario):
    key = "s7"
    title = "HTTP/2 clients, h2load -c16 -m32, 1 KiB responses"
    modes = ("http",)
    http2_only = True
    needs = ("h2load",)

    def run(self, rig, make):
        with make(rig.web) as system:
            def h2load(seconds):
                return command(["h2load", "-c16", "-m32", "-t1", f"-D{seconds}", "--groups=X25519",
                                "--tls13-ciphers=TLS_AES_128_GCM_SHA256",
                                f"https://{addr(system.site.gateway)}/1k"], seconds + 20, rig.tool_env)
            h2load(1)
            with rig.meter(system) as meter:
                out = h2load(SECONDS)
        good = int(re.search(r"status codes: (\d+) 2xx", out).group(1))
        failed, errored = map(int, re.search(r"(\d+) failed, (\d+) errored", out).groups())
        problems = [f"{failed} failed, {errored} errored"] if failed or errored else []
        if "Application protocol: h2" not in out:
            problems.append("not h2")
        return {"req/s": good / SECONDS, "CPU us/req": meter.cpu * 1e6 / good,
                **meter.machine, "problems": problems}


class S8(Scenario):
    key = "s8"
    title = "redis-benchmark --tls -c 50, SET and GET, pipelines of 1 and 16"
    modes = ("tcp",)
    needs = ("redis-benchmark", "redis-server")
    requests = {1: 40_000, 16: 400_000}

    def run(self, rig, make):
        figures, machine = {}, []
        with make(rig.redis) as system:
            host, port = system.site.gateway
            for pipeline, count in self.requests.items():
                with rig.meter(system) as meter:
                    out = command(["redis-benchmark", "--tls", "--cacert", rig.pki.ca,
                                   "--sni", "gateway.test", "-h", host, "-p", port, "-c", 50,
                                   "-n", count, "-P", pipeline, "-t", "set,get", "--csv",
                                   "--tls-ciphersuites", "TLS_AES_128_GCM_SHA256"], 90, rig.tool_env)
                for line in out.splitlines():
                    cells = [c.strip('"') for c in line.split(",")]
                    if cells[0] in ("SET", "GET"):
                        figures[f"{cells[0]}/s P{pipeline}"] = float(cells[1])
                figures[f"CPU us/op P{pipeline}"] = meter.cpu * 1e6 / (2 * count)
                machine.append(meter.machine)
        return {**figures, **worst(machine), "problems": []}


ALL = {s.key: s for s in (S1, S2, S2t, S3, S4, S5, S6, S7, S8)}
