"""A SNOMED CT release is read as its own rules say; the release is hand-made (``rf2.py``)."""

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support import rf2
from xlm_utils.curate import snomed, vocabulary
from xlm_utils.study import PARAMS, StudyError, open_study


@pytest.fixture
def folder(tmp_path):
    return rf2.example().write(tmp_path / "release")


def terms(table, number):
    return table["term"][table["concept"] == str(rf2.concept_id(number))].tolist()


def file(folder, kind, module="INT", state="Snapshot"):
    return folder / state / f"{rf2.FILES[kind].format(state)}{module}_{rf2.LATE}.txt"


def edit(path, line, change):
    """Change one line (counted from 1) of a file."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"".join(lines))


def study(tmp_path, path, **settings):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["vocabulary"] = {"source": "snomed", "path": str(path)} | settings
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    return open_study(str(tmp_path / "mine.yaml"))


def test_a_label_needs_an_active_concept_description_and_membership(folder):
    table = snomed.labels(folder)
    assert len(table) == 39
    assert terms(table, 2) == ["Glomulitis", "Inflammation of glomus"]  # not Glomulosis (retired) nor Glomulopathy (accepted no more)
    assert terms(table, 25) == []  # a retired concept keeps active descriptions


def test_a_later_row_of_another_module_retires_an_international_concept(folder):
    assert terms(snomed.labels(folder), 24) == []
    assert terms(snomed.labels(folder), 27) == ["Septulum"]
    for path in folder.rglob("*XX9999999*"):
        path.unlink()
    assert terms(snomed.labels(folder), 24) == ["Cranioplegia"]


def test_quotation_marks_and_unicode_stay_as_they_are(folder):
    table = snomed.labels(folder)
    assert terms(table, 7)[1] == 'The "yellow" sign'
    assert terms(table, 6) == ["Ménvière", "Ménvière disease"]


def test_a_dialect_has_its_own_spelling_and_a_language_code_has_all(folder):
    assert terms(snomed.labels(folder), 26) == ["Pseudoanemia"]
    assert terms(snomed.labels(folder, language="en-GB"), 26) == ["Pseudoanaemia"]
    assert terms(snomed.labels(folder, language="en"), 26) == ["Pseudoanemia", "Pseudoanaemia"]
    assert terms(snomed.labels(folder, language="en"), 10) == ["Nephridium", "Kidney unit", "Nephridion"]  # the last accepted nationally


def test_another_language_s_rows_come_with_the_english_name_s_tag(folder):
    table = snomed.labels(folder, language="ja")
    assert table[["term", "semantic_tag"]].to_numpy().tolist() == [["グロムル炎", "disorder"]]


def test_fully_specified_names_lose_their_tag_and_preferred_terms_their_synonyms(folder):
    full, preferred = (snomed.labels(folder, kind) for kind in ("fsn", "preferred"))
    assert terms(full, 10) == terms(preferred, 10) == ["Nephridium"]
    assert len(full) == len(preferred) == full["concept"].nunique() == 28
    assert set(full["semantic_tag"]) == {
        "disorder", "finding", "body structure", "procedure", "organism", "substance", "qualifier value"
    }  # fmt: skip


def test_definition_parent_and_preferred_name_are_the_dialect_s_and_the_active_ones(folder):
    rows = snomed.labels(folder).set_index("term")
    assert rows.loc["Glomulitis", "definition"] == "Swelling of the glomus, with color change."
    british = snomed.labels(folder, language="en-GB").set_index("term")
    assert british.loc["Glomulitis", "definition"].endswith("colour change.")
    assert rows.loc["Glomulitis", "parent"] == str(rf2.concept_id(1))  # neither the retired is-a nor another relation
    assert rows.loc["Septulotomy", "parent"] == str(rf2.concept_id(10))  # the lower of two
    assert rows.loc["Disease", ["parent", "definition"]].tolist() == ["", ""]
    assert rows.loc[["Glomulitis", "Inflammation of glomus"], "is_name"].tolist() == [True, False]


def test_a_zip_a_folder_with_the_zip_and_the_folder_itself_say_the_same(folder, tmp_path):
    table = snomed.labels(folder)
    archive = rf2.zipped(folder)
    (tmp_path / "raw").mkdir()
    shutil.copy(archive, tmp_path / "raw")
    pd.testing.assert_frame_equal(snomed.labels(archive), table)
    pd.testing.assert_frame_equal(snomed.labels(tmp_path / "raw"), table)
    assert snomed.sources(tmp_path / "raw") == [tmp_path / "raw" / archive.name]


def test_an_archive_beside_an_unpacked_extension_is_read_too(folder, tmp_path):
    table = snomed.labels(folder)
    whole = rf2.zipped(folder)
    for path in folder.rglob("*INT*"):
        path.unlink()  # the extension alone
    shutil.copy(whole, folder)
    pd.testing.assert_frame_equal(snomed.labels(folder), table)
    assert {path.suffix for path in snomed.sources(folder)} == {".zip", ".txt"}


def test_two_releases_in_a_folder_are_refused_by_name(folder):
    one = file(folder, "Concept")
    shutil.copy(one, one.with_name(one.name.replace(str(rf2.LATE), str(rf2.EARLY))))
    with pytest.raises(StudyError, match=r"sct2_Concept_Snapshot_INT_20240131.txt and \S+_INT_20250131.txt are one file of two releases"):
        snomed.labels(folder)


def test_a_national_dialect_is_its_own_refset(tmp_path):
    hand_made = rf2.example()
    hand_made.term(rf2.concept_id(2), "Glomulitis australis", rf2.SYNONYM, {snomed.DIALECTS["en-AU"]: rf2.PREFERRED}, file=rf2.MODULES[1])
    table = snomed.labels(hand_made.write(tmp_path / "release"), language="en-AU")
    assert table["term"].tolist() == ["Glomulitis australis"]


def test_where_both_are_there_only_the_snapshot_is_read(folder):
    rf2.example().write(folder, state="Full")
    assert {path.parts[len(folder.parts)] for path in snomed.sources(folder)} == {"Snapshot"}


def test_the_order_of_rows_line_ends_and_a_byte_order_mark_change_nothing(folder, tmp_path):
    table = snomed.labels(folder)
    other = tmp_path / "other"
    release = rf2.example()
    for rows in release.rows.values():
        rows.reverse()
    release.write(other)
    for path in other.rglob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n"))
    pd.testing.assert_frame_equal(snomed.labels(other), table)


def test_names_of_the_british_edition_s_files_are_known():
    names = ["sct2_Description_UKCLSnapshot-en_GB1000000_20250101.txt", "der2_cRefset_LanguageUKCLSnapshot-en_GB1000000_20250101.txt"]
    assert [snomed.NAME.fullmatch(name).groups() for name in names] == [("Description", None), (None, "Language")]
    assert not snomed.NAME.fullmatch("sct2_StatedRelationship_Snapshot_INT_20250101.txt")


def test_definitions_and_parents_may_be_missing_and_a_line_says_so(folder, capsys):
    for kind in ("TextDefinition", "Relationship"):
        for module in rf2.MODULES:
            file(folder, kind, module).unlink()
    table = snomed.labels(folder)
    assert (table[["definition", "parent"]] == "").all(axis=None)
    out = capsys.readouterr().out
    assert "no TextDefinition file, so definitions stay empty" in out
    assert "no Relationship file, so parents stay empty" in out


def swapped(line):
    cells = line.split(b"\t")
    return b"\t".join([*cells[:4], cells[5], cells[4], *cells[6:]])


@pytest.mark.parametrize(
    ("kind", "line", "change", "message"),
    [
        ("Description", 7, lambda text: text[:40] + b"\r\n", r"^sct2_Description_Snapshot-en_INT_\d+.txt, line 7: \d columns instead of 9$"),
        ("Description", 7, lambda text: text.rstrip() + b"\tmore\r\n", r"line 7: 10 columns instead of 9$"),
        ("Description", 1, swapped, r"line 1: the columns are 'id .* languageCode conceptId .*', not 'id .* conceptId languageCode "),
        ("Description", 9, swapped, r"line 9: conceptId is 'en', not a number$"),
        ("Description", 5, lambda text: text.replace(b"itis", b"it\xefs"), r"line 5: not UTF-8 text$"),
        ("Description", 1, lambda text: text.decode().encode("utf-16"), r"line 1: not UTF-8 text$"),
        ("Language", 3, lambda text: text.replace(b"\t1\t", b"\tyes\t"), r"^der2_cRefset_Language.*, line 3: active is 'yes', not a number$"),
        ("Concept", 2, lambda text: text.replace(b"\t1\t", b"\t2\t"), r"line 2: active is '2', not 0 or 1$"),
        ("Concept", 2, lambda text: text.replace(b"20240131", b""), r"line 2: effectiveTime is '', not a number$"),
    ],
)
def test_a_broken_file_is_told_with_its_name_and_line(folder, kind, line, change, message):
    edit(file(folder, kind), line, change)
    with pytest.raises(StudyError, match=message):
        snomed.labels(folder)


def test_a_release_without_a_file_that_it_needs_is_told(folder, tmp_path):
    for module in rf2.MODULES:
        file(folder, "Language", module).unlink()
    with pytest.raises(StudyError, match="release: no Snapshot file for Language; a SNOMED CT release has Concept, Description, Language"):
        snomed.labels(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty: no Snapshot file for Concept, Description, Language"):
        snomed.labels(tmp_path / "empty")


def test_an_archive_that_is_none_or_damaged_is_told(folder):
    archive = rf2.zipped(folder)
    with zipfile.ZipFile(archive) as opened:
        info = next(i for i in opened.infolist() if "sct2_Description" in i.filename and "INT" in i.filename)
    data = bytearray(archive.read_bytes())
    middle = info.header_offset + info.compress_size // 2
    data[middle : middle + 8] = bytes(8)
    archive.write_bytes(data)
    with pytest.raises(StudyError, match=r"release.zip: a damaged archive \("):
        snomed.labels(archive)
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(StudyError, match=r"release.zip: neither a folder nor a whole zip"):
        snomed.labels(archive)


def test_an_empty_result_names_the_languages_that_are_there(folder):
    with pytest.raises(StudyError, match=r"no active label \(synonyms\) in 'sv'; the release has descriptions in en, ja$"):
        snomed.labels(folder, language="sv")
    with pytest.raises(StudyError, match=r"vocabulary.language = 'en-XX': neither a language code such as 'en' nor one of en-US, en-GB"):
        snomed.labels(folder, language="en-XX")


# rows after each filter, counted by hand in rf2.py: Disease, Fever, (Acute, Left …) and (… voice, gait, sign, mg, unit, disease) occur in
# Brown, renal once; Hyposthenically is an adverb; Plexy and Glossoptosia name two concepts each
FUNNELS = {"single_word": [39, 25, 23, 22, 20], "all_words_rare": [39, 36, 25, 24, 22], "head_word": [39, 38, 30, 29, 27]}


def test_each_rule_for_several_words_has_its_funnel(folder, tmp_path):
    table = vocabulary.compare_rules(study(tmp_path, folder))
    assert table.to_dict("list") == FUNNELS
    assert table.index[1] == "words that the rule allows"


def test_every_rule_keeps_what_the_stricter_one_keeps(folder, tmp_path):
    kept = {rule: set(vocabulary.rare_terms(study(tmp_path, folder, terms=rule))[0]["term"]) for rule in FUNNELS}
    assert kept["all_words_rare"] - kept["single_word"] == {"Pseudobacillus rubrum", "Renal hepatothrombia"}
    assert kept["head_word"] > kept["all_words_rare"] > kept["single_word"]


@pytest.mark.parametrize(
    ("term", "rule", "counted"),
    [
        ("Hollow toe", "single_word", []),
        ("Hollow toe", "head_word", ["toe"]),
        ("Hollow toe", "all_words_rare", ["Hollow", "toe"]),
        ("Type 2 toe", "all_words_rare", []),
        ("Type 2 toe", "head_word", ["toe"]),
        ("Toe type II", "head_word", []),
        ("Ménière-like", "single_word", ["Ménière-like"]),
    ],
)
def test_the_words_that_decide_about_a_term(term, rule, counted):
    assert vocabulary.counted_words(term, rule) == counted


def test_semantic_tags_choose_and_an_unknown_one_names_the_others(folder, tmp_path):
    table, funnel = vocabulary.rare_terms(study(tmp_path, folder, semantic_tags=["procedure", "organism"]))
    assert set(table["semantic_tag"]) == {"procedure", "organism"}
    assert funnel["step"][1] == "tagged procedure, organism"
    with pytest.raises(StudyError, match="no label is tagged 'disease'; the most frequent tags are disorder, finding"):
        vocabulary.rare_terms(study(tmp_path, folder, semantic_tags=["disease"]))


def test_curating_twice_is_one_piece_of_work_until_the_release_changes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    mine = study(tmp_path, folder, labels="preferred")
    table = pd.read_csv(vocabulary.curate(mine), keep_default_na=False)
    assert table["term_id"].is_unique
    assert table["in_snomed"].all()
    assert not table["seen"].any()
    vocabulary.curate(mine)
    assert "done before, kept" in capsys.readouterr().out
    (folder / "Readme_en.txt").write_text("not part of the terminology", encoding="utf-8")
    vocabulary.curate(mine)
    assert "done before, kept" in capsys.readouterr().out
    edit(file(folder, "Description"), 5, lambda text: text.replace(b"Glomulitis", b"Glomalitis"))
    again = pd.read_csv(vocabulary.curate(mine), keep_default_na=False)
    assert "done before" not in capsys.readouterr().out
    assert set(again["term"]) ^ set(table["term"]) == {"Glomulitis", "Glomalitis"}


def test_a_relative_path_is_the_project_s_and_a_missing_release_is_told_first(tmp_path):
    with pytest.raises(StudyError, match=r"vocabulary.path = 'data/raw/none': there is no such file; source snomed needs the folder or the zip"):
        vocabulary.curate(study(tmp_path, Path("data/raw/none")))


def test_nothing_of_a_release_is_written_outside_the_run_folder(folder, tmp_path, monkeypatch):
    """Figures show terms on hover, and figures/ is committed."""
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    mine = study(tmp_path, folder)
    assert mine.figures == mine.folder / "figures"
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    vocabulary.curate(mine)
    assert all(file.is_relative_to(mine.folder) for file in {file for file in tmp_path.rglob("*") if file.is_file()} - before)


def test_settings_of_snomed_are_refused_for_another_source(tmp_path):
    with pytest.raises(StudyError, match=r"vocabulary.labels: only source snomed has it, and the source is csv"):
        study(tmp_path, "x.csv", source="csv", labels="fsn")
