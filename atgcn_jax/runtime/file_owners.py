"""Files whose owner or group has no name on this machine, as in containers with bare user ids."""

from __future__ import annotations

import os
import stat
from typing import Any

from etils.epath import backend, stat_utils


def accept_unnamed_owners() -> None:
  """Let `epath.Path.stat`, which Orbax calls, return numbers for owners that have no name.

  Otherwise it raises KeyError.
  """
  named = backend.os_backend.stat

  def named_or_numbered(path: Any) -> stat_utils.StatResult:
    try:
      return named(path)
    except KeyError:
      found = os.stat(path)
    return stat_utils.StatResult(
      is_directory=stat.S_ISDIR(found.st_mode),
      length=found.st_size,
      mtime=int(found.st_mtime),
      owner=str(found.st_uid),
      group=str(found.st_gid),
      mode=found.st_mode,
    )

  backend.os_backend.stat = named_or_numbered
