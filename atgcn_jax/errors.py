"""Exceptions and warnings for the user: the command line prints one line and no traceback."""


class UserError(Exception):
  """A problem that the user can fix: bad input, a bad argument or an unusable file.

  The message is one line. It names the file or option, says what is wrong and what to do. The
  command line exits with status 2.
  """


class WorkFailed(Exception):  # noqa: N818 (an outcome, not a mistake)
  """A valid request that could not be completed. The command line exits with status 1."""


class SoundWarning(UserWarning):
  """A sound that is used although part of it is missing or its samples look wrong.

  The message is one line, which starts with the name of the file.
  """
