"""The verb that writes TFDS datasets: tfds."""

from __future__ import annotations

import argparse
import sys

from atgcn_jax.cli.arguments import AddVerb, add_strict
from atgcn_jax.errors import UserError

TFDS_HELP = """
To train on the dataset, pass --config.data.store=OUT/audioset_tfds/NAME/1.0.0 to `atgcn train`.

--audio needs Apache Beam, which must be installed in an environment of its own:
  python -m venv beam && beam/bin/pip install '.[beam]'
Examples of --beam-pipeline-options:
  direct_running_mode=multi_processing,direct_num_workers=8             8 processes on this machine
  runner=DataflowRunner,project=…,region=…,temp_location=gs://…,sdk_container_image=…
  runner=FlinkRunner,flink_master=HOST:8081,environment_type=DOCKER,environment_config=IMAGE
"""


def add_tfds_verb(verb: AddVerb) -> None:
  """Add the verb to the parser."""
  tfds = verb(
    "tfds",
    _tfds,
    "write a TFDS dataset from a clip store, or from sound files with Apache Beam",
    TFDS_HELP,
  )
  tfds.formatter_class = argparse.RawDescriptionHelpFormatter
  source = tfds.add_mutually_exclusive_group(required=True)
  source.add_argument("--store", help="clip store written by `atgcn prepare`")
  source.add_argument("--audio", metavar="DIR", help="folder of sound files, local or gs://…")
  tfds.add_argument(
    "--labels",
    metavar="FILE",
    help="CSV with columns filename, fold, positive_labels; required with --audio",
  )
  tfds.add_argument(
    "--vocabulary",
    metavar="FILE",
    help="with --audio, CSV with columns index, mid, display_name, or audioset (default: the label "
    "ids in --labels)",
  )
  tfds.add_argument(
    "--used-labels-only",
    action="store_true",
    help="with --audio, drop labels that no file has",
  )
  tfds.add_argument(
    "--frontend",
    choices=("talnet", "panns", "vggish", "efficientat"),
    help="with --audio, front end that computes the log-mels (default: talnet)",
  )
  tfds.add_argument(
    "--dtype",
    choices=("uint8", "float16"),
    help="with --audio, type of the stored log-mels (default: uint8 if the front end gives dB, "
    "otherwise float16)",
  )
  add_strict(tfds)
  tfds.add_argument(
    "--beam-pipeline-options",
    "--beam_pipeline_options",
    metavar="OPTIONS",
    help="with --audio, comma-separated options of Beam, without leading dashes (default: Beam's "
    "direct runner)",
  )
  tfds.add_argument(
    "--out", metavar="DIR", required=True, help="folder of TFDS datasets, local or gs://…"
  )
  tfds.add_argument(
    "--file-format",
    "--file_format",
    default="array_record",
    choices=("array_record", "tfrecord"),
    help="array_record allows random access on a local disk; tfrecord is read shard by shard, "
    "also from a bucket (default: array_record)",
  )
  tfds.add_argument(
    "--shards",
    metavar="N",
    type=int,
    help="number of files (default: chosen so that each has 64 MiB to 1 GiB)",
  )


def _tfds(options) -> int:
  from atgcn_jax.data.open_clips import open_clips
  from atgcn_jax.data.store.findings_table import summary
  from atgcn_jax.data.tfds.write import write_tfds

  audio_options = {
    "labels": options.labels,
    "vocabulary": options.vocabulary,
    "used_labels_only": options.used_labels_only,
    "frontend": options.frontend,
    "dtype": options.dtype,
    "strict": options.strict,
  }
  audio_options = {name: value for name, value in audio_options.items() if value}
  if options.store and (audio_options or options.beam_pipeline_options):
    first = next(iter(audio_options), "beam_pipeline_options").replace("_", "-")
    raise UserError(f"--{first}: only valid with --audio; leave it out with --store")
  if options.audio and not options.labels:
    raise UserError("--labels: required with --audio; name the label list of the sound files")
  if options.shards is not None and options.shards < 1:
    raise UserError(f"--shards {options.shards}: must be at least 1")
  source = {"store": options.store} if options.store else {"audio": options.audio} | audio_options
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
