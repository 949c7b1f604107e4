"""The limits of `atgcn serve`, and the answer to a request that is refused."""

from __future__ import annotations

import dataclasses

from atgcn_jax.errors import UserError, printable

# An upload must send LEAST_BYTES within each PERIOD_SECONDS, or end. An upload holds one of the few
# places, so a slower one would keep others out. A mobile uplink of 32 kbit/s is fast enough.
PERIOD_SECONDS = 30.0
LEAST_BYTES = 120_000
REFUSED_SECONDS = 10.0  # the rest of an upload that is refused is read for this long at most
RETRY_SECONDS = 5  # what `Retry-After` states
KEPT_BYTES = 64 * 2**20  # memory of the results that can still be asked for


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits that `atgcn serve` has as options.

  Attributes:
    megabytes: The largest upload, in millions of bytes.
    seconds: The longest sound, in seconds.
    waiting: The number of uploads that may wait while another one is scored.

  Raises:
    UserError: If a limit is out of its range.
  """

  megabytes: float = 64.0
  seconds: float = 600.0
  waiting: int = 16

  def __post_init__(self) -> None:
    for option, value, least, most in (
      ("--max-megabytes", self.megabytes, 0.001, 4096),
      ("--max-seconds", self.seconds, 0.1, 86_400),
      ("--max-waiting", self.waiting, 0, 1024),
    ):
      if not least <= value <= most:
        raise UserError(f"{option} {value:g}: must be {least:g} to {most:g}")

  @property
  def upload_bytes(self) -> int:
    """The largest upload, in bytes."""
    return round(self.megabytes * 1e6)


class Refused(Exception):  # noqa: N818 (an answer)
  """A request that is refused with an HTTP status and one plain sentence."""

  def __init__(self, status: int, sentence: str):
    super().__init__(printable(sentence))
    self.status = status
