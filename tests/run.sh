#!/usr/bin/env bash
# The one test command. On a Debian 12 machine with Rust it installs what is missing, then runs every stage and stops at
# the first that fails:
#
#   tests/run.sh                 all stages
#   tests/run.sh --list          their names
#   tests/run.sh clippy test     only these (install runs first unless --no-install is given)
#
# Installing needs root or sudo, and touches nothing but Debian packages and .venv. No system service is started.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
self=$root/tests/run.sh

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_TERM_PROGRESS_WHEN=never CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
export PATH="$root/.venv/bin:$PATH:/usr/sbin:/sbin"
export GANTRY_TEST_TRAEFIK=$root/.venv/bin/traefik
export GANTRY_TEST_PYTHON=$root/.venv/bin/python
export GANTRY_TEST_PEERS=required # a peer that is not there fails its test instead of skipping it
target=${CARGO_TARGET_DIR:-target}
logs=$root/target/test-logs

die() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

# A whole run is bounded, whatever a stage leaves behind. In a terminal Ctrl-C must reach the stages.
bounded=(timeout --kill-after=20)
[ ! -t 0 ] || bounded+=(--foreground)
if [ -z "${GANTRY_TEST_BOUNDED:-}" ]; then
    GANTRY_TEST_BOUNDED=1 exec "${bounded[@]}" 3600 bash "$self" "$@"
fi

# ---- install -------------------------------------------------------------------------------------------------------

# command or file → Debian package
needs=(
    gcc:gcc g++:g++ cmake:cmake pkg-config:pkg-config git:git
    curl:curl openssl:openssl shellcheck:shellcheck readelf:binutils
    nginx:nginx haproxy:haproxy wrk:wrk h2load:nghttp2-client ab:apache2-utils promtool:prometheus
    amtool:prometheus-alertmanager
    podman:podman runc:runc iptables:iptables
    /usr/lib/cni/bridge:containernetworking-plugins
    /etc/ssl/certs/ca-certificates.crt:ca-certificates
    /usr/bin/python3:python3 /usr/lib/python3/dist-packages/torch:python3-torch
    /usr/lib/python3/dist-packages/nibabel:python3-nibabel
    /usr/lib/python3.11/ensurepip:python3-venv
)

missing_packages() {
    local need what
    for need in "${needs[@]}"; do
        what=${need%%:*}
        case $what in
        /*) [ -e "$what" ] || echo "${need##*:}" ;;
        *) command -v "$what" >/dev/null || echo "${need##*:}" ;;
        esac
    done | sort -u
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@"
    else
        die "cannot install as $(id -un): run as root, or install sudo, or install these yourself: $(missing_packages | tr '\n' ' ')"
    fi
}

stage_install() {
    local packages
    for tool in cargo rustc; do
        command -v "$tool" >/dev/null || die "$tool is not installed: install Rust 1.95 or newer with its clippy and rustfmt"
    done
    cargo clippy --version >/dev/null || die "clippy is missing: rustup component add clippy"
    cargo fmt --version >/dev/null || die "rustfmt is missing: rustup component add rustfmt"

    mapfile -t packages < <(missing_packages)
    if [ "${#packages[@]}" -gt 0 ]; then
        command -v apt-get >/dev/null || die "not a Debian machine; install these yourself: ${packages[*]}"
        echo "installing: ${packages[*]}"
        as_root true
        apt_install "${packages[@]}"
        mapfile -t packages < <(missing_packages)
        [ "${#packages[@]}" = 0 ] || die "installed, and still not there: ${packages[*]}"
    fi

    local ready=.venv/.ready
    if ! cmp --silent tests/requirements.txt "$ready" || ! [ -x "$GANTRY_TEST_TRAEFIK" ] || ! "$GANTRY_TEST_PYTHON" -c 'import nibabel, yaml'; then
        rm -rf .venv
        /usr/bin/python3 -m venv --system-site-packages .venv # sees Debian's torch and nibabel
        # pip tries again by itself when a connection breaks
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --requirement tests/requirements.txt
        cp tests/requirements.txt "$ready"
    fi

    timeout 600 cargo fetch --locked --quiet
    show_versions
}

# Installs packages without starting the services that some of them bring.
apt_install() {
    local policy=/usr/sbin/policy-rc.d ours=false status=0
    if ! [ -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        ours=true
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    { as_root "${apt[@]}" update && as_root "${apt[@]}" install --no-install-recommends "$@"; } >"$logs/apt.log" 2>&1 || status=$?
    if [ "$ours" = true ]; then
        as_root rm -f "$policy"
    fi
    [ "$status" = 0 ] || { tail -n 20 "$logs/apt.log" >&2; die "apt-get failed"; }
}

show_versions() {
    rustc --version
    printf 'traefik %s\n' "$("$GANTRY_TEST_TRAEFIK" version | awk '/^Version:/ { print $2 }')"
    nginx -v 2>&1
    haproxy -v | awk 'NR == 1'
    promtool --version 2>&1 | awk 'NR == 1'
    amtool --version 2>&1 | awk 'NR == 1'
    podman --version
    runc --version | awk 'NR == 1'
}

# ---- the stages ----------------------------------------------------------------------------------------------------

stage_format() { cargo fmt --check; }

stage_shell() {
    mapfile -t scripts < <(git ls-files --cached --others --exclude-standard -- '*.sh' '.ci/run' | while read -r file; do
        [ -f "$file" ] && echo "$file"
    done)
    shellcheck "${scripts[@]}"
    echo "${#scripts[@]} scripts"
}

stage_clippy() { cargo clippy --locked --all-targets -- -D warnings; }

stage_doc() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet; }

# lib, the behaviour tests of tests/it, tests/tidy.rs, and the examples in doc comments
stage_test() { cargo test --locked --no-fail-fast; }

# What Prometheus, Alertmanager and Grafana load, alone and against each other; then all of it running, twice.
stage_prometheus() {
    (cd config/prometheus && promtool check config prometheus.yml ha/prometheus-a.yml ha/prometheus-b.yml &&
        promtool test rules recording_test.yml alerts_test.yml gpu_test.yml)
    "$GANTRY_TEST_PYTHON" tests/monitoring/files.py
    "$GANTRY_TEST_PYTHON" tests/monitoring/pair.py
}

stage_release() {
    cargo build --locked --release
    ls -l "$target/release/gantry"
}

# Every configuration file that is shipped; a file is one of ours if it has one of our top-level keys. An empty dynamic file
# goes with each: a static file is then judged without the folder that it names, which this machine need not have.
stage_check() {
    local empty
    empty=$(mktemp --suffix=.yaml)
    mapfile -t files < <(git ls-files --cached --others --exclude-standard -- config examples |
        grep -E '\.ya?ml$' | grep -v '^config/grafana/' | xargs grep -lE '^(http|tls|entryPoints|providers):')
    for file in "${files[@]}"; do
        echo "$file"
        "$target/release/gantry" check "$file" "$empty"
    done
    rm -f "$empty"
    [ "${#files[@]}" -ge 2 ] || die "found only ${#files[@]} configuration files"
}

stage_demo() { GANTRY_BINARY=$target/release/gantry bash tests/demo.sh; }

stage_container() { bash tests/container.sh; }

# A trained model on a real volume. setup.sh installs the model; e2e.py starts everything and checks it.
stage_example() {
    local example=examples/mri-segmentation python
    bash "$example/setup.sh"
    python=$example/.venv/bin/python
    [ -x "$python" ] || python=$GANTRY_TEST_PYTHON
    "$python" "$example/e2e.py" --gantry "$(realpath "$target/release/gantry")"
    "$python" "$example/monitoring.py" --gantry "$(realpath "$target/release/gantry")"
}

# name, limit in seconds, title
stages=(
    "install:1500:Install what is missing"
    "format:60:cargo fmt --check"
    "shell:60:shellcheck"
    "clippy:900:cargo clippy --all-targets"
    "doc:600:cargo doc, warnings are errors"
    "test:1500:cargo test: units, behaviour, tidiness, documentation"
    "prometheus:300:Prometheus, Alertmanager, Grafana: files, rules and their tests, a pair of replicas"
    "release:1200:cargo build --release"
    "check:60:gantry check of every shipped configuration"
    "demo:180:gantry demo and its curl lines"
    "container:1500:The container image, built and run by podman"
    "example:1500:A trained model on a real volume: shifted weights, real Prometheus and Alertmanager, feedback"
)

# ---- running them --------------------------------------------------------------------------------------------------

if [ "${1:-}" = --one ]; then # what the loop below calls under `timeout`
    "stage_$2"
    exit 0
fi

wanted=()
install=true
for argument in "$@"; do
    case $argument in
    --list)
        printf '%s\n' "${stages[@]%%:*}"
        exit 0
        ;;
    --no-install) install=false ;;
    -*) die "unknown option $argument" ;;
    *)
        printf '%s\n' "${stages[@]%%:*}" | grep -qx "$argument" || die "unknown stage $argument; see --list"
        wanted+=("$argument")
        ;;
    esac
done

runs() {
    [ "$1" != install ] || { [ "$install" = true ] && return 0 || return 1; }
    [ "${#wanted[@]}" = 0 ] || printf '%s\n' "${wanted[@]}" | grep -qx "$1"
}

mkdir -p "$logs"
passed=0
begin=$SECONDS

# Adds what a stage counted: the tests of each `test result:` line, or the stage itself where it has none.
count() {
    local field=$1 log=$2 sum
    sum=$(sed -nE "s/^test result: .* ([0-9]+) $field;.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }')
    echo "$sum"
}

for entry in "${stages[@]}"; do
    IFS=: read -r name limit title <<<"$entry"
    runs "$name" || continue
    log=$logs/$name.log
    stage_begin=$SECONDS
    printf '\n== %s: %s\n' "$name" "$title"
    status=0
    "${bounded[@]}" "$limit" bash "$self" --one "$name" </dev/null 2>&1 | tee "$log" || status=${PIPESTATUS[0]}
    printf -- '-- %s: %s s\n' "$name" $((SECONDS - stage_begin))
    tests=$(count passed "$log")
    failures=$(count failed "$log")
    if [ "$status" != 0 ]; then
        [ "$status" != 124 ] || printf 'run.sh: %s was stopped after its limit of %s s\n' "$name" "$limit" >&2
        printf '\nrun.sh: stage %s failed (exit %s) after %s s in all; its output is in %s\n' "$name" "$status" $((SECONDS - begin)) "$log" >&2
        printf '%s passed, %s failed\n' $((passed + tests)) $((failures > 0 ? failures : 1))
        exit 1
    fi
    passed=$((passed + (tests > 0 ? tests : 1)))
done

[ "$passed" -gt 0 ] || die "nothing ran"
printf '\nTotal: %s min %s s\n' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60))
printf '%s passed, 0 failed\n' "$passed"
