# shellcheck shell=bash
# Sourced by the measuring scripts after server.sh and loadgen/lib.sh: finds the server to measure or
# starts one, puts load on it, asks perf, and says what is missing.
#
# A script sets TOOL options of its own, hands the others to common_option, and calls in this order:
# prepare, require_*, find_server, run_while.
# shellcheck disable=SC2034 # what is set here is read there

PROFILE_OUT=$ROOT/target/profile
STACKS=$ROOT/scripts/lib/stacks.py

pid=""
seconds=10
url=""
drive=""
binary=""
loadgen=""
rate=""
load=()
frequency=997
call_graph=fp

# How many messages the server handled; empty when nobody knows.
MESSAGES=""
# Microseconds that the load, or without it the measurement, took.
TAKEN_US=0
CLIENT_CPUS=()
# Whether perf may not look at the kernel.
USER_ONLY=""

common_usage() {
  cat <<'END'
  --pid PID       the server (default: the only process named ringwire)
  --seconds N     for how long, 1 to 3600 (default 10)
  --url URL       put load on it meanwhile: loadgen echo URL
  --drive         start a server of one shard on processor 0, from a build with symbols and frame
                  pointers, and put load on it from the other processors
  --binary PATH   with --drive: a server to use instead of building it
  --loadgen PATH  with --url or --drive: a loadgen to use instead of building it
  --help          this text
  -- ARGUMENT...  with --url or --drive: arguments for loadgen echo, such as
                  --connections 16 --size 20 --in-flight 256 (default: 64 connections, 64 B, one
                  message in flight on each)
END
}

# common_option ARGUMENT...: takes the first argument, and sets TAKEN to how many that was.
common_option() {
  TAKEN=2
  case $1 in
    --pid | --seconds | --url | --binary | --loadgen)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare -g "${1#--}=$2"
      ;;
    --drive)
      drive=yes
      TAKEN=1
      ;;
    --help | -h)
      usage
      exit
      ;;
    --)
      load=("${@:2}")
      [ ${#load[@]} -gt 0 ] || die "nothing stands behind --; see --help."
      TAKEN=$#
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
}

check_options() {
  is_whole "$seconds" 1 3600 || die "--seconds takes a whole number from 1 to 3600, not '$seconds'."
  [ -z "$pid" ] || [[ $pid =~ ^[1-9][0-9]{0,9}$ ]] ||
    die "--pid takes the number of a process, not '$pid'."
  [ -z "$drive" ] || [ -z "$pid$url" ] || die "--drive starts its own server: leave out --pid and --url."
  [ -n "$drive" ] || [ -z "$binary" ] || die "--binary goes with --drive."
  if [ -z "$drive$url" ] && [ -n "$loadgen${load[*]}" ]; then
    die "where should the load go? Add --url ws://HOST:PORT/ or --drive."
  fi
  # Before anything is built for it.
  [ -z "$pid" ] || check_process
}

# is_whole TEXT LEAST MOST
is_whole() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}

# require_tool NAME PACKAGES: PACKAGES is what to install, for people.
require_tool() {
  command -v "$1" >/dev/null || die "$1 is not installed. $2"
}

require_perf() {
  require_tool perf "It is in the package linux-perf (Debian), linux-tools-$(uname -r) (Ubuntu) or
perf (Fedora, Arch, SUSE)."
}

require_python() {
  require_tool python3 "It is in the package python3."
  command -v addr2line >/dev/null ||
    echo "addr2line is missing (package binutils): functions inside of others will not be shown." >&2
}

# A file that can be written, before anything is measured for it.
require_writable() {
  local folder
  folder=$(dirname "$1")
  if ! mkdir -p "$folder" 2>/dev/null || [ -d "$1" ] || ! { : >>"$1"; } 2>/dev/null; then
    die "$1 cannot be written; name another file with --output."
  fi
}

# What a profile is readable with: symbols, lines, and frame pointers in every crate.
profiling_binary() {
  command -v cargo >/dev/null || die "cargo is not installed; see https://rustup.rs, or name a --binary."
  (cd "$ROOT" && RUSTFLAGS="${RUSTFLAGS:-} -C force-frame-pointers=yes" \
    cargo build --profile profiling --locked --bin ringwire >&2) ||
    die "cargo build --profile profiling --bin ringwire failed; the compiler's words stand above."
  echo "$TARGET/profiling/ringwire"
}

# Sets pid, and url with --drive.
find_server() {
  if [ -n "$url$drive" ]; then
    loadgen=$(loadgen_binary "$loadgen")
  fi
  if [ -n "$drive" ]; then
    [ -n "$binary" ] || binary=$(profiling_binary)
    [ -x "$binary" ] || die "$binary is not an executable file."
    drive_server
  elif [ -z "$pid" ]; then
    only_server
  fi
  check_process
  local name
  name=$(cat "/proc/$pid/comm" 2>/dev/null || true)
  [ "$name" = ringwire ] || echo "process $pid is '$name', not ringwire; measuring it all the same" >&2
  case $(readlink "/proc/$pid/exe" 2>/dev/null) in
    *' (deleted)')
      echo "its program file has been replaced: names of functions may be missing" >&2
      ;;
  esac
}

drive_server() {
  local processors server=()
  processors=$(nproc)
  # With one processor they share it, and the figures are those of both.
  if [ "$processors" -gt 1 ] && taskset -c 0,1 true 2>/dev/null; then
    server=(taskset -c 0)
    CLIENT_CPUS=(taskset -c "1-$((processors - 1))")
  fi
  peer_start "${server[@]}" "$binary" serve --listen 127.0.0.1:0 --shards 1 --log error
  pid=$PEER_PID
  url=$PEER_URL
}

only_server() {
  local file name found=()
  for file in /proc/[0-9]*/comm; do
    read -r name 2>/dev/null <"$file" || continue
    [ "$name" != ringwire ] || found+=("$(basename "$(dirname "$file")")")
  done
  case ${#found[@]} in
    0) die "no process is named ringwire; say which one to measure with --pid, or --drive one." ;;
    1) pid=${found[0]} ;;
    *) die "several processes are named ringwire (${found[*]}); choose one with --pid." ;;
  esac
}

# Says in a sentence why this process cannot be measured.
check_process() {
  local owner name
  [ -d "/proc/$pid" ] || die "there is no process $pid (any more)."
  owner=$(awk '/^Tgid:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)
  [ "$owner" = "$pid" ] || die "$pid is a thread of process ${owner:-(ended)}; give that number."
  name=$(cat "/proc/$pid/comm" 2>/dev/null || true)
  case $(awk '/^State:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) in
    Z | X) die "process $pid ($name) has ended." ;;
  esac
  [ -n "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" ] ||
    die "process $pid ($name) belongs to the kernel."
  owner=$(stat -c %u "/proc/$pid" 2>/dev/null || true)
  if [ "$(id -u)" -ne 0 ] && [ "$(id -u)" != "$owner" ]; then
    owner=$(id -nu "$owner" 2>/dev/null || echo "$owner")
    die "process $pid ($name) belongs to user $owner; run this as that user or as root."
  fi
}

# perf_can EVENT: whether perf can count that for the server. What perf says is in perf.err.
perf_can() {
  LC_ALL=C perf stat -x, -o "$SCRATCH/probe" -e "$1" -p "$pid" -- true 2>"$SCRATCH/perf.err" &&
    ! grep -q '<not supported>' "$SCRATCH/probe"
}

# require_event EVENT WHAT: dies with the reason why perf may not do that.
require_event() {
  local paranoid
  paranoid=$(cat /proc/sys/kernel/perf_event_paranoid 2>/dev/null || echo unreadable)
  if perf_can "$1"; then
    if grep -q "$1:u" "$SCRATCH/probe"; then
      USER_ONLY=yes
      echo "perf may look at user space alone here (kernel.perf_event_paranoid is $paranoid):" \
        "the kernel's part is missing" >&2
    fi
    return
  fi
  check_process
  sed 's/^/  perf: /' "$SCRATCH/perf.err" | grep -v '^  perf: *$' | head -n 12 >&2 || true
  case $1 in
    *:*)
      [ -d "$(tracepoints)" ] || die "$2 needs the kernel's tracepoints, and tracefs is not mounted here:
  mount -t tracefs none /sys/kernel/tracing"
      die "$2 needs the kernel's tracepoints: run this as root."
      ;;
  esac
  die "$2 is not permitted: run this as root, or lower kernel.perf_event_paranoid, which is $paranoid:
  sudo sysctl kernel.perf_event_paranoid=1
In a container, perf needs --cap-add PERFMON and a seccomp profile with perf_event_open."
}

# Where the kernel's tracepoints are, or would be.
tracepoints() {
  if [ -d /sys/kernel/debug/tracing/events ] && [ ! -d /sys/kernel/tracing/events ]; then
    echo /sys/kernel/debug/tracing/events
  else
    echo /sys/kernel/tracing/events
  fi
}

# snapshot FILE: when, and what each thread has used by then: tid, nanoseconds on a processor,
# nanoseconds ready without one, switches by waiting, forced switches, name.
snapshot() {
  local task ran ready slices name waited forced
  {
    echo "${EPOCHREALTIME/,/.}"
    for task in "/proc/$pid"/task/*; do
      # A thread may end while this looks at it.
      read -r ran ready slices <"$task/schedstat" || continue
      read -r name <"$task/comm" || continue
      waited=$(awk '/^voluntary/ { print $2 }' "$task/status") || continue
      forced=$(awk '/^nonvoluntary/ { print $2 }' "$task/status") || continue
      : "$slices"
      printf '%s\t%s\t%s\t%s\t%s\t%s\n' \
        "${task##*/}" "$ran" "$ready" "${waited:-0}" "${forced:-0}" "$name"
    done
  } >"$1" 2>/dev/null
}

# What the measurement lasts for: loadgen where there is load, else the seconds, or the server's end.
workload() {
  if [ -n "$url" ]; then
    WORKLOAD=("${CLIENT_CPUS[@]}" "$loadgen" echo "$url" --quiet --allow-client-bound --warmup 0s
      --duration "${seconds}s" --json "$SCRATCH/load.json" "${load[@]}")
  else
    WORKLOAD=(timeout --foreground "$seconds" tail -s 0.1 --pid "$pid" -f /dev/null)
  fi
}

measurement_cleanup() {
  local status=$?
  [ -z "$PROGRAM_PID" ] || kill -TERM -- "-$PROGRAM_PID" 2>/dev/null || true
  # What cleanup ends with.
  if (exit "$status"); then cleanup; else cleanup; fi
}

# run_while [COMMAND... --]: runs the workload, as the last arguments of COMMAND where there is one.
# Threads are looked at before and after, and MESSAGES is set where loadgen counted them.
run_while() {
  local status=0 began
  workload
  echo "measuring process $pid for $seconds s" >&2
  snapshot "$SCRATCH/before"
  began=${EPOCHREALTIME/[.,]/}
  # In the background of this shell, because a trap waits for a foreground command; and in a group
  # of its own, because perf does not always take its workload with it.
  trap measurement_cleanup EXIT
  set -m
  "$@" "${WORKLOAD[@]}" >"$SCRATCH/load.out" 2>"$SCRATCH/perf.err" &
  PROGRAM_PID=$!
  set +m
  wait "$PROGRAM_PID" || status=$?
  PROGRAM_PID=
  TAKEN_US=$((${EPOCHREALTIME/[.,]/} - began))
  snapshot "$SCRATCH/after"
  # 124 is the end of the time, which is known exactly; perf needed some more for itself.
  if [ -z "$url" ] && [ "$status" -eq 124 ]; then
    status=0
    TAKEN_US=$((seconds * 1000000))
  fi
  if [ ! -d "/proc/$pid" ]; then
    echo "process $pid ended before the time was over" >&2
    # Then perf ends its workload.
    [ -n "$url" ] || status=0
  fi
  if [ -n "$url" ]; then
    if [ ! -s "$SCRATCH/load.json" ] || [ "$status" -ne 0 ]; then
      tail -q -n 20 "$SCRATCH/load.out" "$SCRATCH/perf.err" >&2
      die "the measurement failed with status $status; the words of loadgen and perf stand above."
    fi
    # shellcheck disable=SC2046
    set -- $(python3 -c 'import json, sys
run = json.load(open(sys.argv[1]))
print(run["messages"]["received"], round(run["times"]["measured_ms"] * 1e3))' "$SCRATCH/load.json")
    [ $# -eq 2 ] || die "loadgen's report could not be read."
    MESSAGES=$1
    TAKEN_US=$2
  elif [ "$status" -ne 0 ]; then
    tail -n 20 "$SCRATCH/perf.err" >&2
    die "the measurement failed with status $status; perf's words stand above."
  fi
  grep -iE 'lost|size limit' "$SCRATCH/perf.err" >&2 || true
}

sampling_usage() {
  cat <<'END'
  --frequency HZ  samples a second and thread, 1 to 20000 (default 997)
  --call-graph fp|dwarf
                  how callers are found: by frame pointers (default), or by copying 8 KiB of the
                  stack with each sample, which a build without frame pointers needs
END
}

# sampling_option ARGUMENT...: as common_option.
sampling_option() {
  case $1 in
    --frequency | --call-graph)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      local name=${1#--}
      declare -g "${name//-/_}=$2"
      TAKEN=2
      ;;
    *) common_option "$@" ;;
  esac
}

check_sampling() {
  is_whole "$frequency" 1 20000 ||
    die "--frequency takes a number from 1 to 20000, not '$frequency'."
  case $call_graph in
    fp) ;;
    dwarf) call_graph=dwarf,8192 ;;
    *) die "--call-graph takes fp or dwarf, not '$call_graph'." ;;
  esac
}

# sample_while DATA: samples what is on the processors, into DATA.
sample_while() {
  local event
  require_event cpu-clock "sampling process $pid"
  event=$(sampling_event)
  run_while perf record --quiet --no-buildid-cache -o "$1" -e "$event" -F "$frequency" \
    --call-graph "$call_graph" --max-size 1G -p "$pid" --
}

# cycles where there are counters, else the clock, and says so.
sampling_event() {
  if perf_can cycles; then
    echo cycles
  else
    echo "there are no hardware counters here (a virtual machine): sampling on cpu-clock" >&2
    echo cpu-clock
  fi
}

# rate_option ARGUMENT...: as common_option.
rate_option() {
  case $1 in
    --rate)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      rate=$2
      TAKEN=2
      ;;
    *) common_option "$@" ;;
  esac
}

check_rate() {
  [ -z "$rate" ] || is_whole "$rate" 1 999999999 ||
    die "--rate takes messages a second, a whole number from 1 up, not '$rate'."
  [ -z "$rate" ] || [ -z "$url$drive" ] || die "--rate is for load that is not loadgen's."
}

# count_while EVENT...: counts them while the workload runs, into SCRATCH/counts.
count_while() {
  local event events=()
  for event in "$@"; do
    events+=(-e "$event")
  done
  processor_ticks >"$SCRATCH/ticks.before"
  LC_ALL=C run_while perf stat -x, -o "$SCRATCH/counts" "${events[@]}" -p "$pid" --
  processor_ticks >"$SCRATCH/ticks.after"
  if [ -n "$rate" ]; then
    MESSAGES=$(awk -v rate="$rate" -v us="$TAKEN_US" 'BEGIN { printf "%.0f", rate * us / 1e6 }')
  fi
}

# The process's ticks in user space and in the kernel.
processor_ticks() {
  sed 's/^.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ print $12, $13 }'
}

# count_of EVENT: empty when it was not counted.
count_of() {
  # Where the kernel may not be looked at, perf adds :u to the name.
  awk -F, -v event="$1" '
    ($3 == event || $3 == event ":u") && $1 !~ /^</ { print $1; exit }' "$SCRATCH/counts"
}

# counted EVENT LABEL [ms]: a line for figures.
counted() {
  local value
  value=$(count_of "$1")
  [ -z "$value" ] || printf '%s\t%s\t%s\n' "$2" "$value" "${3:-}"
}

# Of the processor time, in the proportion of the ticks; few of them say nothing.
processor_split() {
  paste -d ' ' "$SCRATCH/ticks.before" "$SCRATCH/ticks.after" |
    awk -v ms="$(count_of task-clock)" 'NF == 4 && $3 + $4 >= $1 + $2 + 50 {
      user = ($3 - $1) / ($3 + $4 - $1 - $2)
      printf "  in user space\t%f\tms\n  in the kernel\t%f\tms\n", ms * user, ms * (1 - user)
    }'
}

# Prints SCRATCH/figures, lines of a label, a count and perhaps ms: in total, a second, a message.
figures() {
  awk -F '\t' -v us="$TAKEN_US" -v messages="$MESSAGES" '
    function grouped(number, text, out) {
      text = sprintf("%.0f", number)
      while (length(text) > 3) {
        out = "," substr(text, length(text) - 2) out
        text = substr(text, 1, length(text) - 3)
      }
      return text out
    }
    function short(number) {
      if (number == 0) return "0"
      if (number >= 1000) return grouped(number)
      if (number >= 10) return sprintf("%.1f", number)
      return number >= 0.01 ? sprintf("%.3f", number) : sprintf("%.2g", number)
    }
    function row(label, total, second, message) {
      printf "%-28s %16s %16s", label, total, second
      if (messages != "") printf " %14s", message
      print ""
    }
    BEGIN {
      row("", "total", "a second", "a message")
      if (messages != "") row("messages", grouped(messages), grouped(messages * 1e6 / us), "")
    }
    {
      each = messages > 0 ? $2 / messages : 0
      if ($3 == "ms")
        row($1, sprintf("%.3f s", $2 / 1000), sprintf("%.1f %%", $2 * 1e5 / us),
            sprintf("%.3f us", each * 1000))
      else
        row($1, grouped($2), short($2 * 1e6 / us), short(each))
    }' "$SCRATCH/figures"
}

# script_of DATA: perf's samples as text, in SCRATCH/script.
script_of() {
  perf script -f -i "$1" --no-inline --show-switch-events -F comm,tid,time,event,ip,sym,symoff,dso \
    >"$SCRATCH/script" 2>"$SCRATCH/script.err" || {
    tail -n 10 "$SCRATCH/script.err" >&2
    die "perf script cannot read $1; its words stand above."
  }
}

# Pinned, so that the graphs of two machines look alike.
INFERNO_VERSION=0.12.8
INFERNO=$ROOT/.cache/inferno/bin/inferno-flamegraph

require_inferno() {
  if [ -x "$INFERNO" ] &&
    grep -q "\"inferno $INFERNO_VERSION " "$ROOT/.cache/inferno/.crates.toml" 2>/dev/null; then
    return
  fi
  command -v cargo >/dev/null || die "cargo is needed to build inferno, which draws the graphs. Without
it, record with scripts/perf-record.sh, and draw on a machine that has cargo and the same programs."
  echo "building inferno $INFERNO_VERSION into .cache/inferno" >&2
  cargo install --quiet --locked --force --root "$ROOT/.cache/inferno" \
    --version "$INFERNO_VERSION" inferno >"$SCRATCH/inferno.log" 2>&1 || {
    tail -n 20 "$SCRATCH/inferno.log" >&2
    die "cargo install inferno failed; its last lines stand above."
  }
}

# draw FILE TITLE SUBTITLE PALETTE UNIT: the flame graph of SCRATCH/folded.
draw() {
  "$INFERNO" --title "$2" --subtitle "$3" --colors "$4" --countname "$5" --hash --width 1600 \
    "$SCRATCH/folded" >"$SCRATCH/graph.svg" 2>"$SCRATCH/inferno.log" || {
    tail -n 20 "$SCRATCH/inferno.log" >&2
    die "inferno could not draw the graph; its words stand above."
  }
  cp "$SCRATCH/graph.svg" "$1" || die "$1 cannot be written."
}
