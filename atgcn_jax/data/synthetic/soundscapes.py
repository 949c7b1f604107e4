"""Built-in soundscapes: 10 s scenes of synthesised sounds whose labels co-occur by a known graph.

A clip is a pure function of a seed and a clip number. Any clip can be reproduced independently of
the others, on any machine with the same library versions. All clips of a seed share one graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from atgcn_jax.data.synthetic import human_sounds, instruments, nature_sounds
from atgcn_jax.data.synthetic.co_occurring import draw_together
from atgcn_jax.data.synthetic.instruments import Array
from atgcn_jax.data.synthetic.sound_folder import Recording, write_folder
from atgcn_jax.labels.vocabulary import Vocabulary

VERSION = 1  # increased when a clip number gets another sound or other labels
RATE = 16_000
CLIP_SECONDS = 10.0
COMPANY = 0.9  # total probability of the companions in a row of the graph
COUNTS = (0.12, 0.23, 0.3, 0.2, 0.15)  # probabilities of 1 to 5 events per clip
_GRAPH, _SCENE, _SOUND, _FLOOR = range(4)  # separate streams of random numbers


class SoundKind(NamedTuple):
  """Leaf of the ontology: name, category, instrument, and range of lengths in seconds."""

  name: str
  parent: str
  instrument: Callable[[np.random.Generator, float, int], Array]
  shortest: float
  longest: float


class Event(NamedTuple):
  """Sound in a scene: index into the vocabulary, onset and length in seconds, gain in dB."""

  label: int
  onset: float
  seconds: float
  gain_db: float


SOUNDS = (
  SoundKind("Plucked string", "String instrument", instruments.plucked_string, 1.5, 6),
  SoundKind("Bowed string", "String instrument", instruments.bowed_string, 2, 7),
  SoundKind("Bass drum", "Percussion", instruments.bass_drum, 1, 6),
  SoundKind("Snare drum", "Percussion", instruments.snare_drum, 1, 5),
  SoundKind("Cymbal", "Percussion", instruments.cymbal, 1, 5),
  SoundKind("Xylophone", "Percussion", instruments.xylophone, 1, 5),
  SoundKind("Flute", "Music", instruments.flute, 1.5, 7),
  SoundKind("Organ", "Music", instruments.organ, 2, 8),
  SoundKind("Church bell", "Music", instruments.church_bell, 2, 8),
  SoundKind("Singing", "Human sounds", human_sounds.singing, 1.5, 7),
  SoundKind("Speech", "Human sounds", human_sounds.speech, 1, 6),
  SoundKind("Whistling", "Human sounds", human_sounds.whistling, 1, 5),
  SoundKind("Footsteps", "Human sounds", human_sounds.footsteps, 1.5, 6),
  SoundKind("Applause", "Human sounds", human_sounds.applause, 2, 7),
  SoundKind("Bird song", "Animal", nature_sounds.birdsong, 1, 6),
  SoundKind("Cricket", "Animal", nature_sounds.crickets, 1.5, 8),
  SoundKind("Frog", "Animal", nature_sounds.frog, 1, 5),
  SoundKind("Dog bark", "Animal", nature_sounds.dog, 1, 4),
  SoundKind("Rain", "Nature", nature_sounds.rain, 2, 8),
  SoundKind("Wind", "Nature", nature_sounds.wind, 2, 8),
  SoundKind("Thunder", "Nature", nature_sounds.thunder, 2, 6),
  SoundKind("Fire", "Nature", nature_sounds.fire, 2, 8),
  SoundKind("Siren", "Vehicle", nature_sounds.siren, 2, 8),
  SoundKind("Engine", "Vehicle", nature_sounds.engine, 2, 8),
  SoundKind("Helicopter", "Vehicle", nature_sounds.helicopter, 2, 8),
  SoundKind("Car horn", "Vehicle", nature_sounds.car_horn, 1, 3.5),
  SoundKind("Clock", "Household", nature_sounds.clock, 1.5, 8),
  SoundKind("Telephone", "Household", nature_sounds.telephone, 1.5, 6),
)
CATEGORIES = {
  "Music": None,
  "String instrument": "Music",
  "Percussion": "Music",
  "Human sounds": None,
  "Animal": None,
  "Nature": None,
  "Vehicle": None,
  "Household": None,
}


def _id(name: str) -> str:
  return "snd/" + name.lower().replace(" ", "_")


def soundscape_vocabulary() -> Vocabulary:
  """Return the labels: the sounds in the order of `SOUNDS`, then the categories."""
  names = (*(sound.name for sound in SOUNDS), *CATEGORIES)
  return Vocabulary(ids=tuple(map(_id, names)), names=names)


def soundscape_ontology() -> list[dict]:
  """Return the ontology in AudioSet's format: a dict of id, name and child_ids per label."""
  parents = {sound.name: sound.parent for sound in SOUNDS} | CATEGORIES
  return [
    {
      "id": _id(name),
      "name": name,
      "child_ids": [_id(child) for child, parent in parents.items() if parent == name],
    }
    for name in parents
  ]


def with_ancestors(leaves: Iterable[int]) -> list[int]:
  """Return the sorted indices of the sounds `leaves` and of all their ancestors."""
  categories, found = list(CATEGORIES), set()
  for leaf in leaves:
    found.add(leaf)
    above: str | None = SOUNDS[leaf].parent
    while above is not None:
      found.add(len(SOUNDS) + categories.index(above))
      above = CATEGORIES[above]
  return sorted(found)


def _generator(seed: int, *counters: int) -> np.random.Generator:
  return np.random.default_rng(np.random.SeedSequence((seed, *counters)))


def scene_graph(seed: int) -> Array:
  """Return the graph from which scenes are drawn.

  Row i has the probabilities of the sounds that join sound i. The sounds are arranged on a ring in
  random order. Each sound has three companions: its two neighbours and one sound two places away.
  The companions of a sound are therefore often companions of each other, as in real scenes. The
  companions share 0.9 of the row at random (0.16 to 0.49 each). All other sounds share 0.1.

  Args:
    seed: Seed of the soundscapes.

  Returns:
    float64[L, L] for L sounds. Each row sums to 1, and the diagonal is 0.
  """
  rng, count = _generator(seed, _GRAPH), len(SOUNDS)
  ring, place = rng.permutation(count), np.arange(count)
  friends = np.zeros((count, count), dtype=bool)
  friends[ring, np.roll(ring, -1)] = True
  left = place[place % 4 < 2]  # In each group of four, join 1 with 3 and 2 with 4.
  friends[ring[left], ring[left + 2]] = True
  friends |= friends.T
  graph = friends * rng.uniform(0.3, 0.7, (count, count))
  graph *= COMPANY / graph.sum(axis=1, keepdims=True)
  others = ~friends & ~np.eye(count, dtype=bool)
  return graph + others * (1 - COMPANY) / others.sum(axis=1, keepdims=True)


def draw_scene(seed: int, clip_number: int) -> list[Event]:
  """Return the 1 to 5 events of a clip, all of different sounds, in the order they were drawn.

  The sounds are drawn from `scene_graph` by `draw_together`.

  Args:
    seed: Seed of the soundscapes.
    clip_number: Number of the clip, from 0.
  """
  rng, graph = _generator(seed, _SCENE, clip_number), scene_graph(seed)
  leaves = draw_together(rng, graph, COUNTS)
  events = []
  for leaf in leaves:
    seconds = rng.uniform(SOUNDS[leaf].shortest, SOUNDS[leaf].longest)
    onset = rng.uniform(0, CLIP_SECONDS - seconds)
    events.append(Event(leaf, float(onset), float(seconds), float(rng.uniform(-24, 0))))
  return events


def clip_labels(seed: int, clip_number: int) -> list[int]:
  """Return the sorted label indices of a clip without rendering it; see `render`."""
  return with_ancestors(event.label for event in draw_scene(seed, clip_number))


def render(seed: int, clip_number: int) -> tuple[Array, list[int]]:
  """Return a clip and its labels.

  Args:
    seed: Seed of the soundscapes.
    clip_number: Number of the clip, from 0.

  Returns:
    The waveform, float32[160000] at 16 kHz within [-1, 1], and the sorted label indices of the
    sounds and their ancestors.
  """
  rng = _generator(seed, _FLOOR, clip_number)
  hiss = instruments.noise(rng, int(RATE * CLIP_SECONDS))
  hiss = 0.2 * hiss + 4 * instruments.low_pass(hiss, 100, RATE)
  clip = hiss * np.float32(10 ** (rng.uniform(-48, -20) / 20))
  for k, event in enumerate(draw_scene(seed, clip_number)):
    instrument = SOUNDS[event.label].instrument
    sound = instrument(_generator(seed, _SOUND, clip_number, k), event.seconds, RATE)
    instruments.lay(clip, sound * np.float32(0.7 * 10 ** (event.gain_db / 20)), event.onset, RATE)
  clip /= max(1.0, float(np.max(np.abs(clip))) / 0.95)
  return clip, clip_labels(seed, clip_number)


def scene_fold(clip_number: int) -> str:
  """Return `train`, `validation` or `test` for 8, 1 and 1 of ten consecutive clips."""
  return {8: "validation", 9: "test"}.get(clip_number % 10, "train")


def write_soundscapes(folder: str | os.PathLike, clips: int, seed: int) -> None:
  """Write clips 0 to `clips - 1` as sound files with labels, as input of `atgcn prepare`.

  Writes `audio/000000.flac` …, `labels.csv` (filename, fold, positive_labels), `vocabulary.csv`
  and `ontology.json`. Each file appears under its name only when it is complete.

  Args:
    folder: Folder to write. It is created if needed. Files of an earlier call are replaced.
    clips: Number of clips.
    seed: Seed of the soundscapes.

  Raises:
    UserError: If the folder contains other files or cannot be written.
  """
  write_folder(
    folder,
    (Recording(*_rendered(seed, k)) for k in range(clips)),
    clips,
    rate=RATE,
    vocabulary=soundscape_vocabulary(),
    others={"ontology.json": lambda: json.dumps(soundscape_ontology(), indent=1)},
  )


def _rendered(seed: int, clip_number: int) -> tuple[Array, str, list[int]]:
  waveform, labels = render(seed, clip_number)
  return waveform, scene_fold(clip_number), labels
