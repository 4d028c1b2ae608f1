"""Long, gentle and varied: requests at a fixed rate, new connections and reloads, while the
memory of every process is noted."""

import os
import signal
import time
from contextlib import ExitStack

import measure
import procs
from scenarios import load_problems, tlsload

STEP = 10                # seconds between two notes of memory
RATE = 250               # requests a second, each system


def run(rig, results, chosen, seconds):
    began = time.monotonic()
    with ExitStack() as stack:
        running = [stack.enter_context(measure.started(rig, cls, rig.web)) for cls in chosen]
        logs = {s.name: {"seconds": STEP, "notes": [], "requests": 0, "connections": 0, "reloads": 0,
                         "problems": []} for s in running}
        # what there is counts, if it is ended early too
        stack.callback(lambda: keep(results, running, logs, time.monotonic() - began))
        while (step := round((time.monotonic() - began) / STEP)) * STEP < seconds:
            for system in running:
                log = logs[system.name]
                if step % 3 == 2:
                    reload(rig, system)
                    log["reloads"] += 1
                burst = tlsload(rig, "new", system, "-c", 2, "-s", 8, seconds=0.3)
                steady = tlsload(rig, "rate", system, "-c", 50, "-r", RATE * len(running),
                                 seconds=STEP / len(running) - 1)
                log["requests"] += burst["done"] + steady["done"]
                log["connections"] += burst["handshakes"] + steady["handshakes"]
                log["problems"] += load_problems(burst) + load_problems(steady)
                log["notes"].append(note(system))
            time.sleep(max(0.0, began + (step + 1) * STEP - time.monotonic()))


def keep(results, running, logs, lasted):
    for system in running:
        log = {**logs[system.name], "lasted": lasted, "problems": sorted(set(logs[system.name]["problems"]))}
        if not log["notes"]:
            continue
        first, last = log["notes"][0], log["notes"][-1]
        print(f"{system.name}: {log['requests']} requests, {log['connections']} connections, "
              f"{log['reloads']} reloads; PSS {first['pss']} -> {last['pss']} KiB "
              f"{'; '.join(log['problems'])}", flush=True)
        results.add(type(system), [system.name], log)


def reload(rig, system):
    """A new certificate for the gateway and a signal to both: a reload that changes something."""
    rig.pki.renew_client()
    for popen in system.popens:
        popen.send_signal(signal.SIGHUP)


def note(system):
    rss, pss = procs.memory_kib(system.pids())
    return {"rss": rss, "pss": pss, "threads": procs.threads(system.pids()),
            "files": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in system.pids())}
