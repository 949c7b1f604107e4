"""Run tests on the devices of this machine and print their results as a line of JSON.

python launch/gpu_tests.py ARGUMENT_OF_PYTEST …
"""

import json
import sys

import pytest


class Results:
  """A plugin that collects the outcome of each test, and what it recorded."""

  def __init__(self):
    self.tests = {}

  def pytest_runtest_logreport(self, report):
    """Keep the report of the test itself, or of a setup that failed or was skipped."""
    if report.when == "call" or report.outcome != "passed":
      reason = "" if report.outcome == "passed" else str(report.longrepr)[-300:]
      self.tests[report.nodeid.rpartition("::")[2]] = {
        "outcome": report.outcome,
        "seconds": round(report.duration, 2),
        **dict(report.user_properties),
        **({"reason": reason} if reason else {}),
      }


def main(arguments):
  """Run pytest and return its exit status."""
  results = Results()
  status = pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[results])
  print(json.dumps(results.tests), flush=True)
  return int(status)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
