#!/bin/sh
# Lays out the file system of the container image: packaging/rootfs.sh BINARY FOLDER
# Used by the Dockerfile and by tests/container.sh, so that what is tested is what is shipped.
set -eu

binary=$1
root=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
bundle=/etc/ssl/certs/ca-certificates.crt

if [ ! -s "$bundle" ]; then
    echo "rootfs.sh: $bundle is missing: install ca-certificates" >&2
    exit 1
fi

mkdir -p "$root/etc/ssl/certs" "$root/etc/gantry/dynamic" "$root/tmp"
chmod 1777 "$root/tmp"
install -m 0755 "$binary" "$root/gantry"
install -m 0644 "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
install -m 0644 "$here/config/gantry.yaml" "$root/etc/gantry/gantry.yaml"
install -m 0644 "$here/LICENSE" "$root/LICENSE"
echo 'gantry:x:65532:65532:gantry:/:/gantry' >"$root/etc/passwd"
echo 'gantry:x:65532:' >"$root/etc/group"
