"""Reads what callgrind has counted, judges it by the figures on file, and writes those.

    counts.py judge|keep TOP FIGURES README LIST COUNTED RUSTC VALGRIND LIBC

TOP is how many functions to name of each scenario. FIGURES is benches/instructions.json, README the
page beside it with the same figures. LIST is what the program prints for --list. COUNTED is a
folder with callgrind's file of each scenario, by its name. The rest says what counted: each of them
changes what a program is made of, or which of its functions run.

Standard output is for people. Exit status: 0 all is as on file, 1 a figure is not, 2 it cannot be
told.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

# What a figure may differ from the one on file, in percent. Nothing else runs in it, and it repeats
# to the instruction: this is for what a change elsewhere does to what the compiler puts where.
MARGIN = 2.0

# The same, where something else made the program or counted it. A new compiler moves figures by
# some percent either way, and whoever comes by with one is not to answer for that; what doubles a
# figure is still found. Without any judgement nobody would notice that none is made any more.
WIDE_MARGIN = 10.0

# Below these nothing counts: the ring that stands in for the kernel, see benches/instructions.rs.
OUTSIDE = re.compile(r"<instructions::Outside as [^>]*\bRing>::")
# What is in a program only together with the simulated kernel.
KERNEL = re.compile(r"^<?(?:&?mut )?ringwire::ring::sim::")

# How a line that is a cost begins: a line of code, which may be relative to the last one.
POSITION = tuple("0123456789+-*")

# Shares are passed on from callers to callees so often at most: loops of calls come to rest before.
ROUNDS_MAX = 200

BEGIN, END = "<!-- instructions: begin -->", "<!-- instructions: end -->"


class Unreadable(Exception):
    """What was counted cannot be told from this."""


class Profile:
    """A file of callgrind's: what each function has cost itself, and what each call has cost.

    A function's own costs stand below its `fn=`, a line each, and below `calls=` stands one line
    that is what a callee has cost with all that it called. Functions are known by their numbers:
    two of them may have one name.
    """

    def __init__(self, lines):
        self.names = {}
        self.own = Counter()
        self.calls = Counter()
        function = callee = None
        is_call = False
        for line in lines:
            key, equals, value = line.rstrip("\n").partition("=")
            if equals and key == "fn":
                function = self.number(value)
            elif equals and key == "cfn":
                callee = self.number(value)
            elif equals and key == "calls":
                is_call = True
            elif line.startswith("totals:"):
                told = int(line.split()[1])
                if told != self.own.total():
                    raise Unreadable(f"its lines come to {self.own.total()}, and it says {told}")
            elif line[:1] in POSITION:
                cost = int((line.split() + ["0"])[1])
                if is_call:
                    self.calls[function, callee] += cost
                else:
                    self.own[function] += cost
                is_call = False

    def number(self, text):
        # `(7) name` the first time, then `(7)`; some have no name.
        number, _, name = text.partition(" ")
        if name or number not in self.names:
            self.names[number] = name or number
        return number

    def counted(self):
        """The instructions of the shard, and those that the simulated kernel took in between."""
        outside = 0
        for (caller, callee), cost in self.calls.items():
            caller, callee = self.names[caller], self.names[callee]
            if OUTSIDE.search(callee):
                outside += cost
            elif cost and KERNEL.search(callee) and not is_outside(caller):
                raise Unreadable(f"{caller} calls {callee}: it is counted as the shard's")
        if not self.own.total():
            raise Unreadable("nothing was counted: is there a function counted_turn?")
        if not outside:
            raise Unreadable("the simulated kernel took nothing: its functions have other names")
        return self.own.total() - outside, outside

    def of_the_shard(self):
        """What each function has cost itself, for the shard and not for the simulated kernel.

        A function that both call costs each of them a share of it, as of what the calls have cost.
        """
        callers = {}
        for (caller, callee), cost in self.calls.items():
            if caller != callee and cost:
                callers.setdefault(callee, []).append((caller, cost))
        # Who has no callers is where counting began.
        shares = {n: 0.0 if is_outside(name) else 1.0 for n, name in self.names.items()}
        changing = [n for n in callers if not is_outside(self.names[n])]
        for _ in range(ROUNDS_MAX):
            before = dict(shares)
            for number in changing:
                by = callers[number]
                costs = sum(cost for _, cost in by)
                shares[number] = sum(cost * shares[caller] for caller, cost in by) / costs
            if all(abs(shares[n] - before[n]) < 1e-6 for n in changing):
                break
        costs = Counter()
        for number, cost in self.own.items():
            costs[self.names[number]] += cost * shares[number]
        return costs


def is_outside(function):
    return OUTSIDE.search(function) or KERNEL.search(function)


def scenarios(text):
    """Name, how many are counted, what each is, and what is done."""
    for line in text.splitlines():
        name, count, per, what = line.split("\t")
        yield name, int(count), per, what


def measured(listed, folder, top):
    """The figures, and of each the lines that name the functions that it is made of."""
    figures, parts = {}, []
    for name, count, per, what in scenarios(Path(listed).read_text()):
        with open(Path(folder) / name) as lines:
            try:
                profile = Profile(lines)
                total, _ = profile.counted()
            except Unreadable as error:
                raise Unreadable(f"{name}: {error}") from error
        figures[name] = {"what": what, "per": per, "instructions": round(total / count, 1)}
        if top:
            parts += ["", f"{name}, a {per}:"]
            costs = profile.of_the_shard().most_common(top)
            parts += [f"{cost / count:13,.1f}  {function}" for function, cost in costs if cost]
    return figures, parts


def judge(filed, figures, made_with):
    """The lines to print, and whether all is as on file."""
    kept = filed["figures"]
    differs = [name for name in made_with if filed["made_with"].get(name) != made_with[name]]
    differs = differs if kept else []
    margin = WIDE_MARGIN if differs else MARGIN
    lines = [f"{'scenario':20} {'per':10} {'instructions':>13} {'on file':>13} {'':>10}"]
    above, below = [], []
    for name, figure in figures.items():
        now = figure["instructions"]
        line = f"{name:20} {figure['per']:10} {now:13,.1f}"
        if name in kept:
            was = kept[name]["instructions"]
            percent = 100 * (now - was) / was
            line += f" {was:13,.1f} {percent:+8.2f} %"
            if percent > margin:
                above.append(name)
                line += " MORE"
            elif percent < -margin:
                below.append(name)
                line += " LESS"
        lines.append(line)
    for name in differs:
        lines.append(f"{name}: {made_with[name]}; on file {filed['made_with'].get(name)}.")
    if differs:
        lines.append(f"So the margin is {margin:g} % instead of {MARGIN:g}, until --keep.")
    if above:
        lines.append(f"More than {margin:g} % above the figure on file: {', '.join(above)}.")
    if below:
        lines.append(
            f"More than {margin:g} % below it: {', '.join(below)}. Put it on file with --keep, or"
            " it may be lost again unnoticed."
        )
    new = [name for name in figures if name not in kept]
    if new:
        lines.append(f"Not on file: {', '.join(new)}. Put it there with --keep.")
    gone = [name for name in kept if name not in figures]
    if gone:
        lines.append(f"On file, and not measured any more: {', '.join(gone)}. Use --keep.")
    # With another compiler, fewer are nobody's merit, and not to be asked for.
    return lines, not (above or new or gone or (below and not differs))


def table(figures, made_with):
    lines = ["| scenario | what | instructions |", "|---|---|--:|"]
    for name, figure in figures.items():
        number = f"{figure['instructions']:,.0f}"
        lines.append(f"| `{name}` | {figure['what']} | {number} a {figure['per']} |")
    tools = ", ".join(f"{name} {version}" for name, version in made_with.items())
    return "\n".join([*lines, "", f"With {tools}."])


def with_table(page, text):
    """The page, with what stands between the two marks replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Unreadable(f"the page has no '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def read_filed(path):
    if not path.exists():
        return {"made_with": {}, "figures": {}}
    return json.loads(path.read_text())


def main(arguments):
    mode, top, path, page, listed, folder, *versions = arguments
    path, page = Path(path), Path(page)
    made_with = dict(zip(("rustc", "valgrind", "libc"), versions, strict=True))
    figures, parts = measured(listed, folder, int(top))
    lines, is_good = judge(read_filed(path), figures, made_with)
    print("\n".join([*lines, *parts]))
    if mode == "judge":
        return 0 if is_good else 1
    written = with_table(page.read_text(), table(figures, made_with))
    filed = json.dumps({"made_with": made_with, "figures": figures}, indent=2)
    path.write_text(filed + "\n")
    page.write_text(written)
    print(f"Kept in {path.name}, and in {page.name} beside it.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Unreadable, OSError, ValueError, KeyError) as error:
        print(f"instructions.sh: {error}", file=sys.stderr)
        sys.exit(2)
