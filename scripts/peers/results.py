"""What run.py has measured, taken together, and ratios of it.

All ratios are of processor time a message, taken round by round and then as the median, with the
least and the most of the rounds in brackets.
"""

import statistics
from dataclasses import dataclass

import workloads
from workloads import EPOLL_FLOOR, RING_FLOOR


# Of less than a thousand messages, p99.9 is the slowest one.
SAMPLES_MIN = {"p50_us": 1, "p99_us": 100, "p999_us": 1000}


@dataclass(frozen=True)
class Spread:
    """One figure, over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, how):
        how = how or (".2f" if self.most < 100 else ".0f")
        median, least, most = (f"{one:{how}}" for one in (self.median, self.least, self.most))
        return median if least == most else f"{median} ({least}..{most})"

    def __str__(self):
        return format(self)


class Results:
    """What was measured, taken together."""

    def __init__(self, runs):
        self.data = runs[-1]
        self.servers = {}
        self.workloads = {}
        self.problems = []
        self.commands = []
        self.took_s = sum(run["took_s"] for run in runs)
        # Who was left out of every run.
        self.left_out = [
            why for why in runs[-1]["left_out"] if all(why in run["left_out"] for run in runs)
        ]
        for run in runs:
            self.commands += run["commands"]
            self.servers.update(run["servers"])
            self.workloads.update(run["workloads"])
            self.problems += run["problems"]

    def merged(self):
        return {
            **self.data,
            "commands": self.commands,
            "took_s": self.took_s,
            "left_out": self.left_out,
            "servers": self.servers,
            "workloads": self.workloads,
            "problems": self.problems,
        }

    def ordered(self):
        """Names of the workloads, in the order of their table."""
        return [name for name in workloads.WORKLOADS if name in self.workloads]

    def of(self, workload, server):
        return self.workloads.get(workload, {}).get("servers", {}).get(server, {})

    def cpu(self, workload, server):
        """Nanoseconds a message, round by round."""
        return [run["server_cpu_ns"] for run in self.of(workload, server).get("closed", ())]

    def cpu_median(self, workload, server):
        return statistics.median(self.cpu(workload, server))

    def ratio(self, workload, one, other):
        pairs = list(zip(self.cpu(workload, one), self.cpu(workload, other)))
        if not pairs:
            return None
        each = [mine / theirs for mine, theirs in pairs]
        return Spread.of(each)

    def better_floor(self, workload):
        floors = [name for name in (RING_FLOOR, EPOLL_FLOOR) if self.cpu(workload, name)]
        return min(floors, key=lambda name: self.cpu_median(workload, name), default=None)

    def peers(self, workload):
        """Other WebSocket servers that were measured, the best first."""
        measured = [
            name
            for name, server in self.servers.items()
            if server["role"] == "peer" and self.cpu(workload, name)
        ]
        return sorted(measured, key=lambda name: self.cpu_median(workload, name))

    def latency(self, workload, server, share, field):
        """Over the rounds in which the generator kept its schedule; None when there are none, or
        when they have seen too few messages to tell."""
        runs = self.of(workload, server).get("open", {}).get(str(share), ())
        needed = SAMPLES_MIN[field]
        values = [
            run[field] for run in runs if not run["client_bound"] and run["samples"] >= needed
        ]
        return Spread.of(values) if values else None
