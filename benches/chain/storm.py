"""Kept connections beside a flood of handshakes: their latency when it is quiet, and while new
clients arrive at a fixed rate, each with a full handshake, one small request and its end.

The load takes CPU of the same machine: a client's half of a handshake costs it some 300 us. So the
share that stayed idle is kept with each figure: where nothing is idle, what is measured is the
machine, and not the system.
"""

import json
import os
import subprocess

import measure
from scenarios import load_problems, tlsload

SYSTEMS = "portcullis-http,portcullis-reuse,portcullis-tcp,nginx-http,nginx-stream,haproxy-http,haproxy-tcp"
SECONDS = 8
KEPT, REQUESTS = 32, 500         # kept connections, and requests a second over all of them
ARRIVALS, AT_ONCE = 500, 500     # new connections a second, and the most that may be under way
AHEAD, BEHIND = 0.5, 1.5         # seconds that the flood begins before the measured block and lasts after it


def run(rig, results, chosen, runs):
    before = max((len(of) for of in results.data["results"].values()), default=0)
    for turn in range(before, before + runs):
        # each run starts with another system, so drift is shared
        at = turn % max(len(chosen), 1)
        for cls in chosen[at:] + chosen[:at]:
            results.add(cls, [cls.name], measure.undisturbed(rig, Storm, cls))


class Storm:
    key = "storm"

    def run(self, rig, make):
        with make(rig.web) as system:
            kept(rig, system, 1)
            quiet, calm = metered(rig, system)
            flood = Flood(rig, system)
            try:
                beside, machine = metered(rig, system)
            finally:
                arrived = flood.ended()
        return figures(quiet, beside, arrived, calm, machine)


def kept(rig, system, seconds):
    return tlsload(rig, "rate", system, "-c", KEPT, "-r", REQUESTS, seconds=seconds)


def metered(rig, system):
    with rig.meter(system) as meter:
        load = kept(rig, system, SECONDS)
    return load, {**meter.machine, "cpu": meter.cpu / meter.wall}


def figures(quiet, beside, arrived, calm, machine):
    """What one run came to."""
    shown = {}
    for percentile in ("p50", "p99", "p999"):
        shown[f"quiet {percentile} us"] = quiet[f"{percentile}_us"]
        shown[f"beside {percentile} us"] = beside[f"{percentile}_us"]
    problems = [f"{when}: {p}" for when, load in (("quiet", quiet), ("beside", beside), ("new", arrived))
                for p in load_problems(load)]
    for when, load in (("quiet", quiet), ("beside", beside)):
        if load["done"] < 0.99 * REQUESTS * SECONDS:
            problems.append(f"{when}: only {load['done']} responses")
    rate = arrived["done"] / arrived["elapsed"]
    if rate < 0.97 * ARRIVALS:
        problems.append(f"new: only {rate:.0f} a second")
    return {**shown, "times p99": beside["p99_us"] / max(quiet["p99_us"], 1.0), "new/s": rate,
            "new p99 us": arrived["p99_us"], "failed": arrived["failed"],
            "CPU us/new": max(0.0, machine["cpu"] - calm["cpu"]) * 1e6 / ARRIVALS,
            "quiet idle": calm["idle"], **{k: v for k, v in machine.items() if k != "cpu"},
            "other": max(calm["other"], machine["other"]), "problems": problems}


class Flood:
    """New clients at a fixed rate, from before the measured block until after it."""

    def __init__(self, rig, system):
        self.seconds = AHEAD + SECONDS + BEHIND
        argv = [rig.tlsload, "new", *system.site.gateway, "-c", AT_ONCE, "-r", ARRIVALS, "-s", 8, "-d", self.seconds]
        self.popen = subprocess.Popen([str(a) for a in argv], text=True, stdout=subprocess.PIPE,
                                      env={**os.environ, **rig.tool_env})
        try:
            self.popen.wait(AHEAD)
        except subprocess.TimeoutExpired:
            return
        raise RuntimeError("the flood ended at once")

    def ended(self):
        try:
            out = self.popen.communicate(timeout=self.seconds + 30)[0]
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise
        return json.loads(out.splitlines()[-1])
