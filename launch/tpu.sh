#!/usr/bin/env bash
# A TPU VM or pod slice of Google Cloud, from the request to its end.
#
#   launch/tpu.sh create [OPTION …]            ask for it, and wait until it is there: from then on it costs
#   launch/tpu.sh setup  [OPTION …]            copy this checkout (its last commit) to all workers and install it
#   launch/tpu.sh train  [OPTION …] -- ARGS    begin on all workers, in the background; nothing where it runs already
#   launch/tpu.sh logs   [OPTION …]            follow a worker's log; at the end, say which worker ended first
#   launch/tpu.sh stop   [OPTION …]            ask all workers to save and end; the slice stays, and costs
#   launch/tpu.sh delete [OPTION …]            give it back: it costs no more
#
#   --name NAME        of the slice (atgcn)
#   --zone ZONE        (default: gcloud's)
#   --project PROJECT  (default: gcloud's)
#   --type TYPE        with create: v5litepod-16, v6e-16, v5p-32 … (v5litepod-16)
#   --runtime VERSION  with create: its software (default: the one that suits the type)
#   --spot             with create: cheaper, and may be taken away at any time
#   --worker N         with logs: whose log (0)
#   --dry-run          print the commands, run nothing
#
# ARGS are those of `atgcn train`, or a whole command such as `evaluate --workdir gs://BUCKET/run`. Each command may be
# given again: create goes on waiting, or asks anew for a slice that was taken away; train resumes.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

# runtime_of TYPE: the software that suits a type of TPU.
runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--type: '$1' is none of v2-8, v3-8, v4-8, v5litepod-16, v5p-8, v6e-8 and so on; or name its --runtime" ;;
  esac
}

# queued VERB OPTION …: the command on the request, into `words`.
queued() {
  words=(gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}")
}

# on_workers WHICH COMMAND: runs it there.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# ask_state: the command that prints the state of the request, or nothing where there is none, into `words`.
ask_state() {
  words=(gcloud compute tpus queued-resources list "${where[@]}" --filter="name ~ /$name\$" --format="value(state.state)")
}

delete() {
  local now
  ask_state
  if [ ! "$dry_run" ]; then
    now=$("${words[@]}")
    if [ ! "$now" ]; then
      echo "there is no '$name'"
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
      echo "$name: $now; asking anew"
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
      echo "${0##*/}: $name: ${now:-gone}; the same command asks anew" >&2
      exit 1
    fi
    sleep 30
  done
  echo "$name: ACTIVE; it costs until: launch/tpu.sh delete $(quoted --name "$name" "${where[@]}")"
}

setup() {
  local archive=$root/build/atgcn.tar.gz
  if [ ! "$dry_run" ] && [ "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ]; then
    echo "${0##*/}: changes that are not committed stay here" >&2
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
    # Google keeps their clocks together; the first to end took the others along.
    ends=$(on_workers all "atgcn/launch/worker.sh ended" | grep ' ended with status ' | sort || true)
    [ ! "$ends" ] || echo "${0##*/}: the first to end: ${ends%%$'\n'*}; the others followed; train again resumes" >&2
  fi
  return "$status"
}

verb=${1:-}
case $verb in
  create | setup | train | logs | stop | delete) shift ;;
  -h | --help) parse "" "" --help ;;
  *) fail "one of create, setup, train, logs, stop, delete, not '$verb' (see --help)" ;;
esac
name=atgcn zone='' project='' type=v5litepod-16 runtime='' spot='' worker=0
parse "name zone project type runtime worker" "spot" "$@"
[[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || fail "--name: small letters, digits and -, not '$name'"
[[ $worker =~ ^[0-9]+$ ]] || fail "--worker: a number, not '$worker'"
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
