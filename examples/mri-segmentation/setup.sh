#!/usr/bin/env bash
# Installs what the example needs and is missing, then prints where it is, as lines for a shell to read:
#   PYTHON=…  MODELS=…  REFERENCE=…
# Debian 12 or newer; needs root (or sudo) only where Debian's packages are missing. May be run again at any time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$here/.venv}
system_python=/usr/bin/python3 # Debian's own: its torch belongs to it and to no other
deepbet=1.0.2
nilearn=0.14.1

say() { echo "setup: $*" >&2; }

wanted=(python3-torch python3-nibabel python3-scipy python3-venv)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  say "installing ${missing[*]} (about 600 MB with what they need)"
  as_root=()
  [[ $(id -u) == 0 ]] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q >&2
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi

if [[ ! -x $venv/bin/python ]]; then
  say "making $venv"
  "$system_python" -m venv --system-site-packages "$venv"
fi

# Where a wheel was unpacked to, whether or not it can be imported: what it depends on is not installed.
folder_of() {
  "$venv/bin/python" - "$1" "$2" "$3" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, distribution
name, version, file = sys.argv[1:]
try:
    found = distribution(name)
except PackageNotFoundError:
    sys.exit(1)
path = found.locate_file(file)
if found.version != version or not path.is_file():
    sys.exit(1)
print(path.parent)
PYTHON
}

# Without their dependencies: only the weights of the one and the volumes of the other are wanted.
weights=data/models/model.pt
template=nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz
for want in "deepbet $deepbet $weights" "nilearn $nilearn $template"; do
  read -r name version file <<<"$want"
  if ! folder_of "$name" "$version" "$file" >/dev/null; then
    say "installing $name $version"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps "$name==$version" >&2
  fi
done

models=$(folder_of deepbet "$deepbet" "$weights")
reference=$(folder_of nilearn "$nilearn" "$template")
printf 'PYTHON=%q\nMODELS=%q\nREFERENCE=%q\n' "$venv/bin/python" "$models" "$reference"
