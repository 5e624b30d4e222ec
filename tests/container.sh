#!/usr/bin/env bash
# Builds the final stage of the Dockerfile around a static binary made outside (no base image is pulled), runs it as the
# README says, and checks what an operator relies on: it serves, it proxies, it is not root, it stops cleanly.
#
#   tests/container.sh            builds the binary first
#   GANTRY_STATIC_BINARY=FILE tests/container.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# With pipefail, a reader that stops early (head, grep -q) would make its writer's end a failure: read to the end.
say() { printf '  %s\n' "$*"; }
fail() {
    printf 'container: %s\n' "$*" >&2
    exit 1
}

for tool in podman runc curl readelf; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# ---- the binary ----------------------------------------------------------------------------------------------------
binary=${GANTRY_STATIC_BINARY:-}
if [ -z "$binary" ]; then
    host=$(rustc -vV | sed -n 's/^host: //p')
    # The dev profile: the layout of the image is under test here, not the optimiser.
    RUSTFLAGS='-C target-feature=+crt-static' timeout 1500 cargo build --quiet --locked --bin gantry --target "$host"
    binary=${CARGO_TARGET_DIR:-target}/$host/debug/gantry
fi
[ -x "$binary" ] || fail "$binary is not there"
if readelf --program-headers "$binary" | grep INTERP >/dev/null || readelf --dynamic "$binary" | grep NEEDED >/dev/null; then
    fail "$binary is not static"
fi
say "static binary: $(du -h "$binary" | cut -f1)"

# ---- an engine of its own, so that nothing of the machine's podman is touched --------------------------------------
work=$(mktemp -d)
engine=(podman --root "$work/store" --runroot "$work/run" --storage-driver vfs --runtime "$(command -v runc)"
    --cgroup-manager cgroupfs --events-backend file)
podman() { timeout 120 "${engine[@]}" "$@" </dev/null; }
gateway=gantry-test-$$
model=gantry-test-model-$$
cleanup() {
    status=$?
    if [ "$status" -ne 0 ]; then
        for name in "$gateway" "$model"; do
            printf -- '--- log of %s\n' "$name" >&2
            podman logs --tail 40 "$name" >&2 2>&1 || true
        done
    fi
    podman rm --force --time 1 "$model" "$gateway" >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT

# ---- the image -----------------------------------------------------------------------------------------------------
sh packaging/rootfs.sh "$binary" "$work/context/rootfs"
podman build --quiet --format docker --target final --build-context "builder=$work/context" --tag gantry-test \
    --file Dockerfile . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; fail "the image does not build"; }
[ "$(podman image inspect --format '{{.Config.User}}' gantry-test)" = 65532:65532 ] || fail "the image's user is not 65532"
say "image: built"

# ---- what is served: one route of a dynamic file, to a model server in the same network namespace --------------------
mkdir -p "$work/dynamic" "$work/model"
cat >"$work/dynamic/model.yaml" <<'YAML'
http:
  routers:
    model: { rule: "PathPrefix(`/ping`)", service: model }
  services:
    model:
      loadBalancer:
        servers: [{ url: "http://127.0.0.1:9000" }]
YAML
cat >"$work/model/gantry.yaml" <<'YAML'
entryPoints:
  traefik: { address: "127.0.0.1:9000" }
ping: {}
YAML
chmod -R a+rX "$work/dynamic" "$work/model" && chmod a+x "$work"

limits=(--ulimit nofile=1024:1024 --ulimit nproc=1000:1000)
hardened=(--read-only --cap-drop ALL --security-opt no-new-privileges)
podman run --detach --name "$gateway" "${limits[@]}" "${hardened[@]}" -p 127.0.0.1::8000 -p 127.0.0.1::8080 \
    --volume "$work/dynamic:/etc/gantry/dynamic:ro" gantry-test >"$work/run.log" 2>&1 \
    || { cat "$work/run.log" >&2; fail "the gateway's container does not start"; }
podman run --detach --name "$model" "${limits[@]}" "${hardened[@]}" --network "container:$gateway" \
    --volume "$work/model:/etc/model:ro" gantry-test run --configFile /etc/model/gantry.yaml >"$work/run.log" 2>&1 \
    || { cat "$work/run.log" >&2; fail "the model's container does not start"; }

published() { podman port "$gateway" "$1/tcp" | awk 'NR == 1'; }
web=$(published 8000)
admin=$(published 8080)

# Waits until GET $1 answers 200, for 30 seconds at most; prints the body.
get() {
    curl --silent --show-error --fail --max-time 5 --retry 60 --retry-delay 0 --retry-max-time 30 \
        --retry-all-errors "http://$1" 2>"$work/curl.log" || { tail -n 3 "$work/curl.log" >&2; fail "http://$1 does not answer"; }
}

[ "$(get "$admin/ping")" = OK ] || fail "/ping does not say OK"
say "/ping on the admin entry point: OK"
[ "$(get "$web/ping")" = OK ] || fail "the proxied request does not come back"
say "a request through the gateway to the model server: OK"
get "$admin/metrics" | grep '^# TYPE' >/dev/null || fail "/metrics is empty"
say "/metrics: $(get "$admin/metrics" | grep -c '^# TYPE') families"

pid=$(podman inspect --format '{{.State.Pid}}' "$gateway")
uids=$(awk '/^Uid:/ { print $2, $3, $4, $5 }' "/proc/$pid/status")
[ "$uids" = "65532 65532 65532 65532" ] || fail "the process runs as $uids"
say "user: 65532"
podman healthcheck run "$gateway" >"$work/health.log" 2>&1 || { cat "$work/health.log" >&2; fail "the image's HEALTHCHECK fails"; }
say "HEALTHCHECK: healthy"

begin=$SECONDS
podman stop --time 20 "$gateway" >/dev/null 2>&1
code=$(podman inspect --format '{{.State.ExitCode}}' "$gateway")
[ "$code" = 0 ] || fail "exit code $code after podman stop"
[ $((SECONDS - begin)) -le 15 ] || fail "podman stop took $((SECONDS - begin)) s"
say "podman stop: exit code 0 after $((SECONDS - begin)) s"
