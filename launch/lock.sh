#!/usr/bin/env bash
# Write the files of versions and hashes that the commands of README.md install: launch/requirements.txt and
# launch/requirements-test.txt, for Python 3.11.5 and later, from the versions in launch/constraints.txt.
#   ./launch/lock.sh        needs uv: pip install uv
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
command -v uv >/dev/null || fail "uv: not found; install it with pip install uv"

# lock NAME WORD …: writes a file, with the options WORD … of uv.
lock() {
  local file=launch/$1
  uv pip compile --quiet --no-config --universal --python-version 3.11.5 --generate-hashes --no-annotate \
    --custom-compile-command ./launch/lock.sh --constraint launch/constraints.txt --output-file "$file" \
    "${@:2}" setup.cfg - <<<"setuptools>=77"
  echo "$file: $(grep -c == "$file") packages"
}

lock requirements.txt
lock requirements-test.txt --extra test

# The lowest versions that setup.cfg allows of what it names, with the newest of everything else that they allow.
uv pip compile --quiet --no-config --python-version 3.11.5 --resolution lowest-direct --no-annotate \
  --custom-compile-command ./launch/lock.sh --output-file launch/lowest.txt setup.cfg
