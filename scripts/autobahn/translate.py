"""Turns the Autobahn|Testsuite's Python 2 source into a package that Python 3 can import.

    translate.py SDISTS DESTINATION

SDISTS holds the source distributions named in suite.txt, DESTINATION receives the packages
`autobahntestsuite` (the real cases, their real expectations, the suite's own client and report
writer), `autobahn` (the suite's WebSocket client) and `txaio`.

Files are read as latin-1, so that every text literal keeps one character for each octet it had in
Python 2; octets.py makes octets of such text at the edge to `autobahn`. A mend is a pattern, what
replaces it, and how often it must match: a count that differs stops the translation, because the
source is then not the source that these rules were written for. No mend touches a payload, an
expectation or a verdict.
"""

import re
import sys
import tarfile
import warnings
from pathlib import Path

SUITE, AUTOBAHN, TXAIO = "autobahntestsuite-25.10.1", "autobahn-0.10.9", "txaio-2.1.0"

# Case 9.9.1 is in no run of the suite (its own list has it commented out) and is left behind.
LEFT_OUT = "case9_9_1.py"

PRINT = (r"(?m)^([ ]*)print(?: (.+))?$", r"\1print(\2)")
HAS_KEY = (r"([\w.\[\]]+)\.has_key\(([^)]+)\)", r"(\2 in \1)")
XRANGE = (r"\bxrange\b", "range")
# `object` before its own subclass is an error now, and every class derives from it anyway.
BASES = (r"\(object, Case, \)", "(Case, )")
# Text is a row of octets here, which binascii no longer takes.
BINASCII = (r"(?m)^import binascii$", "import octets as binascii")
RAW = (r"'\\\.'", r"r'\\.'")

CASE_MENDS = {
    "__init__.py": [(r"(?m)^from case9_9_1 import \*\n", "", 1)],
    "case10_1_1.py": [(r"len\(self\.payload\) / self", "len(self.payload) // self", 1)],
    "case12_x_x.py": [
        (
            r"import copy, os, pkg_resources, hashlib, binascii",
            "import copy, os, hashlib\nimport octets as binascii",
            1,
        ),
        (
            r'pkg_resources\.resource_filename\("autobahntestsuite", ("testdata/%s" % .+)\)\n',
            r'os.path.join(os.path.dirname(__file__), "..", \1)\n',
            3,
        ),
        # These cases hash and decode what arrives, so they need octets and not text.
        (
            r"(def onMessage\(self, msg, binary\):\n)",
            r"\1   msg = binascii.encode(msg)\n",
            1,
        ),
        (*BASES, 2),
    ],
    "case2_10.py": [(*XRANGE, 1)],
    "case5_16.py": [(*XRANGE, 1)],
    "case5_17.py": [(*XRANGE, 1)],
    "case6_x_x.py": [
        (*XRANGE, 8),
        (*PRINT, 11),
        (*BASES, 1),
        (r"from autobahn\.websocket\.utf8validator import", "from octets import", 1),
    ],
    "case7_7_X.py": [(*BASES, 1)],
    "case7_9_X.py": [(*BASES, 1)],
    "case9_7_X.py": [(*BASES, 1)],
}

FUZZING_MENDS = [
    # The fuzzing server and the two entry points are not used, and would pull in TLS and HTTP.
    (r"(?s)class FuzzingServerProtocol.+?(?=class FuzzingClientProtocol)", "", 1),
    (r"(?s)def startClient.+", "", 1),
    (
        r"import os, json, binascii, time, textwrap, pkg_resources",
        "import os, json, time, textwrap\nimport octets as binascii",
        1,
    ),
    (r"from twisted\.internet import reactor, ssl", "from twisted.internet import reactor", 1),
    (r"from twisted\.web\.\w+ import \w+\n", "", 2),
    (r"ssl\.(optionsForClientTLS\(hostname\)|ClientContextFactory\(\))", "None", 2),
    (r"(?m)^from (case|caseset|report) import", r"from .\1 import", 3),
    (*PRINT, 11),
    (*HAS_KEY, 8),
    # Frame payloads in the log: UTF-8 where they are UTF-8, as before.
    (r"return dd\.decode\(", "return binascii.encode(dd).decode(", 1),
    # Reports: text is octets, so latin-1 writes the very octets that Python 2 wrote.
    (r"(open\(.+, 'w')\)", r"\1, encoding='latin-1')", 4),
    (r'\.encode\(("utf-8"|\'utf8\')\)\)', r".encode(\1).decode('latin-1'))", 2),
    (r"ss = str\(s\)", "ss = ascii(s)", 1),
]


def main(sdists, destination):
    for archive in (SUITE, AUTOBAHN, TXAIO):
        package = archive.split("-")[0]
        for name, octets in members(sdists / f"{archive}.tar.gz", f"{archive}/{package}/"):
            path = destination / package / name
            if package == "autobahntestsuite":
                octets = suite_file(name, octets)
            if octets is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(octets)
    check_syntax(destination / "autobahntestsuite")


def members(archive, folder):
    """The regular files of `archive` under `folder`, as names relative to it, with content."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(folder)
            if member.isfile() and name != member.name and ".." not in Path(name).parts:
                yield name, tar.extractfile(member).read()


def suite_file(name, octets):
    """What becomes of one file of the suite: its new content, or None where it is not needed."""
    if name.startswith("testdata/"):
        return octets
    text = octets.decode("latin-1").replace("\r\n", "\n")
    if name.startswith("case/") and name != f"case/{LEFT_OUT}":
        text = case_file(name.removeprefix("case/"), text)
    elif name == "caseset.py":
        text = mended(name, text, [(*RAW, 3), (*HAS_KEY, 2)])
    elif name == "fuzzing.py":
        text = mended(name, text, FUZZING_MENDS)
    elif name == "report.py":
        # Only the style sheets and scripts of the reports are used.
        text = mended(
            name,
            text,
            [(r"(?s)\n+REPORT_DIR_PERMISSIONS.+", "\n", 1), (r"(?m)^import \w+\n", "", 3)],
        )
    elif name == "__init__.py":
        text = f'version = "{SUITE.split("-")[1]}"\n'
    else:
        return None
    return text.encode("utf-8")


def case_file(name, text):
    text = mended(name, text, CASE_MENDS.get(name, []))
    # Python 2 looked beside the importing file first, and binascii may be imported twice.
    text = re.sub(r"(?m)^from (case\w*) import", r"from .\1 import", text)
    return re.sub(*BINASCII, text)


def mended(name, text, mends):
    for pattern, replacement, times in mends:
        text, matches = re.subn(pattern, replacement, text)
        if matches != times:
            sys.exit(f"translate.py: {name}: {pattern!r} matched {matches} times, not {times}")
    return text


def check_syntax(package):
    """Every translated file must compile without so much as a warning."""
    warnings.simplefilter("error")
    for path in sorted(package.rglob("*.py")):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: translate.py SDISTS DESTINATION")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
