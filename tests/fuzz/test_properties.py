"""Properties of the readers for contents that hypothesis makes up, in place of changed files."""

import json
import math
import pathlib
import tempfile

import fuzz_readers
import pytest
from mutations import ODD_WORDS

from atgcn_jax.errors import MESSAGE, printable
from atgcn_jax.runs.saved_form import Evaluation, Exported
from atgcn_jax.runtime.schema import checked

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis")
st = hypothesis.strategies

FEW = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
# Readers of one file; the others need a folder, or a file that they can find in it.
FILES = [name for name in fuzz_readers.READERS if "." in name and name != "config.py"]
WORDS = st.one_of(
  st.sampled_from([word for word in ODD_WORDS if len(word) < 1000]),
  st.text(max_size=8),
  st.integers().map(str),
  st.floats().map(str),
)
LINES = st.lists(st.lists(WORDS, max_size=6).map(",".join), max_size=6).map("\n".join)
CONTENTS = st.one_of(
  st.binary(max_size=300), LINES.map(lambda text: text.encode("utf-8", "surrogatepass"))
)
JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
  lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
  max_leaves=8,
)


@pytest.mark.parametrize("name", FILES)
def test_any_content_is_read_or_refused(name):
  reader = fuzz_readers.READERS[name]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / name

    @FEW
    @hypothesis.given(CONTENTS)
    def holds(content):
      path.write_bytes(content)
      assert fuzz_readers.outcome(reader, path) in ("read", "refused")

    holds()


@FEW
@hypothesis.given(st.dictionaries(st.sampled_from(["step", "mAP", "run", "history", "x"]), JSON))
def test_values_that_pass_the_schema_have_its_types(value):
  for kind in (Evaluation, Exported):
    try:
      found, message = checked(value, kind, "value"), ""
    except ValueError as error:
      found, message = None, str(error)
    assert message.isprintable()
    assert len(message) < 400
    if found is not None:
      assert type(found["step"]) is int
      assert "mAP" not in found or found["mAP"] is None or math.isfinite(found["mAP"])
      assert json.dumps(found)


@FEW
@hypothesis.given(st.text(), st.integers(3, 50))
def test_messages_are_printable_and_short(text, most):
  assert printable(text, most).isprintable()
  assert len(printable(text, most)) <= most <= MESSAGE
