"""Tables of what was measured, for a terminal and as a Markdown document."""

import statistics

import goals
import workloads
from workloads import RINGWIRE, RING_FLOOR

# Who waits for a processor for a larger share of the time is marked.
WAITED_MARKED = 0.1
# A server that had less to do than this was waiting for the generator.
BUSY_MARKED = 0.9

NOTES = {
    "*": "others wanted the same processor, or threads of its own did",
    ">": "this server was waiting for the generator, and could do more",
}


def duration(ns):
    """Three digits and a unit."""
    for unit, size in (("ms", 1e6), ("µs", 1e3), ("ns", 1)):
        if ns >= size:
            value = ns / size
            places = 0 if value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{places}f} {unit}"
    return f"{ns:.2f} ns"


# Rows: each table is a list of them, the first one its heading. A dash says nothing.


def marked(server, runs):
    return server + (" *" if max(run["waited"] for run in runs) > WAITED_MARKED else "")


def first_line(text):
    return text.splitlines()[0] if text else ""


def closed_rows(results, name):
    workload = workloads.WORKLOADS[name]
    better = results.better_floor(name)
    heading = ["", f"{workload.unit}s/s", "server busy", f"time a {workload.unit}", "calls"]
    heading += ["to ringwire", "to the ring floor", "to the better floor"]
    rows = [heading]
    for server, found in results.workloads[name]["servers"].items():
        runs = found.get("closed")
        if not runs:
            continue
        rate = statistics.median(run["rate_per_s"] for run in runs)
        busy = statistics.median(run["rate_per_s"] * run["server_cpu_ns"] / 1e9 for run in runs)
        calls = found.get("system_calls")
        bases = [RINGWIRE, RING_FLOOR, better]
        ratios = [results.ratio(name, server, base) if base != server else None for base in bases]
        rows.append(
            [
                marked(server, runs),
                ("> " if busy < BUSY_MARKED else "") + f"{rate:,.0f}",
                f"{busy:.0%}",
                duration(results.cpu_median(name, server)),
                "-" if calls is None else f"{calls:.3f}" if calls < 10 else f"{calls:,.0f}",
                *("-" if ratio is None else str(ratio) for ratio in ratios),
            ]
        )
    return rows


def open_rows(results, name, share):
    entry = results.workloads[name]
    heading = f"{entry.get('slowest_per_s', 0) * share:,.0f}/s, {share:.0%} of the slowest"
    rows = [[heading, "p50 us", "p99 us", "p99.9 us", "waited"]]
    for server in entry["servers"]:
        runs = results.of(name, server).get("open", {}).get(str(share))
        if not runs:
            continue
        fields = ("p50_us", "p99_us", "p999_us")
        spreads = [results.latency(name, server, share, field) for field in fields]
        if spreads[0] is None:
            rows.append([server, "the generator could not keep this rate", "-", "-", "-"])
        else:
            cells = ("-" if spread is None else f"{spread:,.0f}" for spread in spreads)
            waited = statistics.median(run["waited"] for run in runs)
            rows.append([marked(server, runs), *cells, f"{waited:.1%}"])
    return rows


def idle_rows(results, name):
    rows = [["", "connections", "resident bytes each"]]
    for server, found in results.workloads[name]["servers"].items():
        if idle := found.get("idle"):
            rows.append([server, f"{idle['connections']:,}", f"{idle['bytes_each']:,.0f}"])
    return rows


def tables_of(results, name):
    """All tables of one workload that have rows."""
    if results.workloads[name]["kind"] == "idle":
        tables = [idle_rows(results, name)]
    else:
        tables = [closed_rows(results, name)]
        tables += [open_rows(results, name, share) for share in workloads.RATES]
    return [without_empty_columns(rows) for rows in tables if len(rows) > 1]


def notes_of(results, name, tables):
    """What has to be said below them."""
    cells = [cell for rows in tables for row in rows for cell in row]
    for mark, note in NOTES.items():
        if any(cell.startswith(f"{mark} ") or cell.endswith(f" {mark}") for cell in cells):
            yield f"{mark} {note}"
    for server, found in results.workloads[name]["servers"].items():
        if problem := found.get("problem"):
            yield f"{server} failed: {first_line(problem)}"


def overview_rows(results):
    """Processor time a message, of all workloads and servers."""
    servers = list(results.servers)
    rows = [["", *servers]]
    for name in results.ordered():
        entry = results.workloads[name]
        if entry["kind"] == "idle":
            found = [results.of(name, server).get("idle") for server in servers]
            cells = [f"{idle['bytes_each']:,.0f} B" if idle else "-" for idle in found]
        else:
            has = [bool(results.cpu(name, server)) for server in servers]
            cells = [
                duration(results.cpu_median(name, server)) if there else "-"
                for server, there in zip(servers, has)
            ]
        rows.append([entry["label"], *cells])
    return rows


def without_empty_columns(rows):
    says = [any(row[column] != "-" for row in rows[1:]) for column in range(len(rows[0]))]
    return [[cell for cell, some in zip(row, says) if some] for row in rows]


# As text.


def aligned(rows):
    """Lines of columns, the first of them to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def circumstances(results):
    """Where, when and with what it was measured."""
    environment = results.data["environment"]
    rounds = sorted({entry["rounds"] for entry in results.workloads.values()})
    yield (
        f"Linux {environment['kernel']}, {environment['cpu_model']}, one processor a side. "
        f"Rounds: {' or '.join(map(str, rounds))}. Ended {results.data['ended']}, "
        f"commit {results.data['commit'] or 'unknown'}."
    )
    counted = results.data["system_calls_by"]
    yield (
        f"System calls were counted by {counted}."
        if counted
        else "System calls were not counted: neither perf nor strace can do that here."
    )
    yield from (f"Left out: {why}" for why in results.left_out)


def text(results):
    for name in results.ordered():
        yield f"{results.workloads[name]['label']}  [{name}]"
        tables = tables_of(results, name)
        for rows in tables:
            yield from (f"  {line}" for line in aligned(rows))
        yield from (f"  {note}" for note in notes_of(results, name, tables))
        yield ""
    yield ", ".join(f"{name}: {server['label']}" for name, server in results.servers.items())
    yield from circumstances(results)


# As Markdown.


def piped(rows, left=1):
    """A table, with so many of its columns to the left."""
    heading, *others = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    yield f"| {' | '.join(heading)} |"
    yield f"|{'---|' * left}{'---:|' * (len(heading) - left)}"
    yield from (f"| {' | '.join(row)} |" for row in others)


def document(results, picture=None):
    yield "# ringwire against floors and peers"
    yield ""
    yield "Written by `scripts/bench-peers.sh`; [README.md](README.md) tells how to read it. Made with"
    yield ""
    yield "```sh"
    yield from results.commands
    yield "```"
    yield ""
    for line in circumstances(results):
        yield f"- {line}"
    yield ""
    names = ([f"`{name}`", server["label"]] for name, server in results.servers.items())
    yield from piped([["name", "what"], *names], left=2)
    yield ""
    if picture:
        yield f"![Processor time a message, relative to a raw TCP echo on the same ring]({picture})"
        yield ""
    yield "## Processor time a message on the server"
    yield ""
    yield from piped(without_empty_columns(overview_rows(results)))
    yield ""
    yield "## Goals"
    yield ""
    judged = list(goals.verdicts(results))
    yield goals.tally(judged)
    yield ""
    yield from piped([["goal", "", "found"], *([v.goal, v.word, v.found] for v in judged)], left=3)
    yield ""
    for name in results.ordered():
        yield f"## {results.workloads[name]['label']}"
        yield ""
        tables = tables_of(results, name)
        for rows in tables:
            yield from piped(rows)
            yield ""
        for note in notes_of(results, name, tables):
            yield note.replace("*", "\\*").replace(">", "\\>")
            yield ""
