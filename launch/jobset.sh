#!/usr/bin/env bash
# A run on a TPU slice of Google Kubernetes Engine: fills in jobset.yaml and hands it to kubectl.
#
#   launch/jobset.sh --image IMAGE [OPTION …] -- ARGUMENTS
#
#   --image IMAGE            what launch/Dockerfile builds, where the cluster finds it
#   --name NAME              of the JobSet (atgcn)
#   --accelerator NAME       the node pool's: tpu-v5-lite-podslice, tpu-v6e-slice … (tpu-v5-lite-podslice)
#   --topology SHAPE         the node pool's, with 4 chips a host (4x4)
#   --service-account NAME   of Kubernetes, which may read and write the bucket (default)
#   --dry-run                print the command with the manifest, run nothing
#
# ARGUMENTS are those of `atgcn train`, or a whole command such as `evaluate --workdir gs://BUCKET/run`.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

# json WORD …: the words as a list.
json() {
  local word list=''
  for word; do
    [[ $word != *[[:cntrl:]]* ]] || fail "arguments after --: '${word//[[:cntrl:]]/?}' holds a line break or the like"
    word=${word//\\/\\\\}
    list+=", \"${word//\"/\\\"}\""
  done
  echo "[${list#, }]"
}

image='' name=atgcn accelerator=tpu-v5-lite-podslice topology=4x4 service_account=default
parse "image name accelerator topology service-account" "" "$@"
complete_arguments
[ "$image" ] || fail "--image: must be given; launch/Dockerfile builds one"
[[ $name =~ ^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$ ]] || fail "--name: small letters, digits and -, not '$name'"
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology: a shape such as 4x4, not '$topology'"
for value in "$image" "$accelerator" "$service_account"; do
  [[ $value =~ ^[A-Za-z0-9_./:@-]+$ ]] || fail "'$value': not a name of Kubernetes"
done
chips=$((${topology//x/*}))
[ $((chips % 4)) -eq 0 ] || fail "--topology: $topology has $chips chips; they come four to a host"

list=$(json "${arguments[@]}")
manifest=$(grep --invert-match '^#' "$root/launch/jobset.yaml")
for pair in "NAME=$name" "HOSTS=$((chips / 4))" "SERVICE_ACCOUNT=$service_account" "ACCELERATOR=$accelerator" \
  "TOPOLOGY=$topology" "IMAGE=$image" "ARGUMENTS=$list"; do
  value=${pair#*=}
  manifest=${manifest//"\${${pair%%=*}}"/"$value"}
done

if [ "$dry_run" ]; then
  printf "kubectl apply --filename - <<'END'\n%s\nEND\n" "$manifest"
else
  kubectl apply --filename - <<<"$manifest"
fi
