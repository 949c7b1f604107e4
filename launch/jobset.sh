#!/usr/bin/env bash
# Run atgcn on a TPU slice of Google Kubernetes Engine: fill in jobset.yaml and pass it to kubectl.
#
#   launch/jobset.sh --image IMAGE [OPTION …] -- ARGUMENTS
#
#   --image IMAGE            image built from launch/Dockerfile, in a registry that the cluster can reach
#   --name NAME              name of the JobSet (default: atgcn)
#   --accelerator NAME       accelerator of the node pool, such as tpu-v6e-slice (default: tpu-v5-lite-podslice)
#   --topology SHAPE         topology of the node pool, with 4 chips per host (default: 4x4)
#   --service-account NAME   Kubernetes service account that can read and write the bucket (default: default)
#   --dry-run                print the command and the manifest without running it
#
# ARGUMENTS are arguments of `atgcn train`, or a complete command such as `evaluate --workdir gs://BUCKET/run`.

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

# json WORD …: prints the words as a JSON list.
json() {
  local word list=''
  for word; do
    [[ $word != *[[:cntrl:]]* ]] ||
      fail "arguments after --: '${word//[[:cntrl:]]/?}' contains a line break or control character"
    word=${word//\\/\\\\}
    list+=", \"${word//\"/\\\"}\""
  done
  echo "[${list#, }]"
}

image='' name=atgcn accelerator=tpu-v5-lite-podslice topology=4x4 service_account=default
parse "image name accelerator topology service-account" "" "$@"
complete_arguments
[ "$image" ] || fail "--image: required; build one with launch/Dockerfile"
[[ $name =~ ^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$ ]] || fail "--name: use lower-case letters, digits and -, got '$name'"
[[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology: must be a shape such as 4x4, got '$topology'"
for value in "$image" "$accelerator" "$service_account"; do
  [[ $value =~ ^[A-Za-z0-9_./:@-]+$ ]] || fail "'$value': not a valid Kubernetes name"
done
chips=$((${topology//x/*}))
[ $((chips % 4)) -eq 0 ] || fail "--topology: $topology has $chips chips, must be a multiple of 4 (4 chips per host)"

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
