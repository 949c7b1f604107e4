"""The `atgcn` command: arguments in, one call a verb."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from atgcn_jax.buckets import check_reachable, in_bucket
from atgcn_jax.errors import UserError, WorkFailed

BENCHES = {
  "train": "a training step",
  "infer": "a batch of scores",
  "layers": "each convolution, against the matrix product",
  "compile": "the first step of a new process, cold and with the compiled program kept",
  "memory": "the most memory a training process takes",
  "metrics": "mAP and mAUC of 20,371 clips and 527 labels",
  "frontend": "log-mels of 10 s clips",
  "graph": "label graphs of any size",
  "counts": "counts of 2,041,789 clips",
  "data": "clips from a store to the device, and the usual loader's in turn",
  "feed": "a training step with one constant batch and fed from a store",
  "compare": "ours and PyTorch's, scikit-learn's, librosa's, in turn",
}
TFDS_HELP = """
Training reads what is written by --config.data.store=OUT/audioset_tfds/NAME/1.0.0.

Apache Beam wants an environment of its own:
  python -m venv beam && beam/bin/pip install 'atgcn_jax[beam]'
--beam-pipeline-options, such as
  direct_running_mode=multi_processing,direct_num_workers=8             this machine's cores
  runner=DataflowRunner,project=…,region=…,temp_location=gs://…,sdk_container_image=…
  runner=FlinkRunner,flink_master=HOST:8081,environment_type=DOCKER,environment_config=IMAGE
"""
EXPORT_HELP = """
The folder has a config.json: the rate of the sound that is taken, and the labels in order.
  stablehlo    model.stablehlo, for jax.export.deserialize; on CPUs, NVIDIA GPUs and TPUs
  savedmodel   a SavedModel of TensorFlow
  onnx         model.onnx, for onnxruntime; launch/onnx.sh installs the converter
  huggingface  model.safetensors and a model card; Tagger.restore and `atgcn tag` read it back
"""
STOPPING = (signal.SIGINT, signal.SIGTERM)
PLAN_HELP = """
Needs the package libtpu (extra tpu), but no TPU. The step is compiled for the topology, which takes
minutes; times are a roofline's, not measured. Where the step does not fit, the exit status is 1 and
the largest batch that does is named. Further arguments --config.KEY=VALUE override the config.
"""
FILES_HELP = "sound of any length, rate and channel count, or a folder of such files"
CONFIG_HELP = "further arguments --config.KEY=VALUE override a key of the config"


def main(arguments: list[str] | None = None) -> int:
  """Run one verb; returns the exit status.

  0 after success, 1 if the work failed, 2 on bad arguments or input (one line on stderr), 130 and
  143 after Ctrl-C and SIGTERM.
  """
  # What the libraries have to say is not for users.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised too
  # Orbax stops reading a damaged checkpoint at its first fault, which is told; what it had begun to
  # read besides fails later, where nobody waits for it.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  warnings.showwarning = _show_warning
  signal.signal(signal.SIGTERM, _on_sigterm)
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  overrides = [argument for argument in rest if argument.startswith("--config.")]
  if unknown := [argument for argument in rest if argument not in overrides]:
    parser.error(f"unknown argument {unknown[0]}; see `atgcn {options.verb} --help`")
  if overrides and options.verb not in ("train", "finetune", "import-torch", "reproduce", "plan"):
    parser.error(f"unknown argument {overrides[0]}; `atgcn {options.verb}` takes no config")
  options.overrides = overrides
  try:
    return options.run(options) or 0
  except UserError as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 2
  except WorkFailed as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(f"atgcn {options.verb}: stopped", file=sys.stderr)
    return 128 + signal.SIGINT
  except Exception:
    which = _which_process()
    if reason := _lost_bucket(getattr(options, "workdir", "")):
      print(f"atgcn {options.verb}{which}: {reason}", file=sys.stderr, flush=True)
    elif which:
      traceback.print_exc()
      print(
        f"atgcn {options.verb}{which}: ended; whoever failed first has said why, or is gone; the "
        "same command goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
      )
    else:
      raise
    if which:  # leaving in order would wait for the others, who may be the reason
      os._exit(1)
    return 1


def _which_process() -> str:
  """Of many, for messages."""
  if "jax" not in sys.modules:
    return ""
  from atgcn_jax.runs.processes import which

  return which()


def _lost_bucket(workdir: str) -> str:
  """Why a bucket that the work began in cannot be reached any more; empty if it is none or can."""
  if in_bucket(workdir):
    try:
      check_reachable(workdir)
    except UserError as error:
      return str(error)
  return ""


class _Parser(argparse.ArgumentParser):
  """Usage errors in one line."""

  def error(self, message: str) -> NoReturn:
    print(f"{self.prog}: {message}", file=sys.stderr)
    raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="atgcn", description="Audio tagging with label graphs, in JAX.", allow_abbrev=False
  )
  verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

  def verb(name, run, summary, epilog=None):
    added = verbs.add_parser(
      name, help=summary, description=summary, epilog=epilog, allow_abbrev=False
    )
    added.set_defaults(run=run)
    return added

  train = verb("train", _train, "train a run, or go on with the one in a folder", CONFIG_HELP)
  train.add_argument("--config", required=True, help="Python file with get_config()")
  _add_training(train)

  finetune = verb(
    "finetune",
    _finetune,
    "train a run on other clips and labels from here on",
    "The config is that of RUN, for 1000 steps at a lower rate; " + CONFIG_HELP + ". The same "
    "command goes on after an interruption.",
  )
  finetune.add_argument("--from", dest="source", metavar="RUN", required=True, help="the run")
  finetune.add_argument("--step", default="latest", help="of RUN: a step, latest (default) or best")
  finetune.add_argument("--store", required=True, help="clip store or TFDS dataset to train on")
  finetune.add_argument(
    "--graph",
    metavar="FILE",
    help=".npz of counts or of `atgcn graph` (default: the clips' labels)",
  )
  finetune.add_argument("--frozen", action="store_true", help="train the head alone")
  _add_training(finetune)

  evaluate = verb("evaluate", _evaluate, "mAP, mAUC and d' of a run, and its report.html")
  _add_run(evaluate)
  _add_clips(evaluate)
  evaluate.add_argument("--json", action="store_true", help="print one JSON object, last")
  _add_processes(evaluate)

  compare = verb(
    "compare",
    _compare,
    "two runs on the same clips: AP by label, the difference and its interval, the label graph",
    "Differences are B minus A. Without --store each run scores the store it was trained on: the "
    "clips must be the same, front ends and vocabularies may differ. Labels that only one knows "
    "are left out. compare.csv, compare.md and compare.png are written.",
  )
  compare.add_argument("run_a", metavar="RUN_A", help="folder of a run")
  compare.add_argument("run_b", metavar="RUN_B", help="folder of the run that is set against it")
  compare.add_argument("--step", default="latest", help="of both: a step, latest (default) or best")
  _add_clips(compare)
  compare.add_argument("--out", help="folder of the files to write (default: RUN_B/compare)")
  compare.add_argument("--json", action="store_true", help="print one JSON object, last")

  tag = verb("tag", _tag, "name what sounds in sound files, and when")
  _add_run(tag)
  shown = tag.add_mutually_exclusive_group()
  shown.add_argument("--top", type=int, default=5, help="labels a file, or a row (default 5)")
  shown.add_argument(
    "--above-threshold", action="store_true", help="all labels above those of `atgcn thresholds`"
  )
  tag.add_argument(
    "--timeline", action="store_true", help="frame by frame; of systems without frames by windows"
  )
  tag.add_argument(
    "--hop-seconds", type=float, help="from window to window (default 1), also in place of frames"
  )
  tag.add_argument("--csv", help="write this file in place of a table")
  tag.add_argument("--json", action="store_true", help="print one JSON object a file")
  tag.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)

  embed = verb("embed", _embed, "sound files to vectors, one a file, in one .npz")
  _add_run(embed)
  embed.add_argument(
    "--out", required=True, help="the .npz to write: embedding float32[N, C], file str[N]"
  )
  embed.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)

  thresholds = verb(
    "thresholds", _thresholds, "tune the score from which each label is told, on validation clips"
  )
  _add_run(thresholds)
  thresholds.add_argument(
    "--store", help="clip store or TFDS dataset; by default the one trained on"
  )
  thresholds.add_argument("--json", action="store_true", help="print one JSON object, last")

  prepare = verb(
    "prepare",
    _prepare,
    "sound files and their labels to one clip store",
    "After any stop the same command goes on where it was. Files that cannot be read are left out "
    "and listed in OUT.unreadable.csv; the exit status is then 1.",
  )
  prepare.add_argument(
    "--layout",
    default="list",
    choices=("list", "segments", "esc50", "sonyc", "panns", "talnet"),
    help="list (default): a folder and a CSV; segments: clips named by YouTube id and AudioSet's "
    "lists; esc50: its folder as downloaded; sonyc: SONYC-UST's recordings and annotations.csv; "
    "panns: packed .h5 files; talnet: .mat files of log-mels",
  )
  prepare.add_argument(
    "--audio", required=True, nargs="+", help="folder of sound files; of panns, talnet also files"
  )
  prepare.add_argument(
    "--labels",
    nargs="+",
    help="list: CSV filename,fold,positive_labels; segments: lists, .csv or .csv.gz; "
    "sonyc: annotations.csv",
  )
  prepare.add_argument(
    "--vocabulary",
    help="CSV: index,mid,display_name (default of list and segments: the ids that are met)",
  )
  prepare.add_argument("--ontology", help="esc50: AudioSet's ontology.json")
  prepare.add_argument("--esc10", action="store_true", help="esc50: only the ESC-10 part")
  prepare.add_argument(
    "--fold", help="segments, panns, talnet: of all clips (default: as the file names say)"
  )
  prepare.add_argument(
    "--normaliser", help="talnet: pickle, .npz or .mat (default: normalizer.pkl in the folder)"
  )
  prepare.add_argument("--used-labels-only", action="store_true", help="drop labels no file has")
  prepare.add_argument("--out", required=True, help="the store to write, .h5")
  prepare.add_argument("--frontend", default="talnet", choices=("talnet", "panns", "vggish"))
  prepare.add_argument("--dtype", choices=("uint8", "float16"), help="default: uint8 for dB")
  prepare.add_argument("--workers", type=int, help="processes (default: one a core)")

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

  soundscapes = verb("soundscapes", _soundscapes, "write the built-in soundscapes as sound files")
  soundscapes.add_argument("--out", required=True, help="folder to write")
  soundscapes.add_argument("--clips", type=int, default=10, help="how many (default 10)")
  soundscapes.add_argument("--seed", type=int, default=0)

  mixtures = verb("mixtures", _mixtures, "mix recordings of one sound each to scenes of several")
  mixtures.add_argument("--audio", required=True, help="folder of recordings")
  mixtures.add_argument("--labels", required=True, help="CSV: filename,fold,positive_labels")
  mixtures.add_argument("--vocabulary", required=True, help="CSV: index,mid,display_name")
  mixtures.add_argument("--counts", required=True, help=".npz: how often labels occur together")
  mixtures.add_argument("--set", choices=("balanced", "unbalanced", "full"), help="which counts")
  mixtures.add_argument("--out", required=True, help="folder to write")
  mixtures.add_argument("--clips", type=int, default=2000, help="how many (default 2000)")
  mixtures.add_argument("--rate", type=int, default=32000, help="in Hz (default 32000)")
  mixtures.add_argument("--seed", type=int, default=0)

  reproduce = verb(
    "reproduce", _reproduce, "a table or figure of the paper, on any clip store", CONFIG_HELP
  )
  reproduce.add_argument("what", choices=("table1", "table2", "figure3", "figure4", "ablation"))
  reproduce.add_argument("--store", required=True, help="clip store, or soundscapes")
  reproduce.add_argument("--out", required=True, help="folder of the runs and of what is written")
  reproduce.add_argument(
    "--configs", default="configs/table1", help="folder of the systems' configs"
  )
  reproduce.add_argument("--seeds", type=int, default=1, help="runs of each system (default 1)")
  reproduce.add_argument(
    "--folds", default="", help="test on each of these in turn, train on all others (1,2,…)"
  )
  reproduce.add_argument("--rows", default="", help="of a table, by name (default: all)")
  reproduce.add_argument("--points", default="", help="of figure3 (default: 0,0.1,…,1)")

  graph = verb("graph", _graph, "write the label graph of counts or of a segment list")
  source = graph.add_mutually_exclusive_group(required=True)
  source.add_argument("--counts", help=".npz with mids, occurrences_SET, cooccurrences_SET")
  source.add_argument("--segments", help="AudioSet segment list, .csv or .csv.gz")
  graph.add_argument("--set", choices=("balanced", "unbalanced", "full"), help="which counts")
  graph.add_argument("--vocabulary", required=True, help="CSV: index,mid,display_name")
  graph.add_argument("--method", default="paper", help="see propagation_matrix (default paper)")
  graph.add_argument("--threshold", type=float, default=0.3)
  graph.add_argument("--neighbour-weight", type=float, default=0.2)
  graph.add_argument("--ontology", default="", help="ontology.json, for the method ontology")
  graph.add_argument("--out", required=True, help="the .npz to write")
  graph.add_argument("--label", help="name or id: also print its row under two methods")
  graph.add_argument("--against", help="the second method (default: author, for author paper)")
  graph.add_argument("--plot", help="picture to write: .png, .svg or .pdf")

  card = verb("data-card", _data_card, "what is in a clip store, as an evaluation must state it")
  card.add_argument("store", metavar="STORE", help="clip store, .h5")
  card.add_argument(
    "--segments", nargs="+", default=[], metavar="LIST", help="AudioSet segment lists to compare"
  )
  card.add_argument("--vocabulary", help="labels of the lists (default: the store's)")
  card.add_argument("--ratings", help="CSV: label_id,num_rated,num_true")
  card.add_argument("--out", default=".", help="folder of the .md and .json (default: this one)")

  metadata = verb("metadata", _metadata, "fetch AudioSet's class list, segment lists and ontology")
  metadata.add_argument("--out", required=True, help="folder to write")
  metadata.add_argument("--mirror", help="web address of a folder that has the files")

  plan = verb(
    "plan", _plan, "what training on a TPU topology would take, found without one", PLAN_HELP
  )
  plan.add_argument("--config", required=True, help="Python file with get_config()")
  plan.add_argument("--topology", required=True, help="such as v5e:16x16, v6e:4x4, v5p:2x2x2")
  plan.add_argument("--batch", type=int, help="clips a step over all chips (default: the config's)")
  plan.add_argument("--json", action="store_true", help="print one JSON object, last")

  torch = verb("import-torch", _import_torch, "a run from PyTorch weights", CONFIG_HELP)
  torch.add_argument("state", help=".npz of tensors by name, or .pt")
  torch.add_argument("--config", required=True, help="Python file with get_config()")
  torch.add_argument("--workdir", required=True, help="folder of the new run")
  torch.add_argument("--frontend", default="talnet", choices=("talnet", "panns"))

  export = verb("export", _export, "a run as a folder that other programs load", EXPORT_HELP)
  export.formatter_class = argparse.RawDescriptionHelpFormatter
  export.add_argument("--workdir", required=True, help="folder of the run")
  export.add_argument("--step", default="latest", help="a step, latest (default) or best")
  export.add_argument(
    "--to", required=True, choices=("stablehlo", "savedmodel", "onnx", "huggingface")
  )
  export.add_argument(
    "--out", required=True, help="folder to write; an earlier export there is replaced"
  )

  bench = verb("bench", _bench, "time and memory of steps and their parts, on made-up clips")
  bench.add_argument(
    "what", choices=tuple(BENCHES), help="; ".join(map(": ".join, BENCHES.items()))
  )
  bench.add_argument("--model", default="atgcn", choices=("cnn10", "atgcn"))
  bench.add_argument("--batch", type=int, help="clips a step (default 16; of data 64)")
  bench.add_argument(
    "--steps", type=int, default=5, help="timings, whose median counts (default 5)"
  )
  bench.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  bench.add_argument("--frontend", default="talnet", choices=("talnet", "panns"))
  bench.add_argument("--labels", type=int, default=10000, help="of graph and counts")
  bench.add_argument(
    "--reference", action="store_true", help="time scikit-learn or librosa instead"
  )
  bench.add_argument("--clips", type=int, default=100_000, help="of data's and feed's store")
  bench.add_argument(
    "--twin", help="script of the other side: of PyTorch for compare, of the usual loader for data"
  )
  bench.add_argument("--trace", help="folder for a profile of a step of train or infer")
  bench.add_argument("--json", action="store_true", help="print one JSON object, last")
  return parser


def _add_clips(verb: argparse.ArgumentParser) -> None:
  verb.add_argument(
    "--store",
    help="clip store or TFDS dataset with the run's labels or some of them, in any order; by "
    "default the one trained on",
  )
  verb.add_argument(
    "--split",
    default="test",
    choices=("train", "validation", "test", "all"),
    help="by the folds in the run's config (default test); all: every clip of the store",
  )
  verb.add_argument(
    "--labels",
    metavar="FILE",
    help="score only these labels: rows of a vocabulary, or an id a line",
  )


def _add_run(verb: argparse.ArgumentParser) -> None:
  verb.add_argument("--workdir", required=True, help="folder of the run")
  verb.add_argument("--step", default="latest", help="a step, latest (default) or best")


def _add_training(verb: argparse.ArgumentParser) -> None:
  verb.add_argument("--workdir", required=True, help="folder of the run that is trained")
  verb.add_argument(
    "--profile", metavar="STEP:COUNT", help="trace so many steps from this one, for TensorBoard"
  )
  _add_processes(verb)


def _add_processes(verb: argparse.ArgumentParser) -> None:
  many = verb.add_argument_group(
    "many processes", "one or more a host; Slurm, Open MPI, Cloud TPU and GKE tell these themselves"
  )
  many.add_argument("--coordinator", default="", help="HOST:PORT of process 0")
  many.add_argument("--processes", type=int, help="how many")
  many.add_argument("--process-id", type=int, help="which this is, from 0")


def _train(options) -> int:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  return _trained(options, config.deterministic, lambda: config)


def _finetune(options) -> int:
  from atgcn_jax.runs.config import config_with_overrides, default_config

  # That of the source can only be read once the processes have found each other.
  deterministic = config_with_overrides(default_config(), options.overrides).deterministic

  def config():
    from atgcn_jax.runs.finetune import finetuning_config

    return finetuning_config(
      options.source,
      options.step,
      options.store,
      options.workdir,
      graph=options.graph or "",
      frozen=options.frozen,
      overrides=options.overrides,
    )

  return _trained(options, deterministic, config)


def _trained(options, deterministic: bool, config_of: Callable[[], Any]) -> int:
  from atgcn_jax.runs.watch import parsed_profile

  profile = parsed_profile(options.profile) if options.profile else None
  if deterministic:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
  from atgcn_jax.runs.loop import train
  from atgcn_jax.runs.machine import keep_compiled_programs, keep_freed_memory
  from atgcn_jax.runs.processes import join
  from atgcn_jax.runs.signals import Stopped

  keep_compiled_programs()
  keep_freed_memory()
  join(options.coordinator, options.processes, options.process_id)

  try:
    train(config_of(), options.workdir, profile=profile)
  except Stopped as stopped:
    return 128 + stopped.signal_number
  return 0


def _evaluate(options) -> None:
  from atgcn_jax.runs.evaluate import evaluate
  from atgcn_jax.runs.machine import keep_compiled_programs
  from atgcn_jax.runs.processes import is_first, join

  keep_compiled_programs()
  join(options.coordinator, options.processes, options.process_id)

  result = evaluate(
    options.workdir,
    step=options.step,
    store_path=options.store,
    split=options.split,
    labels_path=options.labels,
  )
  if not is_first():
    return
  if options.json:
    print(json.dumps(result))
    return
  for name, value in result.items():
    if isinstance(value, list):
      value = ", ".join(value)
    print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
  print(f"page: {os.path.join(options.workdir, 'report.html')}")


def _compare(options) -> None:
  from atgcn_jax.runs.compare import compare
  from atgcn_jax.runs.compare_files import as_json, check_out, described, write_comparison
  from atgcn_jax.runs.machine import keep_compiled_programs

  out = options.out or os.path.join(options.run_b, "compare")
  check_out(out)
  keep_compiled_programs()
  comparison = compare(
    options.run_a,
    options.run_b,
    step=options.step,
    store_path=options.store,
    split=options.split,
    labels_path=options.labels,
  )
  paths = write_comparison(out, comparison)
  if options.json:
    print(json.dumps(as_json(comparison) | {"files": paths}))
    return
  print("\n".join([described(comparison), "", *paths]))


def _tag(options) -> int:
  if options.top < 1:
    raise UserError(f"--top {options.top}: ask for at least one label")
  if options.hop_seconds is not None and not options.timeline:
    raise UserError("--hop-seconds: is for --timeline")
  from atgcn_jax.runs.machine import keep_compiled_programs
  from atgcn_jax.serving.commands import tag_files
  from atgcn_jax.serving.tagger import Tagger

  keep_compiled_programs()
  bad = tag_files(
    Tagger.restore(options.workdir, options.step),
    options.files,
    top=options.top,
    above_threshold=options.above_threshold,
    timeline=options.timeline,
    hop_seconds=options.hop_seconds,
    csv_file=options.csv,
    as_json=options.json,
  )
  return _left_out(options.verb, bad)


def _embed(options) -> int:
  from atgcn_jax.runs.machine import keep_compiled_programs
  from atgcn_jax.serving.commands import embed_files
  from atgcn_jax.serving.tagger import Tagger

  keep_compiled_programs()
  tagger = Tagger.restore(options.workdir, options.step)
  files, bad = embed_files(tagger, options.files, options.out)
  print(f"{options.out}: {files} files")
  return _left_out(options.verb, bad)


def _left_out(verb: str, bad: list[UserError]) -> int:
  """The exit status when some files could not be used; says why."""
  for error in bad:
    print(f"atgcn {verb}: {error}", file=sys.stderr)
  return 1 if bad else 0


def _thresholds(options) -> None:
  from atgcn_jax.runs.machine import keep_compiled_programs
  from atgcn_jax.runs.thresholds import described, tune

  keep_compiled_programs()
  result = tune(options.workdir, step=options.step, store_path=options.store)
  print(json.dumps(result) if options.json else described(result))


def _prepare(options) -> int:
  from atgcn_jax.data.partial import report_path
  from atgcn_jax.data.prepare import prepare

  if options.workers is not None and options.workers < 1:
    raise UserError(f"--workers {options.workers}: take at least one process")
  built = prepare(
    options.audio,
    options.labels,
    options.out,
    layout=options.layout,
    vocabulary=options.vocabulary,
    ontology=options.ontology,
    fold=options.fold,
    esc10=options.esc10,
    normaliser=options.normaliser,
    used_labels_only=options.used_labels_only,
    frontend_name=options.frontend,
    dtype=options.dtype,
    workers=options.workers,
  )
  print(f"{options.out}: {built.clips} clips")
  if built.absent or built.unreadable:
    lacking = ((built.absent, "not there"), (built.unreadable, "cannot be read"))
    told = ", ".join(f"{count} {what}" for count, what in lacking if count)
    print(f"atgcn prepare: {told}; see {report_path(options.out)}", file=sys.stderr)
  return 1 if built.unreadable else 0


def _tfds(options) -> int:
  from atgcn_jax.data.tfds_writing import write_tfds

  of_sound = {
    "labels": options.labels,
    "vocabulary": options.vocabulary,
    "used_labels_only": options.used_labels_only,
    "frontend": options.frontend,
    "dtype": options.dtype,
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
  for name, reason in written.unreadable:
    print(f"atgcn tfds: left out {name} ({reason})", file=sys.stderr)
  return 1 if written.unreadable else 0


def _soundscapes(options) -> None:
  from atgcn_jax.data.soundscapes import write_soundscapes

  if options.clips < 1:
    raise UserError(f"--clips {options.clips}: ask for at least one")
  write_soundscapes(options.out, options.clips, options.seed)
  print(f"{options.out}: {options.clips} soundscapes, labels.csv, vocabulary.csv, ontology.json")


def _mixtures(options) -> None:
  from atgcn_jax.data.mixtures import write_mixtures

  if options.clips < 1 or options.rate < 1000:
    raise UserError("--clips and --rate: ask for at least one clip, at 1000 Hz or more")
  write_mixtures(
    options.audio,
    options.labels,
    options.vocabulary,
    options.counts,
    options.out,
    counts_set=options.set,
    clips=options.clips,
    seed=options.seed,
    rate=options.rate,
  )
  print(f"{options.out}: {options.clips} mixtures, labels.csv, vocabulary.csv, events.csv")


def _reproduce(options) -> int:
  from atgcn_jax.paper.reproduce import reproduce
  from atgcn_jax.paper.runs import Settings
  from atgcn_jax.runs.machine import keep_compiled_programs, keep_freed_memory
  from atgcn_jax.runs.signals import Stopped

  if options.seeds < 1:
    raise UserError(f"--seeds {options.seeds}: ask for at least one")
  try:
    points = [float(point) for point in _listed(options.points)]
  except ValueError:
    raise UserError(f"--points {options.points}: give numbers from 0 to 1, as 0,0.3,1") from None
  if any(not 0 <= point <= 1 for point in points):
    raise UserError(f"--points {options.points}: give numbers from 0 to 1")
  keep_compiled_programs()
  keep_freed_memory()
  settings = Settings(
    store=options.store,
    out=pathlib.Path(options.out),
    configs=pathlib.Path(options.configs),
    seeds=options.seeds,
    folds=tuple(_listed(options.folds)),
    overrides=tuple(options.overrides),
  )
  try:
    print(reproduce(options.what, settings, _listed(options.rows), points))
  except Stopped as stopped:
    return 128 + stopped.signal_number
  return 0


def _listed(text: str) -> list[str]:
  """The parts between commas."""
  return [part.strip() for part in text.split(",") if part.strip()]


def _graph(options) -> None:
  from atgcn_jax.labels.summary import find_label
  from atgcn_jax.labels.vocabulary import read_vocabulary
  from atgcn_jax.runs import graph

  if options.plot and not options.plot.endswith((".png", ".svg", ".pdf")):
    raise UserError(f"--plot {options.plot}: not a picture; end it in .png, .svg or .pdf")
  label = None
  if options.label:
    label = find_label(read_vocabulary(options.vocabulary), options.label)
  made = functools.partial(
    graph.make_graph,
    vocabulary=options.vocabulary,
    counts=options.counts,
    counts_set=options.set,
    segments=options.segments,
    threshold=options.threshold,
    neighbour_weight=options.neighbour_weight,
    ontology=options.ontology,
  )
  found = made(method=options.method)
  other = None
  if label is not None:
    against = options.against or ("paper" if options.method == "author" else "author")
    other = made(method=against)
  graph.write_graph(options.out, found, options.threshold, options.neighbour_weight)
  print(f"{options.out}: {graph.described(found)}")
  if label is not None and other is not None:
    print(graph.side_by_side(found, other, label))
  if options.plot:
    graph.plot(found, label, options.ontology, options.plot)
    print(options.plot)


def _data_card(options) -> None:
  from atgcn_jax.runs.data_card import data_card
  from atgcn_jax.runs.data_card_text import write_data_card

  if os.path.exists(options.out) and not os.path.isdir(options.out):
    raise UserError(f"--out {options.out}: not a folder; name another")
  card = data_card(
    options.store,
    segments=options.segments,
    vocabulary=options.vocabulary,
    ratings=options.ratings,
  )
  print("\n".join(write_data_card(options.out, card)))


def _metadata(options) -> int:
  from atgcn_jax.tools.metadata import fetch_metadata

  failed = 0
  for file in fetch_metadata(options.out, options.mirror):
    if file.failure:
      failed = 1
      print(f"atgcn metadata: {file.failure}", file=sys.stderr)
    else:
      what = "fetched" if file.new else "already there"
      print(f"{file.path}: {what}, {file.size} bytes, SHA-256 {file.sha256}", flush=True)
  return failed


def _plan(options) -> None:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  # A TPU that there may be is left to others.
  os.environ["JAX_PLATFORMS"] = "cpu"
  # Nothing is to be saved, and the compiler would not let go before it is done.
  handlers = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
  try:
    from atgcn_jax.tools.plan import described, plan

    found = plan(config, options.topology, options.batch)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  print(json.dumps(found) if options.json else described(found))


def _import_torch(options) -> None:
  from atgcn_jax.interop.importing import import_torch
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  import_torch(options.state, config, options.workdir, options.frontend)
  print(f"{options.workdir}: a run at step 0 with the weights of {options.state}")


def _export(options) -> None:
  from atgcn_jax.interop.export import export

  export(options.workdir, options.to, options.out, options.step)
  print(f"{options.out}: {options.to} of {options.workdir}")


def _bench(options) -> None:
  from atgcn_jax.runs.machine import keep_compiled_programs, keep_freed_memory
  from atgcn_jax.tools.benches import run

  if options.batch is None:
    options.batch = 64 if options.what == "data" else 16
  if min(options.batch, options.steps, options.labels, options.clips) < 1:
    raise UserError("--batch, --steps, --labels and --clips: take at least 1")
  keep_compiled_programs()
  keep_freed_memory()
  result, text = run(options)
  print(json.dumps(result) if options.json else text)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
  if category is UserWarning and "atgcn_jax" in filename:
    print(f"atgcn: {message}", file=sys.stderr)


def _on_sigterm(number, frame) -> NoReturn:
  print("atgcn: stopped by SIGTERM", file=sys.stderr)
  raise SystemExit(128 + number)


if __name__ == "__main__":
  sys.exit(main())
