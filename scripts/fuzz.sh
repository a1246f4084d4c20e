#!/usr/bin/env bash
# Fuzzes compression with libFuzzer: what is inflated, and what is negotiated.
set -euo pipefail

usage() {
  cat <<'END'
Usage: scripts/fuzz.sh [--seconds N] [inflate|negotiation ...]

Builds the targets of fuzz/ with coverage and runs each one named, or all, for a while. What they
find is kept in .cache/fuzz; an input that fails is written to the directory that this is called from
and named. Any toolchain will do: no sanitizer is used, since there is no unsafe code in what is
fuzzed.

  --seconds N  how long each target runs (default 60)
  --help       this text

Exit status: 0 nothing failed, 1 an input failed, 2 the targets could not be built.
END
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=60
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds)
      [ -n "${2:-}" ] || {
        echo "fuzz.sh: --seconds needs a value; see --help." >&2
        exit 2
      }
      seconds=$2
      shift 2
      ;;
    --help | -h)
      usage
      exit
      ;;
    inflate | negotiation)
      targets+=("$1")
      shift
      ;;
    *)
      echo "fuzz.sh: unknown argument '$1'; see --help." >&2
      exit 2
      ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=(inflate negotiation)

# What cargo-fuzz passes, without its sanitizer.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
flags+=" -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="$flags" cargo build --quiet --release --locked --manifest-path "$ROOT/fuzz/Cargo.toml" \
  --target "$host" --target-dir "$ROOT/target/fuzz" || exit 2

for target in "${targets[@]}"; do
  corpus=$ROOT/.cache/fuzz/$target
  mkdir -p "$corpus"
  echo "fuzzing $target for $seconds s"
  "$ROOT/target/fuzz/$host/release/$target" -max_total_time="$seconds" -max_len=4096 \
    -print_final_stats=1 "$corpus" 2>"$ROOT/.cache/fuzz/$target.log" || {
    tail -n 30 "$ROOT/.cache/fuzz/$target.log" >&2
    exit 1
  }
  grep -E "stat::(number_of_executed_units|average_exec_per_sec)|cov:" \
    "$ROOT/.cache/fuzz/$target.log" | tail -n 3
done
