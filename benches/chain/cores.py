"""The whole chain, load and backend included, on one core and on all of them.

There is no core to spare for the load here, so everything is held to the same cores: what the
second core brings to the whole is what is measured. The programs run one worker for each core.
"""

import os

import measure
import scenarios


def run(rig, results, chosen, keys, runs):
    every = sorted(os.sched_getaffinity(0))
    counts = sorted({1, 2, len(every)} & set(range(1, len(every) + 1)))
    try:
        for scenario in measure.choose(keys, scenarios.ALL, "scenario"):
            if scenario.missing():
                continue
            for _ in range(runs):
                for cls in filter(scenario.applies, chosen):
                    # one core first, then two, then the other way round: drift is shared
                    before = len(results.data["results"].get(scenario.key, {}).get(cls.name, {}).get("1", []))
                    for count in counts if before % 2 == 0 else counts[::-1]:
                        measure.pin(every[:count])
                        print(f"{count} of {len(every)} cores:", end=" ")
                        results.add(cls, [scenario.key, cls.name, str(count)],
                                    measure.sample(rig, scenario, cls))
    finally:
        measure.pin(every)
