#!/usr/bin/env bash
# Whether others read what loadgen writes: its JSON, .hgrm and .hlog, by Python's hdrhistogram.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/loadgen-formats.sh [--loadgen PATH] [--binary PATH]

Makes a run against ringwire in an open loop and one in a closed loop, and reads the files back with
Python's hdrhistogram and jsonschema. Prints one line a check and 'N passed, N failed'.

  --loadgen PATH  use PATH instead of building target/release/loadgen
  --binary PATH   use PATH as the server instead of building it
  --help          this text

The packages are pinned and go into .cache/loadgen. Exit status: 0 all checks passed, 1 a check
failed, 2 the test could not be run.
END
}

# shellcheck source=SCRIPTDIR/lib/server.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/lib/server.sh"
# shellcheck source=SCRIPTDIR/loadgen/lib.sh disable=SC1091
source "$(dirname "${BASH_SOURCE[0]}")/loadgen/lib.sh"

loadgen=""
binary=""
while [ $# -gt 0 ]; do
  case $1 in
    --loadgen | --binary)
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
loadgen=$(loadgen_binary "$loadgen")
install_python_packages
server_start "$binary"
for loop in open closed; do
  folder=$SCRATCH/$loop
  mkdir "$folder"
  load=(--in-flight 2)
  [ "$loop" = closed ] || load=(--rate 5000)
  "$loadgen" echo "$SERVER_URL" --quiet --connections 16 "${load[@]}" --duration 2s --warmup 500ms \
    --allow-client-bound --json "$folder/run.json" --hgrm "$folder/run.hgrm" \
    --hlog "$folder/run.hlog" >"$SCRATCH/run.out" 2>&1 || {
    tail -n 20 "$SCRATCH/run.out" >&2
    die "loadgen failed; its words stand above."
  }
  check "$loop loop: " 60 "$CACHE/venv/bin/python" "$ROOT/scripts/loadgen/readback.py" "$folder"
done
server_stop
finish
