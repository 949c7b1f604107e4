# shellcheck shell=bash
# Sourced by gpu.sh and local_hosts.sh: start several processes of one run on this machine and supervise them.

# free_port: prints a TCP port that no process listens on.
free_port() {
  "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# joined COUNT PORT I: sets `words` to the command of process I, made from `environment`, `atgcn` and `arguments`.
# shellcheck disable=SC2154
joined() {
  words=(env "${environment[@]}" "JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$2" "$atgcn" "${arguments[@]}"
    --coordinator "127.0.0.1:$2" --processes "$1" --process-id "$3")
}

# watch COUNT LOGS GRACE: starts COUNT processes and waits for all of them. `command_of I` sets `words` to the command
# of process I. Each process has its own log in the folder LOGS; the log of process 0 is also printed. SIGTERM, SIGHUP
# and Ctrl-C are forwarded. When a process fails, a line names it. The others then have GRACE seconds to end by
# themselves; after that they get SIGTERM, and ten seconds later SIGKILL. The status is that of the first process that
# failed, otherwise that of the first process that ended on the forwarded signal, otherwise 0.
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
  # Each process gets its own process group. Ctrl-C in a terminal then reaches it once, through this script, and no
  # process ignores it.
  set -m
  number_of=() signalled=() passed=0
  trap 'pass_on TERM' TERM HUP
  trap 'pass_on INT' INT
  local status=0
  # Discard the shell's own message about a killed job: name_lost prints a line.
  { start_all "$count" "$logs" && wait_for_all "$count" "$logs" "$grace" || status=$?; } 3>&2 2>/dev/null
  return "$status"
}

# start_all COUNT LOGS: starts the processes for `watch`; sets `number_of`, the index of each process by its pid.
start_all() {
  local count=$1 logs=$2 i seen
  seen=$(stat --format %s "$logs/process-0.log")
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    "${words[@]}" </dev/null >>"$logs/process-$i.log" 2>&1 &
    number_of[$!]=$i
    # A signal may have arrived between the two lines above.
    [ "$passed" -eq 0 ] || [ "${signalled[$!]-}" ] || kill -s $((passed - 128)) $! || true
    [ "$i" -gt 0 ] || tail --bytes "+$((seen + 1))" --follow --sleep-interval 0.2 --pid $! "$logs/process-0.log" &
  done
}

# pass_on SIGNAL: forwards the signal to every running process.
pass_on() {
  local pid
  passed=$((128 + $(kill -l "$1")))
  for pid in "${!number_of[@]}"; do
    kill -s "$1" "$pid" || true
    signalled[pid]=yes
  done
}

# wait_for_all COUNT LOGS GRACE: waits for the processes for `watch`; messages go to descriptor 3.
wait_for_all() {
  local count=$1 logs=$2 grace=$3 pid status failed=0 stopped=0 timer='' next=TERM
  while [ ${#number_of[@]} -gt 0 ]; do
    # `wait -n` returns when a process ends or a signal was forwarded. It may miss a process that ended between two
    # calls, so each one is checked.
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

# name_lost PID STATUS: prints which process failed, and how.
name_lost() {
  local i=${number_of[$1]} line end=''
  local log=$logs/process-$i.log
  line="process $i of $count (pid $1, $log)"
  [ ${#number_of[@]} -eq 1 ] || end="; the others have $grace s to end"
  if [ "$2" -gt 128 ] && kill -l "$2" >/dev/null; then
    echo "$line was killed by SIG$(kill -l "$2")$end; the same command resumes"
  else
    echo "$line ended with status $2$end; last line of its log: $(last_line "$log")"
  fi
}

# last_line FILE: prints the last line that a terminal would show.
last_line() {
  tail --lines 1 "$1" | tr '\r' '\n' | sed '/^$/d' | tail --lines 1 | cut -c -300
}
