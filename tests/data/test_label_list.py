"""Label lists as written by spreadsheets, pandas and other data sets."""

import re

import numpy as np
import pytest
import soundfile

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts import nearby
from atgcn_jax.data.layouts.label_list import (
  check_files,
  list_labelled,
  listed,
  read_label_list,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

TALNET = frontend.FRONTENDS["talnet"]
HEADER = "filename,fold,positive_labels\n"
KNOWN = Vocabulary(
  ("/m/dog", "/m/rain", "7", "/m/man"), ("Dog", "Rain", "Seven", "Male speech, man speaking")
)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "labels.csv"


def rows_of(path, text, root=""):
  path.write_text(text, encoding="utf-8")
  return [tuple(row[:3]) for row in read_label_list(path, root)]


READ = {
  "trimmed": (HEADER + 'c1.wav , train ,"dog , rain"\n', [("c1.wav", "train", ["dog", "rain"])]),
  "other blanks": (HEADER + "\u00a0c1.wav,1\u00a0,dog\u00a0\n", [("c1.wav", "1", ["dog"])]),
  "header": (" Filename,FOLD ,Positive_Labels\nc1.wav,1,dog\n", [("c1.wav", "1", ["dog"])]),
  "index": (",filename,fold,positive_labels\n0,c1.wav,1,dog\n", [("c1.wav", "1", ["dog"])]),
  "CR": (HEADER.replace("\n", "\r") + "c1.wav,1,dog\r", [("c1.wav", "1", ["dog"])]),
  "BOM": ("\ufeff" + HEADER + "c1.wav,1,\r\n", [("c1.wav", "1", [])]),
  "empty rows": (HEADER + "c1.wav,1,dog\n,,\n \n , ,\n", [("c1.wav", "1", ["dog"])]),
  "semicolons": (
    HEADER.replace(",", ";") + "c1.wav; 1 ;dog,rain\n",
    [("c1.wav", "1", ["dog", "rain"])],
  ),
  "tabs": (
    HEADER.replace(",", "\t") + "c1.wav\t1\t\nc2.wav\t1\tdog,rain\n",
    [("c1.wav", "1", []), ("c2.wav", "1", ["dog", "rain"])],
  ),
  "a text of two lines": (
    'filename,fold,note,positive_labels\nc1.wav,1,"a ""b""\nc", dog\nc2.wav,1,5" tree,\n',
    [("c1.wav", "1", ["dog"]), ("c2.wav", "1", [])],
  ),
  "repeated label": (HEADER + 'c1.wav,1,"dog,,dog"\n', [("c1.wav", "1", ["dog"])]),
}


@pytest.mark.parametrize("case", READ)
def test_accepted_lists(path, case):
  text, rows = READ[case]
  assert rows_of(path, text) == rows


HOT = "filename,fold,site,dog,rain,note\nc1.wav,1,a,1,0,\nc2.wav,2,b,0,,x\nc3.wav,2,b,1.0,TRUE,\n"


@pytest.mark.parametrize("separator", ",;\t")
def test_a_column_per_label(path, separator):
  with pytest.warns(UserWarning, match="2 columns of 0 and 1 .* dog, rain; not used: site,"):
    rows = rows_of(path, HOT.replace(",", separator))
  assert rows == [("c1.wav", "1", ["dog"]), ("c2.wav", "2", []), ("c3.wav", "2", ["dog", "rain"])]


@pytest.mark.filterwarnings("ignore:.*columns of 0 and 1")
def test_groups_are_a_column_and_folds_may_be_absent(path):
  path.write_text(HOT.replace("fold", "take"))
  files = read_label_list(path, folds=False, group="Site")
  assert [(file.fold, file.group) for file in files] == [("", "a"), ("", "b"), ("", "b")]
  with pytest.raises(UserError, match=r"--split-by place: .*no such column; name one of filename,"):
    read_label_list(path, folds=False, group="place")
  path.write_text(HOT.replace(",b,", ",,"))
  with pytest.raises(UserError, match=r"line 3: c2\.wav has no site; add it"):
    read_label_list(path, group="site")
  path.write_text("filename,positive_labels,site\nc1.wav,dog,a\nc1.wav,rain,b\n")
  with pytest.raises(UserError, match=r"c1\.wav is in site b, but in site a in line 2"):
    read_label_list(path, folds=False, group="site")


def test_rows_of_one_file_are_joined(path):
  text = HEADER + "c1.wav,1,dog\nc2.wav,2,rain\nc1.wav , 1,rain\n./c1.wav,1,\n"
  with pytest.warns(UserWarning, match=r"labels\.csv: 2 rows name a file again, such as c1\.wav;"):
    rows = rows_of(path, text)
  assert rows == [("c1.wav", "1", ["dog", "rain"]), ("c2.wav", "2", ["rain"])]


@pytest.mark.parametrize("again", ["c1.wav", "./c1.wav", "sub/../c1.wav", "{root}/c1.wav"])
def test_a_file_in_two_folds_is_rejected(path, tmp_path, again):
  again = again.format(root=tmp_path / "audio")
  with pytest.raises(UserError) as caught:
    rows_of(path, HEADER + f"c1.wav,1,dog\nc2.wav,1,dog\n{again},2,dog\n", str(tmp_path / "audio"))
  assert str(caught.value) == (
    f"{path}, line 4: {again} is in fold 2, but in fold 1 in line 2 (c1.wav); keep one of the rows"
  )


ESC50 = "filename,fold,target,category,esc10,src_file,take\nc1.wav,1,0,dog,True,100032,A\n"
URBAN = "slice_file_name,fsID,start,end,salience,fold,classID,class\nc1.wav,1,0,1,1,5,3,dog\n"
FSD50K = 'fname,labels,mids,split\nc1,"dog,rain","/m/1,/m/2",train\n'
REFUSED = {
  "empty fold": (HEADER + "c1.wav,1,dog\nc2.wav, ,dog\n", "line 3: c2.wav has no fold"),
  "fold of pandas": (HEADER + "c1.wav,nan,dog\n", "line 2: c1.wav has no fold"),
  "no name": (HEADER + ",1,dog\n", "line 2: no filename"),
  "unquoted": (HEADER + "c1.wav,1,dog,rain\n", "line 2: not filename.*quote the label ids"),
  "other semicolons": ("name;part\nc1.wav;1\n", "'name' to filename"),
  "bars": (HEADER.replace(",", "|") + "c1.wav|1|dog\n", r"separated by '\|'; write commas"),
  "no fold": ("filename,positive_labels\nc1.wav,dog\n", "no column fold; .*--split 80/10/10"),
  "near names": (
    "file_name,Folds,postive_labels\n",
    "'file_name' to filename, 'Folds' to fold, 'po",
  ),
  "repeated column": ("filename,fold,Fold,positive_labels\n", "several columns fold; keep one"),
  "repeated label": (
    "filename,fold,dog,cat,dog\nc1.wav,1,1,0,0\n",
    "several columns dog; keep one",
  ),
  "open quote": (
    HEADER + 'c1.wav,1,dog\nc2.wav,1,"dog\nc3.wav,1,dog\n',
    r'line 3: a quote \("\) is not closed; close or remove it',
  ),
  "quote closed in another row": (
    HEADER + 'c1.wav,1,"dog\nc2.wav,1,"rain"\n',
    "line 2: a quote .* is not closed",
  ),
  "open quote of a long table": (
    HEADER + 'c1.wav,1,"dog\n' + "c2.wav,1,dog\n" * 20_000,
    "line 2: a quote .* is not closed",
  ),
  "open quote of the header": (
    'filename,fold,"positive_labels\nc1.wav,1,dog\n',
    "line 1: a quote .* is not closed",
  ),
  "nearly multi-hot": ("filename,fold,dog\nc1.wav,1,1\nc2.wav,1,2\n", "no column positive_lab"),
  "esc50": (ESC50, "--layout esc50"),
  "sonyc": ("split,sensor_id,audio_filename,annotator_id\n", "--layout sonyc"),
  "segments": ("# YTID, start_seconds, end_seconds, positive_labels\n", "--layout segments"),
  "UrbanSound8K": (URBAN, "--layout urbansound8k"),
  "FSD50K": (FSD50K, "--layout fsd50k"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rejected_lists(path, case):
  text, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    rows_of(path, text)
  assert str(caught.value).startswith((f"{path}: ", f"{path}, line "))
  assert "; " in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_other_encodings_are_named(path, encoding):
  path.write_bytes((HEADER + "c\xe91.wav,1,dog\n").encode(encoding))
  named = "not UTF-8" if encoding == "latin-1" else "UTF-16"
  with pytest.raises(UserError, match=rf"{named} text; save it as UTF-8"):
    read_label_list(path)
  if encoding in ("utf-16", "latin-1"):
    with pytest.raises(UserError, match=rf"{named} text; save it as UTF-8"):
      read_vocabulary(path)


LABELS = {
  "dog": "this is a name; write the id /m/dog",
  "/m/dgo": r"did you mean /m/dog \(Dog\)",
  "/M/Dog": r"did you mean /m/dog \(Dog\)",
  "Raim": r"did you mean /m/rain \(Rain\)",
  "Male speech": r"did you mean /m/man \(Male speech, man speaking\)",
  "7.0": "did you mean 7",
  "nan": "programs write nan for no label; leave the field empty",
  "['/m/dog'": "write ids without brackets",
  "/m/dog;/m/rain": "separated by ';'; write commas, \"/m/dog,/m/rain\"",
  "/m/dog | 7": "separated by '|'; write commas, \"/m/dog,7\"",
  "/m/dog 7": 'separated by a space; write commas, "/m/dog,7"',
  "xylophone": "use the vocabulary that it was written for",
}


@pytest.mark.parametrize("label", LABELS)
def test_an_unknown_label_gives_a_suggestion(label):
  with pytest.raises(UserError, match=f"labels of the vocabulary; .*{re.escape('')}") as caught:
    KNOWN.indices([label], where="labels.csv: c1.wav")
  assert str(caught.value).startswith(f"labels.csv: c1.wav: label {label!r} is not among the 4 ")
  assert re.search(LABELS[label].replace("|", r"\|"), str(caught.value))


def listing_of(path, text, vocabulary=None):
  path.write_text(text)
  return listed(path, vocabulary, lambda name: None, "")


@pytest.mark.parametrize("label", ["dog;rain", "dog|rain", "nan", "['dog'", "'dog'"])
def test_implausible_labels_are_rejected(path, label):
  text = HEADER + f'c0.wav,1,dog\nc1.wav,1,"{label}"\n'
  with pytest.raises(UserError, match=re.escape(f"{path}: c1.wav: label {label!r}: ")):
    listing_of(path, text)
  own = Vocabulary(("dog", label), ("Dog", "Own"))
  assert listing_of(path, text, own).label_indices.tolist() == [0, 1]


DOUBTS = {
  "c1.wav,1.0,dog\nc2.wav,2.0,dog\n": "folds are 1.0, 2.0; write integers",
  "c1.wav,Train,dog\nc2.wav,train,dog\n": "folds Train and train differ only in case",
  "c1.wav,1,dog\nc2.wav,1,Dog\n": "labels Dog and dog differ only in case or Unicode form; write",
  "c1.wav,1,Vo\u0308gel\nc2.wav,1,V\u00f6gel\n": "labels .* differ only in case or Unicode form",
  'c1.wav,1,dog rain\nc2.wav,1,"dog,rain"\n': "'dog rain' counts as one label; separate with",
}


@pytest.mark.parametrize("rows", DOUBTS)
def test_possible_mistakes_give_a_warning(path, rows):
  with pytest.warns(UserWarning, match=f"{path}: {DOUBTS[rows]}"):
    assert len(listing_of(path, HEADER + rows).clip_ids) == 2


def test_names_with_blanks_are_labels(path):
  assert listing_of(path, HEADER + "c1.wav,1,dog bark\n").vocabulary.ids == ("dog bark",)


MEANT = {
  "C1.WAV": "c1.wav",
  "c1": "c1.wav",
  "c1.mp3": "c1.wav",
  "sub/C2": "sub/c2.flac",
  r"sub\c2.flac": "sub/c2.flac",
  r"C:\data\sub\c2.flac": "sub/c2.flac",
  "audio/c1.wav": "c1.wav",
  "/elsewhere/c1.wav": "c1.wav",
}


@pytest.mark.parametrize("name", MEANT)
def test_a_missing_file_gives_a_suggestion(tmp_path, path, name):
  (tmp_path / "audio" / "sub").mkdir(parents=True)
  for file in ("c1.wav", "sub/c2.flac", "other.wav"):
    soundfile.write(tmp_path / "audio" / file, np.zeros(100), 16000)
  path.write_text(HEADER + f"{name},1,dog\n")
  listing = list_labelled(tmp_path / "audio", path, TALNET, None)
  hint = re.escape(f"; did you mean {MEANT[name]}") + "$"
  with pytest.raises(UserError, match=f"no such file{hint}"):
    listing.load(listing.sources[0])
  with pytest.raises(UserError, match=hint):
    check_files(tmp_path / "audio", read_label_list(path), path)


def test_a_name_in_another_unicode_form_gives_a_suggestion(tmp_path):
  (tmp_path / "Vo\u0308gel.wav").touch()
  form = r", in the Unicode form of the file$"
  assert re.search(f"did you mean Vo\u0308gel.wav{form}", nearby.hint(tmp_path, "V\u00f6gel.wav"))
  assert nearby.hint(tmp_path, "v\u00d6gel").endswith("Vo\u0308gel.wav")


def test_files_that_are_missing_or_not_sound(tmp_path, path):
  (tmp_path / "audio").mkdir()
  (tmp_path / "audio" / "bad.wav").write_text("no sound")
  (tmp_path / "audio" / "link.wav").symlink_to("gone.wav")
  path.write_text(HEADER + "new.wav,1,dog\nbad.wav,1,dog\nlink.wav,1,dog\n")
  load = list_labelled(tmp_path / "audio", path, TALNET, None).load
  with pytest.raises(UserError, match=r"new\.wav: no such file; check the path"):
    load("new.wav")
  with pytest.raises(UserError, match=r"bad\.wav: cannot be read as sound"):
    load("bad.wav")
  with pytest.raises(UserError, match=r"link\.wav: no such file; it is a link to gone\.wav"):
    load("link.wav")


@pytest.mark.filterwarnings("default")
def test_the_command_prints_one_line(tmp_path, path, capfd):
  (tmp_path / "audio").mkdir()
  soundfile.write(tmp_path / "audio" / "c1.wav", np.zeros(100), 16000)
  path.write_text(HEADER.replace(",", "|"))
  line = ["prepare", "--audio", tmp_path / "audio", "--labels", path, "--out", tmp_path / "s.h5"]
  assert cli.main([*map(str, line)]) == 2
  (said,) = capfd.readouterr().err.splitlines()
  assert said.startswith(f"atgcn prepare: {path}: no column filename, fold, positive_labels; ")
