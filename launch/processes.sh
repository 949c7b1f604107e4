# shellcheck shell=bash
# Sourced by gpu.sh and local_hosts.sh: several processes of one run on this machine, and who watches them.

# free_port: a TCP port that nobody listens on.
free_port() {
  "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# joined COUNT PORT I: sets `words`, the command of process I, from the caller's `environment`, `atgcn` and `arguments`.
# shellcheck disable=SC2154
joined() {
  words=(env "${environment[@]}" "JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$2" "$atgcn" "${arguments[@]}"
    --coordinator "127.0.0.1:$2" --processes "$1" --process-id "$3")
}

# watch COUNT LOGS GRACE: starts the commands that `command_of I` puts into `words`, each with its own log in the folder
# LOGS (that of process 0 is shown as well), and waits for all of them. SIGTERM, SIGHUP and Ctrl-C are passed on. When
# one fails, a line names it, and the others have GRACE seconds to end by themselves; then they get SIGTERM, and ten
# seconds later SIGKILL. The status is that of the first that failed, else of the first that ended on the signal passed
# on, else 0.
watch() {
  local count=$1 logs=$2 grace=$3 i
  if [ "$dry_run" ]; then
    quoted mkdir -p "$logs"
    for ((i = 0; i < count; i++)); do
      command_of "$i"
      echo "$(quoted "${words[@]}") </dev/null >>$(quoted "$logs/process-$i.log") 2>&1 &"
    done
    echo wait
    return
  fi
  mkdir -p "$logs"
  for ((i = 0; i < count; i++)); do : >>"$logs/process-$i.log"; done
  # Groups of their own: Ctrl-C in a terminal reaches them once, through this script, and none of them ignores it.
  set -m
  number_of=() told=() passed=0
  trap 'pass_on TERM' TERM HUP
  trap 'pass_on INT' INT
  local status=0
  # The shell has words of its own for a killed job; one line is enough.
  { start_all "$count" "$logs" && wait_for_all "$count" "$logs" "$grace" || status=$?; } 3>&2 2>/dev/null
  return "$status"
}

# start_all COUNT LOGS: the first half of `watch`; sets `number_of`, from process ids to numbers.
start_all() {
  local count=$1 logs=$2 i seen
  seen=$(stat --format %s "$logs/process-0.log")
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    "${words[@]}" </dev/null >>"$logs/process-$i.log" 2>&1 &
    number_of[$!]=$i
    # A signal may have come between the two lines above.
    [ "$passed" -eq 0 ] || [ "${told[$!]-}" ] || kill -s $((passed - 128)) $! || true
    [ "$i" -gt 0 ] || tail --bytes "+$((seen + 1))" --follow --sleep-interval 0.2 --pid $! "$logs/process-0.log" &
  done
}

# pass_on SIGNAL: to every process still there.
pass_on() {
  local pid
  passed=$((128 + $(kill -l "$1")))
  for pid in "${!number_of[@]}"; do
    kill -s "$1" "$pid" || true
    told[pid]=yes
  done
}

# wait_for_all COUNT LOGS GRACE: the second half of `watch`; the line goes to descriptor 3.
wait_for_all() {
  local count=$1 logs=$2 grace=$3 pid status failed=0 stopped=0 timer='' next=TERM
  while [ ${#number_of[@]} -gt 0 ]; do
    # Comes back when one ends or a signal was passed on; who ended is found by looking, since a job that ended between
    # two calls may be passed over.
    wait -n "${!number_of[@]}" $timer || true
    for pid in "${!number_of[@]}"; do
      if kill -0 "$pid"; then continue; fi
      status=0
      wait "$pid" || status=$?
      if [ "$status" -ne 0 ] && [ "$status" -eq "$passed" ]; then
        stopped=$status
      elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=$status
        name_lost "$pid" "$status" >&3
        sleep "$grace" &
        timer=$!
      fi
      unset "number_of[$pid]"
    done
    if [ "$timer" ] && ! kill -0 "$timer"; then
      for pid in "${!number_of[@]}"; do
        kill -s "$next" -- "-$pid" || true
      done
      next=KILL
      sleep 10 &
      timer=$!
    fi
  done
  [ -z "$timer" ] || kill "$timer" || true
  wait
  [ "$failed" -ne 0 ] || failed=$stopped
  return "$failed"
}

# name_lost PID STATUS: the line that says which process failed, and how.
name_lost() {
  local i=${number_of[$1]} line end=''
  local log=$logs/process-$i.log
  line="process $i of $count (pid $1, $log)"
  [ ${#number_of[@]} -eq 1 ] || end="; the others are given $grace s to end"
  if [ "$2" -gt 128 ] && kill -l "$2" >/dev/null; then
    echo "$line was killed by SIG$(kill -l "$2")$end; the same command resumes"
  else
    echo "$line ended with status $2$end; last line of its log: $(last_line "$log")"
  fi
}

# last_line FILE: what a terminal would show last.
last_line() {
  tail --lines 1 "$1" | tr '\r' '\n' | sed '/^$/d' | tail --lines 1 | cut -c -300
}
