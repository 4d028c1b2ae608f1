"""Pages and plots of docs/performance, made from results. A page's prose is written by hand; what
stands between "<!-- results: NAME -->" and "<!-- end -->" is written here."""

import json
import re
import shutil
import statistics
import sys
from pathlib import Path

import plot
import scenarios
from measure import DISTURBED, ROOT

PAGES = ROOT / "docs" / "performance"
OURS = "portcullis"

# What is drawn and compared: (scenario, figure, unit of a row's heading); less is better in each.
COMPARED = (("s1", "CPU us/req", "CPU µs a request"), ("s2", "CPU us/conn", "CPU µs a connection"),
            ("s2t", "CPU us/conn", "CPU µs a connection"),
            ("s3", "CPU s/GB x1", "CPU s a GB, 1 connection"), ("s3", "CPU s/GB x8", "CPU s a GB, 8 connections"),
            ("s4", "CPU s/GB x1", "CPU s a GB, 1 connection"), ("s4", "CPU s/GB x8", "CPU s a GB, 8 connections"),
            ("s5", "p99 us", "p99 µs"), ("s6", "KiB/conn", "KiB a connection"),
            ("s7", "CPU us/req", "CPU µs a request"), ("s8", "CPU us/op P1", "CPU µs an operation"),
            ("s8", "CPU us/op P16", "CPU µs an operation, 16 in a row"))
SHORT = {"s1": "1 KiB, kept connections", "s2": "new connection each", "s2t": "new connection each",
         "s3": "download", "s4": "upload", "s5": "latency at 2000 req/s", "s6": "memory, idle",
         "s7": "HTTP/2, 1 KiB", "s8": "Redis"}
SHARES = ("gateway", "idle", "other")
KINDS = {"http": "HTTP mode", "tcp": "TCP mode"}


def number(x):
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def spread(values):
    """median (min–max)"""
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
                     + ["| " + " | ".join(row) + " |" for row in rows])


def measured(data):
    """The rows of a chain that hold figures; disturbed samples are left out where there are others."""
    found = {}
    for key in scenarios.ALL:
        for name, runs in data["results"].get(key, {}).items():
            runs = [f for f in runs if len(f) > 1]
            runs = [f for f in runs if f.get("other", 0) <= DISTURBED] or runs
            if runs:
                found.setdefault(key, {})[name] = runs
    return found


def values(runs, figure):
    return [f[figure] for f in runs if figure in f]


def ours_first(names, data):
    return sorted(names, key=lambda n: (not n.startswith(OURS), data["systems"][n]["mode"], n))


def conditions(data):
    c = data["conditions"]
    return (f"{c['date']}, commit `{c['commit']}`, {c['cpu']}, {c['cores']} cores, Linux {c['kernel']}, loopback.")


def peers(data):
    """Who took part, with its TLS library: a result without it is not published."""
    rows = []
    for name in ours_first(data["systems"], data):
        system = data["systems"][name]
        if not system.get("version") or not system.get("tls"):
            sys.exit(f"{name} has no version or no TLS library in the results: not published")
        rows.append((name, KINDS[system["mode"]], system["version"], system["tls"]))
    return table(("system", "kind", "program", "TLS library"), rows)


def chain_tables(data):
    out = [conditions(data), "", peers(data)]
    for key, rows in measured(data).items():
        figures = []
        for runs in rows.values():
            for sample in runs:
                figures += [f for f in sample if f not in figures and f not in ("problems", "speed")]
        lines = []
        for name in ours_first(rows, data):
            cells = []
            for figure in figures:
                of = values(rows[name], figure)
                cells.append("–" if not of else f"{statistics.median(of):.0%}" if figure in SHARES else spread(of))
            problems = sorted({p for f in rows[name] for p in f["problems"]})
            lines.append((name, *cells, str(len(rows[name])), "; ".join(problems)[:120].replace("|", "/")))
        out += ["", f"### {key}: {scenarios.ALL[key].title}", "",
                table(("system", *figures, "runs", "problems"), lines)]
    return "\n".join(out)


def ratios(data, mode):
    """[(heading, [(system, ratio to the best peer)])] of all that is compared in this mode."""
    groups, rows_of = [], measured(data)
    for key, figure, unit in COMPARED:
        medians = {name: statistics.median(values(runs, figure))
                   for name, runs in rows_of.get(key, {}).items()
                   if data["systems"][name]["mode"] == mode and values(runs, figure)}
        others = {n: v for n, v in medians.items() if not n.startswith(OURS) and v > 0}
        if not others or len(others) == len(medians):
            continue
        best = min(others, key=lambda n: (others[n], n))
        heading = f"{key} {SHORT[key]}: {unit} (best peer: {best}, {number(others[best])})"
        groups.append((heading, [(n, medians[n] / others[best]) for n in ours_first(medians, data)]))
    return groups


def drawing(data, mode):
    libraries = sorted({f"{s['version']} ({s['tls']})" for s in data["systems"].values() if s["mode"] == mode})
    c = data["conditions"]
    return plot.bars(f"{KINDS[mode]}: cost as a multiple of the best peer's",
                     f"{'; '.join(libraries)}. {c['cpu']}, {c['cores']} cores, Linux {c['kernel']}, "
                     f"{c['date']}, commit {c['commit']}. The tables of the page hold the same figures.",
                     ratios(data, mode))


def standing(data):
    """One line for each comparison: our best and the best peer."""
    rows = []
    for mode in KINDS:
        for heading, bars in ratios(data, mode):
            mine = min((b for b in bars if b[0].startswith(OURS)), key=lambda b: b[1])
            rows.append((KINDS[mode], heading, mine[0], f"**{mine[1]:.2f}**"))
    lines = table(("kind", "what (best peer and its figure)", "our best", "times the best peer's"), rows)
    return f"{conditions(data)}\n\n{lines}\n\n{plots(data)}"


def profile_tables(data):
    out = [conditions(data)]
    names = ours_first(data["systems"], data)
    for name in names:
        runs = {key: data["results"][key][name][-1] for key in scenarios.ALL
                if name in data["results"].get(key, {})}
        groups = sorted({g for r in runs.values() for g in r["groups"]},
                        key=lambda g: -sum(r["groups"].get(g, 0) for r in runs.values()))
        out += ["", f"### {name}", "",
                table(("share of CPU", *runs), [(g, *(f"{r['groups'].get(g, 0):.0%}" for r in runs.values()))
                                               for g in groups])]
        out += ["", "```text"]
        for key, r in runs.items():
            top = list(r["top"].items())[:5]
            out += [f"{key if at == 0 else '':4} {share:5.1%}  {symbol[:90]}" for at, (symbol, share) in enumerate(top)]
        out.append("```")
    return "\n".join(out)


def syscall_table(data):
    rows = []
    for key, of in data["results"].items():
        for name in ours_first(of, data):
            figures = of[name][-1]
            cells = []
            for process in ("gateway", "acceptor"):
                calls = figures[process]
                top = [f"{call} {count:.2f}" for call, count in
                       sorted(calls.items(), key=lambda pair: (-pair[1], pair[0])) if count >= 0.05]
                cells += [f"{sum(calls.values()):.1f}", ", ".join(top[:6])]
            total = sum(sum(figures[p].values()) for p in ("gateway", "acceptor"))
            rows.append((name, key.removeprefix("x"), f"{total:.1f}", *cells))
    return "\n".join([conditions(data), "", peers(data), "",
                      table(("system", "connections", "calls", "gateway", "of them", "acceptor", "of them"), rows)])


COST = {"s1": ("CPU us/req", "req/s"), "s2": ("CPU us/conn", "conn/s"), "s2t": ("CPU us/conn", "conn/s"),
        "s3": ("CPU s/GB x8", "GB/s x8"), "s4": ("CPU s/GB x8", "GB/s x8"),
        "s7": ("CPU us/req", "req/s")}


def core_table(data):
    rows = []
    for key, of in data["results"].items():
        cost, rate = COST[key]
        for name, counts in of.items():
            runs = {count: [f for f in runs if len(f) > 1] for count, runs in counts.items()}
            one, more = runs.get("1"), runs.get(max(runs, key=int))
            if not one or not more or one is more:
                continue
            both = list(zip(one, more))
            one, more = zip(*([p for p in both if max(f["other"] for f in p) <= DISTURBED] or both))
            pairs = [b[rate] / a[rate] for a, b in zip(one, more)]
            rows.append((name, f"{key} {SHORT[key]}", f"{spread(values(one, rate))} {rate.split()[0]}",
                         spread(values(more, rate)), f"**{statistics.median(pairs):.2f}**",
                         spread(values(one, cost)), spread(values(more, cost)),
                         f"{statistics.median(values(more, 'idle')):.0%}", str(len(pairs))))
    return "\n".join([conditions(data), "", table(
        ("system", "scenario", "one core", "two cores", "gain", "CPU each, one core", "two cores", "idle of two",
         "runs"), rows)])


def memory_table(data):
    counts = sorted({int(c) for of in data["results"].values() for c in of})
    rows = []
    for name, of in data["results"].items():
        cells = []
        for count in counts:
            runs = [f for f in of.get(str(count), []) if len(f) > 1]
            cells.append(spread(values(runs, "KiB/conn")) if runs else "–")
        rows.append((name, *cells))
    return "\n".join([conditions(data), "", "KiB a connection (PSS of both processes):", "",
                      table(("system", *(f"{c:,}" for c in counts)), rows)])


def floor_table(data):
    rows = []
    for key, runs in data["results"].items():
        for figure in (f for f in runs[0] if f.startswith("CPU ")):
            rows.append((f"{key} {SHORT[key]}", figure, spread(values(runs, figure)), str(len(runs))))
    return "\n".join([conditions(data), "", table(("work", "figure, both relays", "least", "runs"), rows)])


def slope(points):
    """Least squares, of (x, y)."""
    mx, my = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    spread_x = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / spread_x if spread_x else 0.0


def soak_table(data):
    rows = []
    for name, runs in data["results"].items():
        for log in runs:
            notes, step = log["notes"], log["seconds"]
            at = lambda part: notes[min(len(notes) - 1, int(part * len(notes)))]
            later = [(i * step / 3600, n["pss"] / 1024) for i, n in enumerate(notes)][len(notes) // 2:]
            rows.append((name, f"{log['lasted'] / 60:.0f} min", f"{log['requests']:,}", f"{log['connections']:,}",
                         str(log["reloads"]), *(f"{at(p)['pss'] / 1024:.1f}" for p in (0, 0.25, 0.5, 0.75, 1)),
                         f"{slope(later):+.2f}", str(notes[-1]["files"] - notes[0]["files"]),
                         "; ".join(log["problems"])))
    return "\n".join([conditions(data), "", table(
        ("system", "time", "requests", "connections", "reloads", "PSS MiB at the start", "¼", "½", "¾", "end",
         "MiB an hour, second half", "open files", "problems"), rows)])


def storm_table(data):
    rows = []
    for name in ours_first(data["results"], data):
        runs = [f for f in data["results"][name] if len(f) > 1]
        runs = [f for f in runs if f["other"] <= DISTURBED] or runs
        if not runs:
            continue
        cells = [f"{spread(values(runs, f'quiet {p} us'))} → {spread(values(runs, f'beside {p} us'))}"
                 for p in ("p50", "p99", "p999")]
        percent = lambda figure: f"{statistics.median(values(runs, figure)):.0%}"
        problems = sorted({p for f in runs for p in f["problems"]})
        rows.append((name, *cells, f"**{statistics.median(values(runs, 'times p99')):.2f}**",
                     spread(values(runs, "new/s")), str(sum(values(runs, "failed"))), spread(values(runs, "CPU us/new")),
                     f"{percent('quiet idle')} → {percent('idle')}", percent("other"), str(len(runs)),
                     "; ".join(problems)[:120].replace("|", "/")))
    return "\n".join([conditions(data), "", peers(data), "", table(
        ("system", "p50 µs, quiet → beside", "p99 µs", "p99.9 µs", "p99, times", "new a second", "failed",
         "CPU µs each", "idle", "other", "runs", "problems"), rows)])


def capacity(data, cores=32, use=0.6):
    """What one gateway host and one acceptor host carry, from the CPU of a unit and its split."""
    rows, found = [], measured(data)
    for key, (cost, _) in COST.items():
        for name in ours_first(found.get(key, {}), data):
            if not name.startswith(OURS):
                continue
            runs = found[key][name]
            each = statistics.median(values(runs, cost))
            share = statistics.median(values(runs, "gateway"))
            seconds = each if cost.startswith("CPU s/GB") else each / 1e6
            unit = "GB/s" if cost.startswith("CPU s/GB") else cost.split("/")[1] + "/s"
            carried = [cores * use / (seconds * part) if part else 0 for part in (share, 1 - share)]
            rows.append((name, f"{key} {SHORT[key]}", f"{number(each)} {cost.split(' ', 1)[1].split(' ')[0]}",
                         f"{share:.0%}", *(f"{number(c)} {unit}" for c in carried)))
    return table(("system", "work", "CPU, both", "of it gateway", f"one gateway of {cores} cores",
                  f"one acceptor of {cores} cores"), rows)


def plots(data):
    return "\n\n".join(
        f"![{KINDS[mode]}: what each system costs, as a multiple of the best peer's; the figures are in the tables "
        f"below](chain-{mode}.svg)" for mode in modes(data))


def modes(data):
    """The kinds of which there is something to draw."""
    return [mode for mode in KINDS if ratios(data, mode)]


BLOCKS = {"standing": ("chain", standing), "chain": ("chain", chain_tables), "profile": ("profile", profile_tables),
          "syscalls": ("syscalls", syscall_table), "cores": ("cores", core_table),
          "floor": ("floor", floor_table), "memory": ("memory", memory_table), "storm": ("storm", storm_table),
          "soak": ("soak", soak_table), "capacity": ("chain", capacity)}


def filled(text, results):
    """A page with its blocks written again."""
    def block(match):
        kind, write = BLOCKS[match.group(1)]
        text = (write(results[kind]) if kind in results else
                f"Not measured for this version yet: `scripts/bench {kind}` does it.")
        return f"<!-- results: {match.group(1)} -->\n\n{text}\n\n<!-- end -->"
    return re.sub(r"<!-- results: (\w+) -->.*?<!-- end -->", block, text, flags=re.S)


def made(pages, results):
    """{path: text} of everything that the results give."""
    texts = {path: filled(path.read_text(), results) for path in sorted(pages.glob("*.md"))}
    if "chain" in results:
        for mode in modes(results["chain"]):
            texts[pages / f"chain-{mode}.svg"] = drawing(results["chain"], mode)
    return texts


def run(source=None, check=False, pages=PAGES):
    kept = pages / "results"
    if source:
        kept.mkdir(exist_ok=True)
        for path in sorted(Path(source).glob("*.json")):
            shutil.copy(path, kept / path.name)
    results = {path.stem: json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))}
    stale = []
    for path, text in made(pages, results).items():
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(pages)))
            if not check:
                path.write_text(text)
    if check and stale:
        print(f"not what the results give: {', '.join(stale)}; run scripts/bench report", file=sys.stderr)
        return 1
    return 0
