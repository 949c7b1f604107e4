"""The layouts that `prepare` reads, and the options of each. The command line imports this file."""

# Required and optional further options of each layout.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  "list": (("labels",), ("vocabulary",)),
  "segments": (("labels",), ("vocabulary", "fold")),
  "esc50": (("vocabulary", "ontology"), ("esc10",)),
  "sonyc": (("labels",), ()),
  "panns": (("vocabulary",), ("fold",)),
  "talnet": (("vocabulary",), ("fold", "normaliser")),
  "audioset-features": (("vocabulary",), ()),
}
LAYOUT_OPTIONS = ("vocabulary", "ontology", "fold", "esc10", "normaliser")
CUTS = ("list", "segments", "esc50", "sonyc")  # layouts whose sound files can have any length
MANY = {"audio": ("panns", "talnet"), "labels": ("segments",)}  # layouts that accept several paths
