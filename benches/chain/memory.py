"""What an idle connection costs, from ten of them to as many as the open-file limit lets."""

import resource
import time

import measure
import scenarios

COUNTS = (10, 100, 1000, 5000, 20000)


def run(rig, results, chosen):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for cls in chosen:
        most = (limit - 400) // cls.idle_descriptors
        for count in sorted({min(c, most) for c in COUNTS}):
            scenario = scenarios.S6()
            scenario.connections, scenario.descriptors = count, cls.idle_descriptors
            try:
                figures = scenario.run(rig, lambda backend: measure.started(
                    rig, cls, backend, connections=max(count + 100, 8000)))
            except Exception as e:
                figures = {"problems": [f"{type(e).__name__}: {e}"]}
            print(f"{time.strftime('%H:%M:%S')} {cls.name} {count}: "
                  f"{figures.get('KiB/conn', 0):.2f} KiB a connection {figures['problems'] or ''}", flush=True)
            results.add(cls, [cls.name, str(count)], figures)
