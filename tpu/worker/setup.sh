#!/usr/bin/env bash
# Installs the pushed code on a worker, in $VENV. Arguments go to pip: setup.sh '.[gcs]' 'jax[tpu]'
# It runs in the folder of the code. Its output goes to setup.log.
set -euo pipefail

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

# TPUs from v5e on are faster with large pages. Not required: it needs root, and is lost at a reboot.
pages=${HUGEPAGES_FILE:-/sys/kernel/mm/transparent_hugepage/enabled}
if grep -q '\[always\]' "$pages" 2>/dev/null; then
  echo "transparent hugepages are enabled"
elif [ "${HUGEPAGES:-1}" = 1 ]; then
  { echo always | sudo -n tee "$pages"; } 2>&1 || echo "transparent hugepages stay as they are"
fi

if ! supported "$VENV/bin/python"; then
  python=
  for candidate in python3.12 python3.11 python3; do
    if supported "$candidate"; then python=$candidate && break; fi
  done
  rm -rf "$VENV"
  if [ -n "$python" ] && "$python" -m venv "$VENV"; then
    echo "made $VENV with $("$python" --version)"
  else # the VM images are Ubuntu 22.04, whose Python is 3.10
    rm -rf "$VENV"
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 "$VENV"
  fi
fi
"$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "$@"
"$VENV/bin/python" -m pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(jax|jaxlib|libtpu|lfr_jax) ' || true
