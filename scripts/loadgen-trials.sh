#!/usr/bin/env bash
# Whether compare finds a server that is slower, and none where both are equal.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/loadgen-trials.sh [--trials N] [--rounds N] [--seconds N] [--slower PERCENT]
                                 [--tolerance PERCENT] [--merged] [--loadgen PATH] [--server PATH] [--keep DIR]

Makes trials of 'loadgen compare' on real runs. In each, two servers are started (the example
slow_echo, on processor 0) and driven in turns from processor 1: A B, B A, A B ... The first half of
the trials compares equal servers and has to end in "no difference"; the second half a server that
takes PERCENT more CPU a message and has to end in "worse". At least 19 of 20 have to be right. The
machine should have nothing else to do: what others take shows as noise, which hides differences.

  --trials N        of each kind (default 20)
  --rounds N        pairs of runs in each trial (default 8)
  --seconds N       how long each run measures (default 1.1)
  --slower PERCENT  default 10
  --tolerance PERCENT
                    compare's (default 5)
  --merged          have two generators at one time make each run, and compare what 'loadgen merge'
                    adds up
  --loadgen PATH, --server PATH
                    programs to use instead of building them
  --keep DIR        keep the reports and the comparisons in DIR
  --help            this text

Exit status: 0 as many right as needed, 1 fewer, 2 the trials could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

trials=20
rounds=8
seconds=1.1
slower=10
tolerance=5
merged=""
loadgen=""
server=""
keep=""
while [ $# -gt 0 ]; do
  case $1 in
    --trials | --rounds | --seconds | --slower | --tolerance | --loadgen | --server | --keep)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --merged)
      merged=yes
      shift
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
loadgen=$(loadgen_binary "$loadgen")
[ -n "$server" ] || server=$(example_binary loadgen slow_echo)
folder=${keep:-$SCRATCH/runs}
mkdir -p "$folder"

warn_if_busy

# generate FILE URL CONNECTIONS ARGUMENT...: what one generator measures.
generate() {
  local file=$1 url=$2 connections=$3
  shift 3
  taskset -c 1 "$loadgen" echo "$url" --quiet --connections "$connections" --size 64 --binary \
    --shards 1 --warmup 300ms --duration "${seconds}s" --allow-client-bound --json "$file" "$@" \
    >"$file.out" 2>&1 || {
    tail -n 20 "$file.out" >&2
    die "loadgen failed; its words stand above."
  }
  rm -f "$file.out"
}

# drive FILE URL PID: one run.
drive() {
  local other
  if [ -z "$merged" ]; then
    generate "$1" "$2" 64 --pid "$3"
    return
  fi
  # One of them looks at the server for both.
  generate "$1.other" "$2" 32 --start-at +300ms &
  other=$!
  generate "$1.one" "$2" 32 --start-at +300ms --pid "$3"
  wait "$other" || die "the second generator failed; its words stand above."
  # The exit status is the sum's verdict, and two generators on one processor wait for each other.
  "$loadgen" merge "$1.one" "$1.other" --json "$1" >"$SCRATCH/merge.out" 2>&1 || true
  [ -s "$1" ] || {
    tail -n 20 "$SCRATCH/merge.out" >&2
    die "loadgen merge failed; its words stand above."
  }
  rm -f "$1.one" "$1.other"
}

# trial NAME PERCENT: makes a trial and returns compare's exit status.
trial() {
  local name=$1 percent=$2 status=0 a=() b=() a_url a_pid b_url b_pid
  peer_start taskset -c 0 "$server" --slower 0%
  a_url=$PEER_URL a_pid=$PEER_PID
  peer_start taskset -c 0 "$server" --slower "$percent%"
  b_url=$PEER_URL b_pid=$PEER_PID
  for round in $(seq "$rounds"); do
    a+=("$folder/$name-a$round.json")
    b+=("$folder/$name-b$round.json")
    if [ $((round % 2)) -eq 1 ]; then
      drive "${a[-1]}" "$a_url" "$a_pid"
      drive "${b[-1]}" "$b_url" "$b_pid"
    else
      drive "${b[-1]}" "$b_url" "$b_pid"
      drive "${a[-1]}" "$a_url" "$a_pid"
    fi
  done
  peer_stop "$a_pid"
  peer_stop "$b_pid"
  # The runs may show the generator's limits; the server's CPU time is its own all the same.
  "$loadgen" compare --force --tolerance "$tolerance%" \
    "$(IFS=,; echo "${a[*]}")" "$(IFS=,; echo "${b[*]}")" >"$folder/$name.txt" 2>&1 || status=$?
  return "$status"
}

tally() {
  local right=0 status name
  for index in $(seq "$trials"); do
    name=$1-$index
    status=0
    trial "$name" "$2" || status=$?
    [ "$status" -le 1 ] || { cat "$folder/$name.txt" >&2; die "compare could not compare."; }
    # "faster" would be a difference as well.
    if [ "$3" -eq 0 ] && grep -q '^B \(is faster\|takes less\)' "$folder/$name.txt"; then
      status=1
    fi
    if [ "$status" -eq "$3" ]; then
      right=$((right + 1))
    else
      echo "trial $name is wrong:" >&2
      sed 's/^/  /' "$folder/$name.txt" >&2
    fi
    [ -n "$keep" ] || rm -f "$folder/$name"*.json
  done
  RIGHT=$right
}

needed=$(((trials * 19 + 19) / 20))
tally equal 0 0
equal=$RIGHT
echo "equal servers: $equal of $trials found equal (needed: $needed)"
tally slower "$slower" 1
echo "a server slower by $slower %: found in $RIGHT of $trials (needed: $needed)"
[ "$equal" -ge "$needed" ] && [ "$RIGHT" -ge "$needed" ]
