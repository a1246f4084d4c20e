"""Reads back what loadgen wrote, with other people's code: Python's hdrhistogram and jsonschema.

    readback.py FOLDER [--list]

FOLDER has run.json, run.hgrm and run.hlog of one run. Prints "ok NAME" or "FAIL NAME: why" for each
check; --list prints the names.
"""

import json
import math
import pathlib
import re
import sys

import jsonschema
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "loadgen/schema.json"
PERCENTILES = (50, 90, 99, 99.9, 99.99, 100)
CHECKS = {}


def check(function):
    CHECKS[function.__doc__] = function
    return function


def equal(what, seen, wanted):
    assert seen == wanted, f"{what}: {seen}, wanted {wanted}"


def near(what, seen, wanted, share):
    assert math.isclose(seen, wanted, rel_tol=share, abs_tol=1e-9), f"{what}: {seen}, wanted {wanted}"


class Files:
    def __init__(self, folder):
        self.json = json.loads((folder / "run.json").read_text())
        self.hgrm = (folder / "run.hgrm").read_text()
        self.hlog = folder / "run.hlog"

    def histogram(self, name="corrected_ns"):
        return HdrHistogram.decode(self.json["latency"][name])

    def measured(self):
        return [slice for slice in self.json["slices"] if not slice["is_warmup"]]


@check
def schema(files):
    """the JSON is as its schema says"""
    jsonschema.validate(
        files.json, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator
    )


@check
def counts(files):
    """the JSON's histograms hold as many latencies as messages came back"""
    equal("corrected", files.histogram().get_total_count(), files.json["messages"]["received"])
    equal(
        "uncorrected",
        files.histogram("uncorrected_ns").get_total_count(),
        files.json["messages"]["received"],
    )


@check
def plotter(files):
    """the .hgrm is what the plotter's rules read"""
    # The rules of GoogleChartsExample/plotFiles.html.
    points = []
    for line in files.hgrm.splitlines():
        values = re.split(r" +", line.strip())
        if not line.strip().startswith("#") and len(values) == 4:
            try:
                points.append((float(values[3]), float(values[0])))
            except ValueError:
                continue
    assert len(points) > 10, f"{len(points)} points"
    equal("the first point's x", points[0][0], 1.0)
    assert points == sorted(points), "the points do not ascend"


@check
def distribution(files):
    """every line of the .hgrm is what the histogram says of its percentile"""
    histogram = files.histogram()
    # All of them by hand: Python's own writer steps through the percentiles in another way than
    # Java's, which everybody plots.
    up_to = {}
    total = 0
    for step in histogram.get_recorded_iterator():
        total += step.count_at_value_iterated_to
        up_to[total] = histogram.get_highest_equivalent_value(step.value_iterated_to)
    rows = [line.split() for line in files.hgrm.splitlines()]
    rows = [row for row in rows if row and row[0][0].isdigit()]
    for row in rows:
        value, quantile, count = float(row[0]), float(row[1]), int(row[2])
        assert count in up_to, f"{row}: no value ends at that count"
        near(f"value of {row}", value, up_to[count] / 1e6, 0.001)
        # Libraries differ by one latency in where exactly a percentile lies.
        low, high = (
            histogram.get_value_at_percentile(100 * min(max(quantile + step / total, 0), 1)) / 1e6
            for step in (-1.5, 1.5)
        )
        assert low * 0.998 <= value <= high * 1.002, f"{row}: not from {low} to {high}"
        if len(row) == 4:
            assert abs(float(row[3]) - 1 / (1 - quantile)) < 0.006 / (1 - quantile), f"{row}"
    equal("the last line's columns", len(rows[-1]), 3)
    equal("the last line's count", int(rows[-1][2]), histogram.get_total_count())


@check
def footer(files):
    """the .hgrm's last lines agree with the histogram"""
    numbers = {
        name.strip(): float(value)
        for name, value in re.findall(r"(?:\[|, )([\w ]+?) *= *([0-9.]+)", files.hgrm)
    }
    histogram = files.histogram()
    near("Mean", numbers["Mean"], histogram.get_mean_value() / 1e6, 0.001)
    near("StdDeviation", numbers["StdDeviation"], histogram.get_stddev() / 1e6, 0.005)
    near("Max", numbers["Max"], histogram.get_max_value() / 1e6, 0.001)
    equal("Total count", numbers["Total count"], histogram.get_total_count())


def intervals(files):
    reader = HistogramLogReader(str(files.hlog), HdrHistogram(64, 60_000_000_000, 2))
    found = []
    while (interval := reader.get_next_interval_histogram()) is not None:
        found.append(interval)
    return found


@check
def log(files):
    """the .hlog has one interval a slice, with the slice's percentiles"""
    untagged = [interval for interval in intervals(files) if interval.get_tag() is None]
    measured = files.measured()
    equal("intervals", len(untagged), len(measured))
    for interval, slice in zip(untagged, measured):
        own = HdrHistogram.decode(slice["latency_ns"])
        equal("count", interval.get_total_count(), own.get_total_count())
        started = files.json["times"]["started_unix_ms"] + slice["start_ms"]
        near("start", interval.get_start_time_stamp(), started, 1e-9)
        for percentile in PERCENTILES:
            equal(
                f"p{percentile}",
                interval.get_value_at_percentile(percentile),
                own.get_value_at_percentile(percentile),
            )


@check
def tags(files):
    """the .hlog's tagged intervals are whole histograms"""
    tagged = {i.get_tag(): i for i in intervals(files) if i.get_tag() is not None}
    wanted = {"handshake": "handshake_ns", "whole": "corrected_ns"}
    if files.json["latency"]["has_schedule"]:
        wanted["uncorrected"] = "uncorrected_ns"
    equal("tags", sorted(tagged), sorted(wanted))
    for tag, name in wanted.items():
        own = files.histogram(name)
        equal(f"count of {tag}", tagged[tag].get_total_count(), own.get_total_count())
        for percentile in PERCENTILES:
            near(
                f"p{percentile} of {tag}",
                tagged[tag].get_value_at_percentile(percentile),
                own.get_value_at_percentile(percentile),
                0.01,
            )


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--list"]
    if "--list" in sys.argv[1:]:
        print("\n".join(CHECKS))
        return
    files = Files(pathlib.Path(arguments[0]))
    failed = False
    for name, function in CHECKS.items():
        try:
            function(files)
            print(f"ok {name}")
        except Exception as error:  # Whatever a reader throws, it could not read.
            failed = True
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            print(f"FAIL {name}: {why}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
