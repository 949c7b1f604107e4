"""Writer of TFDS datasets of clips, with the builder `audioset_tfds`."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pathlib
import re
import sys
import tempfile
from typing import Any, NamedTuple

from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.tfds.audioset_tfds import builder_class
from atgcn_jax.data.tfds.beam import UNREADABLE
from atgcn_jax.data.tfds.description import SPLIT
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runtime.buckets import check_utf8, check_writable, in_bucket
from atgcn_jax.runtime.tensorflow import import_tensorflow

FORMATS = ("array_record", "tfrecord")


class Written(NamedTuple):
  """Written dataset: folder, number of clips, and (file name, reason) for each left-out file."""

  path: str
  clips: int
  unreadable: list[tuple[str, str]]


def write_tfds(
  out: str,
  *,
  file_format: str = FORMATS[0],
  shards: int | None = None,
  beam_options: str = "",
  **source: Any,
) -> Written:
  """Write the dataset `out`/audioset_tfds/NAME/1.0.0. The folder appears when it is complete.

  NAME is the name of the store or label list. An existing dataset of the same store and file format
  is left unchanged.

  Args:
    out: Folder of the datasets, also in a bucket.
    file_format: One of FORMATS.
    shards: Number of files. By default, each file has 64 MiB to 1 GiB.
    beam_options: Options of the Beam pipeline that reads sound files, without dashes, separated by
      commas.
    **source: Fields of the builder's config except its name.

  Raises:
    UserError: If the sources cannot be used, `out` cannot be written or contains another dataset
      with that name, or Beam is needed and not installed.
    WorkFailed: If the pipeline fails. No dataset is written then.
  """
  check_utf8(out)
  if in_bucket(out):
    if file_format == "array_record":
      raise UserError(
        f"--out {out}: array_record files must be on a disk or a mounted bucket; use "
        "--file-format tfrecord"
      )
    check_writable(out)
  options = None if source.get("store") else _pipeline_options(beam_options)
  tf = import_tensorflow()
  import tensorflow_datasets as tfds
  from etils import epath

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  make = builder_class()
  name = re.sub(r"[^\w.-]+", "_", pathlib.Path(source.get("store") or source["labels"]).stem)
  folder = epath.Path(out) / make.name / name / str(make.VERSION)
  config = tfds.download.DownloadConfig(
    num_shards=shards, beam_options=options, try_download_gcs=False
  )
  try:
    if folder.exists():
      _check_same(folder, source, file_format)
    else:
      builder = make(data_dir=out, config=make.builder_config_cls(name=name, **source))
      if shards and shards > len(builder.plan[0]):
        raise UserError(f"--shards {shards}: more than the number of clips; use fewer")
      # TFDS prints messages about downloads and creates a folder for them.
      with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as nothing:
        builder.download_and_prepare(
          file_format=file_format, download_config=config, download_dir=nothing
        )
    unreadable = []
    if (folder / UNREADABLE).exists():
      rows = csv.reader(io.StringIO((folder / UNREADABLE).read_text()))
      unreadable = [(name, reason) for name, reason in list(rows)[1:]]
    clips = tfds.builder_from_directory(folder).info.splits[SPLIT].num_examples
  except (OSError, tf.errors.OpError) as error:
    reason = " ".join(str(getattr(error, "message", error)).split())
    raise UserError(f"--out {out}: cannot be written ({reason}); choose another") from error
  except (ValueError, RuntimeError) as error:
    if options is None:
      raise
    if "This should be >0" in str(error):
      raise UserError(
        f"{source['audio']}: none of the files in {source['labels']} can be read as sound; "
        "give the folder of sound files to --audio"
      ) from error
    reason = str(error).strip().splitlines()[-1][:500]
    raise WorkFailed(f"the Beam pipeline failed ({reason})") from error
  return Written(os.fspath(folder), clips, unreadable)


def _pipeline_options(text: str) -> Any:
  """Parse Beam options. The default runner is the direct runner on this machine.

  Args:
    text: Options without dashes, separated by commas.

  Raises:
    UserError: If Beam is not installed or does not have an option.
  """
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners.runner import create_runner
  except ImportError:
    raise UserError(
      "--audio: needs Apache Beam; install it in a separate environment (pip install "
      "'atgcn_jax[beam]'), or create a clip store with `atgcn prepare` and give it to --store"
    ) from None
  flags = ["--runner=DirectRunner", *(f"--{option}" for option in text.split(",") if option)]
  stderr = io.StringIO()
  try:
    with contextlib.redirect_stderr(stderr):
      options = PipelineOptions(flags)
      runner = create_runner(options.get_all_options()["runner"])
      faults = " ".join(PipelineOptionsValidator(options, runner).validate())
  except (ValueError, ImportError) as error:
    faults = str(error)
  except SystemExit:  # raised by the option parser
    faults = stderr.getvalue().strip().splitlines()[-1]
  if faults:
    raise UserError(f"--beam-pipeline-options {text}: {' '.join(faults.split())}")
  return options


def _check_same(folder: Any, source: dict[str, Any], file_format: str) -> None:
  """Check that an existing dataset has the same store and file format.

  Raises:
    UserError: If it does not.
  """
  import tensorflow_datasets as tfds

  same = False
  if source.get("store") and (folder / "metadata.json").exists():
    try:
      found = json.loads((folder / "metadata.json").read_text())
      written = tfds.builder_from_directory(folder).info.file_format.value
    except ValueError:  # damaged
      found, written = None, ""
    fingerprint = found.get("fingerprint") if isinstance(found, dict) else None
    same = written == file_format and fingerprint == open_clips(source["store"]).fingerprint
  if not same:
    raise UserError(f"{folder}: already exists; remove it or choose another --out")
