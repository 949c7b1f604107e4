"""TFDS builder `audioset_tfds`: log-mels and labels as a TFDS dataset.

The dataset is made from a finished clip store, or from sound files with Apache Beam. With Beam, the
sound files may be in a bucket and a cluster may process them. The stored bytes are the same. Use
`atgcn tfds`:

  atgcn tfds --store STORE.h5 --out DIR
  atgcn tfds --audio DIR --labels CSV --vocabulary CSV --out DIR [--beam-pipeline-options OPTIONS]

or the command of TFDS, with the fields of the builder's config as JSON:

  tfds build audioset_tfds --imports atgcn_jax.data.tfds.audioset_tfds --data_dir DIR \\
    --file_format array_record --config '{"name": "mine", "store": "STORE.h5"}'

The TFDS command itself imports Beam and mlcroissant, which the extra `beam` installs. A dataset has
the same content as a store of `atgcn prepare`. Files that cannot be read as sound are left out and
listed with the reason in `unreadable.csv` next to the shards.

In Python, `tfds.builder_from_directory(DIR/audioset_tfds/NAME/1.0.0)` reads a dataset without this
module. To build one, import `tensorflow_datasets`, then this module. The import registers
`audioset_tfds` with TFDS. The class is `audioset_tfds.AudiosetTfds`.

Beam requires an old version of protobuf, so install its extra in a separate environment:

  python -m venv beam && beam/bin/pip install 'atgcn_jax[beam]'

OPTIONS are Beam options without dashes, separated by commas. By default, Beam's direct runner works
on this machine. To use several processes:

  direct_running_mode=multi_processing,direct_num_workers=8

On Google Cloud Dataflow (also run `pip install 'apache-beam[gcp]'`; the audio and DIR are in a
bucket, the CSV files on this machine):

  runner=DataflowRunner,project=PROJECT,region=REGION,temp_location=gs://BUCKET/tmp,\\
  sdk_container_image=IMAGE,max_num_workers=100

On a Flink cluster whose workers run the same image (Beam starts a Java job server on this machine):

  runner=FlinkRunner,flink_master=HOST:8081,environment_type=DOCKER,environment_config=IMAGE

IMAGE is Beam's SDK image of the same Python and Beam version with `atgcn_jax[beam]` installed
(`FROM apache/beam_python3.11_sdk:VERSION`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.data.layouts.listing import Listing, arrays_of, only, used_only
from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.prepare import dtype_of
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.data.tfds.beam import collected, list_sounds, sound_examples
from atgcn_jax.data.tfds.description import (
  COLUMNS,
  NUMBERS,
  SPLIT,
  DatasetPlan,
  columns_and_metadata,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import read_vocabulary

CHUNK = 256  # number of clips that are copied at a time
KEYS = 2**128  # TFDS sorts by keys less than this value


def planned(source: Any) -> tuple[DatasetPlan, ClipStore | Listing]:
  """Return the plan of a dataset, and the store or the listing that it is made from.

  Args:
    source: Config of the builder.

  Raises:
    UserError: If the sources cannot be used.
  """
  if source is None or bool(source.store) == bool(source.audio and source.labels):
    raise UserError("audioset_tfds: set either store, or audio and labels, in the builder's config")
  if source.store:
    store = open_clips(source.store)
    numbers = tuple(name for name in NUMBERS if getattr(store, name) is not None)
    dtype = store.log_mel.dtype.name
    return DatasetPlan(arrays_of(store), numbers, store.vocabulary, store.frontend, dtype), store
  settings = FRONTENDS[source.frontend]
  dtype = dtype_of(settings, source.dtype or None)
  vocabulary = read_vocabulary(source.vocabulary) if source.vocabulary else None
  listing = list_sounds(source.audio, source.labels, settings, vocabulary)
  if source.used_labels_only:
    listing = used_only(listing)
  if not len(listing.label_indices):
    raise UserError(f"{source.labels}: no file has a label; give a list with labels")
  return DatasetPlan(
    arrays_of(listing), tuple(NUMBERS), listing.vocabulary, settings, dtype
  ), listing


@functools.cache
def builder_class() -> Any:
  """Return the builder class. The first call registers it with TFDS as `audioset_tfds`."""
  import tensorflow_datasets as tfds

  @dataclasses.dataclass(eq=False, kw_only=True)
  class Source(tfds.core.BuilderConfig):
    """Source of the clips: a `store`, or `audio` and `labels` as for `atgcn prepare`."""

    store: str = ""
    audio: str = ""
    labels: str = ""
    vocabulary: str = ""
    used_labels_only: bool = False
    frontend: str = "talnet"
    dtype: str = ""
    strict: bool = False

  class AudiosetTfds(tfds.core.GeneratorBasedBuilder):
    """Log-mels and labels of sound clips, in the order of their store or label list."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Log-mels, labels, ids, folds, peaks, lengths and rates."}  # noqa: RUF012
    # Nothing is downloaded. Without this, TFDS looks for checksums with an optional package.
    code_path = None
    # TFDS accepts configs as JSON only if the builder has at least one config.
    BUILDER_CONFIGS = [Source(name="unnamed")]  # noqa: RUF012

    @functools.cached_property
    def plan(self) -> tuple[DatasetPlan, ClipStore | Listing]:
      return planned(self.builder_config)

    def _info(self):
      plan, _ = self.plan
      shape = (plan.frontend.frames, plan.frontend.n_mels)
      labels = tfds.features.ClassLabel(names=list(plan.vocabulary.ids))
      return tfds.core.DatasetInfo(
        builder=self,
        description=(
          f"Clips of the front end {plan.frontend.name} and their labels. uint8 values 0 to 255 "
          f"span the {plan.frontend.uint8_range:g} below peak_db (in dB for log-mels)."
        ),
        features=tfds.features.FeaturesDict(
          {
            "log_mel": tfds.features.Tensor(
              shape=shape, dtype=np.dtype(plan.dtype), encoding=tfds.features.Encoding.BYTES
            ),
            "labels": tfds.features.Sequence(labels),
            "clip_id": tfds.features.Text(),
            "fold": tfds.features.Text(),
          }
          | {name: tfds.features.Scalar(NUMBERS[name]) for name in plan.numbers}
        ),
        metadata=tfds.core.MetadataDict(),
        disable_shuffling=True,  # keeps the order, so that clip numbers equal those of a store
      )

    def _split_generators(self, dl_manager):
      return {SPLIT: self._generate_examples()}

    def _generate_examples(self):
      plan, source = self.plan
      if isinstance(source, ClipStore):
        return examples_of(plan, source)
      return sound_examples(self.data_path, plan, source, self.builder_config.strict)

    def _download_and_prepare(self, dl_manager, download_config):
      super()._download_and_prepare(dl_manager, download_config)
      plan, _ = self.plan
      unreadable = [name for name, _ in collected(self.data_path)]
      arrays = only(plan.arrays, ~np.isin(plan.arrays["clip_ids"].astype(str), unreadable))
      split = self.info.splits[SPLIT]
      content, metadata = columns_and_metadata(
        dataclasses.replace(plan, arrays=arrays),
        list(zip(map(os.fspath, split.filepaths), split.shard_lengths)),
        self.info.file_format.value,
      )
      (self.data_path / COLUMNS).write_bytes(content)
      self.info.metadata.update(metadata)

  return AudiosetTfds


def __getattr__(name: str) -> Any:
  if name == "AudiosetTfds":
    return builder_class()
  raise AttributeError(f"module {__name__} has no attribute {name}")


def examples_of(plan: DatasetPlan, store: ClipStore) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yield (key, example) for each clip of a store.

  The keys ascend and cover the full range of TFDS's sort keys. This spreads the clips over the
  sort buckets of TFDS, each of which must fit in memory.
  """
  rows = plan.rows()
  for start in range(0, len(plan), CHUNK):
    clips = np.arange(start, min(start + CHUNK, len(plan)))
    for clip, log_mel in zip(clips.tolist(), store.log_mels(clips)):
      numbers = {name: getattr(store, name)[clip] for name in plan.numbers}
      yield KEYS // len(plan) * clip, {**next(rows), **numbers, "log_mel": log_mel}


if "tensorflow_datasets" in sys.modules:  # `tfds build --imports` then looks the builder up by name
  builder_class()
