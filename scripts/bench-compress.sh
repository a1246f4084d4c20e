#!/usr/bin/env bash
# Compressed echo of ringwire beside Node's ws and Bun: CPU for each message, and bytes on the wire.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/bench-compress.sh [--seconds N] [--rounds N] [--loadgen PATH] [--binary PATH]

Echoes JSON text of 1 KiB and of 64 KiB, compressed both ways (permessage-deflate), against ringwire,
Node's ws and Bun in turn, the server on processor 0 and loadgen on processor 1, first each message
for itself and then with context takeover on the server's side. Prints a table: CPU of the server's
process for each message, with the kernel's for it, bytes of the compressed reply, and its messages a
second, each the median of the rounds.

  --seconds N     how long each run measures (default 3)
  --rounds N      how often each run is made, all of them in turn (default 3)
  --loadgen PATH  use PATH instead of building target/release/loadgen
  --binary PATH   use PATH as the ringwire server instead of building it
  --help          this text

ws and Bun are pinned and go into .cache/loadgen. Exit status: 0 ringwire takes no more CPU than
either of the others for any message, each with the bytes of its default level, 1 it does, 2 the
measurement could not be made.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

seconds=3
rounds=3
loadgen=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --seconds | --rounds | --loadgen | --binary)
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
require_two_processors
command -v python3 >/dev/null || install_packages python3
loadgen=$(loadgen_binary "$loadgen")
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) ||
    die "cargo build --release --bin ringwire failed; the compiler's words stand above."
  binary=$TARGET/release/ringwire
fi
install_node_packages "$ROOT/scripts/loadgen/peers" "$CACHE/peers"
cp "$ROOT"/scripts/loadgen/peers/server*.mjs "$CACHE/peers/"
warn_if_busy

# start NAME MODE: one of the servers, with or without context takeover.
start() {
  local server=(taskset -c 0) takeover=()
  case $1 in
    ringwire*)
      server+=("$binary" serve --listen 127.0.0.1:0 --shards 1 --no-pin --compress)
      [ "$2" = alone ] || takeover=(--compress-context-takeover)
      [ "$1" != "ringwire, 12 bits" ] || takeover+=(--compress-window-bits 12)
      [ "$1" != "ringwire, level 7" ] || takeover+=(--compress-level 7)
      ;;
    ws) server+=(node "$CACHE/peers/server.mjs" --compress) ;;
    Bun) server+=("$(bun_binary)" "$CACHE/peers/server.bun.mjs" --compress) ;;
  esac
  [ "$2" = alone ] || [ "${1%%,*}" = ringwire ] || takeover=(--takeover)
  peer_start "${server[@]}" "${takeover[@]}"
}

results=$SCRATCH/results.jsonl
: >"$results"
for ((round = 0; round < rounds; round++)); do
  for mode in alone takeover; do
    names=(ringwire "ringwire, level 7" ws Bun)
    [ "$mode" = alone ] || names=(ringwire "ringwire, 12 bits" ws Bun)
    for name in "${names[@]}"; do
      start "$name" "$mode"
      for size in 1k 64k; do
        taskset -c 1 "$loadgen" echo "$PEER_URL" --quiet --compress --text --script json \
          --size "$size" --connections 16 --duration "${seconds}s" --warmup 500ms --shards 1 \
          --pid "$PEER_PID" --allow-client-bound --json "$SCRATCH/run.json" \
          >"$SCRATCH/run.out" 2>&1 || {
          tail -n 20 "$SCRATCH/run.out" >&2
          die "loadgen failed against $name; its words stand above."
        }
        python3 - "$SCRATCH/run.json" "$name" "$mode" "$size" >>"$results" <<'END'
import json, sys
run = json.load(open(sys.argv[1]))
figures, messages = run["compression"], run["messages"]
wrong = sum(messages[name] for name in ("lost", "duplicated", "reordered", "corrupted"))
assert wrong == 0 and figures["messages_received"] > 0, (messages, figures)
print(json.dumps({
    "name": sys.argv[2], "mode": sys.argv[3], "size": sys.argv[4],
    "cpu_us": run["server"]["cpu_ns_per_message"] / 1000,
    "bytes": figures["compressed_received"] / figures["messages_received"],
    "per_s": messages["received"] / run["times"]["measured_ms"] * 1000,
}))
END
      done
      peer_stop "$PEER_PID"
    done
  done
done

python3 - "$results" <<'END'
import json, statistics, sys
runs = [json.loads(line) for line in open(sys.argv[1])]
def median(field, **wanted):
    chosen = [run[field] for run in runs if all(run[k] == v for k, v in wanted.items())]
    return statistics.median(chosen) if chosen else None
behind = 0
for mode, title in [("alone", "each message for itself"), ("takeover", "context takeover")]:
    names = list(dict.fromkeys(run["name"] for run in runs if run["mode"] == mode))
    for size in ("1k", "64k"):
        print(f"\nJSON text of {size}iB, {title}")
        print(f"{'':20} {'CPU us/message':>15} {'reply bytes':>12} {'messages/s':>11}")
        for name in names:
            where = dict(name=name, mode=mode, size=size)
            cpu, wire, rate = (median(field, **where) for field in ("cpu_us", "bytes", "per_s"))
            print(f"{name:20} {cpu:15.2f} {wire:12.0f} {rate:11.0f}")
        ours = median("cpu_us", name="ringwire", mode=mode, size=size)
        for peer in ("ws", "Bun"):
            if ours > median("cpu_us", name=peer, mode=mode, size=size) * 1.02:
                behind += 1
                print(f"ringwire takes more CPU than {peer}")
sys.exit(1 if behind else 0)
END
