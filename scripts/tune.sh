#!/usr/bin/env bash
# Shows the settings of this host that matter to the server and what they should be, and sets them.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/tune.sh [--apply] [--with GROUP]... [--connections N] [--pid PID] [--persist FILE]

Prints every setting of this host that matters to ringwire: what it is, what it should be, for whom
and why. Nothing is changed without --apply. An amount is only ever raised: what is higher already
stays. Without root, in a container or on a kernel without a setting, it says so and goes on.

  --apply           set what is not as it should be, in the groups chosen, until the next boot, and
                    print how to undo each change
  --with GROUP      a further group beside 'server'; may be repeated, or be a list with commas:
                      server   what every server needs; always in
                      client   machines that open connections: the load generator, a proxy
                      wan      large messages to peers that are far away
                      memory   many peers that read slowly
                      latency  the shortest time to an answer, for more electricity
                      nic      how packets are spread over the processors, by network interface
  --connections N   how many connections there may be (default 100000)
  --pid PID         look at the limits of this process (the server), instead of this shell's
  --persist FILE    write the sysctls of the chosen groups to FILE, for /etc/sysctl.d; with or
                    without --apply
  --help            this text

Not in the list, because they do nothing for this server:
  busy_poll, busy_read    poll(2) and blocking reads look at them; waiting for completions does not
  rmem_max, wmem_max      they bound SO_RCVBUF and SO_SNDBUF, which ringwire does not set
  transparent huge pages  ringwire serve leaves them out for itself
  tcp_keepalive_*         ringwire finds dead peers with its own pings (--idle-timeout-ms)

Exit status: 0 everything asked for was done, 1 something could not be set or written, 2 the
arguments were wrong.
END
}

# The tests look at a copy of /proc and /sys in another folder.
HOST=${RINGWIRE_TUNE_ROOT:-}
GROUPS_ALL=(server client wan memory latency nic)

apply=""
connections=100000
pid=""
persist=""
declare -A chosen=([server]=yes)

die() {
  echo "tune.sh: $*" >&2
  exit 2
}

choose() {
  local group names
  IFS=, read -ra names <<<"$1"
  for group in "${names[@]}"; do
    [[ " ${GROUPS_ALL[*]} " == *" $group "* ]] ||
      die "there is no group '$group'; there are: ${GROUPS_ALL[*]}."
    chosen[$group]=yes
  done
}

while [ $# -gt 0 ]; do
  case $1 in
    --apply)
      apply=yes
      shift
      ;;
    --with | --connections | --pid | --persist)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      if [ "$1" = --with ]; then choose "$2"; else declare "${1#--}=$2"; fi
      shift 2
      ;;
    --help | -h)
      usage
      exit
      ;;
    *) die "unknown argument '$1'; see --help." ;;
  esac
done
[[ $connections =~ ^[1-9][0-9]{0,8}$ ]] ||
  die "--connections takes a number from 1 to 999999999, not '$connections'."
if [ -n "$pid" ]; then
  [[ $pid =~ ^[1-9][0-9]{0,9}$ ]] || die "--pid takes the number of a process, not '$pid'."
  [ -d "$HOST/proc/$pid" ] || die "there is no process $pid (any more)."
fi
if [ -n "$persist" ]; then
  { [ ! -d "$persist" ] && : >>"$persist"; } 2>/dev/null || die "$persist cannot be written."
fi

# What was found, one setting a line of these arrays. A state is ok, change, hand (somebody has to
# decide), or absent.
row_group=()
row_name=()
row_path=()
row_now=()
row_want=()
row_state=()
row_why=()

# row GROUP NAME PATH NOW WANT STATE WHY. Without PATH there is no file to write.
row() {
  row_group+=("$1")
  row_name+=("$2")
  row_path+=("$3")
  row_now+=("$4")
  row_want+=("$5")
  row_state+=("$6")
  row_why+=("$7")
}

# content FILE: false when there is none or it cannot be read.
content() {
  [ -r "$HOST$1" ] && tr '\t' ' ' 2>/dev/null <"$HOST$1"
}

sysctl_path() {
  echo "/proc/sys/${1//.//}"
}

# at_least GROUP KEY AMOUNT WHY
at_least() {
  local path now
  path=$(sysctl_path "$2")
  if ! now=$(content "$path") || ! [[ $now =~ ^-?[0-9]+$ ]]; then
    row "$1" "$2" "$path" - "$3" absent "$4"
  elif [ "$now" -ge "$3" ]; then
    row "$1" "$2" "$path" "$now" "$3" ok "$4"
  else
    row "$1" "$2" "$path" "$now" "$3" change "$4"
  fi
}

# exactly GROUP KEY VALUE WHY
exactly() {
  local path now
  path=$(sysctl_path "$2")
  if ! now=$(content "$path"); then
    row "$1" "$2" "$path" - "$3" absent "$4"
  elif [ "$now" = "$3" ]; then
    row "$1" "$2" "$path" "$now" "$3" ok "$4"
  else
    row "$1" "$2" "$path" "$now" "$3" change "$4"
  fi
}

# counter FILE NAME: from the pairs of lines of /proc/net/netstat.
counter() {
  content "$1" | awk -v name="$2" '
    $1 == last { for (at = 2; at <= NF; at++) if (names[at] == name) { print $at; exit } }
    { last = $1; for (at = 2; at <= NF; at++) names[at] = $at }' || true
}

# softnet COLUMN: its sum over the processors.
softnet() {
  local line fields sum=0
  while read -r line; do
    read -ra fields <<<"$line"
    sum=$((sum + 16#${fields[$1 - 1]:-0}))
  done < <(content /proc/net/softnet_stat || true)
  echo "$sum"
}

server_rows() {
  local refused dropped squeezed packets
  refused=$(counter /proc/net/netstat ListenOverflows)
  at_least server net.core.somaxconn 4096 "Connections that may wait for an accept; \
ringwire asks for as many (--backlog). For a server that thousands dial at once, as after a restart. \
${refused:-0} were turned away here since boot."
  at_least server net.ipv4.tcp_max_syn_backlog 4096 "Connections that may be half open, for the same \
moment."
  at_least server fs.nr_open $((connections + 1024)) "The most descriptors that any process may be \
given: one for each connection, and some for the server itself."
  at_least server fs.file-max $((2 * connections)) "Open files on the whole host, of which \
connections are a part."
  descriptors_row
  memlock_row
  io_uring_row
  exactly server net.ipv4.tcp_slow_start_after_idle 0 "A connection that was silent for a moment sends \
its next large message as fast as its last one. WebSockets are silent most of the time."
  if content "$(sysctl_path net.netfilter.nf_conntrack_max)" >/dev/null; then
    at_least server net.netfilter.nf_conntrack_max $((2 * connections)) "The firewall remembers every \
connection, and drops new ones when this many are remembered: \
$(content "$(sysctl_path net.netfilter.nf_conntrack_count)" || echo an unknown number) are now."
  fi
  dropped=$(softnet 2)
  if [ "$dropped" -gt 0 ]; then
    at_least server net.core.netdev_max_backlog 10000 "Packets that wait for a processor to take them \
(loopback, containers, RPS): $dropped were dropped here since boot for want of it."
  fi
  squeezed=$(softnet 3)
  packets=$(softnet 1)
  # Now and then is what the budget is for.
  if [ "$squeezed" -gt $((packets / 10000)) ]; then
    at_least server net.core.netdev_budget 600 "Packets that a processor takes in one go; it ran out \
$squeezed times in $packets packets since boot."
  fi
}

# The hard limit: the server raises its soft one to it when it starts.
descriptors_row() {
  local needed=$((connections + 1024)) now whose state why
  if [ -n "$pid" ]; then
    now=$(content "/proc/$pid/limits" | awk '/^Max open files/ { print $5 }' || true)
    whose="process $pid"
  else
    now=$(ulimit -Hn)
    whose="this shell"
  fi
  why="Open files at most, the hard limit of $whose: $connections connections need as many. \
systemd: LimitNOFILE=$needed in the unit. Docker: --ulimit nofile=$needed:$needed."
  if [ -z "$now" ]; then
    state=absent
  elif [ "$now" = unlimited ] || [ "$now" -ge "$needed" ]; then
    state=ok
  elif [ -n "$pid" ]; then
    state=change
  else
    state=hand
  fi
  row server RLIMIT_NOFILE "" "${now:--}" "$needed" "$state" "$why"
}

memlock_row() {
  local major minor now needed
  IFS=.- read -r major minor _ < <(content /proc/sys/kernel/osrelease || echo 0.0)
  # Older kernels do not count rings.
  if [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "${minor//[!0-9]/}" -lt 14 ]; }; then
    return
  fi
  # Twice what ringwire doctor counts for a ring of the default size.
  needed=$(($(processors) * 256 * 1024))
  if [ -n "$pid" ]; then
    now=$(content "/proc/$pid/limits" | awk '/^Max locked memory/ { print $5 }' || true)
  else
    now=$(ulimit -Hl)
    [ "$now" = unlimited ] || now=$((now * 1024))
  fi
  local state=hand
  if [ -z "$now" ]; then
    state=absent
  elif [ "$now" = unlimited ] || [ "$now" -ge "$needed" ]; then
    state=ok
  fi
  row server RLIMIT_MEMLOCK "" "${now:--}" "$needed" "$state" "Bytes; Linux 6.14 and newer count the rings \
of users without CAP_IPC_LOCK against it. systemd: LimitMEMLOCK=infinity."
}

io_uring_row() {
  local path now state=ok why
  path=$(sysctl_path kernel.io_uring_disabled)
  now=$(content "$path") || return 0
  why="Who may use io_uring: 0 everybody, 1 a group and the privileged, 2 nobody."
  if [ "$now" -ne 0 ]; then
    state=hand
    why+=" That is for you to decide. To let the server's group alone: sysctl -w \
kernel.io_uring_disabled=1 kernel.io_uring_group=GID. ringwire serve says when it is shut out."
  fi
  row server kernel.io_uring_disabled "" "$now" "0 or 1" "$state" "$why"
}

client_rows() {
  local path now low high
  path=$(sysctl_path net.ipv4.ip_local_port_range)
  if now=$(content "$path"); then
    read -r low high <<<"$now"
    local want_low=$((low < 10240 ? low : 10240)) want_high=$((high > 65535 ? high : 65535)) state=ok
    [ "$low $high" = "$want_low $want_high" ] || state=change
    row client net.ipv4.ip_local_port_range "$path" "$low $high" "$want_low $want_high" "$state" "Ports \
of outgoing connections: one machine opens $((high - low + 1)) to one address of a server, and no \
more. Ports below 10240 are left to those who listen."
  else
    row client net.ipv4.ip_local_port_range "$path" - "10240 65535" absent "Ports of outgoing connections."
  fi
  exactly client net.ipv4.tcp_tw_reuse 1 "A port may be used again a second after its connection was \
closed, not a minute. For clients that open and close all the time."
}

# third GROUP KEY BYTES WHY: of three numbers the last one, which is the most that TCP takes.
third() {
  local path now one two three
  path=$(sysctl_path "$2")
  if ! now=$(content "$path") || ! read -r one two three <<<"$now" || [ -z "$three" ]; then
    row "$1" "$2" "$path" - "... $3" absent "$4"
    return
  fi
  if [ "$three" -ge "$3" ]; then
    row "$1" "$2" "$path" "$one $two $three" "$one $two $3" ok "$4"
  else
    row "$1" "$2" "$path" "$one $two $three" "$one $two $3" change "$4"
  fi
}

wan_rows() {
  local why="Bytes in flight to a peer at most: 16 MiB carry 1 Gbit/s over 130 ms. For messages of \
megabytes across oceans; small ones never need it."
  third wan net.ipv4.tcp_wmem 16777216 "$why"
  third wan net.ipv4.tcp_rmem 16777216 "The same for what peers send: ${why,}"
}

memory_rows() {
  local path now state=ok
  path=$(sysctl_path net.ipv4.tcp_notsent_lowat)
  if ! now=$(content "$path"); then
    row memory net.ipv4.tcp_notsent_lowat "$path" - 131072 absent "Unsent bytes in the kernel."
    return
  fi
  [ "$now" -le 131072 ] || state=change
  row memory net.ipv4.tcp_notsent_lowat "$path" "$now" 131072 "$state" "Unsent bytes that the kernel \
keeps of a connection; the rest waits in the server, which counts it (--queue-high-bytes). Without it \
a peer that stops reading holds up to the last number of tcp_wmem. Measured: messages of 256 KiB cost \
the same with it, those of 4 MiB a tenth more."
}

latency_rows() {
  local governors path now
  governors=("$HOST"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor)
  if [ ! -e "${governors[0]}" ]; then
    row latency scaling_governor "" - performance absent "The clock rate of the processors is not set \
here: on a virtual machine the host decides."
    return
  fi
  for path in "${governors[@]}"; do
    path=${path#"$HOST"}
    now=$(content "$path") || now=-
    local state=change cpu=${path#/sys/devices/system/cpu/}
    [ "$now" != performance ] || state=ok
    row latency "${cpu%%/*} governor" "$path" "$now" performance "$state" "A processor that slept wakes at \
its full clock rate. For servers that wait more than they work."
  done
}

processors() {
  local list=()
  list=("$HOST"/sys/devices/system/cpu/cpu[0-9]*)
  if [ -e "${list[0]}" ]; then echo ${#list[@]}; else nproc; fi
}

# mask COUNT: that many processors, as the kernel writes it: hexadecimal, 32 to a group.
mask() {
  local left=$1 groups=()
  while [ "$left" -gt 0 ]; do
    if [ "$left" -ge 32 ]; then
      groups=(ffffffff "${groups[@]}")
    else
      groups=("$(printf '%x' $(((1 << left) - 1)))" "${groups[@]}")
    fi
    left=$((left - 32))
  done
  (
    IFS=,
    echo "${groups[*]}"
  )
}

nic_rows() {
  local folder name cpus found=""
  cpus=$(processors)
  for folder in "$HOST"/sys/class/net/*; do
    # Without a device it is virtual: loopback, bridges, veth.
    [ -e "$folder/device" ] || continue
    found=yes
    name=$(basename "$folder")
    rps_rows "$name" "$cpus"
    irq_rows "$name" "$cpus"
  done
  if [ -z "$found" ]; then
    row nic "network interfaces" "" - "" absent "There is none with a device of its own here: packets are \
spread by the host."
  fi
}

# Without a queue for each processor, the kernel can hand packets on (RPS), and to where the shard of
# their connection runs (RFS).
rps_rows() {
  local name=$1 cpus=$2 queue path now flows
  local queues=("$HOST/sys/class/net/$name"/queues/rx-*)
  [ -e "${queues[0]}" ] || return 0
  [ "$cpus" -gt 1 ] || return 0
  if [ ${#queues[@]} -lt "$cpus" ]; then
    for queue in "${queues[@]}"; do
      path=${queue#"$HOST"}/rps_cpus
      now=$(content "$path") || now=-
      local state=change
      # Whoever set another mask had a reason.
      [[ $now =~ ^[0,]*$ ]] || state=ok
      [ "$now" != - ] || state=absent
      row nic "$name $(basename "$queue") rps_cpus" "$path" "$now" "$(mask "$cpus")" "$state" "$name has \
fewer receive queues than there are processors (${#queues[@]} for $cpus): the kernel can share their packets \
out among all."
    done
  fi
  at_least nic net.core.rps_sock_flow_entries 32768 "Connections whose shard the kernel remembers, to \
handle their packets on its processor. For more than one shard."
  flows=$((32768 / ${#queues[@]}))
  for queue in "${queues[@]}"; do
    path=${queue#"$HOST"}/rps_flow_cnt
    now=$(content "$path") || now=-
    local state=ok
    if ! [[ $now =~ ^[0-9]+$ ]]; then state=absent; elif [ "$now" -lt "$flows" ]; then state=change; fi
    row nic "$name $(basename "$queue") rps_flow_cnt" "$path" "$now" "$flows" "$state" "The share of this \
queue in them."
  done
}

# Interrupts of several queues belong on several processors.
irq_rows() {
  local name=$1 cpus=$2 folder irq at=0 path now
  local irqs=() places=()
  # A virtio device has its own folder below the one of its PCI device.
  for folder in "$HOST/sys/class/net/$name/device"/{.,..}/msi_irqs; do
    [ -d "$folder" ] || continue
    mapfile -t irqs < <(cd "$folder" && printf '%s\n' * | sort -n)
    break
  done
  # Of virtio and the like, the first and the last are not of a queue, and carry next to nothing.
  local queues=("$HOST/sys/class/net/$name"/queues/rx-*)
  if [ ${#irqs[@]} -lt 2 ] || [ ${#queues[@]} -lt 2 ] || [ "$cpus" -lt 2 ]; then
    return
  fi
  for irq in "${irqs[@]}"; do
    places+=("$(content "/proc/irq/$irq/effective_affinity_list" || echo -)")
  done
  [ "$(printf '%s\n' "${places[@]}" | sort -u | wc -l)" -eq 1 ] || return 0
  for irq in "${irqs[@]}"; do
    path=/proc/irq/$irq/smp_affinity_list
    now=$(content "$path") || now=-
    # Where they arrive follows only with the next one.
    local state=change
    [ "$now" != "$((at % cpus))" ] || state=ok
    row nic "$name irq $irq" "$path" "$now" "$((at % cpus))" "$state" "All interrupts of $name arrive on \
processor ${places[0]}, which works for all shards. irqbalance, where it runs, moves them again: stop it."
    at=$((at + 1))
  done
}

server_rows
client_rows
wan_rows
memory_rows
latency_rows
nic_rows

declare -A TITLES=(
  [server]="every server"
  [client]="machines that open connections"
  [wan]="large messages to peers far away"
  [memory]="many peers that read slowly"
  [latency]="the shortest time to an answer"
  [nic]="network interfaces"
)
declare -A STATES=(
  [ok]=ok
  [change]=change
  [hand]="by hand"
  [absent]="not here"
)

print_rows() {
  local at group last="" why
  for at in "${!row_name[@]}"; do
    group=${row_group[at]}
    if [ "$group" != "$last" ]; then
      [ -z "$last" ] || echo
      printf '%s' "${TITLES[$group]}"
      [ -n "${chosen[$group]:-}" ] || printf ' (--with %s)' "$group"
      echo
      last=$group
    fi
    printf '  %-36s %-8s  %s' "${row_name[at]}" "${STATES[${row_state[at]}]}" "${row_now[at]}"
    case ${row_state[at]} in
      change | hand) printf '  ->  %s' "${row_want[at]}" ;;
    esac
    echo
    why=${row_why[at]}
    # Said once for a row of equal settings.
    if [ "$at" -eq 0 ] || [ "$why" != "${row_why[at - 1]}" ]; then
      printf '%s\n' "$why" | fold -s -w 94 | sed 's/^/      /; s/ *$//'
    fi
  done
}

undo=()
failures=0

# bare MASK: without the zeros in front.
bare() {
  local mask=$1
  while [[ $mask == [0,]?* ]]; do mask=${mask#?}; done
  echo "$mask"
}

# write AT: sets one row and says what happened.
write() {
  local at=$1 path=${row_path[$1]} now=${row_now[$1]} want=${row_want[$1]} name=${row_name[$1]}
  local words reason soft
  if [ "$name" = RLIMIT_NOFILE ]; then
    soft=$(content "/proc/$pid/limits" | awk '/^Max open files/ { print $4 }' || true)
    if ! command -v prlimit >/dev/null; then
      words="prlimit is not installed (package util-linux)"
    elif words=$(prlimit --pid "$pid" --nofile="$want:$want" 2>&1); then
      undo+=("prlimit --pid $pid --nofile=$soft:$now")
      echo "  $name of process $pid: $now -> $want"
      return
    fi
  elif words=$({ printf '%s\n' "$want" >"$HOST$path"; } 2>&1); then
    local got
    got=$(content "$path" || echo unreadable)
    # Masks come back with zeros in front.
    if [ "$got" = "$want" ] || [ "$(bare "$got")" = "$want" ]; then
      undo+=("echo '$now' > $path")
      echo "  $name: $now -> $want"
      return
    fi
    words="the kernel made $got of it"
    undo+=("echo '$now' > $path")
  fi
  failures=$((failures + 1))
  case $words in
    *'Read-only file system'*)
      reason="it is read-only here, as in a container: set it on the host, or start the container"
      reason+=" with --sysctl"
      ;;
    *'ermission denied'* | *'not permitted'*)
      reason="that takes root"
      [ "$(id -u)" -ne 0 ] ||
        reason="root may not do that here: a capability is missing, as in a container"
      ;;
    *'Invalid argument'*) reason="the kernel does not take $want" ;;
    *) reason=${words##*: } ;;
  esac
  echo "  $name: still $now; $reason"
}

apply_rows() {
  local at done_any=""
  echo
  echo "changes"
  for at in "${!row_name[@]}"; do
    if [ -n "${chosen[${row_group[at]}]:-}" ] && [ "${row_state[at]}" = change ]; then
      done_any=yes
      write "$at"
    fi
  done
  [ -n "$done_any" ] || echo "  nothing is left to change"
  if [ ${#undo[@]} -gt 0 ]; then
    echo
    echo "to undo them, as root"
    printf '  %s\n' "${undo[@]}"
  fi
}

# Only what a sysctl file can say. A value above the suggestion is left to whoever set it.
persist_rows() {
  local at key count=0 text
  text="# ringwire: scripts/tune.sh --connections $connections, groups:"
  for key in "${GROUPS_ALL[@]}"; do
    [ -z "${chosen[$key]:-}" ] || text+=" $key"
  done
  text+=$'\n'
  for at in "${!row_name[@]}"; do
    if [[ ${row_path[at]} != /proc/sys/* ]] || [ -z "${chosen[${row_group[at]}]:-}" ]; then
      continue
    fi
    key=${row_name[at]}
    case ${row_state[at]} in
      absent) continue ;;
      ok) [ "${row_now[at]}" = "${row_want[at]}" ] || continue ;;
    esac
    text+="$key = ${row_want[at]}"$'\n'
    count=$((count + 1))
  done
  echo
  if printf '%s' "$text" 2>/dev/null >"$persist"; then
    echo "$persist: $count settings. In /etc/sysctl.d it is read at boot, and by sysctl --system."
    echo "Limits, governors and what belongs to an interface are not sysctls and not in it."
  else
    failures=$((failures + 1))
    echo "$persist could not be written."
  fi
}

print_rows
[ -z "$apply" ] || apply_rows
[ -z "$persist" ] || persist_rows
if [ -z "$apply$persist" ]; then
  echo
  echo "Nothing was changed. --apply sets what says 'change' in the groups without a --with."
fi
[ "$failures" -eq 0 ]
