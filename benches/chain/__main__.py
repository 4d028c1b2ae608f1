"""The chain  client --TLS--> gateway --mTLS--> acceptor --TCP--> backend, measured.

Called by scripts/bench, which installs and builds what is needed first. Every measuring command
adds to target/bench/COMMAND.json; "report" makes the pages of docs/performance from such files."""

import argparse
import resource
import signal
import sys

import cores
import floor
import hotspots
import measure
import memory
import report
import scenarios
import soak
import storm
import syscalls
import systems
import verify
from rig import Rig

OURS = "portcullis"


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, names=None, keys=None, runs=None, seconds=None):
        p = sub.add_parser(name, help=text, description=text)
        if names:
            p.add_argument("--systems", default=names, help=f"names, comma between them (default: {names})")
            p.add_argument("--fresh", action="store_true", help="begin the file of results again")
        if keys:
            p.add_argument("--scenarios", default=keys, help=f"likewise (default: {keys})")
        if runs:
            p.add_argument("--runs", type=int, default=runs, help=f"interleaved runs (default: {runs})")
        if seconds:
            p.add_argument("--seconds", type=int, default=seconds, help=f"default: {seconds}")
        return p

    command("list", "name the systems found here, with their TLS libraries, and the scenarios")
    command("verify", "check that every chain enforces mutual TLS, and show what it negotiates", "all")
    command("chain", "CPU, latency and memory of every scenario", "all", "all", 3)
    command("profile", "where the CPU goes (perf)", OURS, "all")
    command("syscalls", "system calls of a 1 KiB exchange (strace)", "all")
    command("cores", "the same chain on one core and on two", OURS, "s1,s2t,s3", 3)
    command("memory", "what an idle connection costs, from 10 to 20000", OURS)
    command("storm", "latency of kept connections beside 500 new ones a second", storm.SYSTEMS, runs=3)
    command("soak", "memory over a long time with connections and reloads",
            "portcullis-http,portcullis-reuse", seconds=600)
    command("floor", "what the kernel alone costs two hops", runs=3).add_argument(
        "--fresh", action="store_true", help="begin the file of results again")
    command("all", "all of them (more than an hour), then the report", "all", runs=3)
    p = command("report", "write the pages and plots of docs/performance from results")
    p.add_argument("--from", dest="source", metavar="DIR",
                   help="take these results over first (default: those in docs/performance/results)")
    p.add_argument("--check", action="store_true", help="write nothing; fail if a page is not what the results give")
    return parser.parse_args()


def main():
    args = arguments()
    # ends like an interrupt does: every process that was started is stopped
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if args.command == "report":
        return report.run(args.source, args.check)
    if args.command == "list":
        for cls in systems.load().values():
            print(f"{cls.name:22} {cls.mode:5} {cls.missing() or f'{cls.version()}, {cls.tls()}'}")
        for scenario in scenarios.ALL.values():
            print(f"{scenario.key:4} {scenario.title}")
        return 0
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Rig() as rig:
        if args.command == "verify":
            return verify.run(rig, measure.entrants(args.systems))
        if args.command == "all":
            names = args.systems
            for command in ("chain", "floor", "profile", "syscalls", "cores", "memory", "storm", "soak"):
                own = {"chain": names, "syscalls": names, "storm": storm.SYSTEMS,
                       "soak": "portcullis-http,portcullis-reuse"}
                args.command, args.systems, args.seconds = command, own.get(command, OURS), 600
                args.scenarios = "s1,s2t,s3" if command == "cores" else "all"
                one(args, rig)
            return report.run(measure.OUT, False)
        one(args, rig)
    return 0


def one(args, rig):
    results = measure.Results(args.command, args.fresh)
    if args.command == "floor":
        floor.run(rig, results, args.runs)
        print(results.path)
        return
    chosen = measure.entrants(args.systems)
    if args.command == "chain":
        measure.chain(rig, results, chosen, args.scenarios, args.runs)
    elif args.command == "profile":
        hotspots.run(rig, results, chosen, args.scenarios)
    elif args.command == "syscalls":
        syscalls.run(rig, results, chosen)
    elif args.command == "cores":
        cores.run(rig, results, chosen, args.scenarios, args.runs)
    elif args.command == "memory":
        memory.run(rig, results, chosen)
    elif args.command == "storm":
        storm.run(rig, results, chosen, args.runs)
    else:
        soak.run(rig, results, chosen, args.seconds)
    print(results.path)


if __name__ == "__main__":
    sys.exit(main())
