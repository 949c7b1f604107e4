#!/usr/bin/env bash
# The commands that tpu.sh runs on each worker of a TPU slice over ssh. Training continues if the connection is lost.
#
#   launch/worker.sh install           create .venv, with a newer Python if that of the image is too old
#   launch/worker.sh start ARGUMENTS   start `atgcn ARGUMENTS` in the background, unless it is already running
#   launch/worker.sh stop              make the program save and end, and wait until it has ended
#   launch/worker.sh follow            print the log until the program ends, and exit with its status
#   launch/worker.sh ended             print the time, the name of the host and the status with which the program ended

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
log=train.log pid_file=train.pid

ended() {
  grep --text ' ended with status [0-9]*$' "$log" | tail --lines 1 | grep .
}

# running: succeeds if `work` is running; sets the two process ids. After a restart of the host, another process may
# have the same id, so the command line is checked.
running() {
  [ -e "$pid_file" ] && read -r work_pid program_pid <"$pid_file" &&
    grep --quiet worker.sh "/proc/$work_pid/cmdline" 2>/dev/null
}

# work ARGUMENTS: the background process of `start`; runs until the program has ended and its status is in the log.
work() {
  local status=0
  "${ATGCN:-.venv/bin/atgcn}" "$@" </dev/null >"$log" 2>&1 &
  echo "$$ $!" >"$pid_file"
  wait $! || status=$?
  echo "$(date --utc +%FT%T.%3NZ) $(hostname) ended with status $status" >>"$log"
}

start() {
  if running; then
    echo "$(hostname): already running"
    return
  fi
  [ ! -e "$log" ] || mv "$log" "$log.previous"
  : >"$log"
  rm -f "$pid_file"
  setsid nohup "$root/launch/worker.sh" work "$@" </dev/null >/dev/null 2>&1 &
  until [ -e "$pid_file" ] || ended >/dev/null; do sleep 0.1; done
  echo "$(hostname): started"
}

verb=${1:-}
case $verb in
  install)
    # The Python of the images is 3.10.
    if ! python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python3 -m pip install --quiet --user uv
      ~/.local/bin/uv python install --quiet 3.11
      PYTHON=$(~/.local/bin/uv python find --managed-python 3.11)
    fi
    install "[tpu,gcs]"
    ;;
  start | work) "$verb" "${@:2}" ;;
  stop)
    if running; then
      kill -TERM "$program_pid" || true
      while running; do sleep 0.2; done
    fi
    ;;
  follow)
    [ -e "$log" ] || fail "$(hostname): nothing has been started; run launch/tpu.sh train"
    running || ended >/dev/null ||
      fail "$(hostname): the program ended without a status, as after a restart of the host; run launch/tpu.sh train"
    tail --lines +1 --follow=name "$log" | sed --unbuffered '/ ended with status [0-9]*$/q' || true
    line=$(ended)
    exit "${line##* }"
    ;;
  ended) ended || echo "$(hostname): still running, or ended without a status" ;;
  *) fail "command must be one of install, start, stop, follow, ended, got '$verb'" ;;
esac
