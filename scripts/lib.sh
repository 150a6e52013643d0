# Sourced by the other scripts: where things are, steps with their time, and what must be installed.
# Servers of tests are started in one place only, tests/clients/server.py.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
PYTHON="$ROOT/.venv/bin/python"

# MARLINE_BIN names another binary to test; without it the release build is made and taken.
release_binary() {
    [ -z "${MARLINE_BIN:-}" ] || return 0
    cargo build --release --quiet || return 1
    export MARLINE_BIN="${CARGO_TARGET_DIR:-$ROOT/target}/release/marline"
}

# The simulator, built if need be; says where it is. SIM_PROFILE=test takes what the tests have built already: it runs
# half as fast.
simulator() {
    local said
    said="$(cargo test --profile "${SIM_PROFILE:-sim}" "$@" --test sim --no-run 2>&1)" || { printf '%s\n' "$said" >&2; return 1; }
    sed -n 's/.*Executable.*(\(.*\))$/\1/p' <<< "$said"
}

failed_steps=()

# step NAME COMMAND...: run it under a heading; remember a failure and go on.
step() {
    local name="$1" start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        printf -- '-- %s: ok (%d s)\n' "$name" $((SECONDS - start))
    else
        printf -- '-- %s: FAILED (%d s)\n' "$name" $((SECONDS - start))
        failed_steps+=("$name")
        return 1
    fi
}

# Exit with what the steps came to.
finish() {
    [ ${#failed_steps[@]} -eq 0 ] && exit 0
    printf 'failed steps: %s\n' "${failed_steps[*]}" >&2
    exit 1
}

# quietly COMMAND...: show its output only when it fails.
quietly() {
    local said
    said="$("$@" 2>&1)" || { printf '%s\n' "$said" >&2; return 1; }
}

# need TOOL...: fail loudly when one is missing.
need() {
    local tool missing=()
    for tool in "$@"; do
        command -v "$tool" > /dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    printf 'missing: %s (scripts/install installs what the tests need)\n' "${missing[*]}" >&2
    return 1
}

# As many open files as we may have: 10,000 connections have two ends.
ulimit -n "$(ulimit -Hn)" 2> /dev/null || true
