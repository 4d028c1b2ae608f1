"""The whole chain, load and backend included, on one core and on all of them.

There is no core to spare for the load here, so everything is held to the same cores: what the
second core brings to the whole is what is measured. The programs run one worker for each core, and
the load grows with the cores: a generator of one thread would be what holds two.
Beside them, two relays that only read and write: what the machine gives any chain.
"""

import os

import floor
import measure
import scenarios


class Requests(scenarios.S1):
    """The same requests through the bare relays."""

    def run(self, rig, make):
        return floor.requests(rig, make, self.generators)


def run(rig, results, chosen, keys, runs):
    every = sorted(os.sched_getaffinity(0))
    counts = sorted({1, 2, len(every)} & set(range(1, len(every) + 1)))
    floor.Floor.relay = rig.build("relay")
    try:
        for scenario in measure.choose(keys, scenarios.ALL, "scenario"):
            if scenario.missing():
                continue
            entrants = [(scenario, cls) for cls in chosen if scenario.applies(cls)]
            if scenario is scenarios.S1:
                entrants.append((Requests, floor.Floor))
            for _ in range(runs):
                for work, cls in entrants:
                    # one core first, then two, then the other way round: drift is shared
                    before = len(results.data["results"].get(scenario.key, {}).get(cls.name, {}).get("1", []))
                    for count in counts if before % 2 == 0 else counts[::-1]:
                        measure.pin(every[:count])
                        print(f"{count} of {len(every)} cores:", end=" ")
                        loaded = type(work.__name__, (work,), {"generators": count})
                        results.add(cls, [scenario.key, cls.name, str(count)],
                                    measure.sample(rig, loaded, cls))
    finally:
        measure.pin(every)
