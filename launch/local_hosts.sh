#!/usr/bin/env bash
# Several processes of atgcn on this machine's CPU, as if each were a host of its own.
#
#   launch/local_hosts.sh [OPTION …] -- ARGUMENTS
#
#   --processes N   how many processes (2)
#   --devices M     CPU devices of each (1)
#   --port P        where they find each other (default: a free one)
#   --logs DIR      process-0.log, process-1.log, … are written there (logs)
#   --grace S       seconds that the others have to end once one is lost (50)
#   --dry-run       print the commands, run nothing
#
# ARGUMENTS are those of `atgcn train`, or a whole command such as `evaluate --workdir DIR`. The program is
# .venv/bin/atgcn, installed first where needed; the environment variable ATGCN names another.

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
