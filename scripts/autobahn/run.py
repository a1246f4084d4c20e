"""Runs cases of the translated Autobahn|Testsuite against one WebSocket server and judges them.

    run.py --url ws://127.0.0.1:9001/ --cases quick --report DIR

The suite's own client drives the connections and decides what each case came to; this file picks
the cases, sees to it that every one of them ends and is counted, and says no unless all are OK.
It knows nothing of how the server was started.

    selection -> suite's client, one connection a case -> verdicts -> count and judge -> exit code

Exit code 0: every case ran and is OK. 1: some case is not OK or did not run. 2: nothing could be
said about the server, because the suite did not work or no WebSocket server was there.
"""

import argparse
import contextlib
import fnmatch
import html
import json
import re
import sys
import time
import traceback
from pathlib import Path
from urllib.parse import urlsplit

# How many cases each group of this version of the suite has: what a selection is counted against.
GROUP_SIZES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}

DEFAULT = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*"
SELECTIONS = {
    "default": DEFAULT,
    "quick": "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.1.*,9.2.*,9.3.*,9.4.*,9.5.*,9.6.*,"
    "9.7.1,9.7.6,9.8.1,9.8.6,10.*",
    "full": DEFAULT + ",12.*,13.*",
}

# Cases without a right answer; everywhere else INFORMATIONAL is as wrong as FAILED.
INFORMATIONAL = ("7.1.6", "7.13.*")

# The suite lets some cases wait for 1000 s. A server that is merely slow needs far less than this.
CASE_SECONDS_MAX = 60
CASE_SECONDS_MAX_LARGE = 300
LARGE_GROUPS = (9, 12, 13)
RUN_SECONDS_MAX = 3600
RUN_SECONDS_MAX_COMPRESSION = 3 * 3600

AGENT = "server"


class SetupError(Exception):
    """The suite cannot say anything about the server; the text says why and what to do."""


def case_key(case_id):
    return tuple(int(part) for part in case_id.split("."))


def group_of(case_id):
    return case_key(case_id)[0]


def matches(case_id, patterns):
    return any(fnmatch.fnmatchcase(case_id, pattern) for pattern in patterns)


def select(selection, known):
    """The case ids that `selection` asks for, in order."""
    patterns = [part.strip() for part in SELECTIONS.get(selection, selection).split(",")]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(case_id, pattern) for case_id in known):
            raise SetupError(
                f"no case matches {pattern!r}: --cases takes quick, full, or case ids such as "
                f"1.*,7.7.1 separated by commas"
            )
    return sorted((case_id for case_id in known if matches(case_id, patterns)), key=case_key)


def check_suite(cases):
    """Raises SetupError unless the translated suite is complete and sends the octets it should."""
    from octets import encode

    sizes = {}
    for case_id in cases:
        sizes[group_of(case_id)] = sizes.get(group_of(case_id), 0) + 1
    if sizes != GROUP_SIZES:
        raise SetupError(f"the translated suite has {sizes} cases a group, not {GROUP_SIZES}")
    for case_id, case in cases.items():
        if hasattr(case, "isValid"):
            try:
                encode(case.PAYLOAD).decode("utf-8")
                valid = True
            except UnicodeDecodeError:
                valid = False
            if valid != case.isValid:
                raise SetupError(f"the translation changed the payload of case {case_id}")
    if encode(cases["6.2.4"].PAYLOAD) != "\u03ba\u1f79\u03c3\u03bc\u03b5".encode():
        raise SetupError("the translation changed the payload of case 6.2.4")


def verdict_is_ok(result):
    allowed = ("OK", "INFORMATIONAL") if matches(result["id"], INFORMATIONAL) else ("OK",)
    return result["behavior"] in allowed and result["behaviorClose"] in ("OK", "INFORMATIONAL")


def run_cases(url, case_ids, report, on_case):
    """Runs `case_ids` and writes the suite's reports; returns the results and why a run stopped.

    `on_case(result)` is called after each case. The second value returned is None when the suite
    came to its own end.
    """
    import txaio

    txaio.use_twisted()
    from autobahntestsuite import fuzzing
    from octets import decode, encode
    from twisted.internet import reactor
    from twisted.python import log

    # An error is blamed on the case it happened in, one that no case came after on the suite.
    results, stopped, errors = {}, [], []
    log.addObserver(lambda event: event.get("isError") and errors.append(error_text(event)))

    class CaseProtocol(fuzzing.FuzzingClientProtocol):
        """The edge between the case files (text, a character = an octet) and autobahn (octets)."""

        def sendFrame(self, opcode, payload=b"", *args, payload_len=None, **options):
            payload = encode(payload)
            if payload_len is not None:
                # The same wrapping that autobahn documents for `payload_len`; it divides for it
                # in a way that Python 3 does not take.
                payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
            super().sendFrame(opcode, payload, *args, **options)

        def sendMessage(self, payload, *args, **options):
            super().sendMessage(encode(payload), *args, **options)

        def sendMessageFrameData(self, payload, *args, **options):
            return super().sendMessageFrameData(encode(payload), *args, **options)

        def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
            reason = None if reasonUtf8 is None else encode(reasonUtf8)
            super().sendCloseFrame(code, reason, isReply)

        def onMessage(self, payload, isBinary):
            super().onMessage(decode(payload), isBinary)

        def onPong(self, payload):
            super().onPong(decode(payload))

        def logRxFrame(self, header, payload):
            super().logRxFrame(header, [decode(part) for part in payload])

        def logTxFrame(self, header, payload, *args):
            super().logTxFrame(header, decode(payload), *args)

    fuzzing.FuzzingClientProtocol = CaseProtocol

    class Client(fuzzing.FuzzingClientFactory):
        def __init__(self, spec):
            self.deadline, self.last = None, time.monotonic()
            super().__init__(spec)

        def buildProtocol(self, address):
            protocol = super().buildProtocol(address)
            large = group_of(self.currentCaseId) in LARGE_GROUPS
            seconds = CASE_SECONDS_MAX_LARGE if large else CASE_SECONDS_MAX
            protocol.hung = None
            self.deadline = reactor.callLater(seconds, self.end_hung_case, protocol, seconds)
            return protocol

        def end_hung_case(self, protocol, seconds):
            protocol.hung = f"The case did not end within {seconds} s and was cut off."
            protocol.runCase.onConnectionLost = lambda failed_by_me: None
            protocol.runCase.behavior = protocol.runCase.behaviorClose = "FAILED"
            protocol.runCase.result = protocol.runCase.resultClose = protocol.hung
            protocol.transport.abortConnection()

        def logCase(self, result):
            if self.deadline.active():
                self.deadline.cancel()
            for key, value in result.items():
                if isinstance(value, bytes):
                    result[key] = decode(value)
            if errors:
                # Nothing the server sends may break the client: such a case proves nothing.
                result["behavior"] = "FAILED"
                result["result"] = "The suite's client raised: " + errors[-1].splitlines()[-1]
                errors.clear()
            now = time.monotonic()
            result["seconds"], self.last = now - self.last, now
            super().logCase(result)
            results[result["id"]] = result
            on_case(result)

        def clientConnectionFailed(self, connector, reason):
            error = reason.getErrorMessage().rstrip(".")
            stopped.append(f"could not connect to {url} ({error})")
            self.finish()

        def finish(self):
            self.createReports()
            reactor.stop()

    spec = {
        "outdir": str(report),
        "servers": [{"agent": AGENT, "url": url}],
        "cases": case_ids,
    }
    compression = any(group_of(case_id) in (12, 13) for case_id in case_ids)
    seconds = RUN_SECONDS_MAX_COMPRESSION if compression else RUN_SECONDS_MAX
    with open(report / "suite.log", "w", encoding="utf-8") as suite_log:
        with contextlib.redirect_stdout(suite_log):
            log.startLogging(suite_log, setStdout=False)
            client = Client(spec)

            def end_run():
                stopped.append(f"the run did not end within {seconds} s")
                client.finish()

            limit = reactor.callLater(seconds, end_run)
            reactor.run()
            if limit.active():
                limit.cancel()
    if errors:
        raise SetupError(f"the suite itself failed, see {report / 'suite.log'}:\n{errors[-1]}")
    return results, stopped[0] if stopped else None


def error_text(event):
    failure = event.get("failure")
    return (
        failure.getTraceback().strip() if failure else " ".join(map(str, event.get("message", ())))
    )


def plain(text):
    """Report text for a terminal: no markup, one line, of a bearable length."""
    from octets import readable

    text = re.sub(r"<[^>]*>", " ", text)
    with contextlib.suppress(UnicodeEncodeError):
        text = readable(text)
    text = " ".join(html.unescape(text).split())
    return text if len(text) <= 300 else text[:300] + " ..."


class Tally:
    """Prints a line for each group as soon as its last selected case has ended."""

    def __init__(self, case_ids):
        # While cases run, sys.stdout is the log of the suite, which prints a lot.
        self.out = sys.stdout
        self.wanted = {}
        for case_id in case_ids:
            self.wanted.setdefault(group_of(case_id), []).append(case_id)
        self.groups = {
            group: dict(ran=0, ok=0, informational=0, failed=0, seconds=0.0)
            for group in self.wanted
        }

    def add(self, result):
        group = self.groups[group_of(result["id"])]
        if not verdict_is_ok(result):
            kind = "failed"
        else:
            kind = "ok" if result["behavior"] == "OK" else "informational"
        group["ran"] += 1
        group[kind] += 1
        group["seconds"] += result["seconds"]
        if group["ran"] == len(self.wanted[group_of(result["id"])]):
            self.print_group(group_of(result["id"]))

    def print_group(self, number):
        group, wanted = self.groups[number], len(self.wanted[number])
        print(
            f"group {number:>2}: {group['ran']:>3} of {wanted:>3} cases, {group['ok']:>3} OK, "
            f"{group['informational']} informational, {group['failed']} failed, "
            f"{group['seconds']:.1f} s",
            file=self.out,
            flush=True,
        )

    def print_unfinished(self):
        for number, group in self.groups.items():
            if group["ran"] < len(self.wanted[number]):
                self.print_group(number)


def judge(args):
    from autobahntestsuite import case as suite
    from autobahntestsuite.caseset import CaseSet

    case_set = CaseSet(suite.CaseSetname, suite.CaseBasename, suite.Cases, {}, {})
    check_suite(case_set.CasesById)
    case_ids = select(args.cases, list(case_set.CasesById))

    args.report.mkdir(parents=True, exist_ok=True)
    for stale in [
        *args.report.glob(f"{AGENT}_case_*"),
        *args.report.glob("index.*"),
        args.report / "summary.json",
    ]:
        stale.unlink(missing_ok=True)

    print(f"Autobahn|Testsuite: {len(case_ids)} cases against {args.url}", flush=True)
    tally = Tally(case_ids)
    started = time.monotonic()
    results, stopped = run_cases(args.url, case_ids, args.report, tally.add)
    seconds = time.monotonic() - started
    if stopped and not results:
        raise SetupError(f"{stopped}. Is a WebSocket server listening there?")

    tally.print_unfinished()
    failed = [
        results[case_id]
        for case_id in case_ids
        if case_id in results and not verdict_is_ok(results[case_id])
    ]
    missing = [case_id for case_id in case_ids if case_id not in results]
    for result in failed:
        case_file = f"{AGENT}_case_{result['id'].replace('.', '_')}.html"
        print(
            f"\ncase {result['id']}: {result['behavior']}, close {result['behaviorClose']}\n"
            f"  expected: {plain(result['expectation'])}\n"
            f"  happened: {plain(result['result'])} Close: {plain(result['resultClose'])}\n"
            f"  read:     {args.report / case_file}"
        )
    if stopped:
        print(f"\nthe run stopped early: {stopped}")
    if missing:
        print(f"\n{len(missing)} cases did not run, the first of them {missing[0]}")

    passed = not failed and not missing and len(results) == len(case_ids) > 0
    summary = {
        "url": args.url,
        "cases": args.cases,
        "passed": passed,
        "cases_wanted": len(case_ids),
        "cases_ran": len(results),
        "seconds": round(seconds, 3),
        "stopped_early": stopped,
        "groups": tally.groups,
        "not_ok": [
            {
                key: result[key]
                for key in (
                    "id",
                    "behavior",
                    "behaviorClose",
                    "result",
                    "resultClose",
                    "remoteCloseCode",
                )
            }
            for result in failed
        ],
        "not_run": missing,
    }
    (args.report / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(
        f"\n{'PASSED' if passed else 'FAILED'}: {len(results)} of {len(case_ids)} cases ran, "
        f"{len(failed)} not OK, {seconds:.1f} s, report {args.report / 'index.html'}"
    )
    return 0 if passed else 1


def main():
    parser = argparse.ArgumentParser(prog="autobahn")
    parser.add_argument("--url", required=True)
    parser.add_argument("--cases", default="default")
    parser.add_argument("--report", required=True, type=Path)
    args = parser.parse_args()
    try:
        if urlsplit(args.url).scheme not in ("ws", "wss") or not urlsplit(args.url).hostname:
            raise SetupError(f"--url takes ws://HOST:PORT/ or wss://..., not {args.url!r}")
        return judge(args)
    except SetupError as error:
        print(f"autobahn: {error}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
        print("autobahn: the suite did not work, see the traceback above", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
