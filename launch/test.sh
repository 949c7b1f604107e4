#!/usr/bin/env bash
# Install what the tests need and run them; --all runs the slow ones too. Further arguments go to pytest.
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
install "[test]"
install_libtpu
install_onnx
export PYTHONPATH=$PWD/.venv/tpu${PYTHONPATH:+:$PYTHONPATH}
exec .venv/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder "$@"
