#!/usr/bin/env bash
# Create the environment of the converter to ONNX, .venv/onnx, for `atgcn export --to onnx`.
# Option: --dry-run prints the commands without running them.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
parse "" "" "$@"
install_onnx
