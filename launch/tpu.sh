#!/usr/bin/env bash
# Create, use and delete a TPU VM or pod slice of Google Cloud.
#
#   launch/tpu.sh create [OPTION …]            request a slice and wait until it is active; costs start then
#   launch/tpu.sh setup  [OPTION …]            copy the last commit of this checkout to all workers and install it
#   launch/tpu.sh train  [OPTION …] -- ARGS    start on all workers in the background, unless already running
#   launch/tpu.sh logs   [OPTION …]            follow the log of a worker; after a failure, name the first that ended
#   launch/tpu.sh stop   [OPTION …]            make all workers save and end; the slice remains and still costs money
#   launch/tpu.sh delete [OPTION …]            delete the slice; costs end
#
#   --name NAME        name of the slice (default: atgcn)
#   --zone ZONE        zone (default: that of the gcloud config)
#   --project PROJECT  project (default: that of the gcloud config)
#   --type TYPE        for create, accelerator type such as v6e-16 or v5p-32 (default: v5litepod-16)
#   --runtime VERSION  for create, TPU software version (default: the version for the type)
#   --spot             for create, request a spot slice, which is cheaper and can be preempted at any time
#   --worker N         for logs, index of the worker (default: 0)
#   --dry-run          print the commands without running them
#
# ARGS are arguments of `atgcn train`, or a complete command such as `evaluate --workdir gs://BUCKET/run`. Every command
# can be repeated: create continues to wait, or requests a preempted slice again; train resumes.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

# runtime_of TYPE: prints the software version for a TPU type.
runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type: unknown type '$1'; use a type such as v4-8, v5litepod-16, v5p-8 or v6e-8, or add --runtime" ;;
  esac
}

# queued VERB OPTION …: sets `words` to the gcloud command for the queued resource.
queued() {
  words=(gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}")
}

# on_workers WHICH COMMAND: runs the command on one worker or on all.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# ask_state: sets `words` to the command that prints the state of the request, or nothing if there is no request.
ask_state() {
  words=(gcloud compute tpus queued-resources list "${where[@]}" --filter="name ~ /$name\$" --format="value(state.state)")
}

delete() {
  local now
  ask_state
  if [ ! "$dry_run" ]; then
    now=$("${words[@]}")
    if [ ! "$now" ]; then
      echo "'$name' does not exist"
      return
    fi
  fi
  queued delete --force --quiet
  run "${words[@]}"
}

create() {
  local now shown=''
  if [ ! "$dry_run" ]; then
    ask_state
    now=$("${words[@]}")
    if [ "$now" = SUSPENDED ] || [ "$now" = FAILED ]; then
      echo "$name: $now; requesting it again"
      delete
      now=
    fi
  fi
  if [ ! "${now:-}" ]; then
    queued create --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime"
    [ ! "$spot" ] || words+=(--spot)
    run "${words[@]}"
  fi
  ask_state
  if [ "$dry_run" ]; then
    echo "until [ \"\$($(quoted "${words[@]}"))\" = ACTIVE ]; do sleep 30; done"
    return
  fi
  while :; do
    now=$("${words[@]}")
    [ "$now" != ACTIVE ] || break
    [ "$now" = "$shown" ] || echo "$name: $now"
    shown=$now
    if [ "$now" = FAILED ] || [ "$now" = SUSPENDED ] || [ ! "$now" ]; then
      echo "${0##*/}: $name: ${now:-deleted}; the same command requests it again" >&2
      exit 1
    fi
    sleep 30
  done
  echo "$name: ACTIVE; to end its cost: launch/tpu.sh delete $(quoted --name "$name" "${where[@]}")"
}

setup() {
  local archive=$root/build/atgcn.tar.gz
  if [ ! "$dry_run" ] && [ "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ]; then
    echo "${0##*/}: uncommitted changes are not copied" >&2
  fi
  run mkdir -p "$root/build"
  run git -C "$root" archive --prefix=atgcn/ --output="$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name:" "${where[@]}" --worker=all
  on_workers all "tar -xzf atgcn.tar.gz && atgcn/launch/worker.sh install"
}

logs() {
  local status=0 ends
  on_workers "$worker" "atgcn/launch/worker.sh follow" || status=$?
  if [ "$dry_run" ]; then
    on_workers all "atgcn/launch/worker.sh ended"
  elif [ "$status" -ne 0 ]; then
    # The clocks of the workers are synchronised. The first worker that ended caused the others to end.
    ends=$(on_workers all "atgcn/launch/worker.sh ended" | grep ' ended with status ' | sort || true)
    [ ! "$ends" ] ||
      echo "${0##*/}: the first to end: ${ends%%$'\n'*}; the others ended after it; repeat train to resume" >&2
  fi
  return "$status"
}

verb=${1:-}
case $verb in
  create | setup | train | logs | stop | delete) shift ;;
  -h | --help) parse "" "" --help ;;
  *) fail "command must be one of create, setup, train, logs, stop, delete, got '$verb' (see --help)" ;;
esac
name=atgcn zone='' project='' type=v5litepod-16 runtime='' spot='' worker=0
parse "name zone project type runtime worker" "spot" "$@"
[[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || fail "--name: use lower-case letters, digits and -, got '$name'"
[[ $worker =~ ^[0-9]+$ ]] || fail "--worker: must be a number, got '$worker'"
where=(${zone:+"--zone=$zone"} ${project:+"--project=$project"})
case $verb in
  create)
    runtime=${runtime:-$(runtime_of "$type")}
    create
    ;;
  train)
    complete_arguments
    on_workers all "atgcn/launch/worker.sh start $(quoted "${arguments[@]}")"
    ;;
  stop) on_workers all "atgcn/launch/worker.sh stop" ;;
  *) "$verb" ;;
esac
