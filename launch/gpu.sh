#!/usr/bin/env bash
# All GPUs of this machine, driven by one process or by one process each.
#
#   launch/gpu.sh [OPTION …] -- ARGUMENTS
#
#   --processes one|each   one process in all, or one for each GPU (one)
#   --gpus N               how many GPUs there are, for `each` (default: as CUDA_VISIBLE_DEVICES or nvidia-smi tells)
#   --port P               where the processes find each other (default: a free one)
#   --logs DIR             process-0.log, process-1.log, … are written there (logs)
#   --grace S              seconds that the others have to end once one is lost (50)
#   --dry-run              print the commands, run nothing
#
# ARGUMENTS are those of `atgcn train`, or a whole command such as `evaluate --workdir DIR`. The program is
# .venv/bin/atgcn, installed first where needed; the environment variable ATGCN names another.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/processes.sh
source "$(dirname "$0")/processes.sh"

# count_gpus: those that a process started here would see.
count_gpus() {
  if [ "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l
  else
    nvidia-smi --list-gpus | wc -l
  fi
}

processes=one gpus='' port='' logs=logs grace=50
parse "processes gpus port logs grace" "" "$@"
need_number --grace "$grace"
complete_arguments
case $processes in
  one) gpus=1 ;;
  each)
    gpus=${gpus:-$(count_gpus 2>/dev/null || true)}
    need_number --gpus "${gpus:-0}"
    ;;
  *) fail "--processes: one or each, not '$processes'" ;;
esac
find_atgcn "[cuda]"

command_of() {
  if [ "$processes" = one ]; then
    words=("$atgcn" "${arguments[@]}")
  else
    environment=("JAX_LOCAL_DEVICE_IDS=$1")
    joined "$gpus" "$port" "$1"
  fi
}

if [ "$processes" = each ]; then port=${port:-$(free_port)}; fi
watch "$gpus" "$logs" "$grace"
