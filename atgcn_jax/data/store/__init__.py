"""The clip store: its format, how it is built and how it is read."""
