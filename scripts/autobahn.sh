#!/usr/bin/env bash
# Runs the Autobahn|Testsuite's fuzzing client against ringwire, or against the WebSocket echo
# server at --url, and fails unless every case is OK. Cases 7.1.6 and 7.13.* have no right answer
# and may be informational; NON-STRICT, UNIMPLEMENTED and a wrong close are failures like any other.
#
#   scripts/autobahn.sh [--url ws://127.0.0.1:9001/] [--cases quick|full|1.*,7.7.1] [--report DIR]
#                       [--tls] [--engine shard|async] [--ring auto|uring|epoll] [--binary PATH]
#
# Without --cases: groups 1 to 7, 9 and 10 whole. quick leaves out most round trip cases of group 9,
# full adds groups 12 and 13 (permessage-deflate), which take seven minutes. The server is started with
# --compress; no case of the other groups offers it; with --tls over wss://, with a certificate that
# openssl makes; on the engine of --engine, whose shards run on --ring. --binary is a server that is built already. The report goes
# to target/autobahn by default, with -tls, the engine and the ring behind it.
#
# The suite is fetched from PyPI once, by version and hash, into .cache/autobahn. That needs Python
# 3.11 or newer with venv (Debian: apt install python3-venv); PYTHON names another interpreter.
#
# Exit code 0: all OK. 1: a case is not OK or did not run, or the server did not stop cleanly.
# 2: the suite or the server could not be set up.

set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$repository/scripts/autobahn
cache=$repository/.cache/autobahn
target=${CARGO_TARGET_DIR:-$repository/target}
python=${PYTHON:-python3}
readonly start_seconds_max=10 stop_seconds_max=20

url=
cases=default
report=
server=
tls=
engine=
ring=
binary=

cannot() {
    echo "autobahn: $*" >&2
    exit 2
}

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

parse_arguments() {
    while (($# > 0)); do
        case $1 in
            --url | --cases | --report | --engine | --ring | --binary)
                (($# > 1)) || cannot "$1 needs a value; see --help"
                printf -v "${1#--}" '%s' "$2"
                shift 2
                ;;
            --tls)
                tls=yes
                shift
                ;;
            --help | -h)
                usage
                exit 0
                ;;
            *) cannot "unknown argument $1; see --help" ;;
        esac
    done
    report=${report:-$target/autobahn${tls:+-tls}${engine:+-$engine}${ring:+-$ring}}
    mkdir -p "$report" || cannot "the report directory $report cannot be made"
}

# Downloads, translates and installs the suite, unless that was done before from the same files.
install_suite() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        cannot "$python is missing or older than 3.11; install python3 or set PYTHON"
    local sum
    sum=$(
        { echo "$cache" && "$python" -VV && cat "$tools"/*.txt "$tools/translate.py"; } | sha256sum
    )
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [[ -f $cache/installed && $(<"$cache/installed") == "$sum" ]]; then
        exec 9>&-
        return
    fi
    echo "autobahn: installing the suite into ${cache#"$repository/"} (once)"
    rm -rf "$cache/installed" "$cache/venv" "$cache/sdists" "$cache/suite"
    if ! {
        "$python" -m venv "$cache/venv" &&
            PIP_CONSTRAINT=$tools/build.txt PIP_BUILD_CONSTRAINT=$tools/build.txt \
                "$cache/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
                --no-binary autobahntestsuite,autobahn,txaio --require-hashes \
                --requirement "$tools/suite.txt" --dest "$cache/sdists" &&
            "$cache/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
                --requirement "$tools/requirements.txt" &&
            "$cache/venv/bin/python" "$tools/translate.py" "$cache/sdists" "$cache/suite"
    } >"$cache/install.log" 2>&1; then
        tail -n 15 "$cache/install.log" >&2
        cannot "the suite could not be installed from PyPI (log: $cache/install.log);" \
            "check the network, and that python3-venv is installed"
    fi
    echo "$sum" >"$cache/installed"
    exec 9>&-
}

start_server() {
    if [[ -z $binary ]]; then
        (cd "$repository" && cargo build --release) || cannot "cargo build --release failed"
        binary=$target/release/ringwire
    fi
    local scheme=ws
    local listen=(--listen 127.0.0.1:0)
    if [[ -n $tls ]]; then
        command -v openssl >/dev/null || cannot "--tls needs openssl (Debian: apt install openssl)"
        { authority "$report/certificates" && certificate "$report/certificates" server /CN=localhost; } ||
            cannot "the certificates could not be made; openssl's words stand above"
        scheme=wss
        listen=(--tls-listen 127.0.0.1:0 --tls-cert "$report/certificates/server.pem"
            --tls-key "$report/certificates/server.key")
    fi
    "$binary" serve "${listen[@]}" --compress --engine "${engine:-shard}" --ring "${ring:-auto}" \
        >"$report/server.stdout" 2>"$report/server.stderr" &
    server=$!
    trap stop_server_now EXIT
    local deadline=$((SECONDS + start_seconds_max))
    until url=$(grep -Eom1 "$scheme://127\.0\.0\.1:[0-9]+/" "$report/server.stdout"); do
        if ! kill -0 "$server" 2>/dev/null; then
            tail -n 15 "$report/server.stderr" >&2
            cannot "ringwire serve ended before it listened"
        fi
        ((SECONDS < deadline)) ||
            cannot "ringwire serve printed no $scheme:// address within $start_seconds_max s"
        sleep 0.05
    done
}

# shellcheck disable=SC2317  # reached through the EXIT trap
stop_server_now() {
    [[ -z $server ]] || kill -KILL "$server" 2>/dev/null || true
}

# Asks the server to end; true if it does so in time and with exit code 0.
stop_server() {
    local deadline=$((SECONDS + stop_seconds_max)) code=0 complaint=
    kill -TERM "$server" 2>/dev/null || complaint="ended by itself during the run"
    while kill -0 "$server" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.05
    done
    if kill -KILL "$server" 2>/dev/null; then
        complaint="did not stop within $stop_seconds_max s of SIGTERM"
    fi
    wait "$server" 2>/dev/null || code=$?
    server=
    ((code == 0)) || complaint=${complaint:-ended with exit code $code}
    [[ -z $complaint ]] || echo "FAILED: the server $complaint, see $report/server.stderr"
    [[ -z $complaint ]]
}

# shellcheck source=SCRIPTDIR/lib/certificates.sh disable=SC1091
source "$repository/scripts/lib/certificates.sh"

parse_arguments "$@"
install_suite
own_server=
if [[ -z $url ]]; then
    own_server=yes
    start_server
fi

verdict=0
PYTHONPATH=$cache/suite "$cache/venv/bin/python" "$tools/run.py" \
    --url "$url" --cases "$cases" --report "$report" || verdict=$?
if [[ -n $own_server ]]; then
    stop_server || verdict=$((verdict == 0 ? 1 : verdict))
fi
exit "$verdict"
