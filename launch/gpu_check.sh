#!/usr/bin/env bash
# Check this package on a GPU in the time given: correctness, speed, a profile, and results.
#
#   launch/gpu_check.sh [OPTION …]
#
#   --minutes M    time for all steps (default: 13)
#   --out DIR      folder of results.jsonl, summary.md and log.txt (default: gpu_check)
#   --work DIR     folder of stores, runs, profiles and compiled programs, some 15 GB (default: DIR/work)
#   --parts abcd   parts to run (default: abcd)
#   --wheels DIR   install these wheels, without dependencies, into a folder in the work folder
#   --rehearse     run all steps at small sizes on the CPU (default time: 10 minutes)
#
# Part a is correctness, b speed, c a profile, d results. Each step is a process with its own time limit. Its result is
# written when it ends, so a run that is cut keeps what it has. A step that fails, is cut, or lacks its data is recorded,
# and the next one runs. The exit status is 1 if a step failed or was cut.
#
# Nothing is downloaded, and TensorFlow is not needed. PYTHON names the interpreter (default: python3). It must have jax with
# CUDA, flax, optax, orbax-checkpoint, h5py, matplotlib, scikit-learn, scipy, safetensors, tqdm and pytest, and for the
# comparison torch. On a machine without network, carry these wheels (here for Python 3.12 on x86-64, 2 MB):
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
#     --dest wheels ml_collections==1.1.0 soundfile==0.14.0 cffi==2.1.1 pycparser==3.0 soxr==1.1.0 \
#     google-crc32c==1.9.0 tensorboardX==2.6.5
#
# The data are those of the tests, in the folder ATGCN_SHARED (default: shared): golden/, bench/, data/weights/ and the small
# files of data/audioset/ (6 MB with golden/), for part d data/audioset/vggish_features.tar.gz (53 MB) and data/esc10/ (41 MB).
# Part d can run on its own, from a folder with less data:
#
#   ATGCN_SHARED=DIR launch/gpu_check.sh --wheels wheels --minutes 9 --out out --work work            # with esc10
#   ATGCN_SHARED=DIR launch/gpu_check.sh --wheels wheels --minutes 3 --out out --work work --parts d  # with the features

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
minutes='' out=gpu_check work='' parts=abcd wheels='' rehearse=''
parse "minutes out work parts wheels" "rehearse" "$@"
if [ ! "$minutes" ]; then if [ "$rehearse" ]; then minutes=10; else minutes=13; fi; fi
need_number --minutes "$minutes"
[[ $parts =~ ^[abcd]+$ ]] || fail "--parts: must be letters of abcd, got '$parts'"
[ ! "$wheels" ] || compgen -G "$wheels/*.whl" >/dev/null || fail "--wheels $wheels: has no wheels; see --help"
work=${work:-$out/work}
run mkdir -p "$out" "$work"
path=$root
if [ "$wheels" ]; then
  run "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check --upgrade \
    --target "$work/site" "$wheels"/*.whl
  path=$root:$(realpath --canonicalize-missing "$work/site")
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
run "$PYTHON" "$root/launch/gpu_check.py" --minutes "$minutes" --out "$out" --work "$work" --parts "$parts" \
  ${rehearse:+--rehearse}
