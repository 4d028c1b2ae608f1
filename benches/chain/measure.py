"""Interleaved samples of scenarios over systems, kept in one file of results."""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import procs
import scenarios
import systems

ROOT = Path(__file__).parents[2]
OUT = ROOT / "target" / "bench"
DISTURBED = 0.15     # a sample is taken again (once) when others took this much of the machine


@contextlib.contextmanager
def started(rig, cls, backend, **site):
    system = cls(rig.site(backend, **site))
    try:
        system.start()
        yield system
    finally:
        system.stop()


def choose(names, available, what):
    if names == "all":
        return list(available.values())
    chosen = []
    for name in names.split(","):
        # a program's name picks all its variants: haproxy -> haproxy-http, haproxy-tcp ...
        found = ([available[name]] if name in available else
                 [s for key, s in available.items() if key.startswith(name + "-")])
        if not found:
            sys.exit(f"no {what} called {name}; there are: {', '.join(available)}")
        chosen += [s for s in found if s not in chosen]
    return chosen


def entrants(names):
    """The chosen systems that can run here; the others are named with what they lack."""
    found = []
    for cls in choose(names, systems.load(), "system"):
        if reason := cls.missing():
            print(f"skip {cls.name}: {reason}", flush=True)
        else:
            found.append(cls)
    return found


def conditions():
    """What has to be the same for figures to be compared."""
    info = Path("/proc/cpuinfo").read_text()
    field = lambda name: (re.findall(rf"^{name}\s*: (.*)", info, re.M) or ["?"])[0]
    built = ["--", "src", "Cargo.toml", "Cargo.lock"]
    said = lambda *argv: subprocess.run(["git", "-C", ROOT, *argv, *built], capture_output=True, text=True).stdout.strip()
    # of what is built: documents may be committed between two measurements
    commit = said("log", "-1", "--format=%h", "--abbrev=10") + ("-changed" if said("status", "--porcelain") else "")
    return {"cpu": f"{field('model name')} (family {field('cpu family')}, model {field('model')})",
            "cores": os.cpu_count(), "kernel": platform.release(),
            "commit": os.environ.get("BENCH_COMMIT") or commit or "unknown"}


class Results:
    """A file of results of one machine and one commit; a second command adds to it."""

    def __init__(self, kind, fresh=False, out=OUT):
        self.path = Path(out) / f"{kind}.json"
        self.kind = kind
        now = conditions()
        self.data = {"kind": kind, "conditions": {**now, "date": time.strftime("%Y-%m-%d")},
                     "systems": {}, "results": {}}
        if self.path.exists() and not fresh:
            old = json.loads(self.path.read_text())
            changed = [k for k, v in now.items() if old["conditions"].get(k) != v]
            if changed:
                sys.exit(f"{self.path} has another {' and '.join(changed)}: add to it with the same, "
                         "or begin again with --fresh")
            self.data = old

    def add(self, cls, path, figures):
        """Notes figures under path (a list of keys): one more of a list."""
        at = self.data["results"]
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at.setdefault(path[-1], []).append(rounded(figures))
        self.data["systems"][cls.name] = {"mode": cls.mode, "version": cls.version(), "tls": cls.tls()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def chain(rig, results, chosen, keys, runs):
    """results[scenario][system]: a list of figures, one for each run."""
    for scenario in choose(keys, scenarios.ALL, "scenario"):
        if program := scenario.missing():
            print(f"skip {scenario.key}: program {program} not found", flush=True)
            continue
        entering = [c for c in chosen if scenario.applies(c)]
        before = max(map(len, results.data["results"].get(scenario.key, {}).values()), default=0)
        for run in range(before, before + runs):
            # each run starts with another system, so drift is shared
            turn = run % max(len(entering), 1)
            for cls in entering[turn:] + entering[:turn]:
                results.add(cls, [scenario.key, cls.name], undisturbed(rig, scenario, cls))


def undisturbed(rig, scenario, cls):
    """One sample, or the quieter of two when others were using the machine."""
    tries = []
    for _ in range(2):
        figures = sample(rig, scenario, cls)
        tries.append(figures)
        if figures.get("other", 0) <= DISTURBED:
            break
        print(f"  others took {figures['other']:.0%} of the machine", flush=True)
    return min(tries, key=lambda f: f.get("other", 0))


def sample(rig, scenario, cls):
    try:
        figures = scenario().run(rig, lambda backend: started(rig, cls, backend))
    except Exception as e:
        figures = {"problems": [f"{type(e).__name__}: {e}"]}
    shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if k != "problems")
    print(f"{time.strftime('%H:%M:%S')} {scenario.key} {cls.name}: {shown} "
          f"{'; '.join(figures['problems'])}".rstrip(), flush=True)
    return figures


def pin(cores):
    """Holds this process and all that it started to these cores."""
    for pid in procs.tree([os.getpid()]):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(thread), cores)
