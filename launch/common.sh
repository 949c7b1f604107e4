# shellcheck shell=bash
# Sourced by the other scripts: an environment with pinned versions in .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}

# install EXTRAS: make or complete .venv; does nothing where it is already as asked for.
install() {
  local extras=$1 stamp=.venv/installed-$1 wanted
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or later is needed; name one in PYTHON" >&2
    exit 2
  }
  wanted=$(cat setup.cfg launch/constraints.txt | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  echo "installing into .venv (a minute or two) …"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint launch/constraints.txt --editable ".$extras"
  echo "$wanted" >"$stamp"
}

# install_libtpu: the compiler for TPUs into .venv/tpu, for who puts that on PYTHONPATH. Within .venv
# itself, JAX would look for a TPU with it in every process and complain that there is none.
install_libtpu() {
  local version
  version=$(sed -n 's/^libtpu==//p' launch/constraints.txt)
  if [ "$(uname -sm)" != "Linux x86_64" ] || [ -d ".venv/tpu/libtpu-$version.dist-info" ]; then
    return
  fi
  echo "installing libtpu (213 MB to fetch, 0.7 GB on disk) …"
  rm -rf .venv/tpu
  .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps \
    --target .venv/tpu "libtpu==$version"
}
