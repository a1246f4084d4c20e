"""Makes tables, a chart and verdicts of what run.py has written.

    report.py FILE.json... [--goals] [--svg FILE] [--markdown FILE] [--json FILE]

Several files, of workloads that were measured one after the other, are taken together; where one
was measured twice the later file counts.

Exit status: 0, or with --goals 1 when a goal was missed and 2 when one could not be judged. 2 also
when the runs themselves have left something unmeasured.
"""

import argparse
import json
import os
import sys

import chart
import goals
import tables
from results import Results


def write(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--goals", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--svg", metavar="FILE")
    options = parser.parse_args()
    runs = []
    for path in options.files:
        with open(path, encoding="utf-8") as file:
            runs.append(json.load(file))
    results = Results(runs)
    for line in tables.text(results):
        print(line)
    status = 0
    if options.goals:
        judged = list(goals.verdicts(results))
        print()
        for verdict in judged:
            print(verdict)
        print(goals.tally(judged))
        reached = {verdict.reached for verdict in judged}
        status = 2 if None in reached else 1 if False in reached else 0
    for problem in results.problems:
        print(f"not measured: {problem}", file=sys.stderr)
        status = 2
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results.merged(), file, indent=1)
            file.write("\n")
    if options.svg:
        write(options.svg, chart.draw(results))
    if options.markdown:
        picture = None
        if options.svg:
            folder = os.path.dirname(options.markdown) or "."
            picture = os.path.relpath(options.svg, folder)
        write(options.markdown, tables.document(results, picture))
    return status


if __name__ == "__main__":
    sys.exit(main())
