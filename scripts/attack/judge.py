"""What a row's figures mean: each goal that was missed, in words."""

import rows
from rows import GIB, KIB, MIB

# How long a newcomer may wait for its answer, of whatever kind, where that is the row.
ANSWER_MS_MAX = 1000

# Those for whom there is no place: as many wait for one, and are told, at the same time.
NEWCOMERS = 128

# What the kernel may hold for the sockets of one connection that does not read.
SOCKET_BYTES_MAX = 256 * KIB

# Descriptors that may come and go, and processor time of a server that has nothing to do.
DESCRIPTORS_SPARE = 16
IDLE_SHARE_MAX = 0.05


def size(count):
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def misses(row, found, slack=1):
    """The goals that were missed. `slack` widens the bounds of time, for machines that are busy."""
    if found.get("ended"):
        return [found["ended"]]
    attack = found["attack"]
    missed = list(acted(row, attack))
    missed += well_behaved(row, found)
    if "waits" in row.judged:
        missed += waits(row, found, slack)
    if "answered" in row.judged:
        missed += answered(found)
    held = found["peak_bytes"] - found["before_bytes"]
    if "held" in row.judged:
        allowed = max(
            rows.HELD_PER_SENT * attack["sent_bytes"],
            rows.HELD_PER_CONNECTION * row.connections,
        )
        allowed += row.beside
        if held > allowed:
            missed.append(f"holds {size(held)}, at most {size(allowed)}")
    if "limit" in row.judged and found["peak_bytes"] > rows.LEDGER + rows.HELD_BESIDE:
        missed.append(f"holds {size(held)}, beside a limit of {size(rows.LEDGER)}")
    if "sockets" in row.judged:
        in_kernel = found["peak_socket_bytes"]
        allowed = SOCKET_BYTES_MAX * row.connections
        if in_kernel > allowed:
            missed.append(f"{size(in_kernel)} in the kernel, at most {size(allowed)}")
    if "left" in row.judged:
        allowed = row.left_bytes_max(found["before_bytes"])
        if found["after_bytes"] > allowed:
            missed.append(f"{size(found['after_bytes'])} after it, at most {size(allowed)}")
    if "slots" in row.judged:
        allowed = slots(row) + NEWCOMERS + DESCRIPTORS_SPARE
        # Whoever comes in the same moment has been accepted by the kernel already.
        more = found["usual_descriptors"] - found["before_descriptors"]
        if more > allowed:
            missed.append(f"{more:.0f} descriptors, with {slots(row)} slots")
    if "dropped" in row.judged and attack["ended"] < row.connections:
        missed.append(f"only {attack['ended']} of {row.connections} were dropped")
    if "kept" in row.judged:
        if attack["ended"]:
            missed.append(f"{attack['ended']} were dropped though they went on")
        if attack["read_bytes"] < row.connections * MIB:
            missed.append("not all had their echo")
    more = found["after_descriptors"] - found["before_descriptors"]
    if more > DESCRIPTORS_SPARE:
        missed.append(f"{more} descriptors are left")
    if found["idle_share"] > IDLE_SHARE_MAX:
        missed.append(f"{found['idle_share']:.0%} of a processor afterwards")
    if found["threads_lost"]:
        missed.append(f"{found['threads_lost']} threads are gone")
    if found["unanswered_after"]:
        missed.append(found["unanswered_after"])
    return missed


def slots(row):
    """The most connections that a shard may have."""
    for option in row.options:
        if option.startswith("--shard-connections-max="):
            return int(option.split("=")[1])
    return 0


def acted(row, attack):
    """An attack that did nothing shows nothing."""
    for what in ("frames", "cycles", "opened"):
        least = getattr(row, what)
        if attack[what] < least:
            yield f"the attack did too little: {attack[what]} {what}, at least {least}"
    if row.kind == "posted" and attack["read_bytes"] < MIB:
        yield f"the attack did too little: {size(attack['read_bytes'])} were posted"
    if not attack["sent_bytes"] and not attack["cycles"] and "connect-silent" != row.kind:
        yield "the attack sent nothing"


def well_behaved(row, found):
    missed = []
    for who, neighbour in (("the neighbour", found["beside"]), ("the idle one", found["alone"])):
        if neighbour["cut_off"]:
            missed.append(f"{who} was cut off: {neighbour['cut_off']}")
        if errors := neighbour["newcomer_errors"]:
            missed.append(f"{len(errors)} beside {who}: {errors[0]}")
        if not neighbour["recovered"]:
            missed.append(f"{who} has no answer 5 s after the attack")
    return missed


def waits(row, found, slack):
    missed = []
    p99_max, worst_max = (slack * bound for bound in row.bounds)
    for what, bounds in (("echo", (p99_max, worst_max)), ("newcomers", (None, worst_max))):
        beside, alone = found["beside"][what], found["alone"][what]
        if not beside["count"]:
            if what == "echo" or row.server != "dialled":
                missed.append(f"nothing was measured: {what}")
            continue
        for which, bound in zip(("p99", "worst"), bounds):
            more = beside[which] - alone[which]
            if bound and more > bound:
                missed.append(f"{what} {which} {more:.0f} ms more, at most {bound:.0f}")
    return missed


def answered(found):
    worst = found["beside"]["newcomers"]["worst"]
    if not found["beside"]["newcomers"]["count"]:
        return ["no newcomer was measured"]
    if worst - found["alone"]["newcomers"]["worst"] > ANSWER_MS_MAX:
        return [f"a newcomer waited {worst:.0f} ms, at most {ANSWER_MS_MAX}"]
    return []
