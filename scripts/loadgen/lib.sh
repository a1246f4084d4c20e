# shellcheck shell=bash
# Sourced by the loadgen-*.sh scripts after lib/server.sh: builds loadgen, installs what others
# wrote, and starts servers that print their address.

CACHE=$ROOT/.cache/loadgen
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

PEER_PID=
PEER_URL=

# loadgen_binary [PATH]: prints the path of loadgen, built when none is given.
loadgen_binary() {
  local binary=${1:-}
  if [ -z "$binary" ]; then
    command -v cargo >/dev/null ||
      die "cargo is not installed; see https://rustup.rs, or name --loadgen."
    (cd "$ROOT" && cargo build --release --locked -p loadgen >&2) ||
      die "cargo build --release -p loadgen failed; the compiler's words stand above."
    binary=$TARGET/release/loadgen
  fi
  [ -x "$binary" ] || die "$binary is not an executable file."
  echo "$binary"
}

# example_binary PACKAGE NAME: prints the path of an example, built in release.
example_binary() {
  (cd "$ROOT" && cargo build --release --locked -p "$1" --example "$2" >&2) ||
    die "cargo build --release -p $1 --example $2 failed; the compiler's words stand above."
  echo "$TARGET/release/examples/$2"
}

# What scripts/loadgen/requirements.txt pins, into .cache/loadgen/venv.
install_python_packages() {
  local wanted=$ROOT/scripts/loadgen/requirements.txt
  command -v python3 >/dev/null || install_packages python3
  python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
  if cmp -s "$wanted" "$CACHE/venv/requirements.txt"; then
    return
  fi
  echo "installing the Python packages of scripts/loadgen" >&2
  rm -rf "$CACHE/venv"
  mkdir -p "$CACHE"
  {
    python3 -m venv "$CACHE/venv" &&
      "$CACHE/venv/bin/pip" install -q --disable-pip-version-check --no-deps -r "$wanted"
  } >"$SCRATCH/pip.log" 2>&1 || {
    tail -n 20 "$SCRATCH/pip.log" >&2
    die "the Python environment could not be made in $CACHE/venv; the last lines stand above."
  }
  cp "$wanted" "$CACHE/venv/requirements.txt"
}

# The program itself: the package's own installer would only link it.
bun_binary() {
  local found=("$CACHE"/peers/node_modules/@oven/bun-linux-*/bin/bun)
  [ -x "${found[0]}" ] || die "the npm package bun has no program for this machine."
  # Where more than one fits (glibc, musl, without AVX2), the first that runs.
  local candidate
  for candidate in "${found[@]}"; do
    if "$candidate" --version >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  die "no program of the npm package bun runs on this machine."
}

# peer_start COMMAND...: starts a server that prints ws://HOST:PORT/, wss:// or tcp://, and sets
# PEER_URL and PEER_PID.
peer_start() {
  local output deadline=$((SECONDS + START_TIMEOUT_S))
  output=$(mktemp "$SCRATCH/peer.XXXXXX")
  "$@" >"$output" 2>"$output.err" &
  PEER_PID=$!
  BACKGROUND_PIDS+=("$PEER_PID")
  until PEER_URL=$(grep -Eom1 '(wss?|tcp)://127\.0\.0\.1:[0-9]+/' "$output"); do
    if ! kill -0 "$PEER_PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      sed 's/^/  server: /' "$output" "$output.err" | tail -n 20 >&2
      die "$1 printed no line with ws://127.0.0.1:PORT/ or wss://; its words stand above."
    fi
    sleep 0.05
  done
  PEER_URL=${PEER_URL%%$'\n'*}
}

# peer_stop PID: ends a server that peer_start started.
peer_stop() {
  local stopped=$1 pid kept=()
  end "$stopped"
  for pid in "${BACKGROUND_PIDS[@]}"; do
    [ "$pid" = "$stopped" ] || kept+=("$pid")
  done
  BACKGROUND_PIDS=("${kept[@]}")
}

# On a machine with one processor everything shares it, and a comparison is none.
require_two_processors() {
  command -v taskset >/dev/null || install_packages util-linux
  taskset -c 0,1 true 2>/dev/null || die "processors 0 and 1 are needed, one for each side."
}

warn_if_busy() {
  awk '$1 > 1 { exit 1 }' /proc/loadavg ||
    echo "the machine is busy (load $(cut -d' ' -f1 /proc/loadavg)): the figures will say little" >&2
}
