"""All readers of files from outside, by the name of the file that each one reads."""

import array_readers
import config_readers
import packed_readers
import run_readers
import store_readers
import text_readers
from fuzzing import Reader, outcome

READERS: dict[str, Reader] = (
  store_readers.READERS
  | array_readers.READERS
  | run_readers.READERS
  | packed_readers.READERS
  | text_readers.READERS
  | config_readers.READERS
)
__all__ = ["READERS", "outcome"]
