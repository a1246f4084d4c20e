"""Holds the judgements against figures that are known.

    python3 -m unittest discover -s scripts/attack
"""

import unittest
import xml.etree.ElementTree as tree

import chart
import judge
import rows
import servers
import soak
from rows import MIB, Row


def waits(worst=1.0, count=100):
    return {"count": count, "p50": worst / 2, "p99": worst, "worst": worst, "unanswered": 0}


def neighbour(worst=1.0, **others):
    found = {
        "echo": waits(worst),
        "newcomers": waits(worst),
        "newcomers_told_503": 0,
        "cut_off": None,
        "newcomer_errors": [],
        "recovered": True,
    }
    return found | others


def figures(**others):
    """A row that was passed."""
    found = {
        "attack": {
            "frames": 1000,
            "cycles": 0,
            "opened": 100,
            "ended": 0,
            "sent_bytes": 100 * MIB,
            "read_bytes": 100 * MIB,
        },
        "before_bytes": 10 * MIB,
        "peak_bytes": 20 * MIB,
        "after_bytes": 11 * MIB,
        "peak_socket_bytes": MIB,
        "before_descriptors": 10,
        "peak_descriptors": 110,
        "usual_descriptors": 110,
        "after_descriptors": 10,
        "idle_share": 0.0,
        "threads_lost": 0,
        "unanswered_after": None,
        "ended": None,
        "beside": neighbour(),
        "alone": neighbour(),
    }
    return found | others


EVERYTHING = Row(
    "all",
    "sink-64",
    100,
    judged=("waits", "held", "limit", "sockets", "answered", "left", "slots"),
    options=("--shard-connections-max=100",),
    frames=100,
)


class Judgements(unittest.TestCase):
    def test_a_row_that_is_all_right_misses_nothing(self):
        self.assertEqual(judge.misses(EVERYTHING, figures()), [])

    def test_each_goal_can_be_missed(self):
        idle = figures()["attack"] | {"frames": 99}
        few = Row("few", "ping", 2)
        for row, found, words in (
            (EVERYTHING, {"beside": neighbour(32.0)}, "echo p99 31 ms more"),
            (EVERYTHING, {"beside": neighbour(160.0)}, "echo worst 159 ms more"),
            (EVERYTHING, {"beside": neighbour(newcomers=waits(160))}, "newcomers worst"),
            (EVERYTHING, {"beside": neighbour(newcomers=waits(count=0))}, "nothing was measured"),
            (EVERYTHING, {"beside": neighbour(newcomers=waits(1002))}, "a newcomer waited"),
            (few, {"beside": neighbour(12.0)}, "echo p99 11 ms more, at most 10"),
            (few, {"beside": neighbour(cut_off="reset")}, "the neighbour was cut off: reset"),
            (few, {"alone": neighbour(cut_off="reset")}, "the idle one was cut off"),
            (few, {"beside": neighbour(newcomer_errors=["500"])}, "500"),
            (few, {"beside": neighbour(recovered=False)}, "no answer 5 s after"),
            (EVERYTHING, {"peak_bytes": 300 * MIB}, "holds 290.0 MiB"),
            (EVERYTHING, {"peak_bytes": 600 * MIB}, "beside a limit of 512.0 MiB"),
            (EVERYTHING, {"peak_socket_bytes": 100 * MIB}, "in the kernel"),
            (EVERYTHING, {"after_bytes": 30 * MIB}, "30.0 MiB after it"),
            (EVERYTHING, {"usual_descriptors": 300}, "290 descriptors, with 100 slots"),
            (EVERYTHING, {"after_descriptors": 60}, "50 descriptors are left"),
            (EVERYTHING, {"idle_share": 0.5}, "50% of a processor"),
            (EVERYTHING, {"threads_lost": 1}, "1 threads are gone"),
            (EVERYTHING, {"unanswered_after": "no answer"}, "no answer"),
            (EVERYTHING, {"attack": idle}, "the attack did too little: 99 frames"),
            (EVERYTHING, {"ended": "the server ended"}, "the server ended"),
        ):
            with self.subTest(words):
                missed = judge.misses(row, figures(**found))
                self.assertTrue(any(words in miss for miss in missed), missed)

    def test_what_is_slow_for_the_idle_server_too_is_not_the_attacks(self):
        found = figures(beside=neighbour(1000.0), alone=neighbour(990.0))
        self.assertEqual(judge.misses(EVERYTHING, found), [])

    def test_bounds_can_be_widened(self):
        found = figures(beside=neighbour(100.0))
        self.assertNotEqual(judge.misses(EVERYTHING, found), [])
        self.assertEqual(judge.misses(EVERYTHING, found, slack=4), [])

    def test_the_slow_are_dropped_and_the_steady_kept(self):
        attack = figures()["attack"]
        dropped = Row("slowly", "begun-slowly", 50, judged=("dropped",))
        kept = Row("steadily", "begun-steadily", 50, judged=("kept",))
        for ended, of_dropped, of_kept in ((0, 1, 0), (50, 0, 1)):
            found = figures(attack=attack | {"ended": ended})
            self.assertEqual(len(judge.misses(dropped, found)), of_dropped)
            self.assertEqual(len(judge.misses(kept, found)), of_kept)

    def test_every_row_says_what_it_takes_to_have_acted(self):
        silent = {"connect-silent", "http-partial", "tls-silent", "posted"}
        for name, row in rows.ROWS.items():
            acts = row.frames or row.cycles or row.opened
            excused = row.kind in silent or row.kind == "unread-1m"
            self.assertTrue(acts or excused, name)

    def test_the_smoke_share_is_within_a_minute(self):
        smoke = [row for row in rows.ROWS.values() if row.smoke]
        self.assertLess(sum(min(row.seconds, 3) + 2 for row in smoke), 60)
        self.assertGreater(len(smoke), 5)


class Commands(unittest.TestCase):
    def test_settings_that_a_server_has_not_are_left_out(self):
        binary = servers.Binary.__new__(servers.Binary)
        binary.path, binary.engine, binary.certificates = "ringwire", "shard", "pem"
        binary.arguments = ()
        binary.help = "--compress-level --legacy-hixie76 --handshake-timeout-ms <MS>"
        row = Row(
            "",
            "",
            1,
            options=("--compress", "--legacy-hixie76", "--handshake-timeout-ms=5", "--memory=9"),
        )
        command = " ".join(binary.command(row))
        self.assertIn("--legacy-hixie76 --handshake-timeout-ms 5", command)
        self.assertNotIn("--compress", command)
        self.assertNotIn("--memory", command)


class Soaks(unittest.TestCase):
    def samples(self, grows):
        return [
            soak.Sample(at / 10, f"kind{at % 3}", 100 * MIB + at * grows, 50, 5.0 + at % 3)
            for at in range(300)
        ]

    def test_a_slope_is_found(self):
        self.assertAlmostEqual(soak.slope([(x, 3 * x + 1) for x in range(10)]), 3)
        self.assertEqual(soak.slope([(1, 1)]), 0)

    def test_what_is_flat_is_flat_and_what_grows_grows(self):
        for grows, flat in ((0, True), (MIB // 10, False)):
            words = soak.verdicts(self.samples(grows), 30)
            self.assertEqual([one for _, one in words], [flat, True, True], words)

    def test_kinds_are_compared_with_themselves(self):
        self.assertTrue(all(y == 0 for _, y in soak.beside_its_kind(self.samples(0))))

    def test_pictures_can_be_drawn(self):
        tree.fromstring(chart.svg(self.samples(1000)))
        tree.fromstring(chart.svg([]))
        line = chart.sparkline("memory", [1, 2, 3], str)
        self.assertIn("▁▅█", line.replace("▄", "▅"))
        self.assertLess(len(chart.sparkline("x", list(range(1000)), str)), 140)


if __name__ == "__main__":
    unittest.main()
