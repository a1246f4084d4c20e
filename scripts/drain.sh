#!/usr/bin/env bash
# A drain of thousands of connections under load: is it even, and is anybody cut off?
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/drain.sh [--connections N] [--spread SECONDS] [--engine NAME] [--ring NAME]
                        [--binary PATH]

Starts a server, opens connections that send a message a second each, and has it drain by SIGTERM.
Judged is that the closes are spread evenly, that all have a close frame with 1001 and nobody a
reset, that every echo comes but for messages that crossed a close on their way, that /readyz says
503 before the first close, and that the server ends with status 0.

  --connections N   how many (default 5000)
  --spread SECONDS  over how long they are closed (default 10)
  --engine NAME, --ring NAME
                    as the server's settings have them
  --binary PATH     a program to use instead of building it
  --help            this text

Exit status: 0 all of that is so, 1 something is not, 2 it could not be tried.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"

connections=5000
spread=10
engine=shard
ring=auto
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --connections | --spread | --engine | --ring | --binary)
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

prepare
command -v python3 >/dev/null || install_packages python3
binary=$(server_binary "$binary")
limit=$(ulimit -H -n)
[ "$limit" = unlimited ] || [ "$limit" -gt $((connections + 100)) ] ||
  die "$connections connections need as many descriptors, and $limit are allowed (ulimit -n)."
ulimit -n "$limit"

"$binary" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --engine "$engine" --ring "$ring" \
  --drain-spread-ms "${spread}s" --log warn >"$SCRATCH/server.out" 2>"$SCRATCH/server.err" &
SERVER_PID=$!
deadline=$((SECONDS + 10))
until grep -q '^ringwire doctor' "$SCRATCH/server.out"; do
  if ! kill -0 "$SERVER_PID" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    server_words
    die "the server does not start; its words stand above."
  fi
  sleep 0.05
done
url=$(sed -n 's|^  ws://\(.*\)/$|\1|p' "$SCRATCH/server.out")
admin=$(sed -n 's|^Admin side at http://\(.*\)/$|\1|p' "$SCRATCH/server.out")

status=0
python3 "$ROOT/scripts/drain/drain.py" "$SERVER_PID" "$url" "$admin" "$connections" "$spread" ||
  status=1
if [ "$status" -ne 0 ]; then
  end "$SERVER_PID"
fi
ended=0
wait "$SERVER_PID" || ended=$?
SERVER_PID=""
if [ "$ended" -ne 0 ]; then
  echo "FAIL  the server ended with status $ended"
  status=1
else
  echo "ok    the server ended with status 0"
fi
exit "$status"
