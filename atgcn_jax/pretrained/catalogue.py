"""The pretrained networks that this package can fetch, as data."""

from __future__ import annotations

import difflib
import urllib.parse
from typing import NamedTuple

from atgcn_jax.errors import UserError

DEFAULT = "mn04"  # 4 MB with the mAP of CNN14, which has 82 times as many parameters


class Pretrained(NamedTuple):
  """A published network for the 527 labels of AudioSet, and the file of its weights.

  Attributes:
    name: Name in this package.
    encoder: `model.encoder`.
    width: `model.width`.
    frontend: Front end that the weights expect.
    mean_average_precision: Published mAP on AudioSet's evaluation set.
    parameters: Number of parameters.
    folder: Address of the folder of the file.
    file: Name of the file.
    licence: Licence of the weights.
    source: Where the network was published.
    size: Size of the file in bytes, or None if it is not known.
    checksum: Checksum of the file, `sha256:…` or `md5:…`, or empty if it is not known.
    verified: Whether this project has had the file and compared its outputs with the original code.
      Otherwise the address and the checksum are those that others state.
  """

  name: str
  encoder: str
  width: float
  frontend: str
  mean_average_precision: float
  parameters: int
  folder: str
  file: str
  licence: str
  source: str
  size: int | None = None
  checksum: str = ""
  verified: bool = False

  @property
  def system(self) -> str:
    """Return the name of the architecture."""
    names = {"mobilenet": f"MobileNetV3, width {self.width:.1f}"}
    return names.get(self.encoder, self.encoder.upper())

  def url(self, mirror: str | None = None) -> str:
    """Return the address of the file.

    Args:
      mirror: Address of a folder that has the file, in place of the original one.
    """
    return f"{(mirror or self.folder).rstrip('/')}/{urllib.parse.quote(self.file)}"


def _efficientat(name: str, precision: float, parameters: int, **known) -> Pretrained:
  """Return one of EfficientAT's networks, whose names contain ten times their width."""
  points = round(1000 * precision)
  return Pretrained(
    name,
    "mobilenet",
    int(name[2:4]) / 10,
    "efficientat",
    precision,
    parameters,
    "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1",
    f"{name[:4]}_as{name[4:]}_mAP_{points}.pt",
    "MIT",
    "EfficientAT (Schmid et al., ICASSP 2023)",
    **known,
  )


def _panns(name: str, precision: float, parameters: int, **known) -> Pretrained:
  """Return one of PANNs' networks."""
  return Pretrained(
    name,
    name,
    1.0,
    "panns",
    precision,
    parameters,
    "https://zenodo.org/records/3987831/files",
    f"{name.capitalize()}_mAP={precision:.3f}.pth",
    "CC BY 4.0",
    "PANNs (Kong et al., IEEE/ACM TASLP 2020)",
    **known,
  )


MODELS: dict[str, Pretrained] = {
  model.name: model
  for model in (
    _efficientat("mn01", 0.298, 123_783),
    _efficientat("mn02", 0.378, 324_695),
    _efficientat(
      "mn04",
      0.432,
      983_599,
      size=4_066_513,
      checksum="sha256:899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
      verified=True,
    ),
    _efficientat("mn05", 0.443, 1_431_239),
    _efficientat(
      "mn10",
      0.471,
      4_876_831,
      size=19_708_753,
      checksum="sha256:0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
    ),
    _efficientat("mn20", 0.478, 17_909_287),
    _efficientat("mn30", 0.482, 39_086_367),
    _efficientat("mn40", 0.484, 68_427_303),
    _efficientat("mn40_ext", 0.487, 68_427_303),
    _panns(
      "cnn10",
      0.380,
      5_219_279,
      size=25_237_595,
      checksum="md5:bfb1f1f9968938fa8ef4012b8471f5f6",
    ),
    _panns(
      "cnn14",
      0.431,
      80_753_615,
      size=327_428_481,
      checksum="sha256:0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
    ),
  )
}


def find_model(name: str) -> Pretrained:
  """Return the network of a name.

  Raises:
    UserError: If there is no such network. The message names the most similar ones.
  """
  if name in MODELS:
    return MODELS[name]
  near = difflib.get_close_matches(name.lower(), MODELS, n=3, cutoff=0.5)
  hint = f"did you mean {' or '.join(near)}" if near else f"choose one of {', '.join(MODELS)}"
  raise UserError(f"{name}: no pretrained model has this name; {hint} (see `atgcn models`)")
