#!/usr/bin/env bash
# Run atgcn on all GPUs of this machine, with one process or with one process per GPU.
#
#   launch/gpu.sh [OPTION …] -- ARGUMENTS
#
#   --processes one|each   one process for all GPUs, or one process per GPU (default: one)
#   --gpus N               number of GPUs, for `each` (default: from CUDA_VISIBLE_DEVICES or nvidia-smi)
#   --port P               TCP port of process 0 (default: a free port)
#   --logs DIR             folder of the logs process-0.log, process-1.log, … (default: logs)
#   --grace S              seconds that the other processes have to end after one has failed (default: 50)
#   --dry-run              print the commands without running them
#
# ARGUMENTS are arguments of `atgcn train`, or a complete command such as `evaluate --workdir DIR`. The program is
# .venv/bin/atgcn, which is installed first if necessary. The environment variable ATGCN names another program.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/processes.sh
source "$(dirname "$0")/processes.sh"

# count_gpus: prints the number of GPUs that a process of this shell would see.
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
  *) fail "--processes: must be one or each, got '$processes'" ;;
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
