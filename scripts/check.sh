#!/usr/bin/env bash
# Everything that is about the code and not about what it does: format, lints, documentation.
# The layers and the rest of the house rules are a test, tests/tidy.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ "${1:-}" == "--help" ]]; then
    echo "usage: scripts/check.sh [--no-tidy]"
    echo "Checks format, clippy, rustdoc, tidy and, where shellcheck is installed, the scripts."
    echo "--no-tidy is for those who run all tests anyway: tidy is one of them."
    exit 0
fi

step() {
    printf '\n== %s\n' "$*"
    "$@"
}

step cargo fmt --all --check
step cargo fmt --manifest-path benches/peers/Cargo.toml --check
step cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
step cargo clippy --quiet --all-targets --no-default-features -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --quiet --workspace --no-deps
[[ "${1:-}" == "--no-tidy" ]] || step cargo test --quiet --test tidy
if command -v shellcheck >/dev/null; then
    mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
    step shellcheck -x "${scripts[@]}"
fi
printf '\nThe code is in order.\n'
