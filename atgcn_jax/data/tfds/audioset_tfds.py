"""The TFDS builder `audioset_tfds`: log-mels and labels as a TFDS dataset.

It is made from a finished clip store, or with Apache Beam straight from sound files, which may then
lie in a bucket and be worked on by a cluster; the stored bytes are the same. `atgcn tfds` does it:

  atgcn tfds --store STORE.h5 --out DIR
  atgcn tfds --audio DIR --labels CSV --vocabulary CSV --out DIR [--beam-pipeline-options OPTIONS]

and so does TFDS's own command, with the fields of the builder's config as JSON:

  tfds build audioset_tfds --imports atgcn_jax.data.tfds.audioset_tfds --data_dir DIR \\
    --file_format array_record --config '{"name": "mine", "store": "STORE.h5"}'

(that command itself imports Beam and mlcroissant, which the extra `beam` brings). What is in a
dataset is what `atgcn prepare` puts into a store. A file that cannot be read as sound is left out,
and listed with the reason in `unreadable.csv` beside the shards.

In Python, `tfds.builder_from_directory(DIR/audioset_tfds/NAME/1.0.0)` reads what was made, without
this module. To make one, `import tensorflow_datasets`, then this module: TFDS knows
`audioset_tfds` from then on, and the class is `audioset_tfds.AudiosetTfds`.

Beam holds protobuf back, so it is an extra for an environment of its own:

  python -m venv beam && beam/bin/pip install 'atgcn_jax[beam]'

OPTIONS are Beam's, without dashes and between commas. Without any, Beam's direct runner works on
this machine, in several processes with

  direct_running_mode=multi_processing,direct_num_workers=8

On Google Cloud Dataflow (`pip install 'apache-beam[gcp]'` too; audio and DIR in a bucket, the CSV
files here):

  runner=DataflowRunner,project=PROJECT,region=REGION,temp_location=gs://BUCKET/tmp,\\
  sdk_container_image=IMAGE,max_num_workers=100

and on a Flink cluster, whose workers run the same image (Beam starts a job server in Java here):

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

CHUNK = 256  # clips copied at a time
KEYS = 2**128  # TFDS sorts by keys below it


def planned(source: Any) -> tuple[DatasetPlan, ClipStore | Listing]:
  """What a dataset of these sources is to hold, and the store or the listing it is made from.

  Raises:
    UserError: for sources that cannot be used.
  """
  if source is None or bool(source.store) == bool(source.audio and source.labels):
    raise UserError("audioset_tfds: name a store, or audio and labels, in the builder's config")
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
    raise UserError(f"{source.labels}: no file has a label; give files that have some")
  return DatasetPlan(
    arrays_of(listing), tuple(NUMBERS), listing.vocabulary, settings, dtype
  ), listing


@functools.cache
def builder_class() -> Any:
  """The builder, which TFDS knows as `audioset_tfds` from the first call on."""
  import tensorflow_datasets as tfds

  @dataclasses.dataclass(eq=False, kw_only=True)
  class Source(tfds.core.BuilderConfig):
    """Where clips come from: a `store`, or `audio` and `labels` as `atgcn prepare` takes them."""

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
    # Nothing is downloaded; TFDS would look for checksums with a package that it does not require.
    code_path = None
    # TFDS takes configs of JSON only where there is one to begin with.
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
          "Log-mels of sound clips and their labels. uint8 stands for the 80 dB below peak_db."
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
        disable_shuffling=True,  # the order of the list, so that clip numbers are those of a store
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
  """(key, example) of the clips of a store.

  The keys ascend over all that TFDS sorts by, which spreads them over its buckets: it holds a
  bucket in memory.
  """
  rows = plan.rows()
  for start in range(0, len(plan), CHUNK):
    clips = np.arange(start, min(start + CHUNK, len(plan)))
    for clip, log_mel in zip(clips.tolist(), store.log_mels(clips)):
      numbers = {name: getattr(store, name)[clip] for name in plan.numbers}
      yield KEYS // len(plan) * clip, {**next(rows), **numbers, "log_mel": log_mel}


if "tensorflow_datasets" in sys.modules:  # as in `tfds build --imports`, which then asks for a name
  builder_class()
