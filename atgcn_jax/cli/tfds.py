"""The verb that makes TFDS datasets."""

from __future__ import annotations

import argparse
import sys

from atgcn_jax.cli.arguments import AddVerb, add_strict
from atgcn_jax.errors import UserError

TFDS_HELP = """
Training reads what is written by --config.data.store=OUT/audioset_tfds/NAME/1.0.0.

Apache Beam wants an environment of its own:
  python -m venv beam && beam/bin/pip install 'atgcn_jax[beam]'
--beam-pipeline-options, such as
  direct_running_mode=multi_processing,direct_num_workers=8             this machine's cores
  runner=DataflowRunner,project=…,region=…,temp_location=gs://…,sdk_container_image=…
  runner=FlinkRunner,flink_master=HOST:8081,environment_type=DOCKER,environment_config=IMAGE
"""


def add_tfds_verb(verb: AddVerb) -> None:
  """Give the parser this verb."""
  tfds = verb(
    "tfds", _tfds, "a clip store, or sound files by Apache Beam, to a TFDS dataset", TFDS_HELP
  )
  tfds.formatter_class = argparse.RawDescriptionHelpFormatter
  taken = tfds.add_mutually_exclusive_group(required=True)
  taken.add_argument("--store", help="clip store of `atgcn prepare`")
  taken.add_argument("--audio", help="folder of sound files, also in a bucket (gs://…)")
  tfds.add_argument("--labels", help="with --audio, CSV: filename,fold,positive_labels")
  tfds.add_argument("--vocabulary", help="CSV: index,mid,display_name (default: the list's ids)")
  tfds.add_argument("--used-labels-only", action="store_true", help="drop labels no file has")
  tfds.add_argument("--frontend", choices=("talnet", "panns", "vggish"), help="default: talnet")
  tfds.add_argument("--dtype", choices=("uint8", "float16"), help="default: uint8 for dB")
  add_strict(tfds)
  tfds.add_argument(
    "--beam-pipeline-options", "--beam_pipeline_options", help="of Beam, between commas"
  )
  tfds.add_argument("--out", required=True, help="folder for TFDS datasets, also in a bucket")
  tfds.add_argument(
    "--file-format",
    "--file_format",
    default="array_record",
    choices=("array_record", "tfrecord"),
    help="array_record (default): any clip at hand; tfrecord: read shard by shard, from a bucket",
  )
  tfds.add_argument("--shards", type=int, help="files (default: of 64 MiB to 1 GiB)")


def _tfds(options) -> int:
  from atgcn_jax.data.open_clips import open_clips
  from atgcn_jax.data.store.findings_table import summary
  from atgcn_jax.data.tfds.write import write_tfds

  of_sound = {
    "labels": options.labels,
    "vocabulary": options.vocabulary,
    "used_labels_only": options.used_labels_only,
    "frontend": options.frontend,
    "dtype": options.dtype,
    "strict": options.strict,
  }
  of_sound = {name: value for name, value in of_sound.items() if value}
  if options.store and (of_sound or options.beam_pipeline_options):
    first = next(iter(of_sound), "beam_pipeline_options").replace("_", "-")
    raise UserError(f"--{first}: is for --audio; a store has its own")
  if options.audio and not options.labels:
    raise UserError("--labels: give the label list of the sound files")
  if options.shards is not None and options.shards < 1:
    raise UserError(f"--shards {options.shards}: take at least one file")
  source = {"store": options.store} if options.store else {"audio": options.audio} | of_sound
  written = write_tfds(
    options.out,
    file_format=options.file_format,
    shards=options.shards,
    beam_options=options.beam_pipeline_options or "",
    **source,
  )
  print(f"{written.path}: {written.clips} clips")
  if options.audio:
    for line in summary(open_clips(written.path)):
      print(f"atgcn tfds: {line}", file=sys.stderr)
  for name, reason in written.unreadable:
    print(f"atgcn tfds: left out {name} ({reason})", file=sys.stderr)
  return 1 if written.unreadable else 0
