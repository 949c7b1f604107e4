"""The tagger that the options of a verb select, and the files that it could not use."""

from __future__ import annotations

import sys

from atgcn_jax.errors import UserError
from atgcn_jax.pretrained.catalogue import DEFAULT

FILES_HELP = "sound file of any length, sample rate and channel count, or a folder of such files"


def tagger_of(options):
  """Return the tagger of the run or of the pretrained model that the options select.

  Raises:
    UserError: An option is not for what was selected, or this cannot be loaded.
  """
  from atgcn_jax.serving.tagger import Tagger

  if options.workdir is not None:
    if options.offline or options.mirror:
      option = "--offline" if options.offline else "--mirror"
      raise UserError(f"{option}: only valid for pretrained models; leave it out with --workdir")
    return Tagger.restore(options.workdir, options.step, options.strict)
  if options.step != "latest":
    raise UserError(f"--step {options.step}: a pretrained model has one step; leave this out")
  name = options.model
  if name is None:
    name = DEFAULT
    print(
      f"atgcn {options.verb}: pretrained model {name}; give another --model of `atgcn models`, or "
      "the --workdir of a run",
      file=sys.stderr,
    )
  return Tagger.load(name, offline=options.offline, mirror=options.mirror, strict=options.strict)


def left_out(verb: str, bad: list[Exception]) -> int:
  """Print why some files could not be used, and return the exit status."""
  for error in bad:
    print(f"atgcn {verb}: {error}", file=sys.stderr)
  return 1 if bad else 0
