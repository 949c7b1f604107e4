"""TFDS datasets of clips: a builder, a Beam pipeline, and readers for batches."""
