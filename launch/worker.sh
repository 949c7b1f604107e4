#!/usr/bin/env bash
# One worker of a TPU slice: what tpu.sh asks of it through ssh. Training goes on when the connection is lost.
#
#   launch/worker.sh install           make .venv, with a Python of its own where there is none that is new enough
#   launch/worker.sh start ARGUMENTS   begin `atgcn ARGUMENTS` in the background, unless it runs already
#   launch/worker.sh stop              ask it to save and end, and wait for that
#   launch/worker.sh follow            show its log until it ends; the status is the program's
#   launch/worker.sh ended             how it ended, in a line with the time and the host's name

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
log=train.log pid_file=train.pid

ended() {
  grep --text ' ended with status [0-9]*$' "$log" | tail --lines 1 | grep .
}

# running: whether `work` is; sets the two process ids. After a restart another process may have the number.
running() {
  [ -e "$pid_file" ] && read -r work_pid program_pid <"$pid_file" &&
    grep --quiet worker.sh "/proc/$work_pid/cmdline" 2>/dev/null
}

# work ARGUMENTS: what `start` leaves behind; it is there until the log says how the program ended.
work() {
  local status=0
  "${ATGCN:-.venv/bin/atgcn}" "$@" </dev/null >"$log" 2>&1 &
  echo "$$ $!" >"$pid_file"
  wait $! || status=$?
  echo "$(date --utc +%FT%T.%3NZ) $(hostname) ended with status $status" >>"$log"
}

start() {
  if running; then
    echo "$(hostname) is at work already"
    return
  fi
  [ ! -e "$log" ] || mv "$log" "$log.previous"
  : >"$log"
  rm -f "$pid_file"
  setsid nohup "$root/launch/worker.sh" work "$@" </dev/null >/dev/null 2>&1 &
  until [ -e "$pid_file" ] || ended >/dev/null; do sleep 0.1; done
  echo "$(hostname) has begun"
}

verb=${1:-}
case $verb in
  install)
    # The images' own Python is 3.10.
    if ! python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python3 -m pip install --quiet --user uv
      ~/.local/bin/uv python install --quiet 3.11
      PYTHON=$(~/.local/bin/uv python find --managed-python 3.11)
    fi
    install "[tpu]"
    ;;
  start | work) "$verb" "${@:2}" ;;
  stop)
    if running; then
      kill -TERM "$program_pid" || true
      while running; do sleep 0.2; done
    fi
    ;;
  follow)
    [ -e "$log" ] || fail "$(hostname): nothing has begun here yet"
    running || ended >/dev/null || fail "$(hostname): it ended without a word, as when a host restarts; begin again"
    tail --lines +1 --follow=name "$log" | sed --unbuffered '/ ended with status [0-9]*$/q' || true
    line=$(ended)
    exit "${line##* }"
    ;;
  ended) ended || echo "$(hostname) is at work still, or ended without a word" ;;
  *) fail "one of install, start, stop, follow, ended, not '$verb'" ;;
esac
