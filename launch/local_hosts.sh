#!/usr/bin/env bash
# Run several processes of atgcn on the CPU of this machine, as if each were a separate host.
#
#   launch/local_hosts.sh [OPTION …] -- ARGUMENTS
#
#   --processes N   number of processes (default: 2)
#   --devices M     number of CPU devices per process (default: 1)
#   --port P        TCP port of process 0 (default: a free port)
#   --logs DIR      folder of the logs process-0.log, process-1.log, … (default: logs)
#   --grace S       seconds that the other processes have to end after one has failed (default: 50)
#   --dry-run       print the commands without running them
#
# ARGUMENTS are arguments of `atgcn train`, or a complete command such as `evaluate --workdir DIR`. The program is
# .venv/bin/atgcn, which is installed first if necessary. The environment variable ATGCN names another program.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/processes.sh
source "$(dirname "$0")/processes.sh"

processes=2 devices=1 port='' logs=logs grace=50
parse "processes devices port logs grace" "" "$@"
need_number --processes "$processes"
need_number --devices "$devices"
need_number --grace "$grace"
complete_arguments
find_atgcn ""
port=${port:-$(free_port)}
environment=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")

command_of() {
  joined "$processes" "$port" "$1"
}

watch "$processes" "$logs" "$grace"
