"""Which goals were reached.

A goal is judged by the median of the rounds, without a margin for noise.
"""

from dataclasses import dataclass

import workloads
from workloads import RINGWIRE, RINGWIRE_AIO, RING_FLOOR


@dataclass(frozen=True)
class Verdict:
    """Whether one goal was reached; None when it cannot be said."""

    goal: str
    found: str
    reached: object

    @property
    def word(self):
        return {True: "reached", False: "MISSED", None: "NOT MEASURED"}[self.reached]

    def __str__(self):
        return f"{self.word:13} {self.goal}: {self.found}"


def tally(judged):
    counts = [sum(one.reached is value for one in judged) for value in (True, False, None)]
    return "{} reached, {} missed, {} not measured".format(*counts)


def judge(goal, ratio, limit, found, below=False):
    if ratio is None:
        return Verdict(goal, "there are no figures", None)
    reached = ratio < limit if below else ratio <= limit
    return Verdict(goal, found, reached)


def cpu_verdicts(results):
    for goal in workloads.CPU_GOALS:
        name = goal.workload
        floor = results.better_floor(name) if goal.better_floor else RING_FLOOR
        which = "the better floor" if goal.better_floor else "the ring floor"
        ratio = results.ratio(name, RINGWIRE, floor) if floor else None
        yield judge(
            f"{name}, at most {goal.floor_ratio_max} times {which}",
            ratio and ratio.median,
            goal.floor_ratio_max,
            str(ratio),
        )
        left_out = workloads.NEITHER_RUST_NOR_BUN if goal.rust_or_bun else ()
        best = next((peer for peer in results.peers(name) if peer not in left_out), None)
        ratio = results.ratio(name, RINGWIRE, best) if best else None
        limit = goal.peer_ratio_max
        text = "below every peer" if limit == 1 else f"at most {limit:.2g} times the best peer"
        if goal.rust_or_bun:
            text += " in Rust, and Bun"
        yield judge(
            f"{name}, {text}", ratio and ratio.median, limit, f"{ratio} of {best}", below=limit == 1
        )


def async_verdicts(results):
    limit = workloads.ASYNC_PEER_RATIO_MAX
    for goal in workloads.CPU_GOALS:
        name = goal.workload
        best = next((peer for peer in results.peers(name) if peer in workloads.ASYNC_RUST), None)
        ratio = results.ratio(name, RINGWIRE_AIO, best) if best else None
        text = f"{name}, async: at most {limit} times the best async peer in Rust"
        yield judge(text, ratio and ratio.median, limit, f"{ratio} of {best}")


def call_verdicts(results):
    for name, limit in workloads.SYSTEM_CALLS_BELOW.items():
        calls = results.of(name, RINGWIRE).get("system_calls")
        text = f"{name}, less than {limit} system calls a message"
        yield judge(text, calls, limit, "" if calls is None else f"{calls:.3f}", below=True)


def tail_verdicts(results):
    share = workloads.TAIL_GOAL_RATE
    for name in results.ordered():
        # Of those whose latency was asked for.
        if "slowest_per_s" not in results.workloads[name]:
            continue
        own = results.latency(name, RINGWIRE, share, "p999_us")
        others = {
            peer: results.latency(name, peer, share, "p999_us") for peer in results.peers(name)
        }
        others = {peer: value for peer, value in others.items() if value is not None}
        goal = f"{name}, p99.9 at {share:.0%} of the slowest's rate not above any peer's"
        if own is None or not others:
            yield Verdict(goal, "there are no figures", None)
            continue
        best = min(others, key=lambda peer: others[peer].median)
        found = f"{own:,.0f} us, {best} {others[best]:,.0f} us"
        yield judge(goal, own.median, others[best].median, found)


def idle_verdicts(results):
    for (name, server), limit in workloads.IDLE_BYTES_MAX.items():
        idle = results.of(name, server).get("idle")
        each = idle and idle["bytes_each"]
        whose = ", async:" if server == RINGWIRE_AIO else ","
        text = f"{name}{whose} at most {limit} resident bytes each"
        yield judge(text, each, limit, "" if idle is None else f"{each:,.0f}")


def verdicts(results):
    yield from cpu_verdicts(results)
    yield from async_verdicts(results)
    yield from call_verdicts(results)
    yield from tail_verdicts(results)
    yield from idle_verdicts(results)
