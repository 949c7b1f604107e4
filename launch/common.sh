# shellcheck shell=bash
# Sourced by the other scripts: option parsing, --dry-run, and installation of pinned versions into .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
dry_run=
# Python compiles a module at its first import. Compiling all of them here would take two minutes, and most are never used.
pip_install=(-m pip install --quiet --quiet --disable-pip-version-check --no-compile)

# fail MESSAGE: prints one line on stderr and exits with status 2.
fail() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# quoted WORD …: prints the words, quoted for a shell.
quoted() {
  local word words=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then words+=("$word"); else words+=("${word@Q}"); fi
  done
  echo "${words[*]}"
}

# run WORD …: runs the command, or prints it with --dry-run.
run() {
  if [ "$dry_run" ]; then quoted "$@"; else "$@"; fi
}

# parse NAMES FLAGS ARGUMENT …: sets a variable for each option (--type v5p-8: type=v5p-8; --spot: spot=yes), and the
# array `arguments` to everything after --. --help prints the first comment of the script.
parse() {
  # The underscores keep these names apart from those of options.
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
      [[ $# -gt 1 && $2 != --* ]] || fail "$1: needs a value"
      printf -v "${_name//-/_}" %s "$2"
      shift
    else
      fail "$1: unknown option (see --help); arguments of atgcn come after --"
    fi
    shift
  done
}

# complete_arguments: checks that `arguments` is not empty, and inserts `train` if it starts with an option.
complete_arguments() {
  [ ${#arguments[@]} -gt 0 ] || fail "arguments of atgcn must follow --, such as -- --config FILE --workdir DIR"
  [[ ${arguments[0]} != -* ]] || arguments=(train "${arguments[@]}")
}

# need_number OPTION VALUE: checks that the value is a positive integer.
need_number() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1: must be a positive integer, got '$2'"
}

# install EXTRAS: creates or updates .venv; does nothing if it is up to date. Without extras and with [test], every
# file is compared with its hash; other extras have the versions of constraints.txt only.
install() {
  local extras=$1 venv=$root/.venv wanted hashed
  local stamp=$venv/installed-$extras pip=("$venv/bin/python" "${pip_install[@]}")
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "PYTHON: $PYTHON must be Python 3.11 or later; set PYTHON to another interpreter"
  hashed=$root/launch/requirements${extras/\[test]/-test}.txt
  [ -f "$hashed" ] || hashed=$root/launch/constraints.txt
  wanted=$(cat "$root/setup.cfg" "$hashed" | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  [ "$dry_run" ] || echo "installing into .venv (a minute or two) …"
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || run "$PYTHON" -m venv --clear "$venv"
  if [ "$hashed" = "$root/launch/constraints.txt" ]; then
    run "${pip[@]}" --constraint "$hashed" --editable "$root$extras"
  else
    run "${pip[@]}" --require-hashes --requirement "$hashed"
    run "${pip[@]}" --no-deps --no-build-isolation --editable "$root"
  fi
  [ "$dry_run" ] || echo "$wanted" >"$stamp"
}

# install_onnx: installs the converter to ONNX into its own environment, .venv/onnx; does nothing if it is up to date.
install_onnx() {
  local venv=$root/.venv/onnx wanted
  wanted=$(cksum <"$root/launch/onnx.txt")
  if [ "$(cat "$venv/installed" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  [ "$dry_run" ] || echo "installing the converter to ONNX into .venv/onnx (a minute, 1.1 GB on disk) …"
  run "$PYTHON" -m venv --clear "$venv"
  run "$venv/bin/python" "${pip_install[@]}" --requirement "$root/launch/onnx.txt"
  [ "$dry_run" ] || echo "$wanted" >"$venv/installed"
}

# find_atgcn EXTRAS: sets `atgcn` to the program named in the environment variable ATGCN, or installs it into .venv.
# shellcheck disable=SC2034
find_atgcn() {
  atgcn=${ATGCN:-$root/.venv/bin/atgcn}
  [ "${ATGCN:-}" ] || install "$1"
}

# install_libtpu: installs the compiler for TPUs into .venv/tpu. To use it, add this folder to PYTHONPATH. With libtpu
# in .venv itself, JAX would search for a TPU in every process and print that there is none.
install_libtpu() {
  local version
  version=$(sed -n 's/^libtpu==//p' "$root/launch/constraints.txt")
  if [ "$(uname -sm)" != "Linux x86_64" ] || [ -d "$root/.venv/tpu/libtpu-$version.dist-info" ]; then
    return
  fi
  echo "installing libtpu into .venv/tpu (213 MB download, 0.7 GB on disk) …"
  rm -rf "$root/.venv/tpu"
  "$root/.venv/bin/python" "${pip_install[@]}" --no-deps --target "$root/.venv/tpu" "libtpu==$version"
}
