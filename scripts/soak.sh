#!/usr/bin/env bash
# Everything at once for a while: well-behaved clients, attacks in turn, and whether anything grows.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/soak.sh [--minutes N] [--engine NAME] [--binary PATH] [--json FILE] [--svg FILE]

Starts a server and lets well-behaved clients of all sorts live on it: echoes, a sink, compression,
TLS, long messages, idle connections, all of them renewed every two minutes. Beside them attacks
take turns, twelve kinds of four seconds each, each with a neighbour and newcomers as in attack.sh.
Between two attacks the server's memory and descriptors are looked at. Prints each sample, sparklines,
the slopes (least squares, without the first round of attacks) and whether they are flat:

  memory            at most 6 MiB or 5 % more in all
  descriptors       at most 8 more in all
  neighbour's p99   at most 20 ms more in all, each beside the others in attacks of the same kind

A well-behaved client that is cut off, a neighbour without an answer and a server that ends are
failures too.

  --minutes N     for how long (default 30); less than five tell no slopes
  --engine NAME   what serves: shard, epoll (shards on that ring), async or tokio
                  (default shard)
  --json FILE     keep the samples
  --svg FILE      draw them
  --binary PATH   start PATH instead of building and starting target/release/ringwire; nothing that
                  was built before is built again then
  --attack PATH   use PATH instead of loadgen's example 'attack'
  --help          this text

It needs openssl and python3, and two processors. Exit status: 0 all is flat, 1 something grows or
somebody was cut off, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/attack/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/attack/lib.sh"

binary=""
attack=""
# The services that cost something are not part of it.
attacked=/bin/true
soak=()
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --attack)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --minutes | --engine | --json | --svg)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      soak+=("$1" "$2")
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
attack_programs
python3 "$ROOT/scripts/attack/soak.py" --binary "$binary" --attack "$attack" \
  --certificates "$SCRATCH/pem" "${soak[@]}" &
PROGRAM_PID=$!
status=0
wait "$PROGRAM_PID" || status=$?
PROGRAM_PID=
exit "$status"
