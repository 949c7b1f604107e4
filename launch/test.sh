#!/usr/bin/env bash
# Install the requirements of the tests and run them. All arguments are passed to pytest; --all includes slow tests.
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
install "[test]"
install_libtpu
install_onnx
export PYTHONPATH=$PWD/.venv/tpu${PYTHONPATH:+:$PYTHONPATH}
exec .venv/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"
