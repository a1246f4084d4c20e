#!/usr/bin/env bash
# Run by boot.sh as root in a container that a systemd has booted, and only there: it starts and
# stops the server's units and changes its settings. Prints 'ok NAME' or 'FAIL NAME: why' for each
# check.
set -uo pipefail

if [ "$(systemd-detect-virt --container)" != systemd-nspawn ]; then
  echo "inside.sh is for boot.sh, which runs it in a container." >&2
  exit 2
fi

settings=/etc/ringwire/ringwire.toml
admin=/run/ringwire/admin.sock

# check NAME COMMAND...
check() {
  local name=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "ok $name"
  else
    echo "FAIL $name: $(tail -n 3 <<<"$said" | tr '\n' ' ')"
    {
      echo "== $name"
      echo "$said"
      journalctl --no-pager --quiet --lines=10 --output=cat --unit=ringwire.service
    } >&2
  fi
}

property() {
  systemctl show ringwire.service --property="$1" --value
}

is() {
  local value
  value=$(property "$1")
  [ "$value" = "$2" ] || {
    echo "$1 is '$value' and not '$2'"
    return 1
  }
}

asked() {
  curl --silent --show-error --fail --max-time 5 --unix-socket "$admin" "$@"
}

echoes() {
  loadgen echo ws://127.0.0.1:80/ --connections 2 --rate 50 --duration 500ms --warmup 100ms \
    --quiet --allow-client-bound
}

# within SECONDS COMMAND...: until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || {
      "$@"
      return
    }
    sleep 0.1
  done
}

started() {
  timeout 15 systemctl start ringwire.service || {
    systemctl status --no-pager ringwire.service
    return 1
  }
}

speaks_of() {
  journalctl --no-pager --quiet --output=cat --unit=ringwire.service | grep -e "$1" ||
    {
      echo "its log has nothing of '$1'"
      return 1
    }
}

is_nobody_elses() {
  ! setpriv --reuid=nobody --regid=nogroup --clear-groups \
    curl --silent --fail --max-time 5 --unix-socket "$admin" http://admin/readyz
}

refuses_a_reload() {
  cp "$settings" "$settings.right"
  echo 'no_such_setting = 1' >>"$settings"
  ! systemctl reload ringwire.service || {
    echo "it took settings that are wrong"
    return 1
  }
  cp "$settings.right" "$settings"
  is ActiveState active && echoes && systemctl reload ringwire.service
}

# Stopped by a signal, it gives no sign of life.
is_started_again() {
  kill -STOP "$(property MainPID)"
  within 15 is NRestarts 1 && within 15 is ActiveState active && echoes
}

stops() {
  local began=$SECONDS
  timeout 28 systemctl stop ringwire.service && is Result success && is ExecMainStatus 0 &&
    [ $((SECONDS - began)) -lt 15 ]
}

listens_by_systemd() {
  sed -i 's/^listen = .*//' "$settings"
  systemctl start ringwire.socket && is ActiveState inactive && echoes && is ActiveState active
}

# There is no server, but somebody who listens: newcomers wait until it is started for them.
waits_for_a_start() {
  systemctl stop ringwire.service && is ActiveState inactive && echoes && is ActiveState active
}

check "it starts, and says itself when it is ready" started
# One reason is enough.
is ActiveState active >/dev/null || exit 1
check "it is active" is ActiveState active
check "it says what it does" test -n "$(property StatusText)"
check "its sandbox lets io_uring through" speaks_of "on io_uring"
check "an echo on a port below 1024" echoes
check "its admin side is on a Unix path" asked http://admin/readyz
check "no other user of the host can use it" is_nobody_elses
check "a reload that is right" systemctl reload ringwire.service
check "a reload that is wrong fails and changes nothing" refuses_a_reload
check "it stops with status 0" stops

# The unit's half a minute would take too long here.
mkdir -p /run/systemd/system/ringwire.service.d
printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/ringwire.service.d/watchdog.conf
systemctl daemon-reload
check "it starts with a short watchdog" started
sleep 5
check "it gives signs of life" is NRestarts 0
check "one that stands still is started again" is_started_again
check "it stops again" stops

check "systemd listens for it" listens_by_systemd
check "newcomers wait until it is started again" waits_for_a_start
check "its metrics are there then" asked http://admin/metrics
systemctl stop ringwire.socket ringwire.service
