"""Holds the reading of callgrind's files, and the judgement, against figures that are known.

    python3 -m unittest discover -s scripts/instructions
"""

import unittest

import counts

MADE_WITH = {"rustc": "rustc 1", "valgrind": "valgrind-3", "libc": "glibc 2"}
OUTSIDE = "<instructions::Outside as ringwire::ring::Ring>::turn"

# A shard's turn of 5 + 2 instructions that calls the ring, for 100, and memcpy, for 30.
FILE = f"""\
# callgrind format
version: 1
creator: callgrind-3.19.0
positions: line
events: Ir
summary: 1000

fl=(1) src/shard/mod.rs
fn=(1) ringwire::shard::Shard<R,S>::turn
10 5
cfn=(2) {OUTSIDE}
calls=1 20
+1 100
fi=(2) src/conn/mod.rs
* 2
cfi=(3) memcpy.S
cfn=(3) memcpy
calls=2 30
* 30

fl=(3)
fn=(3)
30 70

fn=(2)
20 1
cfn=(4) ringwire::ring::sim::kernel::Kernel::turn
calls=1 40
21 99

fn=(4)
40 59
cfn=(3)
calls=1 30
41 40

totals: 137
"""


def filed(**figures):
    return {
        "made_with": MADE_WITH,
        "figures": {name: {"instructions": number} for name, number in figures.items()},
    }


def now(**figures):
    return {name: {"per": "turn", "what": "", "instructions": n} for name, n in figures.items()}


class Reading(unittest.TestCase):
    def read(self, text=FILE):
        return counts.Profile(text.splitlines(keepends=True)).counted()

    def test_what_the_ring_takes_is_not_the_shards(self):
        self.assertEqual(self.read(), (5 + 2 + 30, 100))

    def test_functions_that_both_call_cost_each_a_share(self):
        costs = counts.Profile(FILE.splitlines(keepends=True)).of_the_shard()
        turn = "ringwire::shard::Shard<R,S>::turn"
        self.assertEqual({name: cost for name, cost in costs.items() if cost}, {
            turn: 7,
            "memcpy": 30,
        })

    def test_what_does_not_add_up_is_found(self):
        with self.assertRaisesRegex(counts.Unreadable, "136, and it says 137"):
            self.read(FILE.replace("\n20 1\n", "\n20 0\n"))

    def test_a_ring_that_is_not_kept_apart_is_found(self):
        with self.assertRaisesRegex(counts.Unreadable, "is counted as the shard's"):
            self.read(FILE.replace("cfn=(3) memcpy\n", "cfn=(9) ringwire::ring::sim::with\n"))
        with self.assertRaisesRegex(counts.Unreadable, "other names"):
            self.read(FILE.replace("Outside", "Inside").replace("ring::sim::", "ring::"))

    def test_nothing_counted_is_found(self):
        with self.assertRaisesRegex(counts.Unreadable, "nothing was counted"):
            self.read("events: Ir\n\ntotals: 0\n")


class Judging(unittest.TestCase):
    def judge(self, was, figures, **others):
        lines, is_good = counts.judge(was, figures, MADE_WITH | others)
        return "\n".join(lines), is_good

    def test_two_percent_either_way_are_allowed(self):
        for number in (980, 1000, 1020):
            self.assertTrue(self.judge(filed(echo=1000), now(echo=number))[1])

    def test_more_is_an_error_and_less_is_to_be_kept(self):
        text, is_good = self.judge(filed(echo=1000, idle=50), now(echo=1021, idle=50))
        self.assertFalse(is_good)
        self.assertIn("More than 2 % above the figure on file: echo.", text)
        text, is_good = self.judge(filed(echo=1000), now(echo=979))
        self.assertFalse(is_good)
        self.assertIn("--keep", text)

    def test_what_is_only_here_or_only_there_is_an_error(self):
        self.assertFalse(self.judge(filed(), now(echo=1))[1])
        self.assertFalse(self.judge(filed(echo=1, idle=1), now(echo=1))[1])

    def test_another_compiler_widens_the_margin(self):
        text, is_good = self.judge(filed(echo=1000), now(echo=1090), rustc="rustc 2")
        self.assertTrue(is_good)
        self.assertIn("rustc: rustc 2; on file rustc 1.", text)
        self.assertTrue(self.judge(filed(echo=1000), now(echo=800), rustc="rustc 2")[1])
        self.assertFalse(self.judge(filed(echo=1000), now(echo=1101), rustc="rustc 2")[1])


class Keeping(unittest.TestCase):
    def test_the_table_is_written_between_its_marks(self):
        page = f"above\n{counts.BEGIN}\nold\n{counts.END}\nbelow\n"
        written = counts.with_table(page, counts.table(now(echo=1234.4), MADE_WITH))
        self.assertIn("| `echo` |  | 1,234 a turn |", written)
        self.assertTrue(written.startswith("above\n") and written.endswith("\nbelow\n"))
        self.assertNotIn("old", written)
        with self.assertRaises(counts.Unreadable):
            counts.with_table("no marks", "")


if __name__ == "__main__":
    unittest.main()
