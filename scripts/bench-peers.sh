#!/usr/bin/env bash
# Measures ringwire against what can be reached at all, and against other WebSocket servers.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
Usage: scripts/bench-peers.sh [--workload NAME,...] [--servers NAME,...] [--rounds N] [--seconds S]
                              [--quick | --smoke] [--goals] [--publish] [...]

Runs each server on processor 0 and what drives it on processor 1, in turns (A B C, C A B, ...), and
prints for each workload and server: messages a second, processor time and system calls a message,
that time relative to ringwire's and to a raw TCP echo's (the floor), and latency at half and at
four fifths of the slowest server's maximum. benches/README.md tells how to read it.

  --workload NAME,...  what to measure (default: all); the names are in scripts/peers/workloads.py
  --servers NAME,...   which to compare (default: all that can be built or installed here):
                       ringwire, ringwire_epoll, ringwire_aio, ringwire_aio_tokio, floor_ring,
                       floor_epoll, tokio_uring, fastwebsockets, tokio_websockets,
                       tokio_tungstenite, bun, ws, libwebsockets
  --rounds N           how often each is measured (default 3)
  --seconds S          how long each time (default 1)
  --no-open-loop       leave out the latency at fixed rates, which takes half of the time
  --sleep              let the generator sleep while it waits; the server pays for waking it then
  --quick              two rounds of 0.3 s of the workloads that have goals: about four minutes
                       instead of half an hour
  --smoke              whether all of it works, within a minute: one round of 0.2 s of a few
                       workloads with ringwire and the floors, and those peers in Rust that are
                       built already; the figures say nothing
  --goals              say of each goal whether it was reached
  --json FILE          keep what was measured
  --svg FILE           draw processor time a message relative to the floor
  --markdown FILE      write all tables, goals and how they were made
  --publish            all three: benches/peers.json, benches/peers.svg and benches/peers.md
  --from FILE,...      measure nothing, and report what earlier runs have kept with --json
  --binary PATH        use PATH as the ringwire server instead of building it
  --before PATH        compare with PATH too, an earlier build: what ringwire_before costs relative
                       to ringwire is what was gained
  --help               this text

Peers are installed into .cache and built in benches/peers. The machine should have nothing else to
do. Exit status: 0 all was measured, and with --goals reached; 1 a goal was missed; 2 something
could not be measured.
END_OF_USAGE
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

OWN_AND_FLOORS=ringwire,ringwire_epoll,ringwire_aio,ringwire_aio_tokio,floor_ring,floor_epoll
BUILT_BY_CARGO=tokio_uring,fastwebsockets,tokio_websockets,tokio_tungstenite
INSTALLED=bun,ws,libwebsockets
PEERS=$ROOT/benches/peers

binary=""
before=""
servers=""
json=""
svg=""
markdown=""
from=""
mode=full
measure=()
report=()
while [ $# -gt 0 ]; do
  case $1 in
    --workload | --rounds | --seconds)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      measure+=("$1" "$2")
      shift 2
      ;;
    --servers | --json | --svg | --markdown | --from | --binary | --before)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --no-open-loop | --sleep)
      measure+=("$1")
      shift
      ;;
    --quick | --smoke)
      mode=${1#--}
      shift
      ;;
    --publish)
      json=$ROOT/benches/peers.json
      svg=$ROOT/benches/peers.svg
      markdown=$ROOT/benches/peers.md
      shift
      ;;
    --goals)
      report+=("$1")
      shift
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done

command -v python3 >/dev/null || install_packages python3
[ -z "$json" ] || report+=(--json "$json")
[ -z "$svg" ] || report+=(--svg "$svg")
[ -z "$markdown" ] || report+=(--markdown "$markdown")
if [ -n "$from" ]; then
  IFS=, read -ra kept <<<"$from"
  exec python3 "$ROOT/scripts/peers/report.py" "${kept[@]}" "${report[@]}"
fi

built=${CARGO_TARGET_DIR:-$PEERS/target}/release
# Whether a missing server is an error or only said: it is one when somebody asked for it.
asked=$servers
features=()
if [ -z "$servers" ]; then
  servers=$OWN_AND_FLOORS
  if [ "$mode" != smoke ]; then
    servers=$servers,$BUILT_BY_CARGO,$INSTALLED
  elif [ -x "$built/fastwebsockets" ]; then
    servers=$servers,$BUILT_BY_CARGO
  else
    features=(--no-default-features)
  fi
fi

# missing NAME WHY: a server that cannot be compared here.
missing() {
  [ -z "$asked" ] || die "$1: $2"
  echo "left out: $1: $2" >&2
  echo "$1: $2" >>"$SCRATCH/left_out"
}

# server NAME LABEL ROLE COMMAND...: one line of what is compared.
server() {
  local IFS=$'\t'
  echo "$*" >>"$SCRATCH/servers"
}

# The version of a crate that benches/peers is locked to.
crate_version() {
  awk -v name="\"$1\"" '$1 == "name" && $3 == name { getline; gsub(/"/, "", $3); print $3; exit }' \
    "$PEERS/Cargo.lock"
}

# The npm packages of scripts/loadgen/peers; false when they cannot be installed here.
install_node_peers() {
  # Each of these ends the shell that it fails in.
  (
    trap - EXIT
    require_node 18
    install_node_packages "$ROOT/scripts/loadgen/peers" "$CACHE/peers"
    cp "$ROOT"/scripts/loadgen/peers/server*.mjs "$CACHE/peers/"
  )
}

npm_version() {
  node -p "require('$CACHE/peers/node_modules/$1/package.json').version"
}

# Compiles the echo on libwebsockets; prints where it is, or nothing.
build_libwebsockets() {
  local output=$CACHE/libwebsockets_echo flags
  command -v cc >/dev/null && command -v pkg-config >/dev/null &&
    pkg-config --exists libwebsockets ||
    (trap - EXIT && install_packages gcc libc6-dev pkg-config libwebsockets-dev) || return 0
  read -ra flags <<<"$(pkg-config --cflags --libs libwebsockets)"
  mkdir -p "$CACHE"
  cc -O3 -march=native -Wall -Wextra "$PEERS/lws/echo.c" -o "$output" "${flags[@]}" >&2 || return 0
  echo "$output"
}

add_server() {
  local program version
  case $1 in
    ringwire)
      version=$("$binary" --version | head -n 1)
      server ringwire "$version" ringwire \
        "$binary" serve --listen 127.0.0.1:0 --shards 1
      ;;
    ringwire_before)
      version=$("$before" --version | head -n 1)
      server ringwire_before "$version, an earlier build" ringwire \
        "$before" serve --listen 127.0.0.1:0 --shards 1
      ;;
    ringwire_epoll)
      version=$("$binary" --version | head -n 1)
      server ringwire_epoll "$version, on epoll" ringwire \
        "$binary" serve --ring epoll --listen 127.0.0.1:0 --shards 1
      ;;
    ringwire_aio)
      version=$("$binary" --version | head -n 1)
      server ringwire_aio "$version, async on tokio-uring" ringwire \
        "$binary" serve --engine async --ring uring --listen 127.0.0.1:0 --shards 1
      ;;
    ringwire_aio_tokio)
      version=$("$binary" --version | head -n 1)
      server ringwire_aio_tokio "$version, async on tokio" ringwire \
        "$binary" serve --engine async --ring epoll --listen 127.0.0.1:0 --shards 1
      ;;
    floor_ring) server floor_ring "raw TCP on ringwire's ring" floor "$built/floor_ring" ;;
    floor_epoll) server floor_epoll "raw TCP on epoll" floor "$built/floor_epoll" ;;
    tokio_uring)
      server tokio_uring "raw TCP on tokio-uring $(crate_version tokio-uring)" floor \
        "$built/tokio_uring"
      ;;
    fastwebsockets | tokio_websockets | tokio_tungstenite)
      server "$1" "${1//_/-} $(crate_version "${1//_/-}")" peer "$built/$1"
      ;;
    bun | ws)
      if [ -z "${node_peers:-}" ]; then
        node_peers=no
        ! install_node_peers || node_peers=yes
      fi
      if [ "$node_peers" = no ]; then
        missing "$1" "its npm package could not be installed."
      elif [ "$1" = ws ]; then
        server ws "ws $(npm_version ws) on Node $(node -p process.versions.node)" peer \
          node "$CACHE/peers/server.mjs"
      elif program=$(trap - EXIT && bun_binary); then
        server bun "Bun $(npm_version bun)" peer "$program" "$CACHE/peers/server.bun.mjs"
      else
        missing bun "no program of it runs here."
      fi
      ;;
    libwebsockets)
      program=$(build_libwebsockets)
      if [ -n "$program" ]; then
        # Debian's version ends in a dash.
        version=$(pkg-config --modversion libwebsockets)
        server libwebsockets "libwebsockets ${version%-}" peer "$program"
      else
        missing libwebsockets "libwebsockets-dev is not installed and could not be."
      fi
      ;;
    *) die "there is no server '$1'; see --help." ;;
  esac
}

prepare
require_two_processors
command -v cargo >/dev/null || die "cargo is not installed; see https://rustup.rs."
(cd "$PEERS" && cargo build --release --locked "${features[@]}" >&2) ||
  die "cargo build failed in benches/peers; the compiler's words stand above."
loadgen=$(loadgen_binary "")
given=$binary
clients=$(example_binary ringwire idle_clients)
if [ -z "$binary" ]; then
  (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) ||
    die "cargo build --release --bin ringwire failed; the compiler's words stand above."
  binary=$TARGET/release/ringwire
fi
: >"$SCRATCH/servers"
: >"$SCRATCH/left_out"
[ -z "$before" ] || servers=$servers,ringwire_before
IFS=, read -ra names <<<"$servers"
for name in "${names[@]}"; do
  add_server "$name"
done

if [ "$mode" = smoke ]; then
  PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -s "$ROOT/scripts/peers" >&2 ||
    die "what reads the figures is wrong; the tests' words stand above."
fi
warn_if_busy
# Of a copy without its history nothing is known.
commit=$(git -C "$ROOT" describe --always --dirty --abbrev=12 2>/dev/null || true)
status=0
# What made the figures, without where they go.
command="scripts/bench-peers.sh${measure[*]:+ ${measure[*]}}${asked:+ --servers $asked}"
[ "$mode" = full ] || command+=" --$mode"
[ -z "$given" ] || command+=" --binary ${given##*/}"
[ -z "$before" ] || command+=" --before ${before##*/}"
# In the background, because a trap waits for a foreground command.
python3 "$ROOT/scripts/peers/run.py" --servers "$SCRATCH/servers" --drive "$built/drive" \
  --loadgen "$loadgen" --idle-clients "$clients" --json "$SCRATCH/measured.json" \
  --left-out "$SCRATCH/left_out" --command "$command" --commit "$commit" --mode "$mode" \
  "${measure[@]}" &
BACKGROUND_PIDS+=($!)
wait $! || status=$?
[ -s "$SCRATCH/measured.json" ] || die "nothing was measured."
reported=0
python3 "$ROOT/scripts/peers/report.py" "$SCRATCH/measured.json" "${report[@]}" || reported=$?
[ "$status" -eq 0 ] || exit 2
exit "$reported"
