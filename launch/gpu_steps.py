"""The steps of `gpu_check.sh`, in the order of their value within a part."""

import importlib.util
import pathlib
import sys
from typing import NamedTuple

PYTHON = sys.executable
ROOT = pathlib.Path(__file__).resolve().parents[1]
ATGCN = (PYTHON, "-m", "atgcn_jax")
TESTS = (PYTHON, "launch/gpu_tests.py")
# Share of the time of each part. Time that a part leaves is for the next one.
SHARES = {"a": 0.16, "b": 0.46, "c": 0.05, "d": 0.33}


class Step(NamedTuple):
  """One process.

  Attributes:
    name: Name in the results.
    part: Letter of its part; empty if it always runs.
    seconds: Time limit.
    command: The words of the command.
    needs: Files that must exist; otherwise the step is left out.
    variables: Environment variables.
  """

  name: str
  part: str
  seconds: int
  command: tuple[str, ...]
  needs: tuple[pathlib.Path, ...] = ()
  variables: tuple[tuple[str, str], ...] = ()


class Sizes(NamedTuple):
  """Sizes of the benchmarks and trainings: those of a GPU, or small ones for a rehearsal."""

  batches: tuple[int, ...] = (256, 64, 1024)
  steps: int = 20
  dtype: str = "bfloat16"
  mobilenets: tuple[str, ...] = ("mn10", "mn04")
  clips: int = 200_000
  all_tests: bool = True
  kills: int = 2
  seeds: int = 5
  mixtures: int = 3000
  features: str = ""  # pattern of the feature files to use; empty for all
  twin: tuple[str, ...] = ("--device", "cuda", "--amp")
  compiled: tuple[str, ...] = ("--compile",)
  table2: tuple[str, ...] = ()
  ablation: tuple[str, ...] = ("--rows", "atgcn_2,graph_identity,graph_author")
  overrides: tuple[str, ...] = ()


TINY = (
  "optim.steps=2",
  "optim.warmup_steps=0",
  "evaluation.every=2",
  "evaluation.batch_size=4",
  "checkpoint.every=2",
  "model.dtype=float32",
)
SMALL = Sizes(
  batches=(2,),
  steps=1,
  dtype="float32",
  mobilenets=("mn04",),
  clips=64,
  all_tests=False,
  kills=1,
  seeds=1,
  mixtures=20,
  features="*/0*.tfrecord",
  twin=(),
  compiled=(),
  table2=("--rows", "graph_none"),
  ablation=("--rows", "atgcn_2"),
  overrides=tuple(f"--config.{change}" for change in (*TINY, "data.batch_size=4")),
)


def steps_of(sizes: Sizes, shared: pathlib.Path, work: pathlib.Path) -> list[Step]:
  """Return all steps.

  Args:
    sizes: The sizes.
    shared: Folder of the shared data.
    work: Folder of stores, runs and profiles.
  """
  return [
    Step("machine", "", 60, (PYTHON, "launch/gpu_machine.py")),
    *correctness(sizes, shared, work),
    *speed(sizes, shared),
    *profile(sizes, work),
    *results(sizes, shared, work),
  ]


def correctness(sizes: Sizes, shared: pathlib.Path, work: pathlib.Path) -> list[Step]:
  """Return the steps of part a."""
  # The tests start processes of their own, which need memory of the GPU too.
  careful = (("XLA_PYTHON_CLIENT_PREALLOCATE", "false"), ("ATGCN_SHARED", str(shared)))
  exact = (*careful, ("JAX_DEFAULT_MATMUL_PRECISION", "highest"))

  def tests(name: str, seconds: int, *words: str, variables=careful) -> Step:
    return Step(name, "a", seconds, (*TESTS, "--all", *words), (), variables)

  # placement0 is the form for one CPU.
  golden = "(authors_code or efficientats_code) and not placement0"
  which, width = f"test_fingerprint or ({golden})", ""
  if not sizes.all_tests:
    which, width = "fingerprint and graph and placement0", " and 0.125"
  folder = work / "kills"
  kills = ("--kills", str(sizes.kills), "--seed", "1", "--steps", str(10 * sizes.kills + 5))
  sweep = (PYTHON, "tests/support/kill_sweep.py", *kills, "--folder", str(folder))
  files = ("tests/interop/test_torch_weights.py", "tests/models/test_mobilenet.py")
  return [
    tests("parity", 60, *files, "-k", which, variables=exact),
    tests("gradients", 40, "tests/training/test_precision.py", "-k", f"gradients{width}"),
    Step("resume", "a", 90, sweep, (), careful),
    tests("bfloat16", 40, "tests/training/test_precision.py", "-k", f"bfloat16{width}"),
  ]


def speed(sizes: Sizes, shared: pathlib.Path) -> list[Step]:
  """Return the steps of part b."""
  first, *others = sizes.batches
  found = importlib.util.find_spec("torch")
  torch = pathlib.Path((found and found.origin) or "torch, which is not installed")
  repeats = ("--steps", str(sizes.steps))

  def pair(what: str, model: str, batch: int) -> list[Step]:
    """Return a benchmark and that of its twin in PyTorch."""
    size = ("--batch", str(batch), *repeats)
    name, twin = f"{what} {model} {batch}", shared / "bench/torch_cnn10.py"
    chosen: tuple[str, ...] = ("--model", model)
    if model.startswith("mn"):
      twin, chosen = shared / "bench/torch_mn.py", ("--width", str(int(model[2:]) / 10))
    options = sizes.twin + (sizes.compiled if what == "train" else ())
    ours = (*ATGCN, "bench", what, "--json", "--model", model, *size, "--dtype", sizes.dtype)
    peer = (PYTHON, str(twin), "--what", what, *chosen, *size, *options)
    return [
      Step(name, "b", 90, ours),
      Step(f"{name} torch", "b", 120, peer, (twin, torch)),
    ]

  settings = ("--batch", str(first), *repeats, "--dtype", sizes.dtype, "--json")
  feed = ("--model", "cnn10", "--clips", str(sizes.clips), *settings)
  return [
    *pair("train", "cnn10", first),
    Step("layers", "b", 90, (*ATGCN, "bench", "layers", *settings)),
    *pair("train", "atgcn", first),
    Step("feed", "b", 150, (*ATGCN, "bench", "feed", *feed)),
    *pair("infer", "cnn10", first),
    *(step for model in sizes.mobilenets for step in pair("train", model, first)),
    *(step for batch in others for step in pair("train", "cnn10", batch)),
    *(step for model in sizes.mobilenets for step in pair("infer", model, first)),
    *(step for batch in others for step in pair("train", "atgcn", batch)),
    *pair("infer", "atgcn", first),
  ]


def profile(sizes: Sizes, work: pathlib.Path) -> list[Step]:
  """Return the step of part c."""
  options = ("--model", "cnn10", "--batch", str(sizes.batches[0]), "--dtype", sizes.dtype)
  count = ("--steps", "10" if sizes.all_tests else "1")
  trace = ("--trace", str(work / "profile"))
  return [Step("profile", "c", 90, (*ATGCN, "bench", "train", "--json", *options, *count, *trace))]


def results(sizes: Sizes, shared: pathlib.Path, work: pathlib.Path) -> list[Step]:
  """Return the steps of part d: tables with one seed, then with one more each time."""
  audioset, esc10 = shared / "data/audioset", shared / "data/esc10"
  archive, folder = audioset / "vggish_features.tar.gz", work / "features"
  labels = audioset / "class_labels_indices.csv"
  graph = tuple(
    f"--config.graph.{key}={value}"
    for key, value in (
      ("source", audioset / "cooccurrence.npz"),
      ("counts_set", "full"),
      ("embeddings", audioset / "glove_300d.npz"),
      ("ontology", audioset / "ontology.json"),
    )
  )
  pattern = ("--wildcards", sizes.features) if sizes.features else ()
  unpack = ("tar", "--extract", "--gzip", "--file", archive, "--directory", folder, *pattern)
  layout = ("--layout", "audioset-features", "--audio", folder, "--vocabulary", labels)
  features, mixed = work / "features.h5", work / "mixtures.h5"
  counts = ("--counts", audioset / "cooccurrence.npz", "--set", "full", "--vocabulary", labels)
  sounds = ("--audio", esc10 / "audio", "--labels", esc10 / "labels.csv", *counts)
  mixing = ("mixtures", *sounds, "--clips", sizes.mixtures, "--out", work / "mixtures")
  parts = (("--audio", "audio"), ("--labels", "labels.csv"), ("--vocabulary", "vocabulary.csv"))
  mixtures = [word for option, name in parts for word in (option, work / "mixtures" / name)]
  wide = (
    *("data.batch_size=64", "data.placement=device", "data.validation_share=0.0"),
    *("optim.steps=2000", "optim.schedule=cosine", "optim.warmup_steps=100"),
    *("optim.final_factor=0.01", "model.dtype=bfloat16", "checkpoint.every=1000"),
    *("evaluation.every=2000", "log.every=100"),
  )
  changes = tuple(f"--config.{change}" for change in wide)

  def step(name: str, seconds: int, *words: object, needs: pathlib.Path) -> Step:
    command = tuple(map(str, words))
    return Step(name, "d", seconds, command if words[0] == "tar" else (*ATGCN, *command), (needs,))

  def table2(seeds: int) -> Step:
    settings = ("--store", features, "--out", work / "table2", "--seeds", seeds, "--step", "best")
    words = ("reproduce", "table2", *settings, *sizes.table2, *graph, *sizes.overrides)
    return step(f"table2 seeds {seeds}", 300, *words, needs=archive)

  def ablation(seeds: int) -> Step:
    settings = ("--store", mixed, "--out", work / "ablation", "--seeds", seeds, "--folds", "5")
    words = ("reproduce", "ablation", *settings, *sizes.ablation, graph[2], *changes)
    return step(f"mixtures seeds {seeds}", 300, *words, *sizes.overrides, needs=esc10)

  rest = [one(seeds) for seeds in range(2, sizes.seeds + 1) for one in (table2, ablation)]
  return [
    step("features: unpack", 30, *unpack, needs=archive),
    step("features: store", 60, "prepare", *layout, "--out", features, needs=archive),
    table2(1),
    step("mixtures: sounds", 60, *mixing, needs=esc10),
    step("mixtures: store", 60, "prepare", *mixtures, "--out", mixed, needs=esc10),
    ablation(1),
    *rest,
  ]
