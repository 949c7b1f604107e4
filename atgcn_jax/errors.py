"""The exceptions that speak to the user: the command line prints their one line, no traceback."""


class UserError(Exception):
  """Something the user can mend: bad input, a bad argument, a file that cannot be used.

  The message is one line that names the file or option, says what is wrong with it and what to do.
  The command line ends with exit status 2.
  """


class WorkFailed(Exception):  # noqa: N818 (an outcome, not a mistake)
  """The work could not be finished, though nothing was wrong with the request: exit status 1."""


class SoundWarning(UserWarning):
  """A sound is used, but a part of it is missing or its samples look wrong; the message says how.

  It names the file first and is one line.
  """
