# shellcheck shell=bash
# Sourced by the other scripts: their options, --dry-run, and an environment with pinned versions in .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
dry_run=

# fail MESSAGE: one line on stderr, status 2.
fail() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# quoted WORD …: prints the words so that a shell reads them back as they are.
quoted() {
  local word words=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then words+=("$word"); else words+=("${word@Q}"); fi
  done
  echo "${words[*]}"
}

# run WORD …: runs the command, or with --dry-run prints it.
run() {
  if [ "$dry_run" ]; then quoted "$@"; else "$@"; fi
}

# parse NAMES FLAGS ARGUMENT …: sets a variable for each option given (--type v5p-8: type=v5p-8; --spot: spot=yes) and
# the array `arguments` from what comes after --. --help prints the comment the script begins with.
parse() {
  # Names that no option has.
  local _names=" $1 " _flags=" $2 dry-run " _name
  shift 2
  arguments=()
  while [ $# -gt 0 ]; do
    _name=${1#--} _name=${_name%%=*}
    if [ "$1" = -- ]; then
      arguments=("${@:2}")
      return
    elif [ "$1" = --help ] || [ "$1" = -h ]; then
      sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
      exit 0
    elif [[ $1 = "--$_name" && $_flags = *" $_name "* ]]; then
      printf -v "${_name//-/_}" yes
    elif [[ $1 = --*=* && $_names = *" $_name "* ]]; then
      printf -v "${_name//-/_}" %s "${1#*=}"
    elif [[ $1 = --* && $_names = *" $_name "* ]]; then
      [[ $# -gt 1 && $2 != --* ]] || fail "$1: a value must follow"
      printf -v "${_name//-/_}" %s "$2"
      shift
    else
      fail "$1: no such option (see --help); arguments of atgcn come after --"
    fi
    shift
  done
}

# complete_arguments: `arguments` must be a command of atgcn; where it begins with an option, `train` is meant.
complete_arguments() {
  [ ${#arguments[@]} -gt 0 ] || fail "arguments of atgcn must follow after --, such as -- --config FILE --workdir DIR"
  [[ ${arguments[0]} != -* ]] || arguments=(train "${arguments[@]}")
}

# need_number OPTION VALUE: a whole number above 0.
need_number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1: a whole number above 0, not '$2'"
}

# install EXTRAS: make or complete .venv; does nothing where it is already as asked for.
install() {
  local extras=$1 venv=$root/.venv wanted
  local stamp=$venv/installed-$extras
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or later is needed; name one in PYTHON"
  wanted=$(cat "$root/setup.cfg" "$root/launch/constraints.txt" | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  [ "$dry_run" ] || echo "installing into .venv (a minute or two) …"
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || run "$PYTHON" -m venv --clear "$venv"
  run "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --constraint "$root/launch/constraints.txt" --editable "$root$extras"
  [ "$dry_run" ] || echo "$wanted" >"$stamp"
}

# install_onnx: the converter to ONNX as an environment of its own, .venv/onnx; does nothing where it is as asked for.
install_onnx() {
  local venv=$root/.venv/onnx wanted
  wanted=$(cksum <"$root/launch/onnx.txt")
  if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  [ "$dry_run" ] || echo "installing the converter to ONNX into .venv/onnx (a minute, 1.1 GB on disk) …"
  run "$PYTHON" -m venv --clear "$venv"
  run "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --requirement "$root/launch/onnx.txt"
  [ "$dry_run" ] || echo "$wanted" >"$venv/installed"
}

# find_atgcn EXTRAS: sets atgcn, from the environment variable ATGCN or by installing.
# shellcheck disable=SC2034
find_atgcn() {
  atgcn=${ATGCN:-$root/.venv/bin/atgcn}
  [ "${ATGCN:-}" ] || install "$1"
}

# install_libtpu: the compiler for TPUs into .venv/tpu, for who puts that on PYTHONPATH. Within .venv
# itself, JAX would look for a TPU with it in every process and complain that there is none.
install_libtpu() {
  local version
  version=$(sed -n 's/^libtpu==//p' "$root/launch/constraints.txt")
  if [ "$(uname -sm)" != "Linux x86_64" ] || [ -d "$root/.venv/tpu/libtpu-$version.dist-info" ]; then
    return
  fi
  echo "installing libtpu (213 MB to fetch, 0.7 GB on disk) …"
  rm -rf "$root/.venv/tpu"
  "$root/.venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps \
    --target "$root/.venv/tpu" "libtpu==$version"
}
