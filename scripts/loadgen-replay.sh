#!/usr/bin/env bash
# How true to its schedule 'loadgen replay' offers an hour of traffic again, and whether what a server
# records is what was sent.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/loadgen-replay.sh [--seconds N] [--speed FACTOR] [--loadgen PATH] [--binary PATH]

Makes a recording of synthetic traffic (scripts/loadgen/hour.py), offers it to ringwire's sink, and
fails when at p99 messages are sent more than a millisecond late. The server, on processor 0, records
what comes; what it has recorded is offered once more, from processor 1 as before, and has to be as
many connections and messages. The machine should have nothing else to do.

  --seconds N     how long the recording is (default 3600)
  --speed FACTOR  how much faster it is offered (default 120: half a minute)
  --loadgen PATH, --binary PATH
                  programs to use instead of building them
  --help          this text

Exit status: 0 true, 1 late or not the same, 2 it could not be tried.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

seconds=3600
speed=120
loadgen=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --seconds | --speed | --loadgen | --binary)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done

prepare
require_two_processors
command -v python3 >/dev/null || install_packages python3
loadgen=$(loadgen_binary "$loadgen")
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) || die "cargo build failed."
  binary=$TARGET/release/ringwire
fi
warn_if_busy

# replay FILE SPEED RECORD: offers a file to a server that records into RECORD; prints the report.
replay() {
  local status=0
  peer_start taskset -c 0 "$binary" serve --listen 127.0.0.1:0 --shards 1 --record "$3"
  taskset -c 1 "$loadgen" replay "$1" --speed "$2" "${PEER_URL}sink" --shards 1 --quiet \
    --json "$SCRATCH/run.json" || status=$?
  peer_stop "$PEER_PID"
  [ "$status" -ne 2 ] || die "loadgen replayed nothing; its words stand above."
  return "$status"
}

# figures: connections and messages of the recording that was offered last, and those unrecorded.
figures() {
  python3 - "$SCRATCH/run.json" <<'END'
import json
import sys

replay = json.load(open(sys.argv[1]))["replay"]
print(replay["recorded_connections"], replay["recorded_messages"], replay["unrecorded"])
END
}

python3 "$ROOT/scripts/loadgen/hour.py" "$SCRATCH/hour.rec" "$seconds"
late=0
replay "$SCRATCH/hour.rec" "$speed" "$SCRATCH/once.rec" || late=1
first=$(figures)
replay "$SCRATCH/once.rec" 1 "$SCRATCH/twice.rec" >/dev/null || late=1
second=$(figures)
echo "offered: $first; recorded: $second (connections, messages, what could not be recorded)"
# One more connection asked for the server's name.
read -r connections messages unrecorded <<<"$second"
[ "$unrecorded" = 0 ] || late=1
read -r wanted_connections wanted_messages _ <<<"$first"
[ "$messages" = "$wanted_messages" ] || late=1
[ "$connections" -ge "$wanted_connections" ] || late=1
exit "$late"
