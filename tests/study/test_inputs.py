"""What people write is read strictly: one sentence with file, line and what to do."""

import pytest

from measure.bad_input import CASES
from tests.support import scratch
from xlm_utils.study import open_study
from xlm_utils.study.inputs import read_text, read_yaml

SLOW = ("M15", "M16", "J11b", "S-deep", "C34")  # MergeKit, an SDK or the tagger is loaded, or models are made; ``measure`` runs them


@pytest.mark.parametrize("case", [case for case in CASES if case.id not in SLOW and case.id[0] not in "DA"], ids=lambda case: case.id)
def test_bad_input_is_one_sentence_or_taken_as_meant(case, tmp_path, monkeypatch):
    for module in scratch.HOLDERS:
        monkeypatch.setattr(module, "PARAMS", module.PARAMS)  # the case's scratch copy is taken back afterwards
    monkeypatch.setenv("XLM_HOME", "")
    right, came = scratch.outcome(case, tmp_path)
    assert right, came


def test_yaml_is_taken_as_it_is_meant(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("\ufefft: 1:30\r\nd: 2024-01-01\r\ne: 1.5e+6\r\nn: -3\r\nf: 1.5\r\nb: yes\r\ns: 007\r\n", encoding="utf-8")
    assert read_yaml(file) == {"t": "1:30", "d": "2024-01-01", "e": 1.5e6, "n": -3, "f": 1.5, "b": True, "s": "007"}


def test_a_text_has_no_mark_and_no_carriage_returns(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(file) == "a\nb\nc\n"


def test_one_value_in_two_spellings_is_one_run():
    assert {open_study("demo", limit=limit).folder.name for limit in (8, "8", 8.0, "8.0")} == {"demo+limit=8"}
    assert {open_study("demo", chat_template=said).folder.name for said in (True, "true", "yes")} == {"demo+chat_template=True"}
    assert open_study("demo", chat_template="no").folder == open_study("demo").folder
