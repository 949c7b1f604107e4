"""Files of labels that are added to a run."""

import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import read_added_labels
from atgcn_jax.labels.vocabulary import Vocabulary

KNOWN = Vocabulary(("/m/siren", "/m/alarm", "/m/cry"), ("Siren", "Alarm", "Crying, sobbing"))


def read(tmp_path, text, name="labels.yaml"):
  (tmp_path / name).write_text(text, encoding="utf-8")
  return read_added_labels(tmp_path / name, KNOWN)


def test_each_kind_of_entry(tmp_path):
  found = read(
    tmp_path,
    """
Siren-like: 0.6 Siren, 0.3 Crying, sobbing, .1 /m/alarm
Bell:
"Tone: pure": {id: /m/tone, parents: [Alarm, Siren]}
Horn: {relations: {Siren: 0.5}, parents: Alarm}
Whistle: {clips: 100, counts: {Siren: 40, /m/alarm: 20}}
""",
  )
  assert found[0].relations == {0: 0.6, 2: 0.3, 1: 0.1}
  assert found[1][:3] == ("Bell", "Bell", {})
  assert found[2][:2] == ("/m/tone", "Tone: pure")
  assert found[2].parents == (1, 0)
  assert found[3].relations == {0: 0.5}
  assert found[3].parents == (1,)
  assert found[4].counts == {0: 40, 1: 20}
  assert found[4].clips == 100


def test_a_vocabulary_file(tmp_path):
  found = read(tmp_path, "index,mid,display_name\n0,/m/bell,Bell\n", "labels.csv")
  assert [label[:2] for label in found] == [("/m/bell", "Bell")]


def test_tags_make_no_objects(tmp_path):
  assert read(tmp_path, "Bell: !!python/object/apply:os.getcwd {}")[0].name == "Bell"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "must map the names"),
    ("- Bell", "must map the names"),
    ("Bell: [", "not YAML"),
    ("Bell: &a [*a]", "not YAML"),
    ("Siren:", "labels.yaml: label 'Siren' is one of the run's 3 labels"),
    ("/m/siren:", "one of the run's 3 labels"),
    ("Bell:\nbell:", "labels.yaml: label 'bell' is repeated; keep one"),
    ("Bell: 0.5 Sirens", "'Sirens' is not one of the run's 3 labels; did you mean Siren"),
    ("Bell: Siren", "write weights and names"),
    ("Bell: 0.5 Siren, 0.2 Siren", "is repeated"),
    ("Bell: -0.5 Siren", "write weights and names"),
    ("Bell: {relations: {Siren: -0.5}}", "must be at least 0"),
    ("Bell: {relations: {Siren: nan}}", "must be at least 0"),
    ("Bell: {relations: {Siren: loud}}", "'loud' of Siren is not a number"),
    ("Bell: {relations: [Siren]}", "must map known labels"),
    ("Bell: 0 Siren", "sum to zero"),
    ("Bell: 1.5 Siren", "from 0 to 1"),
    ("Bell: {weight: 1}", "has the key 'weight'"),
    ("Bell: [1]", "is no mapping"),
    ("Bell: {clips: 3, counts: {Siren: 4}}", "at least its counts"),
    ("Bell: {clips: -3}", "not a number of clips"),
    (f"Bell: {{clips: {'9' * 5000}}}", "not a number of clips"),
    (f"Bell: {{counts: {{Siren: {'9' * 5000}}}}}", "must be at least 0 and finite"),
    (f"Bell: {{counts: {{{'x' * 500}: ''}}}}", "is not a number"),
    (f"{'x' * 500}: {{weight: 1}}", "has the key 'weight'"),
    ("Bell: {parents: {Siren: 1}}", "a label or a list"),
    ("' ':", "the name is empty"),
  ],
)
def test_bad_files_end_in_one_line(tmp_path, text, message):
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path, text)
  assert "\n" not in str(error.value)
  assert "labels.yaml" in str(error.value)
  assert len(str(error.value).replace(str(tmp_path), "")) < 400
