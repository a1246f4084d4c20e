#!/usr/bin/env bash
# Checks the files of scripts/deploy against the programs that they are for, and a running server.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/deploy.sh [--binary PATH] [--loadgen PATH] [--no-install] [--no-boot]

Checks what scripts/deploy has for people who run the server:

  systemd      systemd-analyze on the unit and the socket, how open the unit is, 'ringwire check' on
               its settings; and the unit itself under a systemd that is booted in a container
  containers   the image is built; under the seccomp profile of seccomp.sh io_uring can be used;
               what kubernetes.yaml says agrees with itself, and its probes are answered
  proxies      haproxy -c and nginx -t; a server behind each of them, and one that drains
  Prometheus   promtool on rules, their tests, the configuration and what a server exposes; a
               Prometheus scrapes a server under load, answers every query of the dashboard, and no
               alert comes
  admin side   what README.md says that can be asked for; counts are what loadgen has counted
  supervisor   it is told, and fed while every shard gives signs of life

Prints one line a check, what was left out and why, and 'N passed, N failed'.

  --binary PATH   use PATH instead of building and using target/release/ringwire
  --loadgen PATH  use PATH instead of building target/release/loadgen
  --no-install    install nothing, and leave out what needs a program that is not there
  --no-boot       do not boot a systemd
  --help          this text

It installs by apt-get what is missing of: curl, jq, python3, python3-yaml, haproxy, nginx,
prometheus, podman, systemd-container. Exit status: 0 all checks passed, 1 a check failed, 2 the
checks could not be made.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

# As systemd-analyze counts it, from 0 to 100 (its own table shows a tenth of that). What is left is
# what a server on the network needs.
EXPOSURE_MAX=20
# Scrapes under load before the dashboard's queries are asked: rates are made of several.
SCRAPES=5

binary=""
loadgen=""
install=yes
boot=yes
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --loadgen)
      [ -n "${2:-}" ] || die "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift 2
      ;;
    --no-install)
      install=""
      shift
      ;;
    --no-boot)
      boot=""
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
# Debian has proxies and more where only root looks.
PATH=$PATH:/usr/sbin:/sbin
deploy=$ROOT/scripts/deploy

# there PROGRAM PACKAGE...: the program is there, by now.
there() {
  local program=$1
  shift
  command -v "$program" >/dev/null && return
  [ -n "$install" ] || return 1
  install_packages "$@"
}

for program in curl jq python3; do
  there "$program" "$program" || die "$program is needed, and --no-install was said."
done
# Another python3 than Debian's may be first in the path, without Debian's packages.
python=python3
if ! "$python" -c 'import yaml' 2>/dev/null; then
  python=/usr/bin/python3
  if ! "$python" -c 'import yaml' 2>/dev/null; then
    [ -n "$install" ] || die "python3-yaml is needed, and --no-install was said."
    install_packages python3-yaml
  fi
fi
export PYTHONDONTWRITEBYTECODE=1
binary=$(trap - EXIT && server_binary "$binary") || exit
loadgen=$(trap - EXIT && loadgen_binary "$loadgen") || exit
binary=$(realpath "$binary")
loadgen=$(realpath "$loadgen")

# tried NAME COMMAND...: a check that passes if the command succeeds.
tried() {
  local name=$1
  shift
  if "$@" >"$SCRATCH/said" 2>&1; then
    passed "$name"
  else
    failed "$name" "$(tail -n 1 "$SCRATCH/said")"
    tail -n 30 "$SCRATCH/said" | sed 's/^/      /' >&2
  fi
}

left_out() {
  echo "left out  $1: $2"
}

# --- systemd

check_systemd() {
  if ! command -v systemd-analyze >/dev/null; then
    left_out "the systemd unit" "systemd-analyze is not here"
    return
  fi
  local folder=$SCRATCH/systemd
  mkdir "$folder"
  # The paths of the unit are those of an installation, which this machine need not have.
  sed "s,/usr/local/bin/ringwire,$binary," "$deploy/systemd/ringwire.service" \
    >"$folder/ringwire.service"
  cp "$deploy/systemd/ringwire.socket" "$folder/"
  # What it warns of is no error to it: a key that it does not know.
  quiet_verify() {
    local words
    words=$(systemd-analyze verify --man=no --recursive-errors=no "$@" 2>&1) || {
      echo "$words"
      return 1
    }
    words=$(grep -F ringwire <<<"$words" || true)
    [ -z "$words" ] || {
      echo "$words"
      return 1
    }
  }
  tried "the unit is one that systemd reads" quiet_verify "$folder/ringwire.service"
  tried "the socket is one that systemd reads" quiet_verify "$folder/ringwire.socket"
  if systemd-analyze security --help 2>&1 | grep -q -- --offline; then
    tried "the unit is closed but for what it needs" systemd-analyze security --no-pager \
      --offline=true --threshold="$EXPOSURE_MAX" "$folder/ringwire.service"
  else
    left_out "how open the unit is" "systemd-analyze cannot say that of a file"
  fi
  tried "the user is one that systemd makes" systemd-sysusers --dry-run \
    "$deploy/systemd/ringwire.sysusers"
}

check_settings() {
  tried "the settings of the unit are right" "$binary" check "$deploy/systemd/ringwire.toml"
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$SCRATCH/tokens"
  "$python" "$deploy/manifests.py" settings "$SCRATCH/kubernetes.toml" "$SCRATCH/tokens"
  tried "the settings of kubernetes.yaml are right" "$binary" check "$SCRATCH/kubernetes.toml"
  tried "names and times agree in kubernetes.yaml and in the unit" \
    "$python" "$deploy/manifests.py" agree
}

check_boot() {
  local name="the unit under a systemd of its own" status=0 line
  if [ -z "$boot" ]; then
    left_out "$name" "--no-boot"
    return
  fi
  if [ "$(id -u)" -ne 0 ] || ! there systemd-nspawn systemd-container; then
    left_out "$name" "it needs root and systemd-nspawn"
    return
  fi
  mkdir "$SCRATCH/boot"
  "$deploy/boot.sh" --binary "$binary" --loadgen "$loadgen" --folder "$SCRATCH/boot" \
    >"$SCRATCH/boot.out" 2>"$SCRATCH/boot.err" &
  PROGRAM_PID=$!
  wait "$PROGRAM_PID" || status=$?
  PROGRAM_PID=
  if [ "$status" -ne 0 ]; then
    left_out "$name" "$(tail -n 1 "$SCRATCH/boot.err")"
    return
  fi
  while IFS= read -r line; do
    case $line in
      "ok "*) passed "systemd: ${line#ok }" ;;
      "FAIL "*) failed "systemd" "${line#FAIL }" ;;
    esac
  done <"$SCRATCH/boot.out"
  if ! grep -q '^ok its metrics are there' "$SCRATCH/boot.out"; then
    failed "systemd" "the checks did not come to their end"
  fi
  sed 's/^/      /' "$SCRATCH/boot.err" | tail -n 60 >&2
}

# --- containers

# Control groups of both versions at once, as some hosts have them, are what crun refuses: it is run
# where the second is not seen.
in_podman() {
  # shellcheck disable=SC2016 # It is for the shell that is started.
  unshare --mount --propagation private bash -c '
    ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
    exec podman "$@"' podman "$@"
}

check_containers() {
  local rootfs=$SCRATCH/rootfs library
  if [ "$(id -u)" -ne 0 ] || ! there podman podman crun; then
    left_out "the image and the seccomp profile" "they need root and podman"
    return
  fi
  tried "seccomp.sh makes a profile" "$deploy/container/seccomp.sh"
  cp "$SCRATCH/said" "$SCRATCH/seccomp.json"

  # podman's own limits are higher than some hosts let root set them.
  printf '[containers]\ndefault_ulimits = []\n' >"$SCRATCH/containers.conf"
  export CONTAINERS_CONF=$SCRATCH/containers.conf
  mkdir "$SCRATCH/image"
  cp "$binary" "$SCRATCH/image/ringwire"
  # Storage of its own: this machine's images are nobody's business here.
  local storage=(--root "$SCRATCH/podman" --runroot "$SCRATCH/podman-run" --storage-driver vfs)
  tried "the image is built" podman "${storage[@]}" build --quiet --tag localhost/ringwire \
    --file "$deploy/container/Dockerfile" "$SCRATCH/image"

  # What the binary links, so that one that is not static can be looked at as well.
  mkdir -p "$rootfs"/{dev,proc,sys,tmp,etc}
  cp "$binary" "$rootfs/ringwire"
  { ldd "$binary" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } |
    while read -r library; do
      mkdir -p "$rootfs$(dirname "$library")"
      cp -L "$library" "$rootfs$library"
    done
  local run=("${storage[@]}" run --rm --cgroups=disabled --network host --ulimit host
    --user 65532:65532 --cap-drop all --security-opt no-new-privileges --read-only)
  if ! in_podman "${run[@]}" --rootfs "$rootfs" /ringwire --version >"$SCRATCH/said" 2>&1; then
    left_out "the seccomp profile" "no container runs here: $(tail -n 1 "$SCRATCH/said")"
  elif [ "$("$binary" doctor --json | jq -r .ring)" != io_uring ]; then
    left_out "the seccomp profile" "this host has no io_uring"
  else
    uses_io_uring() {
      in_podman "${run[@]}" --security-opt "seccomp=$SCRATCH/seccomp.json" \
        --rootfs "$rootfs" /ringwire doctor --json | tee "$SCRATCH/doctor.json"
      [ "$(jq -r .ring "$SCRATCH/doctor.json")" = io_uring ]
    }
    tried "under the seccomp profile the server can use io_uring" uses_io_uring
  fi
  if grep -q / <<<"$(ldd "$binary" 2>/dev/null)"; then
    left_out "the image, run" "$binary is not static, and the image holds nothing else"
  else
    tried "the image runs" in_podman "${run[@]}" localhost/ringwire --version
  fi
}

# --- proxies, Prometheus, the admin side: files

check_files() {
  if there haproxy haproxy; then
    tried "haproxy reads its configuration" haproxy -c -f "$deploy/proxies/haproxy.cfg"
  else
    left_out "haproxy.cfg" "haproxy is not here"
  fi
  if there nginx nginx-light; then
    # The user and the file of its process are those of an installation.
    sed "s,/run/nginx.pid,$SCRATCH/nginx-t.pid,; /^user /d" "$deploy/proxies/nginx.conf" \
      >"$SCRATCH/nginx-t.conf"
    tried "nginx reads its configuration" nginx -t -q -e stderr -c "$SCRATCH/nginx-t.conf"
  else
    left_out "nginx.conf" "nginx is not here"
  fi
  if there promtool prometheus; then
    local folder=$deploy/prometheus
    tried "the alerts are rules of Prometheus" promtool check rules "$folder/alerts.yml"
    tried "each alert comes when it should, and not else" \
      promtool test rules "$folder/alerts.test.yml"
    tried "prometheus.yml is a configuration" promtool check config "$folder/prometheus.yml"
  else
    left_out "alerts.yml and prometheus.yml" "promtool is not here"
  fi
  tried "alerts, dashboard and page name only metrics that there are" \
    "$python" "$deploy/metrics.py" names
}

# --- a running server

ADMIN_URL=
# What is shown to it, where it wants something.
ADMIN_TOKEN=

# answers STATUS [CURL'S ARGUMENT...] PATH: what is asked of the admin side is answered so. The body
# is in $SCRATCH/body.
answers() {
  local expected=$1 status
  shift
  status=$(curl --silent --show-error --max-time 10 --output "$SCRATCH/body" \
    --write-out '%{http_code}' ${ADMIN_TOKEN:+--oauth2-bearer "$ADMIN_TOKEN"} \
    "${@:1:$#-1}" "$ADMIN_URL${*: -1}")
  [ "$status" = "$expected" ] || {
    cat "$SCRATCH/body"
    echo "${*: -1} is answered $status and not $expected"
    return 1
  }
}

# answers_json FILTER [CURL'S ARGUMENT...] PATH: with 200 and JSON of which jq's filter is true.
answers_json() {
  local filter=$1
  shift
  answers 200 "$@" && jq -e "$filter" "$SCRATCH/body"
}

PROMETHEUS_URL=

prometheus_start() {
  local folder=$SCRATCH/prometheus
  mkdir "$folder"
  cp "$deploy/prometheus/alerts.yml" "$folder/"
  # With the lines for servers that have tokens.
  sed "s,127\.0\.0\.1:9002,${ADMIN_URL#http://},; s,scrape_timeout: .*,scrape_timeout: 1s,
    s,\(scrape\|evaluation\)_interval: .*,\1_interval: 1s,
    s,^    #authorization:,    authorization:,
    s,^    #  credentials_file: .*,      credentials_file: $SCRATCH/tokens," \
    "$deploy/prometheus/prometheus.yml" >"$folder/prometheus.yml"
  prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" \
    --web.listen-address=127.0.0.1:0 >"$folder/log" 2>&1 &
  BACKGROUND_PIDS+=("$!")
  listens() {
    PROMETHEUS_URL=$(grep -o 'msg="Listening on" address=[0-9.:]*' "$folder/log")
  }
  within "$START_TIMEOUT_S" listens || {
    tail -n 20 "$folder/log" >&2
    die "Prometheus did not start; its words stand above."
  }
  PROMETHEUS_URL=http://${PROMETHEUS_URL##*=}
}

# asked QUERY: its first value.
asked() {
  curl --silent --fail --max-time 10 --get --data-urlencode "query=$1" \
    "$PROMETHEUS_URL/api/v1/query" | jq -r '.data.result[0].value[1] // ""'
}

# scraped TIMES: the server was, so many times or more.
scraped() {
  local count
  count=$(asked 'sum(sum_over_time(up{job="ringwire"}[5m]))')
  [ "${count:-0}" -ge "$1" ]
}

no_alert() {
  curl --silent --fail --max-time 10 "$PROMETHEUS_URL/api/v1/alerts" | tee "$SCRATCH/alerts"
  jq -e '.data.alerts == []' "$SCRATCH/alerts"
}

rules_in_order() {
  curl --silent --fail --max-time 10 "$PROMETHEUS_URL/api/v1/rules" | tee "$SCRATCH/rules"
  jq -e '[.data.groups[].rules[]] | length >= 10 and all(.health == "ok")' "$SCRATCH/rules"
}

# The server, its clients, and Prometheus.
check_running() {
  server_start "$binary" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --trace-stages \
    --access-log --log-format json --ping-interval-ms 300ms --compress \
    --forwarded-from 127.0.0.1 --drain-timeout-ms 1s --admin-token-file "$SCRATCH/tokens"
  admin_url "$SCRATCH/server.out"
  tried "without a token nothing is told" answers 401 /metrics
  ADMIN_TOKEN=$(cat "$SCRATCH/tokens")
  tried "the probes of kubernetes.yaml are answered" \
    "$python" "$deploy/manifests.py" probes "$ADMIN_URL"

  # What counters did before they are scraped for the first time is in no rate.
  if there prometheus prometheus; then
    prometheus_start
    within 10 scraped 1 || true
  fi
  "$loadgen" idle "$SERVER_URL" --connections 3 --duration 20s >"$SCRATCH/idle.log" 2>&1 &
  local idle=$!
  BACKGROUND_PIDS+=("$idle")
  "$loadgen" echo "$SERVER_URL" --connections 4 --rate 100 --size 20,4k --duration 15s \
    --warmup 100ms --quiet --allow-client-bound >"$SCRATCH/echo.log" 2>&1 &
  local echo=$!
  BACKGROUND_PIDS+=("$echo")
  if [ -n "$PROMETHEUS_URL" ]; then
    tried "Prometheus scrapes the server, with a token" within 30 scraped $((SCRAPES + 1))
    tried "every query of the dashboard has a result" \
      "$python" "$deploy/queries.py" "$PROMETHEUS_URL" 10
    tried "Prometheus can reckon all alerts" rules_in_order
    tried "no alert comes of a server in order" no_alert
  else
    left_out "a Prometheus that scrapes the server" "prometheus is not here"
  fi

  accept='Accept: application/openmetrics-text; version=1.0.0'
  tried "/metrics is there" answers 200 --header "$accept" /metrics
  cp "$SCRATCH/body" "$SCRATCH/metrics"
  tried "it has every metric, each of its type" "$python" "$deploy/metrics.py" exposed \
    "$SCRATCH/metrics"
  if command -v promtool >/dev/null; then
    # It reads the older format, which is what is sent to those who ask for nothing.
    linted() {
      answers 200 /metrics && promtool check metrics <"$SCRATCH/body"
    }
    tried "promtool finds nothing to say about them" linted
  fi

  for by in held queued age; do
    tried "/connections by $by" answers_json '.connections | length == 2' \
      "/connections?by=$by&limit=2"
  done
  id=$(jq -r '.connections[0].id // ""' "$SCRATCH/body" 2>/dev/null || true)
  if [ -n "$id" ]; then
    tried "a connection can be closed by its id" answers 202 --request DELETE \
      "/connections/$id?code=1008"
  else
    failed "a connection can be closed by its id" "/connections names none"
  fi
  tried "/config" answers_json 'tostring | contains("drain_timeout_ms")' /config
  tried "/log-level" answers 200 /log-level
  tried "another level of the log" answers 200 --request PUT --data debug /log-level
  tried "POST /reload" answers 200 --request POST /reload
  tried "a page of a browser cannot ask for it" answers 403 --request POST \
    --header 'Origin: http://example.com' /reload
  kill "$echo" "$idle" 2>/dev/null || true

  check_nginx
  server_stop
}

# free_port: prints one that is free now.
free_port() {
  "$python" -c '
import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])'
}

echoes_through() {
  "$loadgen" echo "ws://127.0.0.1:$1/" --connections 2 --rate 50 --duration 500ms \
    --warmup 100ms --quiet --allow-client-bound
}

check_nginx() {
  command -v nginx >/dev/null || return 0
  local port server=${SERVER_URL#ws://} temp
  port=$(free_port)
  {
    echo "daemon off;"
    sed "s,127\.0\.0\.1:9001,${server%/},; s,127\.0\.0\.1:9002,${ADMIN_URL#http://},
      s,listen 8080,listen 127.0.0.1:$port,; s,/run/nginx.pid,$SCRATCH/nginx.pid,; /^user /d
      s,worker_processes auto,worker_processes 1," "$deploy/proxies/nginx.conf"
  } >"$SCRATCH/nginx.conf"
  # It makes folders for what it buffers where it was built to, unless it is told another place.
  for temp in client_body proxy fastcgi uwsgi scgi; do
    sed -i "s,^http {,http {\n    ${temp}_temp_path $SCRATCH/nginx-$temp;," "$SCRATCH/nginx.conf"
  done
  nginx -e stderr -c "$SCRATCH/nginx.conf" >"$SCRATCH/nginx.log" 2>&1 &
  local nginx=$!
  BACKGROUND_PIDS+=("$nginx")
  tried "an echo through nginx" within 5 echoes_through "$port"
  tried "nginx says whether the server is ready" curl --silent --show-error --fail --max-time 10 \
    "http://127.0.0.1:$port/readyz"
  end "$nginx"
}

check_haproxy() {
  command -v haproxy >/dev/null || return 0
  local port server
  ADMIN_TOKEN=
  port=$(free_port)
  peer_start "$binary" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
    --proxy-protocol-from 127.0.0.1
  local served=$PEER_PID
  server=${PEER_URL#ws://}
  admin_url "$(find "$SCRATCH" -maxdepth 1 -name 'peer.??????' -printf '%T@ %p\n' |
    sort -n | tail -n 1 | cut -d' ' -f2)"
  sed "s,127\.0\.0\.1:9001,${server%/},; s,port 9002,port ${ADMIN_URL##*:},
    s,bind :8080,bind 127.0.0.1:$port,; s,maxconn 20000,maxconn 200," \
    "$deploy/proxies/haproxy.cfg" >"$SCRATCH/haproxy.cfg"
  haproxy -db -f "$SCRATCH/haproxy.cfg" >"$SCRATCH/haproxy.log" 2>&1 &
  local haproxy=$!
  BACKGROUND_PIDS+=("$haproxy")
  tried "an echo through HAProxy" within 5 echoes_through "$port"

  # Somebody is connected, so that the drain has something to wait for.
  "$loadgen" idle "ws://127.0.0.1:$port/" --connections 4 --duration 20s \
    >"$SCRATCH/idle.log" 2>&1 &
  local idle=$!
  BACKGROUND_PIDS+=("$idle")
  connected() {
    answers_json '.connections_open >= 4' '/connections?by=age' >/dev/null
  }
  within 5 connected || true
  tried "POST /drain" answers 202 --request POST '/drain?spread=5s&code=1012'
  tried "from then on it is not ready" answers 503 /readyz
  tried "but alive" answers 200 /healthz
  turned_away() {
    [ "$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' \
      "http://127.0.0.1:$port/")" = 503 ]
  }
  tried "HAProxy sends nobody to a server that drains" within 4 turned_away
  tried "a drained server ends" gone "$served" 20
  kill "$idle" 2>/dev/null || true
  end "$haproxy"
}

check_systemd
check_settings
check_files
check_containers
check_running
check_haproxy
tried "a supervisor is told, fed while all is well, and counts are loadgen's" \
  "$python" "$deploy/supervised.py" "$binary" "$loadgen"
check_boot
finish
