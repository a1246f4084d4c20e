#!/usr/bin/env bash
# Attacks the server in every way that is known, beside a neighbour whose waits are measured.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/attack.sh [--rows NAME,...] [--smoke] [--engine NAME] [--binary PATH] [...]

Each row is an attack: a kind, and a number of connections that do it as fast as they can. Beside
them lives a well-behaved neighbour, which has one message in flight and lets a newcomer open a
connection every so often, and another one on a second, idle server on the same processor. The
servers are on processor 0, all others on processor 1. Prints, for each row, the waits of both
neighbours (from the moment a message was due), of newcomers, the bytes that attackers sent and the
server held, what is left of them and after how long, and whether the goals were reached:

  beside 1 or 2       p99 at most 10 ms and worst at most 50 ms beyond the idle server's neighbour
  beside more         30 ms and 150 ms
  held                at most 2 to 1 of what was sent, or 4 KiB a connection; never above the
                      ledger's limit; within 10 % of the start afterwards (with 4 MiB to spare)
  everywhere          the neighbour is not cut off, newcomers get in or a 503, descriptors and
                      processor time are back, the server lives, and the attack really took place

  --rows NAME,...   which: names or patterns (ping*), 'time' or 'memory' (default: all)
  --list            name the rows there are
  --smoke           a share of them, within a minute, with four times as wide bounds of time: it is
                    for machines that are busy, and for faults that are wrong by a factor of a
                    hundred
  --engine NAME     what serves: shard, epoll (shards on that ring), async (on tokio-uring) or tokio
                    (async on that runtime; default shard)
  --seconds S       how long the rows about time take (default 3; 2 with --smoke)
  --rate N          messages a second of each neighbour (default 50)
  --retries N       how often a row that failed is tried again (default 0; 1 with --smoke)
  --slack N         widen the bounds of time so many times
  --cgroup FOLDER   also those in a control group, which is made below this one; it has to have
                    the memory controller. The default is to leave them out
  --json FILE       keep everything that was measured
  --binary PATH     attack PATH instead of building and attacking target/release/ringwire; nothing
                    that was built before is built again then
  --attacked PATH   use PATH instead of the example 'attacked', whose services cost something
  --attack PATH     use PATH instead of loadgen's example 'attack', the program that attacks
  --help            this text

Attacks nothing but servers that it starts itself, on 127.0.0.1. It needs openssl and python3.
Exit status: 0 all goals were reached, 1 one was missed, 2 something could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/attack/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/attack/lib.sh"

binary=""
attack=""
attacked=""
retries=""
run=()
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --attack | --attacked | --retries)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --rows | --engine | --seconds | --rate | --slack | --cgroup | --json)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      run+=("$1" "$2")
      shift 2
      ;;
    --smoke)
      run+=("$1")
      retries=${retries:-1}
      shift
      ;;
    --list)
      exec python3 "$ROOT/scripts/attack/list.py"
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done

prepare
attack_programs
python3 "$ROOT/scripts/attack/run.py" --binary "$binary" --attack "$attack" \
  --attacked "$attacked" --certificates "$SCRATCH/pem" --retries "${retries:-0}" "${run[@]}" &
PROGRAM_PID=$!
status=0
wait "$PROGRAM_PID" || status=$?
PROGRAM_PID=
exit "$status"
