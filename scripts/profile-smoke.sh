#!/usr/bin/env bash
# Runs every profiling and tuning script briefly, so that none of them rots.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/profile-smoke.sh [--binary PATH] [--loadgen PATH]

Runs perf-record.sh, flamegraph.sh, perf-stat.sh, perf-offcpu.sh, syscalls.sh, bpftrace.sh and
tune.sh, a second each, on servers of their own under load, and looks at what they print; then with
wrong arguments, wrong processes and missing tools, and at what they say about it. Prints one line a
check and 'N passed, N failed'. It needs root, and a kernel that lets perf and bpftrace look at it.

  --binary PATH   a server built with symbols, instead of building target/profiling/ringwire
  --loadgen PATH  use PATH instead of building target/release/loadgen
  --help          this text

perf, bpftrace, strace and binutils come from apt-get where they are missing, inferno from crates.io.
Exit status: 0 all checks passed, 1 a check failed, 2 the scripts could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"
# shellcheck source=SCRIPTDIR/lib/profile.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/profile.sh"

while [ $# -gt 0 ]; do
  case $1 in
    --binary | --loadgen)
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
[ "$(id -u)" -eq 0 ] || die "perf's tracepoints and bpftrace take root."

prepare
missing=()
command -v perf >/dev/null || missing+=(linux-perf)
command -v bpftrace >/dev/null || missing+=(bpftrace)
command -v strace >/dev/null || missing+=(strace)
command -v addr2line >/dev/null || missing+=(binutils)
command -v python3 >/dev/null || missing+=(python3)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
loadgen=$(loadgen_binary "$loadgen")
[ -n "$binary" ] || binary=$(profiling_binary)
require_inferno

DRIVE=(--drive --seconds 1 --binary "$binary" --loadgen "$loadgen")
OUT=$SCRATCH/out

# runs NAME STATUS SCRIPT [ARGUMENT...]: whether it ends with that status; what it prints is in OUT.
runs() {
  local name=$1 wanted=$2 status=0
  shift 2
  "$@" >"$OUT" 2>&1 &
  PROGRAM_PID=$!
  wait "$PROGRAM_PID" || status=$?
  PROGRAM_PID=
  [ "$status" -eq "$wanted" ] && return
  failed "$name" "status $status instead of $wanted"
  tail -n 15 "$OUT" | sed 's/^/  /' >&2
  return 1
}

# shows NAME FILE PATTERN...: a check that each pattern (grep -E) is in the file.
shows() {
  local name=$1 file=$2 pattern
  for pattern in "${@:3}"; do
    if ! grep -qE -- "$pattern" "$file"; then
      failed "$name" "there is no '$pattern'"
      tail -n 40 "$file" | cut -c 1-200 | sed 's/^/  /' >&2
      return
    fi
  done
  passed "$name"
}

# holds NAME PATTERN... -- STATUS SCRIPT [ARGUMENT...]: runs it and looks at what it prints.
holds() {
  local name=$1 patterns=()
  shift
  while [ "$1" != -- ]; do
    patterns+=("$1")
    shift
  done
  shift
  ! runs "$name" "$@" || shows "$name" "$OUT" "${patterns[@]}"
}

# The count of a row of the tables, without commas.
total_of() {
  awk -v label="$1" 'index($0, label) == 1 {
    $0 = substr($0, length(label) + 1); gsub(",", ""); print $1; exit }' "$OUT"
}

holds "perf-record.sh names functions of the server and of the kernel" \
  ' ringwire::' 'tcp_sendmsg_locked' '[0-9]+ echoed' -- \
  0 "$ROOT/scripts/perf-record.sh" "${DRIVE[@]}" --output "$SCRATCH/perf.data" --lines --top 40
shows "perf-record.sh names lines of code" "$OUT" '  src/[a-z_/]+\.rs:[0-9]+  ringwire::'
holds "perf-record.sh finds callers without frame pointers" ' ringwire::' -- \
  0 "$ROOT/scripts/perf-record.sh" "${DRIVE[@]}" --call-graph dwarf --frequency 199 \
  --output "$SCRATCH/dwarf.data"
if runs "flamegraph.sh draws" 0 "$ROOT/scripts/flamegraph.sh" --input "$SCRATCH/perf.data" \
  --output "$SCRATCH/graph.svg"; then
  shows "flamegraph.sh draws from the shard down to the kernel" "$SCRATCH/graph.svg" '<svg' \
    'ringwire::shard::Shard::turn \(' '__do_sys_io_uring_enter \(' 'io_send \(' 'tcp_sendmsg \('
fi
holds "perf-stat.sh counts for a message" 'processor time .* us$' '^messages' 'ringwire-0 .* %' -- \
  0 "$ROOT/scripts/perf-stat.sh" "${DRIVE[@]}"
holds "perf-offcpu.sh tells waiting from working" 'ringwire-0 +[0-9.]+ % +[0-9.]+ %' -- \
  0 "$ROOT/scripts/perf-offcpu.sh" "${DRIVE[@]}" --output "$SCRATCH/offcpu.data" -- --rate 5000
waited=$(awk '$1 == "ringwire-0" { print int($4) }' "$OUT")
if [ "${waited:-0}" -ge 30 ]; then
  passed "perf-offcpu.sh sees a server that has time to spare wait for completions"
else
  failed "perf-offcpu.sh sees a server that has time to spare wait for completions" "${waited:-no} %"
fi
holds "syscalls.sh counts with perf" '^  io_uring_enter' '^One io_uring_enter submitted [0-9]' -- \
  0 "$ROOT/scripts/syscalls.sh" "${DRIVE[@]}" --with perf
messages=$(total_of messages)
submitted=$(total_of "submissions (SQEs)")
# Every reply is one send, and what opens and closes connections comes on top.
if [ "${messages:-0}" -gt 0 ] && [ "${submitted:-0}" -ge "$messages" ] &&
  [ "$submitted" -lt $((messages + messages / 10)) ]; then
  passed "syscalls.sh: one submission for a message in closed loop"
else
  failed "syscalls.sh: one submission for a message in closed loop" \
    "$submitted submissions for $messages messages"
fi
holds "syscalls.sh counts with strace" '^  io_uring_enter' '^messages' -- \
  0 "$ROOT/scripts/syscalls.sh" "${DRIVE[@]}" --with strace
holds "bpftrace.sh enter" '@completions_of_a_call' '@us_of_work_in_a_call' '^@calls: [1-9]' -- \
  0 "$ROOT/scripts/bpftrace.sh" enter "${DRIVE[@]}"
holds "bpftrace.sh requests" '@us\[SEND\]' '@requests\[RECV\]: [1-9]' -- \
  0 "$ROOT/scripts/bpftrace.sh" requests "${DRIVE[@]}" -- --connections 64
# A server without connections takes its tick back: the byte that names an operation is read right.
holds "bpftrace.sh trouble" '^@completions: [1-9]' '@failed\[tick, 125\]' -- \
  0 "$ROOT/scripts/bpftrace.sh" trouble "${DRIVE[@]}" -- --rate 1000
holds "bpftrace.sh runqueue" '@us_until_it_runs\[ringwire-0\]' -- \
  0 "$ROOT/scripts/bpftrace.sh" runqueue "${DRIVE[@]}" -- --rate 5000

# Ended in the middle: perf does not always take loadgen with it.
for script in perf-record.sh perf-stat.sh "bpftrace.sh enter"; do
  read -ra words <<<"$script"
  name="$script: leaves nothing behind when it is ended"
  folder=$(mktemp -d -p "$SCRATCH")
  # In a file, so that grep's own arguments do not have it.
  echo "$folder" >"$SCRATCH/folder"
  TMPDIR=$folder "$ROOT/scripts/${words[0]}" "${words[@]:1}" "${DRIVE[@]}" --seconds 60 >"$OUT" 2>&1 &
  PROGRAM_PID=$!
  deadline=$((SECONDS + START_TIMEOUT_S))
  until grep -q '^measuring' "$OUT" && grep -qlFf "$SCRATCH/folder" /proc/[0-9]*/cmdline 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 0.05
  done
  kill -TERM "$PROGRAM_PID"
  wait "$PROGRAM_PID" || true
  PROGRAM_PID=
  # What it named its files after is in the arguments of whatever it has started. That was told to
  # end, and may take a moment.
  deadline=$((SECONDS + START_TIMEOUT_S))
  while left=$(grep -lFf "$SCRATCH/folder" /proc/[0-9]*/cmdline 2>/dev/null); do
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 0.05
  done
  if ! grep -q '^measuring' "$OUT"; then
    failed "$name" "it had not begun"
  elif [ -n "$left" ] || [ -n "$(ls -A "$folder")" ]; then
    failed "$name" "left: $left $(ls -A "$folder")"
    for left in $left; do
      end "$(basename "$(dirname "$left")")"
    done
  else
    passed "$name"
  fi
done

# What people get wrong, and what machines lack. ended: a process that is no more.
(exit 0) &
ended=$!
wait "$ended"
sleep 100 &
BACKGROUND_PIDS+=("$!")
sleeper=$!
NOBODY=(setpriv --reuid=65534 --regid=65534 --clear-groups)
MEASURING=(perf-record.sh flamegraph.sh perf-stat.sh perf-offcpu.sh syscalls.sh "bpftrace.sh enter")

# A folder with what the scripts call, without one of it: path_without TOOL
path_without() {
  local folder=$SCRATCH/without-$1 tool
  mkdir "$folder"
  for tool in bash env cat sed awk grep tr id stat dirname basename mkdir mktemp rm cp readlink nproc \
    timeout tail head sort paste taskset uname sleep printf perf bpftrace strace python3 addr2line; do
    [ "$tool" = "$1" ] || ln -s "$(command -v "$tool")" "$folder/$tool"
  done
  echo "$folder"
}

for script in "${MEASURING[@]}"; do
  read -ra words <<<"$script"
  command=("$ROOT/scripts/${words[0]}" "${words[@]:1}")
  holds "$script --help" '^Usage: ' -- 0 "${command[@]}" --help
  holds "$script: a process that has ended" "no process $ended" -- 2 "${command[@]}" --pid "$ended"
  holds "$script: no number of a process" "not 'x1'" -- 2 "${command[@]}" --pid x1
  holds "$script: a process of the kernel" 'belongs to the kernel' -- 2 "${command[@]}" --pid 2
  holds "$script: no time" "from 1 to 3600, not '0'" -- 2 "${command[@]}" --pid "$$" --seconds 0
  holds "$script: two servers" 'leave out --pid and --url' -- 2 "${command[@]}" --drive --pid "$$"
  holds "$script: an argument too many" "unknown argument '--bogus'" -- 2 "${command[@]}" --bogus
  tool=perf
  case $script in
    bpftrace*) tool=bpftrace ;;
    syscalls*) command+=(--with perf) ;;
  esac
  [ -d "$SCRATCH/without-$tool" ] || path_without "$tool" >"$SCRATCH/path"
  holds "$script: without $tool" 'in the package' -- \
    2 env "PATH=$SCRATCH/without-$tool" "${command[@]}" --pid "$sleeper"
done

# As somebody who may not look: the scripts in a folder that everybody can read.
chmod 711 "$SCRATCH"
mkdir -m 755 "$SCRATCH/everybody"
cp -r "$ROOT/scripts" "$SCRATCH/everybody/"
chmod -R a+rX "$SCRATCH/everybody"
"${NOBODY[@]}" sleep 100 &
theirs=$!
BACKGROUND_PIDS+=("$theirs")
for script in "${MEASURING[@]}"; do
  read -ra words <<<"$script"
  command=("${NOBODY[@]}" "$SCRATCH/everybody/scripts/${words[0]}" "${words[@]:1}")
  holds "$script: somebody else's process" 'belongs to user root' -- 2 "${command[@]}" --pid "$sleeper"
  case $script in
    bpftrace*)
      holds "$script: without root" 'root: run this with sudo' -- 2 "${command[@]}" --pid "$theirs"
      ;;
    syscalls*)
      holds "$script: without root" 'needs the kernel.s tracepoints' -- \
        2 "${command[@]}" --pid "$theirs" --with perf
      ;;
    perf-stat*) ;;
    *) holds "$script: a folder that cannot be written" 'cannot be written' -- \
      2 "${command[@]}" --pid "$theirs" --output /proc/x ;;
  esac
done

# tune.sh on a host of its own: files in the places of /proc/sys and /sys.
HOST=$SCRATCH/host
# host_file PATH VALUE
host_file() {
  mkdir -p "$HOST/$(dirname "$1")"
  printf '%s\n' "$2" >"$HOST/$1"
}
is_now() {
  local value
  value=$(cat "$HOST/$2")
  if [ "$value" = "$3" ]; then passed "$1"; else failed "$1" "'$value' instead of '$3'"; fi
}
host_file proc/sys/net/core/somaxconn 128
host_file proc/sys/net/ipv4/tcp_max_syn_backlog 100000
host_file proc/sys/fs/nr_open 1048576
host_file proc/sys/fs/file-max 9223372036854775807
host_file proc/sys/kernel/osrelease 6.18.0
host_file proc/sys/kernel/io_uring_disabled 2
host_file proc/sys/net/ipv4/tcp_slow_start_after_idle 1
host_file proc/sys/net/ipv4/ip_local_port_range "1024	60999"
host_file proc/sys/net/ipv4/tcp_rmem "4096	131072	33554432"
host_file proc/sys/net/ipv4/tcp_wmem "4096	16384	4194304"
host_file proc/sys/net/ipv4/tcp_notsent_lowat 16384
host_file proc/sys/net/core/rps_sock_flow_entries 0
host_file proc/net/softnet_stat "00001000 00000007 00000000"
host_file proc/sys/net/core/netdev_max_backlog 1000
for processor in 0 1 2 3; do
  host_file "sys/devices/system/cpu/cpu$processor/cpufreq/scaling_governor" powersave
done
mkdir -p "$HOST/sys/class/net/eth7/device/msi_irqs"
for queue in 0 1; do
  host_file "sys/class/net/eth7/queues/rx-$queue/rps_cpus" 0
  host_file "sys/class/net/eth7/queues/rx-$queue/rps_flow_cnt" 0
  host_file "sys/class/net/eth7/device/msi_irqs/4$queue" msix
  host_file "proc/irq/4$queue/smp_affinity_list" 0-3
  host_file "proc/irq/4$queue/effective_affinity_list" 2
done
tune=(env "RINGWIRE_TUNE_ROOT=$HOST" "$ROOT/scripts/tune.sh")
groups=client,wan,memory,latency,nic
cp -r "$HOST" "$SCRATCH/host.before"
holds "tune.sh prints" 'somaxconn +change +128  ->  4096' 'io_uring_disabled +by hand +2' \
  'tcp_tw_reuse +not here' 'netdev_max_backlog +change' 'Nothing was changed' -- 0 "${tune[@]}"
if diff -r "$HOST" "$SCRATCH/host.before" >/dev/null; then
  passed "tune.sh changes nothing by itself"
else
  failed "tune.sh changes nothing by itself" "it did"
fi
holds "tune.sh --apply" 'somaxconn: 128 -> 4096' "echo '128' > /proc/sys/net/core/somaxconn" -- \
  0 "${tune[@]}" --apply --with "$groups" --persist "$SCRATCH/sysctl.conf"
grep "^  echo" "$OUT" >"$SCRATCH/undo" || true
is_now "tune.sh raises" proc/sys/net/core/somaxconn 4096
is_now "tune.sh raises what has run short" proc/sys/net/core/netdev_max_backlog 10000
is_now "tune.sh never lowers" proc/sys/net/ipv4/tcp_max_syn_backlog 100000
is_now "tune.sh never makes a range smaller" proc/sys/net/ipv4/ip_local_port_range "1024 65535"
is_now "tune.sh raises the last of three" proc/sys/net/ipv4/tcp_wmem "4096 16384 16777216"
is_now "tune.sh never lowers the last of three" proc/sys/net/ipv4/tcp_rmem "4096	131072	33554432"
is_now "tune.sh leaves a smaller mark" proc/sys/net/ipv4/tcp_notsent_lowat 16384
is_now "tune.sh leaves to people who may use io_uring" proc/sys/kernel/io_uring_disabled 2
is_now "tune.sh spreads packets" sys/class/net/eth7/queues/rx-1/rps_cpus f
is_now "tune.sh spreads interrupts" proc/irq/41/smp_affinity_list 1
is_now "tune.sh sets governors" sys/devices/system/cpu/cpu3/cpufreq/scaling_governor performance
shows "tune.sh --persist writes what was suggested" "$SCRATCH/sysctl.conf" \
  '^net.core.somaxconn = 4096$' '^net.ipv4.ip_local_port_range = 1024 65535$'
if grep -q tcp_max_syn_backlog "$SCRATCH/sysctl.conf"; then
  failed "tune.sh --persist leaves out what is higher" "it is in the file"
else
  passed "tune.sh --persist leaves out what is higher"
fi
holds "tune.sh twice" 'nothing is left to change' -- \
  0 "${tune[@]}" --apply --with nic,latency --with client,wan,memory --persist "$SCRATCH/again.conf"
if cmp -s "$SCRATCH/sysctl.conf" "$SCRATCH/again.conf"; then
  passed "tune.sh --persist twice"
else
  failed "tune.sh --persist twice" "the files differ"
fi
sed "s,> /,> $HOST/," "$SCRATCH/undo" | bash
if diff -rb "$HOST" "$SCRATCH/host.before" >"$OUT"; then
  passed "tune.sh tells how to undo everything"
else
  failed "tune.sh tells how to undo everything" "$(head -n 3 "$OUT")"
fi
holds "tune.sh: an unknown group" "no group 'x'" -- 2 "${tune[@]}" --with x
holds "tune.sh: a file that cannot be written" 'cannot be written' -- 2 "${tune[@]}" --persist /proc/x
holds "tune.sh: a process that has ended" 'no process' -- 2 "$ROOT/scripts/tune.sh" --pid "$ended"
holds "tune.sh: without root" 'that takes root' -- \
  1 "${NOBODY[@]}" unshare --user --net "$SCRATCH/everybody/scripts/tune.sh" --apply
holds "tune.sh: a network of its own" 'tcp_slow_start_after_idle: 1 -> 0' -- \
  0 unshare --net "$ROOT/scripts/tune.sh" --apply
# shellcheck disable=SC2016 # $0 is for the inner shell
holds "tune.sh: sysctls that are read-only" 'read-only here, as in a container' -- \
  1 unshare --net --mount bash -c 'mount --bind /proc/sys /proc/sys &&
    mount -o remount,ro,bind /proc/sys && exec "$0" --apply' "$ROOT/scripts/tune.sh"
finish
