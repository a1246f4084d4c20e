# shellcheck shell=bash
# Sourced by browser.sh and clients.sh: starts and stops the server under test and the programs that
# test it, and counts their checks. Every process started here is known by its id; cleanup ends
# exactly those, whichever way the script ends.
#
# A check program prints its plan, one name a line, when it is called with --list. When it runs it
# prints "ok NAME" or "FAIL NAME: why" for each name of the plan. A name of the plan without a line
# is a failure: a check that did not run has shown nothing.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
START_TIMEOUT_S=15
STOP_TIMEOUT_S=15

SERVER_PID=
SERVER_URL=
PROGRAM_PID=
BACKGROUND_PIDS=()
SCRATCH=
PASSED=0
FAILED=0

die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Runs apt-get install for the packages named, as root or through sudo.
install_packages() {
  local as_root=()
  command -v apt-get >/dev/null || die "missing: $*. There is no apt-get here; install them by hand."
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "missing: $*. Run as root: apt-get install $*"
    as_root=(sudo)
  fi
  echo "installing $*" >&2
  mkdir -p "$ROOT/.cache"
  # Scripts run beside each other: apt-get itself waits for nobody.
  {
    flock 9 &&
      "${as_root[@]}" apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq \
        -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"
  } >"$SCRATCH/apt.log" 2>&1 9>"$ROOT/.cache/apt.lock" || {
    tail -n 20 "$SCRATCH/apt.log" >&2
    die "apt-get install $* failed; its last lines stand above."
  }
}

# require_node MAJOR: node and npm, at least that major version.
require_node() {
  if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    install_packages nodejs npm
  fi
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge "$1" ] || die "node $major is too old: version $1 or newer is needed."
}

# install_node_packages SOURCE TARGET: what SOURCE/package-lock.json pins, into TARGET/node_modules.
install_node_packages() {
  mkdir -p "$2"
  if [ -d "$2/node_modules" ] && cmp -s "$1/package-lock.json" "$2/package-lock.json"; then
    return
  fi
  echo "installing the npm packages of ${1#"$ROOT"/}" >&2
  rm -rf "$2/node_modules" "$2/package-lock.json"
  cp "$1/package.json" "$2/package.json"
  # The lock file goes last into TARGET, so that an interrupted install is done again.
  mkdir "$SCRATCH/npm"
  cp "$1/package.json" "$1/package-lock.json" "$SCRATCH/npm/"
  (cd "$SCRATCH/npm" && npm ci --ignore-scripts --no-audit --no-fund) >"$SCRATCH/npm.log" 2>&1 || {
    tail -n 20 "$SCRATCH/npm.log" >&2
    die "npm ci failed in a copy of ${1#"$ROOT"/}; its last lines stand above."
  }
  mv "$SCRATCH/npm/node_modules" "$2/"
  cp "$1/package-lock.json" "$2/"
}

# gone PID SECONDS: waits until the process has ended; false when it has not by then.
gone() {
  local deadline=$((SECONDS + $2))
  while kill -0 "$1" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# end PID: asks, and after five seconds insists.
end() {
  kill -TERM "$1" 2>/dev/null || return 0
  gone "$1" 5 || kill -KILL "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

cleanup() {
  local status=$? pid
  trap - EXIT INT TERM HUP
  for pid in $PROGRAM_PID "${BACKGROUND_PIDS[@]}" $SERVER_PID; do
    end "$pid"
  done
  [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
  exit "$status"
}

# Called once, before anything is started.
prepare() {
  SCRATCH=$(mktemp -d)
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
}

# server_binary [PATH]: prints the path of the server, built when none is given.
server_binary() {
  local binary=${1:-}
  if [ -z "$binary" ]; then
    command -v cargo >/dev/null || die "cargo is not installed; see https://rustup.rs, or name a --binary."
    (cd "$ROOT" && cargo build --release --locked --bin ringwire >&2) ||
      die "cargo build --release --bin ringwire failed; the compiler's words stand above."
    binary=${CARGO_TARGET_DIR:-$ROOT/target}/release/ringwire
  fi
  [ -x "$binary" ] || die "$binary is not an executable file."
  echo "$binary"
}

# server_start [BINARY [ARGUMENT...]]: builds the server when no BINARY is given, starts it on a free
# port of 127.0.0.1, or where the arguments say, and sets SERVER_URL to ws://127.0.0.1:PORT/ or
# wss://127.0.0.1:PORT/ as the server itself reports it.
server_start() {
  local binary=${1:-} deadline
  [ $# -eq 0 ] || shift
  case " $*" in
    *" --listen "* | *" --tls-listen "*) ;;
    *) set -- --listen 127.0.0.1:0 "$@" ;;
  esac
  binary=$(trap - EXIT && server_binary "$binary") || exit
  # The file has to be there before the server's own redirection makes it.
  : >"$SCRATCH/server.out"
  "$binary" serve "$@" >"$SCRATCH/server.out" 2>"$SCRATCH/server.err" &
  SERVER_PID=$!
  deadline=$((SECONDS + START_TIMEOUT_S))
  while true; do
    # A port is complete only with the slash behind it.
    if SERVER_URL=$(grep -Eom1 'wss?://127\.0\.0\.1:[0-9]+/' "$SCRATCH/server.out"); then
      SERVER_URL=${SERVER_URL%%$'\n'*}
      echo "testing $binary at $SERVER_URL" >&2
      return
    fi
    if ! kill -0 "$SERVER_PID" 2>/dev/null; then
      server_words
      die "$binary ended before it printed its address; its words stand above."
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      server_words
      die "$binary printed no line with ws://127.0.0.1:PORT/ or wss:// within $START_TIMEOUT_S s."
    fi
    sleep 0.05
  done
}

server_words() {
  sed 's/^/  server: /' "$SCRATCH/server.out" "$SCRATCH/server.err" | tail -n 40 >&2
}

# Sends SIGTERM and makes a check of the exit status.
server_stop() {
  local name="the server ends with status 0 after SIGTERM" status=0 pid=$SERVER_PID
  [ -n "$pid" ] || return 0
  if ! kill -TERM "$pid" 2>/dev/null; then
    wait "$pid" || status=$?
    SERVER_PID=
    failed "$name" "it had ended before, with status $status"
    server_words
    return
  fi
  if ! gone "$pid" "$STOP_TIMEOUT_S"; then
    failed "$name" "it still ran after $STOP_TIMEOUT_S s"
    server_words
    end "$pid"
    SERVER_PID=
    return
  fi
  wait "$pid" || status=$?
  SERVER_PID=
  if [ "$status" -eq 0 ]; then
    passed "$name"
  else
    failed "$name" "status $status"
    server_words
  fi
}

passed() {
  PASSED=$((PASSED + 1))
  echo "ok    $1"
}

failed() {
  FAILED=$((FAILED + 1))
  echo "FAIL  $1: $2"
}

# plan FILE PROGRAM [ARGUMENT...]: writes the names of the program's checks to FILE.
plan() {
  local file=$1
  shift
  "$@" --list >"$file" || die "$* --list failed; its words stand above."
  [ -s "$file" ] || die "$* --list named no check."
}

# tally LABEL PLAN RESULTS: prints and counts a finished program's checks against its plan.
tally() {
  local label=$1 name line
  while IFS= read -r name; do
    line=$(awk -v name="$name" '
      $0 == "ok " name || index($0, "FAIL " name ": ") == 1 { print; exit }' "$3")
    case $line in
      "ok "*) passed "$label$name" ;;
      "FAIL "*) failed "$label$name" "${line#"FAIL $name: "}" ;;
      *) failed "$label$name" "it did not run" ;;
    esac
  done <"$2"
}

# check LABEL SECONDS PROGRAM [ARGUMENT...]: runs a check program to its end and counts its checks.
# The program runs in the background of this shell, because a trap waits for a foreground command.
check() {
  local label=$1 seconds=$2 status=0 results="$SCRATCH/results"
  shift 2
  plan "$SCRATCH/plan" "$@"
  "$@" >"$results" 2>"$SCRATCH/program.err" &
  PROGRAM_PID=$!
  if gone "$PROGRAM_PID" "$seconds"; then
    wait "$PROGRAM_PID" || status=$?
  else
    echo "$label ran longer than $seconds s and was ended" >>"$SCRATCH/program.err"
    end "$PROGRAM_PID"
    status=1
  fi
  PROGRAM_PID=
  tally "$label" "$SCRATCH/plan" "$results"
  # A crash after the last check would otherwise go unseen.
  if [ "$status" -ne 0 ] && ! grep -q '^FAIL ' "$results"; then
    failed "${label}the program ends well" "status $status"
  fi
  [ ! -s "$SCRATCH/program.err" ] || tail -n 40 "$SCRATCH/program.err" >&2
}

# Prints the closing line; false when a check failed or none passed.
finish() {
  echo "$PASSED passed, $FAILED failed"
  [ "$FAILED" -eq 0 ] && [ "$PASSED" -gt 0 ]
}

# within SECONDS COMMAND...: until it succeeds, or no longer than that.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# admin_url FILE: sets ADMIN_URL to what a server has printed to a file.
admin_url() {
  local line='Admin side at http://127\.0\.0\.1:[0-9]+/'
  within "$START_TIMEOUT_S" grep -Eqm1 "$line" "$1" ||
    die "the server printed no line 'Admin side at http://127.0.0.1:PORT/'."
  ADMIN_URL=$(grep -Eom1 "$line" "$1")
  ADMIN_URL=${ADMIN_URL#Admin side at }
  ADMIN_URL=${ADMIN_URL%/}
}
