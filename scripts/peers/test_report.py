"""Holds tables, verdicts and the picture against figures that are known.

    python3 -m unittest discover -s scripts/peers
"""

import base64
import struct
import unittest
import xml.etree.ElementTree as tree
import zlib

import chart
import goals
import tables
import workloads
from histogram import Histogram
from results import Results
from workloads import RINGWIRE


def closed(*ns):
    return [{"server_cpu_ns": one, "rate_per_s": 1e9 / one, "waited": 0.0} for one in ns]


def results(found, problems=()):
    roles = {"ringwire": "ringwire", "ringwire_aio": "ringwire", "floor_ring": "floor", "floor_epoll": "floor"}
    names = {server for entry in found.values() for server in entry}
    run = {
        "environment": {"kernel": "6.1.0-any", "cpu_model": "any", "processors": 2},
        "commands": ["a command"],
        "commit": "0123456789ab",
        "ended": "2026-01-02T03:04:05+00:00",
        "took_s": 60,
        "system_calls_by": "perf",
        "left_out": [],
        "servers": {
            name: {"label": name, "role": roles.get(name, "peer")} for name in sorted(names)
        },
        "workloads": {
            name: {
                "label": name,
                "kind": workloads.WORKLOADS[name].kind,
                "rounds": 3,
                "servers": entry,
                "slowest_per_s": 1000,
            }
            for name, entry in found.items()
        },
        "problems": list(problems),
    }
    return Results([run])


def latency(p999, bound=False, samples=1000):
    run = {"p50_us": 1, "p99_us": 2, "p999_us": p999, "client_bound": bound}
    return {"0.5": [{**run, "samples": samples, "waited": 0.0}]}


def verdict(found, words):
    judged = [one for one in goals.verdicts(results(found)) if words in one.goal]
    assert len(judged) == 1, judged
    return judged[0].reached


class Ratios(unittest.TestCase):
    def test_are_taken_round_by_round(self):
        # The machine is twice as slow in the second round; the ratio does not see it.
        found = {"64b-8": {RINGWIRE: {"closed": closed(110, 220, 105)}}}
        found["64b-8"]["floor_ring"] = {"closed": closed(100, 200, 100)}
        ratio = results(found).ratio("64b-8", RINGWIRE, "floor_ring")
        self.assertEqual(str(ratio), "1.10 (1.05..1.10)")

    def test_are_none_without_figures(self):
        found = {"64b-8": {RINGWIRE: {"closed": closed(1)}}}
        self.assertIsNone(results(found).ratio("64b-8", RINGWIRE, "bun"))


class Goals(unittest.TestCase):
    def found(self, name, ringwire, ring=100, epoll=100, **peers):
        entry = {RINGWIRE: ringwire, "floor_ring": ring, "floor_epoll": epoll, **peers}
        return {name: {server: {"closed": closed(ns, ns, ns)} for server, ns in entry.items()}}

    def test_of_the_ring_floor(self):
        goal = "64b-8, at most 1.05 times the ring floor"
        self.assertTrue(verdict(self.found("64b-8", 105), goal))
        self.assertFalse(verdict(self.found("64b-8", 106, epoll=200), goal))

    def test_of_the_better_floor(self):
        goal = "16k-64, at most 1.05 times the better floor"
        self.assertTrue(verdict(self.found("16k-64", 105, epoll=101), goal))
        self.assertFalse(verdict(self.found("16k-64", 105, epoll=90), goal))

    def test_of_peers(self):
        goal = "64b-8, below every peer"
        self.assertTrue(verdict(self.found("64b-8", 99, bun=100, ws=500), goal))
        self.assertFalse(verdict(self.found("64b-8", 100, bun=100, ws=500), goal))
        judged = goals.verdicts(results(self.found("64b-8", 99, bun=100, ws=500)))
        self.assertIn("0.99 of bun", [one.found for one in judged])

    def test_of_those_in_rust_and_bun(self):
        goal = "20b-16x256, at most 0.2 times the best peer"
        self.assertTrue(verdict(self.found("20b-16x256", 20, bun=100, libwebsockets=50), goal))
        self.assertFalse(verdict(self.found("20b-16x256", 21, bun=100, libwebsockets=50), goal))

    def test_of_the_async_api_are_of_those_in_async_rust(self):
        goal = "64b-8, async: at most 1.0 times the best async peer in Rust"
        peers = {"bun": 50, "fastwebsockets": 100, "tokio_websockets": 90}
        self.assertTrue(verdict(self.found("64b-8", 1, ringwire_aio=90, **peers), goal))
        self.assertFalse(verdict(self.found("64b-8", 1, ringwire_aio=91, **peers), goal))
        self.assertIsNone(verdict(self.found("64b-8", 1, ringwire_aio=1, bun=2), goal))

    def test_the_async_api_is_no_peer(self):
        found = self.found("64b-8", 100, ringwire_aio=50, bun=101)
        self.assertEqual(results(found).peers("64b-8"), ["bun"])
        self.assertTrue(verdict(found, "64b-8, below every peer"))

    def test_of_idle_memory_are_each_engines_own(self):
        def of(bytes_each):
            return {"idle": {"connections": 10000, "bytes_each": bytes_each}}

        found = {"idle": {"ringwire_aio": of(2048)}, "idle-18k": {RINGWIRE: of(257)}}
        self.assertTrue(verdict(found, "idle, async: at most 2048"))
        self.assertFalse(verdict(found, "idle-18k, at most 256"))

    def test_that_nobody_measured_are_not_reached(self):
        for one in goals.verdicts(results({})):
            self.assertIsNone(one.reached, one)

    def test_of_the_tail_leave_out_what_the_generator_could_not_do(self):
        found = self.found("64b-8", 100, bun=100)
        goal = "64b-8, p99.9 at 50%"
        found["64b-8"][RINGWIRE]["open"] = latency(50)
        self.assertIsNone(verdict(found, goal))
        found["64b-8"]["bun"]["open"] = latency(10, bound=True)
        self.assertIsNone(verdict(found, goal))
        found["64b-8"]["bun"]["open"] = latency(50)
        self.assertTrue(verdict(found, goal))
        found["64b-8"]["bun"]["open"] = latency(49)
        self.assertFalse(verdict(found, goal))

    def test_of_the_tail_need_a_thousand_messages(self):
        goal = "64b-8, p99.9 at 50%"
        found = self.found("64b-8", 100, bun=100)
        found["64b-8"][RINGWIRE]["open"] = latency(50, samples=999)
        found["64b-8"]["bun"]["open"] = latency(50)
        self.assertIsNone(verdict(found, goal))
        found["64b-8"][RINGWIRE]["open"] = latency(50, samples=1000)
        self.assertTrue(verdict(found, goal))

    def test_of_each_workload_are_measured_by_quick(self):
        quick = workloads.MODES["quick"].workloads
        wanted = {goal.workload for goal in workloads.CPU_GOALS}
        wanted |= {*workloads.SYSTEM_CALLS_BELOW}
        wanted |= {workload for workload, _ in workloads.IDLE_BYTES_MAX}
        self.assertLessEqual(wanted, set(quick))


class SeveralFiles(unittest.TestCase):
    def run_of(self, name, ns, left_out=()):
        found = {name: {RINGWIRE: {"closed": closed(ns)}}}
        return {**results(found).merged(), "left_out": list(left_out)}

    def test_are_one_and_the_later_counts(self):
        runs = [self.run_of("64b-8", 1), self.run_of("1k-64", 2), self.run_of("64b-8", 3)]
        whole = Results(runs)
        self.assertEqual(whole.ordered(), ["64b-8", "1k-64"])
        self.assertEqual(whole.cpu("64b-8", RINGWIRE), [3])
        self.assertEqual(whole.merged()["took_s"], 180)
        self.assertEqual(len(whole.commands), 3)

    def test_leave_out_only_whom_none_has(self):
        runs = [self.run_of("64b-8", 1, ["a", "b"]), self.run_of("1k-64", 1, ["b"])]
        self.assertEqual(Results(runs).left_out, ["b"])


class Output(unittest.TestCase):
    def test_tables_leave_out_columns_that_say_nothing(self):
        found = {"64b-8": {"ringwire": {"closed": closed(100)}, "bun": {"closed": closed(200)}}}
        text = "\n".join(tables.text(results(found)))
        self.assertIn(" 2.00", text)
        self.assertNotIn("floor", text)

    def test_who_waited_is_marked(self):
        runs = closed(100, 100)
        runs[1]["waited"] = 0.2
        text = "\n".join(tables.text(results({"64b-8": {"ringwire": {"closed": runs}}})))
        self.assertIn("ringwire *", text)
        self.assertIn("others wanted the same processor", text)

    def test_who_waited_for_the_generator_is_marked(self):
        idle = [{**run, "rate_per_s": 0.8e7} for run in closed(100, 100)]
        found = {"64b-8": {"ringwire": {"closed": idle}, "bun": {"closed": closed(100)}}}
        text = "\n".join(tables.text(results(found)))
        self.assertIn("> 8,000,000", text)
        self.assertIn("80%", text)
        self.assertNotIn("> 10,000,000", text)
        self.assertIn("was waiting for the generator", text)

    def test_who_failed_is_told(self):
        found = {"64b-8": {"ringwire": {"closed": closed(100)}, "bun": {"problem": "gone\nx"}}}
        text = "\n".join(tables.text(results(found)))
        self.assertIn("bun failed: gone\n", text)

    def test_the_document_has_every_table(self):
        entry = {
            "ringwire": {"closed": closed(100), "open": latency(50)},
            "bun": {"closed": closed(200), "open": latency(50, bound=True)},
        }
        idle = {"ringwire": {"idle": {"connections": 10000, "bytes_each": 123.4}}}
        lines = list(tables.document(results({"64b-8": entry, "idle": idle}), "peers.svg"))
        self.assertIn("| 64b-8 | 200 ns | 100 ns |", lines)
        self.assertIn("| ringwire | 1 | 2 | 50 | 0.0% |", lines)
        self.assertIn("| bun | the generator could not keep this rate | - | - | - |", lines)
        self.assertIn("| ringwire | 10,000 | 123 |", lines)
        self.assertIn("a command", lines)
        for heading, ruler in zip(lines, lines[1:]):
            if ruler.startswith("|---"):
                self.assertEqual(heading.count("|"), ruler.count("|"))

    def test_the_picture_is_one_and_has_every_bar(self):
        servers = {"ringwire": 101, "floor_ring": 100, "floor_epoll": 99, "bun": 9000}
        entry = {name: {"closed": closed(ns, ns)} for name, ns in servers.items()}
        drawn = tree.fromstring("\n".join(chart.draw(results({"64b-8": entry, "1k-64": entry}))))
        bars = [one for one in drawn.iter() if one.get("class") in ("ringwire", "floor", "peer")]
        self.assertEqual(len(bars), 6 + len(chart.LEGEND))
        widths = {float(bar.get("width")) for bar in bars}
        self.assertTrue(max(widths) <= chart.COLUMN_WIDTH, widths)


class Histograms(unittest.TestCase):
    def encoded(self, counts, digits=3, lowest=1):
        plain = b"".join(self.number(count) for count in counts)
        head = struct.pack(">iiiiqqd", 0x1C849303, len(plain), 0, digits, lowest, 10**9, 1.0)
        packed = zlib.compress(head + plain)
        return base64.b64encode(struct.pack(">ii", 0x1C849304, len(packed)) + packed)

    def number(self, value):
        value = (value << 1) ^ (value >> 63)
        written = bytearray()
        while value >= 0x80:
            written.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*written, value])

    def test_small_values_are_exact(self):
        # 10 times the value 3, then twice 1000: 996 empty places between them.
        found = Histogram(self.encoded([-3, 10, -996, 2]))
        self.assertEqual([found.value_at(part) for part in (0.5, 0.83, 0.999)], [3, 3, 1000])

    def test_large_values_come_in_steps(self):
        # Three digits: 2048 steps of 1, then 1024 of 2 from 2048 on, then 1024 of 4.
        found = Histogram(self.encoded([-2048, 1, -1023, 1]))
        self.assertEqual([found.value_at(part) for part in (0.1, 1.0)], [2049, 4099])

    def test_anything_else_is_refused(self):
        with self.assertRaises(ValueError):
            Histogram(base64.b64encode(b"not a histogram, but long enough"))


if __name__ == "__main__":
    unittest.main()
