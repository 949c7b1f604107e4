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
