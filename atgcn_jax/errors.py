"""Exceptions and warnings for the user: the command line prints one line and no traceback."""

MESSAGE = 600  # maximum length of a message, in characters
PART = 120  # maximum length of a text from a file or a library in a message


def printable(text: object, most: int = MESSAGE) -> str:
  """Return a text for a message: on one line, with a limited length, without control characters.

  Characters that cannot be printed are written as escapes such as `\\x1b`. If the text is too long,
  its middle is left out.

  Args:
    text: The text, or a value whose `str` is used.
    most: The maximum number of characters.
  """
  line = str(text)
  if len(line) > 2 * most:  # before the escapes, for texts of megabytes
    line = line[:most] + line[-most:]
  if not line.isprintable():
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
  end = most // 3
  return line if len(line) <= most else f"{line[: most - end - 1]}…{line[-end:]}"


def reason(error: BaseException) -> str:
  """Return the reason of an exception of a library, for a message."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return printable(" ".join(str(text)[: 8 * PART].split()), PART)


def counted(count: int, one: str, many: str) -> str:
  """Return a number and what it counts, such as `1 file is` and `2 files are`."""
  return f"{count} {one if count == 1 else many}"


class UserError(Exception):
  """A problem that the user can fix: bad input, a bad argument or an unusable file.

  The message is one line. It names the file or option, says what is wrong and what to do. The
  command line exits with status 2.
  """

  def __init__(self, message: str):
    super().__init__(printable(message))


class WorkFailed(Exception):  # noqa: N818 (an outcome, not a mistake)
  """A valid request that could not be completed. The command line exits with status 1."""

  def __init__(self, message: str):
    super().__init__(printable(message))


class SoundWarning(UserWarning):
  """A sound that is used although part of it is missing or its samples look wrong.

  The message is one line, which starts with the name of the file.
  """
