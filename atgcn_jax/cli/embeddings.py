"""Verbs that use the embeddings of sounds: embed, similar, suggest."""

from __future__ import annotations

import functools

from atgcn_jax.cli.arguments import AddVerb, add_strict, add_tagger
from atgcn_jax.cli.outputs import name_outputs
from atgcn_jax.cli.taggers import FILES_HELP, left_out, tagger_of
from atgcn_jax.errors import UserError


def add_embedding_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  _add_embed(verb)
  _add_similar(verb)
  _add_suggest(verb)


def _add_embed(verb: AddVerb) -> None:
  embed = verb(
    "embed", _embed, "write the embeddings of sound files, or of their windows, to an .npz file"
  )
  add_tagger(embed)
  embed.add_argument(
    "--out",
    metavar="FILE",
    required=True,
    help="output .npz with the arrays embedding, float32[N, C], file, str[N], checkpoint, and with "
    "--windows start_s and end_s, float64[N]",
  )
  embed.add_argument(
    "--windows",
    action="store_true",
    help="write one embedding per window instead of one per file",
  )
  embed.add_argument(
    "--hop-seconds",
    metavar="SECONDS",
    type=float,
    help="with --windows, distance between windows (default: 1)",
  )
  add_strict(embed)
  embed.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)


def _add_similar(verb: AddVerb) -> None:
  similar = verb(
    "similar",
    _similar,
    "find the embedded files, or the clips of a store, that are nearest to a clip",
    "The similarity is the cosine of two embeddings. The file of the clip itself is left out. A "
    "clip with several windows stands for their mean.",
  )
  add_tagger(similar)
  among = similar.add_mutually_exclusive_group(required=True)
  among.add_argument("--embeddings", metavar="FILE", help=".npz file of `atgcn embed`")
  among.add_argument(
    "--store",
    metavar="STORE",
    help="clip store or TFDS dataset, whose clips the --workdir or --model embeds; needs no sound "
    "files",
  )
  similar.add_argument(
    "--top", metavar="N", type=int, default=10, help="number of neighbours (default: 10)"
  )
  similar.add_argument("--csv", metavar="FILE", help="write a CSV file instead of printing a table")
  similar.add_argument("--json", action="store_true", help="print one JSON object per clip")
  similar.add_argument(
    "clips",
    nargs="+",
    metavar="CLIP",
    help="embedded file, by its path or name; FILE@SECONDS for one of its windows; a clip of the "
    "store, by its id; or another sound file, which needs the --workdir or --model of the "
    "embeddings",
  )


def _add_suggest(verb: AddVerb) -> None:
  suggest = verb(
    "suggest",
    _suggest,
    "list the sound files that are most worth labelling next",
    "Active learning: a file is suggested if its scores are uncertain (the entropy, summed over "
    "the labels) and its embedding is far from those of the files above it in the list.",
  )
  add_tagger(suggest)
  suggest.add_argument(
    "--top", metavar="N", type=int, default=20, help="number of files (default: 20)"
  )
  suggest.add_argument(
    "--labels",
    metavar="FILE",
    help="leave out the files that this table of labels names, in the form that `atgcn prepare` "
    "takes",
  )
  suggest.add_argument(
    "--csv",
    metavar="FILE",
    help="write a CSV file instead of printing a table; after an interruption the same command "
    "continues",
  )
  suggest.add_argument("--json", action="store_true", help="print one JSON object per file")
  add_strict(suggest)
  suggest.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)


def _embed(options) -> int:
  if options.hop_seconds is not None and not options.windows:
    raise UserError("--hop-seconds: only valid with --windows; add it or leave this out")
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.embed_files import embed_files

  keep_compiled_programs()
  files, bad = embed_files(
    tagger_of(options),
    options.files,
    options.out,
    windows=options.windows,
    hop_seconds=options.hop_seconds,
  )
  print(f"{options.out}: {files} files")
  return left_out(options.verb, bad)


def _similar(options) -> None:
  is_named = options.workdir is not None or options.model is not None
  if options.top < 1:
    raise UserError(f"--top {options.top}: must be at least 1")
  if options.store is not None and not is_named:
    raise UserError(
      f"--store {options.store}: needs the --workdir or --model that embeds its clips"
    )
  if not is_named:
    for option, given in (
      ("--step", options.step != "latest"),
      ("--offline", options.offline),
      ("--mirror", options.mirror is not None),
    ):
      if given:
        raise UserError(
          f"{option}: only valid with --workdir or --model; add one or leave this out"
        )
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.embed_files import embed_store, read_embedded
  from atgcn_jax.serving.similar import similar_clips

  keep_compiled_programs()
  options.strict = False
  tagger = functools.cache(lambda: tagger_of(options))
  if options.store is not None:
    embedded = embed_store(tagger(), options.store)
  else:
    embedded = read_embedded(options.embeddings)
  similar_clips(
    embedded,
    options.store or options.embeddings,
    options.clips,
    tagger if is_named else None,
    top=options.top,
    csv_file=options.csv,
    as_json=options.json,
  )
  name_outputs(options)


def _suggest(options) -> int:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.suggestions import suggest_files

  keep_compiled_programs()
  bad = suggest_files(
    tagger_of(options),
    options.files,
    top=options.top,
    labels=options.labels,
    csv_file=options.csv,
    as_json=options.json,
  )
  name_outputs(options)
  return left_out(options.verb, bad)
