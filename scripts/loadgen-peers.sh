#!/usr/bin/env bash
# Runs loadgen, unmodified, against four WebSocket servers of different makers.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/loadgen-peers.sh [--seconds N] [--loadgen PATH] [--binary PATH]

Runs loadgen's echo against ringwire, Python's websockets, Node's ws and Bun, with --verify all:
binary and text, closed and open loop, small, large and fragmented messages. Every reply has to come
and to be right. Prints one line a run and 'N passed, N failed'.

  --seconds N     how long each run measures (default 2)
  --loadgen PATH  use PATH instead of building target/release/loadgen
  --binary PATH   use PATH as the ringwire server instead of building it
  --help          this text

The servers are pinned and go into .cache/loadgen. Exit status: 0 all messages verified, 1 a run
failed, 2 the test could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

seconds=2
loadgen=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --seconds | --loadgen | --binary)
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
require_node 18
loadgen=$(loadgen_binary "$loadgen")
install_python_packages
install_node_packages "$ROOT/scripts/loadgen/peers" "$CACHE/peers"
cp "$ROOT"/scripts/loadgen/peers/server*.mjs "$CACHE/peers/"

# run NAME [ARGUMENT...]: one run of loadgen against the server at PEER_URL.
run() {
  local name="$PEER_NAME: $1" output="$SCRATCH/run.out" json="$SCRATCH/run.json" status=0
  shift
  # The generator and the server share cores here: what is looked at is the messages, not their
  # speed.
  "$loadgen" echo "$PEER_URL" --quiet --verify all --duration "${seconds}s" --warmup 0s \
    --allow-client-bound --json "$json" "$@" >"$output" 2>&1 || status=$?
  if [ "$status" -ne 0 ]; then
    failed "$name" "exit status $status"
    sed 's/^/  loadgen: /' "$output" | tail -n 30 >&2
    return
  fi
  local facts
  facts=$(python3 - "$json" <<'END'
import json, sys
run = json.load(open(sys.argv[1]))
messages = run["messages"]
wrong = sum(messages[name] for name in ("lost", "duplicated", "reordered", "corrupted"))
assert wrong == 0, messages
assert 0 < messages["received"] == messages["sent"], messages
assert messages["compared"] == messages["received"], messages
print(f"{messages['received']:,} messages, all compared")
END
  ) || {
    failed "$name" "the report does not say that every message was verified"
    return
  }
  passed "$name: $facts"
}

battery() {
  run "binary, 64 B, closed loop" --connections 64 --size 64 --binary
  run "text, 20 B, 16 in flight" --connections 8 --size 20 --text --in-flight 16
  run "sizes mixed" --connections 16 --size 20,125,126,16k:10%,65535,65536 --binary
  run "256 KiB in frames of 16 KiB" --connections 4 --size 256k --fragment 16k --binary
  run "open loop at 2,000/s" --connections 32 --size 125 --rate 2000
}

for peer in ringwire "Python websockets" "Node ws" Bun; do
  PEER_NAME=$peer
  case $peer in
    ringwire)
      server_start "$binary"
      PEER_URL=$SERVER_URL
      ;;
    Python*) peer_start "$CACHE/venv/bin/python" "$ROOT/scripts/loadgen/peers/server.py" ;;
    Node*) peer_start node "$CACHE/peers/server.mjs" ;;
    Bun) peer_start "$(bun_binary)" "$CACHE/peers/server.bun.mjs" ;;
  esac
  battery
  case $peer in
    ringwire) server_stop ;;
    *) peer_stop "$PEER_PID" ;;
  esac
done
finish
