"""Built-in soundscapes: 10 s scenes of synthesised sounds whose labels co-occur by a known graph.

Everything is a pure function of a seed and a clip number, so any clip can be made again, alone, in
any order and on any machine of the same libraries. All clips of one seed share one graph.
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

VERSION = 1  # goes up when the same clip number sounds different or has other labels
RATE = 16_000
CLIP_SECONDS = 10.0
COMPANY = 0.9  # The share of a sound's row of the graph that its companions have.
COUNTS = (0.12, 0.23, 0.3, 0.2, 0.15)  # Of 1 to 5 events a clip.
_GRAPH, _SCENE, _SOUND, _FLOOR = range(4)  # Separate streams of random numbers.


class SoundKind(NamedTuple):
  """A leaf of the ontology: its word, its category, its instrument, how long it lasts (seconds)."""

  name: str
  parent: str
  instrument: Callable[[np.random.Generator, float, int], Array]
  shortest: float
  longest: float


class Event(NamedTuple):
  """One sound in a scene: index into the vocabulary, start and length in seconds, gain in dB."""

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
  """Returns the labels: the sounds in the order of `SOUNDS`, then the categories."""
  names = (*(sound.name for sound in SOUNDS), *CATEGORIES)
  return Vocabulary(ids=tuple(map(_id, names)), names=names)


def soundscape_ontology() -> list[dict]:
  """Returns the ontology in AudioSet's shape: a dict of id, name and child_ids for each label."""
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
  """Returns the sorted indices of the sounds `leaves` and of all categories above them."""
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
  """Returns the graph scenes are drawn by: row i holds the chances of what joins sound i.

  The sounds stand in random order on a ring. Each has three companions, its two neighbours and one
  of the next but one, so that a sound's companions are often companions of each other, as in the
  places where sounds are recorded. They share 0.9 of the row in random parts (0.16 to 0.49 each),
  all others 0.1. A row sums to 1 and its diagonal is 0.

  Args:
    seed: Of the whole set of soundscapes.

  Returns:
    float64[L, L], L the number of sounds.
  """
  rng, count = _generator(seed, _GRAPH), len(SOUNDS)
  ring, place = rng.permutation(count), np.arange(count)
  friends = np.zeros((count, count), dtype=bool)
  friends[ring, np.roll(ring, -1)] = True
  left = place[place % 4 < 2]  # Of four in a row, the first joins the third, the second the fourth.
  friends[ring[left], ring[left + 2]] = True
  friends |= friends.T
  graph = friends * rng.uniform(0.3, 0.7, (count, count))
  graph *= COMPANY / graph.sum(axis=1, keepdims=True)
  others = ~friends & ~np.eye(count, dtype=bool)
  return graph + others * (1 - COMPANY) / others.sum(axis=1, keepdims=True)


def draw_scene(seed: int, clip_number: int) -> list[Event]:
  """Returns the 1 to 5 events of a clip, all of different sounds, in the order they were drawn.

  The first sound is drawn uniformly; each further one by the row of `scene_graph` of one of the
  sounds already there (or, one time in twenty, uniformly) among those not yet there.

  Args:
    seed: Of the whole set of soundscapes.
    clip_number: From 0 on.
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
  """Returns the sorted label indices of a clip, its sounds and their ancestors, unrendered."""
  return with_ancestors(event.label for event in draw_scene(seed, clip_number))


def render(seed: int, clip_number: int) -> tuple[Array, list[int]]:
  """Returns a clip and its labels.

  Args:
    seed: Of the whole set of soundscapes.
    clip_number: From 0 on.

  Returns:
    The waveform, float32[160000] at 16 kHz within [-1, 1], and the sorted label indices: its sounds
    and their ancestors.
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
  """Returns `train`, `validation` or `test`: of ten clips in a row eight, one and one."""
  return {8: "validation", 9: "test"}.get(clip_number % 10, "train")


def write_soundscapes(folder: str | os.PathLike, clips: int, seed: int) -> None:
  """Writes clips 0 to `clips - 1` as sound files with labels, ready for `atgcn prepare`.

  The folder then holds `audio/000000.flac` …, `labels.csv` (filename, fold, positive_labels),
  `vocabulary.csv` and `ontology.json`. Each file appears under its name only when whole.

  Args:
    folder: Is created; may hold what an earlier call wrote, which is replaced.
    clips: How many.
    seed: Of the whole set of soundscapes.

  Raises:
    UserError: The folder holds something else.
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
