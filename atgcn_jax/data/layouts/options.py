"""The layouts that `prepare` reads, and the options of each. The command line imports this file."""

# Required and optional further options of each layout.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  "list": (("labels",), ("vocabulary",)),
  "folders": ((), ("vocabulary", "fold")),
  "events": ((), ("labels", "vocabulary", "fold", "background")),
  "segments": (("labels",), ("vocabulary", "fold")),
  "esc50": (("vocabulary", "ontology"), ("esc10",)),
  "sonyc": (("labels",), ()),
  "fsd50k": ((), ()),
  "urbansound8k": ((), ()),
  "panns": (("vocabulary",), ("fold",)),
  "talnet": (("vocabulary",), ("fold", "normaliser")),
  "audioset-features": (("vocabulary",), ()),
}
LAYOUT_OPTIONS = ("vocabulary", "ontology", "fold", "esc10", "normaliser", "background")
# Layouts of sound files of any length.
CUTS = ("list", "folders", "events", "segments", "esc50", "sonyc", "fsd50k", "urbansound8k")
MANY = {
  "audio": ("panns", "talnet"),
  "labels": ("segments", "events"),
}  # layouts that accept several paths
BY_PATH = ("folder", "date")  # groups of a split that the path states
GROUPED = ("list", "events")  # layouts in which a column of the table may state the groups
