#!/usr/bin/env bash
# Counts the server's system calls, and what its rings submit and complete, for each message.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/syscalls.sh [--pid PID | --drive] [--seconds N] [--url URL] [--rate N] [--all]
                           [--with perf|strace] [-- LOADGEN-ARGUMENT...]

Counts the system calls of the server, io_uring_enter apart from the others, and the submissions and
completions of its rings: in total, for a second, and for a message. From outside nobody sees how
many messages the server handles, so either this puts the load on it (--url, --drive), or you know
the rate (--rate); otherwise there are no figures for a message.

  --rate N        messages a second, where the load is not loadgen's and you know it
  --all           name every system call; setting that up takes perf a quarter of a minute more
  --with perf|strace
                  perf counts in the kernel and disturbs nobody; it needs root and tracepoints.
                  strace stops the server at each call, so that it does less in the time, and sees
                  nothing of the rings. (default: perf where that is possible, else strace)
END
  common_usage
  cat <<'END'

A message is one that was received and answered; opening the connections counts as well, a few calls
each. Exit status: 0 measured, 2 it could not be measured.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

# What a server is known to call while it runs; each costs perf a moment.
NAMED=(io_uring_enter getpeername shutdown close read write futex mmap munmap madvise)
RING=(io_uring:io_uring_submit_req io_uring:io_uring_complete io_uring:io_uring_queue_async_work
  io_uring:io_uring_cqe_overflow)

tool=""
all=""
while [ $# -gt 0 ]; do
  case $1 in
    --with)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      tool=$2
      shift 2
      ;;
    --all)
      all=yes
      shift
      ;;
    *)
      rate_option "$@"
      shift "$TAKEN"
      ;;
  esac
done
check_options
check_rate
case $tool in '' | perf | strace) ;; *) die "--with takes perf or strace, not '$tool'." ;; esac

# choose_tool: perf where it can, else strace, and says why.
choose_tool() {
  if [ "$tool" != strace ]; then
    if [ "$tool" = perf ]; then
      require_perf
      require_event raw_syscalls:sys_enter "counting system calls"
    fi
    if command -v perf >/dev/null && perf_can raw_syscalls:sys_enter; then
      tool=perf
      return
    fi
    if command -v perf >/dev/null; then
      echo "perf may not count system calls here: that takes root and tracefs" >&2
    else
      echo "perf is not installed" >&2
    fi
    echo "taking strace, which slows the server down" >&2
  fi
  tool=strace
  require_tool strace "It is in the package strace; perf, in linux-perf, would be better."
}

# The events of a group that this kernel has: known FOLDER EVENT...
known() {
  local events event
  events=$(tracepoints)
  for event in "$@"; do
    [ ! -d "$events/${event/:/\/}" ] || echo "$event"
  done
}

with_perf() {
  local names ring total
  if [ -n "$all" ]; then
    mapfile -t names < <(cd "$(tracepoints)" && printf '%s\n' syscalls/sys_enter_* | tr / :)
  else
    mapfile -t names < <(known "${NAMED[@]/#/syscalls:sys_enter_}")
  fi
  mapfile -t ring < <(known "${RING[@]}")
  count_while raw_syscalls:sys_enter "${names[@]}" "${ring[@]}"
  total=$(count_of raw_syscalls:sys_enter)
  [ "${total:-0}" -gt 0 ] || die "the server made no system call meanwhile."
  {
    printf 'system calls\t%s\n' "$total"
    awk -F, -v rest="$total" '
      $3 ~ /^syscalls:sys_enter_/ && $1 > 0 {
        rest -= $1
        sub("^syscalls:sys_enter_", "  ", $3)
        printf "%s\t%s\n", $3, $1
      }
      END { if (rest > 0) printf "  others\t%s\n", rest }' "$SCRATCH/counts" |
      sort -t "$(printf '\t')" -k 2,2nr
    counted io_uring:io_uring_submit_req "submissions (SQEs)"
    counted io_uring:io_uring_complete "completions (CQEs)"
    counted io_uring:io_uring_queue_async_work "left to worker threads"
    counted io_uring:io_uring_cqe_overflow "completions beyond the queue"
  } >"$SCRATCH/figures"
  figures
  awk -v enters="$(count_of syscalls:sys_enter_io_uring_enter)" \
    -v submitted="$(count_of io_uring:io_uring_submit_req)" \
    -v completed="$(count_of io_uring:io_uring_complete)" -v messages="$MESSAGES" 'BEGIN {
      if (enters == 0) exit
      printf "\nOne io_uring_enter submitted %.1f and brought %.1f", submitted / enters,
        completed / enters
      if (messages != "") printf ", for %.1f messages", messages / enters
      print "."
    }'
}

with_strace() {
  local status=0 deadline=$((SECONDS + START_TIMEOUT_S))
  strace -f -c -p "$pid" -o "$SCRATCH/strace" 2>"$SCRATCH/strace.err" &
  BACKGROUND_PIDS+=("$!")
  until grep -q ' attached' "$SCRATCH/strace.err"; do
    if ! kill -0 "${BACKGROUND_PIDS[-1]}" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      tail -n 5 "$SCRATCH/strace.err" >&2
      die "strace cannot attach to process $pid; its words stand above. Run this as root, or see
ptrace_scope in ptrace(2)."
    fi
    sleep 0.05
  done
  run_while
  # It writes its table when it is asked to end.
  kill -TERM "${BACKGROUND_PIDS[-1]}" 2>/dev/null || true
  wait "${BACKGROUND_PIDS[-1]}" || status=$?
  [ -s "$SCRATCH/strace" ] ||
    die "the server made no system call meanwhile (strace ended with status $status)."
  [ -z "$rate" ] || MESSAGES=$((rate * seconds))
  awk '$1 ~ /^[0-9.]+$/ {
    calls = $4; name = $NF
    if (name == "total") { printf "system calls\t%s\n", calls; next }
    printf "  %s\t%s\n", name, calls
  }' "$SCRATCH/strace" | sort -t "$(printf '\t')" -k 2,2nr >"$SCRATCH/figures"
  figures
}

prepare
require_tool python3 "It is in the package python3."
find_server
choose_tool
"with_$tool"
