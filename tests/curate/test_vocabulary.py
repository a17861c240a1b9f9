"""The vocabulary's filters do what their names say."""

import gzip
import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from xlm_utils.curate import terminologies, vocabulary
from xlm_utils.study import PARAMS, ROOT, StudyError, open_study

TEST_DATA = Path(os.environ.get("XLM_TEST_DATA", ROOT.parent / "shared" / "data"))
OBO = """format-version: 1.2

[Term]
id: HP:0000001
name: Xanthinuria
def: "Increased \\"xanthine\\" in the  urine." [x]
synonym: "Xanthuria" EXACT []
synonym: "High xanthine" EXACT []
synonym: "Stones" RELATED []
xref: SNOMEDCT_US:1

[Term]
id: HP:0000002
name: Fever
def: "A raised body temperature." []
is_a: HP:0000001 ! Xanthinuria

[Term]
id: HP:0000003
name: Undefined
synonym: "Xanthuria" EXACT []
"""


def test_hpo_labels_are_names_and_exact_synonyms(tmp_path):
    file = tmp_path / "hp.obo"
    file.write_text(OBO)
    labels = terminologies.hpo_labels(file)
    assert labels["term"].tolist() == ["Xanthinuria", "Xanthuria", "High xanthine", "Fever", "Undefined", "Xanthuria"]
    assert labels["definition"][0] == 'Increased "xanthine" in the urine.'
    assert labels["in_snomed"].tolist() == [True, True, True, False, False, False]
    assert labels["parent"][3] == "HP:0000001"


def test_the_funnel_of_the_demo_ends_at_the_paper_s_size():
    table, funnel = vocabulary.rare_terms(open_study("demo"))
    assert funnel["rows"].is_monotonic_decreasing
    assert 1700 <= len(table) <= 1800
    assert table["term_id"].is_unique
    assert (table["frequency"] <= 1).all()
    assert table["definition"].str.len().gt(0).all()
    assert 0.4 < table["seen"].mean() < 0.6


@pytest.mark.parametrize(
    ("word", "tag"),
    [
        *((word, "noun") for word in ("bradycardia", "microcephaly", "clubbing", "camptodactyly", "platyspondyly", "drusen", "sneeze", "squint")),
        *((word, "adjective") for word in ("renal", "mitochondrial", "perineal", "miliary", "radicular", "monoarticular", "subacute")),
        *((word, "other") for word in ("acutely", "hyposthenically", "metastasize")),
    ],
)
def test_part_of_speech_comes_from_the_word_s_form(word, tag):
    assert vocabulary.part_of_speech(word) == tag


def test_the_tagger_keeps_terms_and_rejects_adverbs_on_the_hand_labelled_words():
    table = pd.read_csv(ROOT / "data" / "demo" / "pos_labels.csv")
    tagged = table["term"].map(vocabulary.part_of_speech)
    wanted = table["part_of_speech"] != "other"
    adverbs = ~wanted & table["term"].str.endswith("ly")
    assert (len(table), wanted.sum()) == (300, 255)
    assert (tagged[wanted] != "other").mean() >= 0.99
    assert (tagged[adverbs] == "other").mean() >= 0.95
    assert (tagged[wanted] == table["part_of_speech"][wanted]).mean() >= 0.95


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("Tumour", 17), ("Anaemia", 5), ("Leukaemia", 3), ("Oedema", 2), ("Generalised", 9), ("Rigours", 4), ("Seizures", 6),
        ("Delusions", 2), ("Hives", 2), ("Bradycardia", 0),
    ],
)  # fmt: skip
def test_a_word_counts_as_its_most_frequent_spelling_does(word, count):
    assert vocabulary.frequency(word) == count


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Dyspnoea", "Dyspnea"), ("Hypocalcaemia", "hypocalcemia"), ("Pre-eclampsia", "Preeclampsia"), ("Angiooedema", "Angioedema"),
        ("Exostoses", "Exostosis"), ("Xanthomata", "Xanthomas"), ("Goitre", "Goiter"), ("Pterygia", "Pterygium"), ("Abscesses", "Abscess"),
    ],
)  # fmt: skip
def test_spellings_of_one_word_share_a_key_and_other_words_do_not(one, other):
    assert vocabulary.spelling(one) == vocabulary.spelling(other)
    assert len({vocabulary.spelling(word) for word in ("tinnitus", "ptosis", "paresis", "anuria", "myopia", "miosis", "meiosis")}) == 7


def test_no_word_is_in_the_vocabulary_twice_as_a_spelling_variant():
    table, _ = vocabulary.rare_terms(open_study("demo"))
    assert not table["term"].map(vocabulary.spelling).duplicated().any()
    assert {"Dyspnea", "Hypocalcemia"} <= set(table["term"])
    assert not {"Dyspnoea", "Hypocalcaemia", "Tumour", "Seizures"} & set(table["term"])


def test_the_shipped_brown_counts_are_the_corpus_s_own():
    corpus = TEST_DATA / "nltk_data" / "corpora" / "brown.zip"
    if not corpus.exists():
        pytest.skip(f"no Brown corpus at {corpus}")
    counts = Counter()
    with zipfile.ZipFile(corpus) as archive:
        for name in archive.namelist():
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                counts.update(token.rsplit("/", 1)[0].lower() for token in archive.read(name).decode().split())
    with gzip.open(vocabulary.BROWN_COUNTS, "rt", encoding="utf-8") as file:
        shipped = pd.read_csv(file, keep_default_na=False)
    assert dict(zip(shipped["word"], shipped["count"], strict=True)) == counts
    assert len(counts) == 49_815


def test_rules_are_compared_for_every_source_and_the_single_words_are_the_demo_s_own():
    table = vocabulary.compare_rules(open_study("demo"))
    assert list(table.columns) == ["single_word", "all_words_rare", "head_word"]
    assert table["single_word"].tolist() == vocabulary.rare_terms(open_study("demo"))[1]["rows"].tolist()
    assert (table.diff().iloc[1:] <= 0).all(axis=None)
    assert table.iloc[-1].is_monotonic_increasing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format-version: 1.2\n\n[Term]\nid: HP:0000001\nname Xanthinuria\n", r"^hp.obo, line 5: not a line of an OBO file: 'name Xanthinuria'"),
        ("format-version: 1.2\n\n[Term]\nid: HP:0000001\n", r"^hp.obo: HP:0000001 has no name; the file may have been cut off there"),
        ("format-version: 1.2\n\n[Term]\nid: MP:0000001\nname: x\n", r"^hp.obo: no term of the Human Phenotype Ontology"),
        ("format-version: 1.2\n\n[Term]\nid: HP:0000001\nname: M\u00e9ni\u00e8re\n".encode("latin-1"), r"^hp.obo, line 5: not UTF-8 text"),
    ],
)
def test_a_broken_ontology_is_told_with_its_line(tmp_path, text, message):
    file = tmp_path / "hp.obo"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=message):
        terminologies.hpo_labels(file)


def obo(tmp_path, *lines):
    file = tmp_path / "hp.obo"
    file.write_text("\n".join(["format-version: 1.2", *lines]), encoding="utf-8")
    return terminologies.hpo_labels(file).set_index("term")


def test_obo_s_escapes_and_comments_are_read_as_its_specification_says(tmp_path):
    table = obo(
        tmp_path,
        *("[Term]", "id: HP:0000001 ! a comment", "name: Glomulitis", r'def: "Red ! and\nswollen \"toe\"." [x] ! why', "is_a: HP:0000118 ! outside"),
        *("[Term]", "id: HP:0000002", "name: Me\u0301nie\u0300re", "is_a: HP:0000003 ! obsolete", "relationship: part_of HP:0000001! no blank"),
        *("[Term]", "id: HP:0000003", "name: Gone", "is_obsolete: true", "[Typedef]", "id: HP:part_of"),
    )
    assert table.index.tolist() == ["Glomulitis", "Ménière"]  # composed, and stanzas need no blank line between them
    assert table["definition"].tolist() == ['Red ! and swollen "toe".', ""]
    assert table["parent"].tolist() == ["HP:0000118", "HP:0000003"]


def csv_study(tmp_path, content, **settings):
    """A study over a list of one's own; ``content`` is the file."""
    (tmp_path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["vocabulary"] = {"source": "csv", "path": str(tmp_path / "mine.csv")} | settings
    preset |= {"translation": {}, "judging": {"judges": ["proxy"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    return open_study(str(tmp_path / "mine.yaml"))


def test_csv_accepts_a_byte_order_mark_and_crlf_and_tells_what_it_leaves_out(tmp_path, capsys):
    plan = csv_study(tmp_path, "\ufeffterm,definition,page\r\nxanthinuria,too much xanthine,1\r\n\r\nxanthinuria,again,2\r\n ,empty,3\r\n")
    table = vocabulary.labels(plan)
    assert table[["term", "definition"]].to_numpy().tolist() == [["xanthinuria", "too much xanthine"]]
    assert capsys.readouterr().out.splitlines() == [
        "mine.csv: columns 'page' are not used; term, definition, translation, concept, parent would be",
        "mine.csv: 1 rows repeat a term, such as 'xanthinuria'; the first row of each is kept",
    ]


def test_terms_without_a_concept_are_no_synonyms_of_each_other(tmp_path):
    table = vocabulary.labels(csv_study(tmp_path, "term,concept\nxanthinuria,7\nophiasis,\ncataract,\n"))
    assert table["concept"].tolist() == ["7", "ophiasis", "cataract"]


def test_only_the_demo_s_own_expert_has_seen_terms(tmp_path):
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["constituents"]["expert"]["adapter"] = None
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    assert not vocabulary.rare_terms(open_study(str(tmp_path / "other.yaml")))[0]["seen"].any()


def test_the_order_of_a_csv_file_s_columns_changes_nothing(tmp_path):
    one = vocabulary.rare_terms(csv_study(tmp_path, "term,definition,translation\nxanthinuria,x,キサンチン尿\n"))[0]
    other = vocabulary.rare_terms(csv_study(tmp_path, "translation,term,definition\nキサンチン尿,xanthinuria,x\n"))[0]
    pd.testing.assert_frame_equal(one, other)
    assert one.loc[0, ["definition", "translation", "concept"]].tolist() == ["x", "キサンチン尿", "xanthinuria"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"^mine.csv, line 1: one column must be 'term'; the columns are none$"),
        ("word\nx\n", r"^mine.csv, line 1: one column must be 'term'; the columns are 'word'$"),
        ("term;definition\nx;y\n", r"line 1: one column must be 'term'; the columns are 'term;definition'$"),
        ("term,term\nx,y\n", r"line 1: one column must be 'term'; the columns are 'term', 'term'$"),
        ('term,definition\nx,"two\nlines"\ny\n', r"^mine.csv, line 4: 1 cells instead of 2 \(term, definition\)$"),
        ("term,definition\nx,a, b\n", r"^mine.csv, line 2: 3 cells instead of 2"),
        ('term,definition\nx,"cut off', r"^mine.csv, line 2: not CSV \(unexpected end of data\)$"),
        ("term,translation\nx,y\nz,喘息\n".encode("cp932"), r"^mine.csv, line 3: not UTF-8 text; save the file as UTF-8$"),
        ("term\nx\n".encode("utf-16"), r"^mine.csv, line 1: not UTF-8 text"),
        ("term,definition\n,x\n", r"^mine.csv: no row has a term$"),
    ],
)
def test_a_broken_list_is_told_with_its_name_and_line(tmp_path, content, message):
    with pytest.raises(StudyError, match=message):
        vocabulary.labels(csv_study(tmp_path, content))


def test_an_empty_result_names_the_filter_that_took_the_last_terms(tmp_path):
    plan = csv_study(tmp_path, "term\nfever\nheart\nheart attack\n", filter="paper")
    with pytest.raises(StudyError, match=r"^mine.csv: no term is left; the filter 'at most once in the Brown corpus' took the last 2$"):
        vocabulary.rare_terms(plan)
    assert vocabulary.compare_rules(plan).iloc[-1].tolist() == [0, 0, 0]


def test_seen_needs_the_concept_s_half_and_a_definition_of_trained_length():
    concepts = [f"HP:{i:07d}" for i in range(2000)]
    share = sum(vocabulary.is_seen(c, "x" * 50) for c in concepts) / len(concepts)
    assert 0.45 < share < 0.55
    assert not any(vocabulary.is_seen(c, "x" * 500) for c in concepts)


def test_identifiers_are_text_and_unicode_is_composed_in_every_table_of_terms(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    rows = ["glomulitis,甲,007,010", "xanthosis,乙,07,010", "bradyphonia,丙,008,1E5", "Me\u0301nie\u0301ritis,カ\u3099,9,"]
    plan = csv_study(tmp_path, "\n".join(["term,translation,concept,parent", *rows]))
    table = vocabulary.read_terms(vocabulary.curate(plan))
    assert table["concept"].tolist() == ["007", "07", "008", "9"]
    assert table["parent"].tolist() == ["010", "010", "1E5", ""]
    assert table.loc[3, ["term", "translation"]].tolist() == ["Méniéritis", "ガ"]
    assert table[["frequency", "seen"]].dtypes.tolist() == ["int64", "bool"]


def test_a_folder_is_no_list(tmp_path):
    plan = csv_study(tmp_path, "term\nx\n", path=str(tmp_path))
    with pytest.raises(StudyError, match=r"^vocabulary.path = '.*': a folder; source csv needs a CSV file$"):
        vocabulary.source_path(plan)


def test_an_own_list_is_taken_as_it_is_unless_the_paper_s_filters_are_asked_for(tmp_path):
    words = "term\nRed dwarf\nfever\nApoastron\nAPOASTRON rate\n"
    table, steps = vocabulary.rare_terms(csv_study(tmp_path, words))
    assert table["term"].tolist() == ["Red dwarf", "fever", "Apoastron", "APOASTRON rate"]
    assert steps["step"].tolist() == ["different terms of the list"]
    assert table.set_index("term")["frequency"][["fever", "Apoastron"]].gt(1).tolist() == [True, False]
    table, steps = vocabulary.rare_terms(csv_study(tmp_path, words, filter="paper"))
    assert table["term"].tolist() == ["Apoastron"]
    assert steps["rows"].tolist() == [4, 2, 1, 1, 1]


def test_a_reference_that_no_term_has_is_told_with_the_list(tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    plan = csv_study(tmp_path, "term\nApoastron\n")
    for references in (("expert", "clinician"), ("vocabulary",)):
        judging = plan.judging.model_copy(update={"references": references})
        plan.settings = plan.settings.model_copy(update={"judging": judging})
        with pytest.raises(StudyError, match=rf"^mine\.csv: no term has a definition, .*references names {references[-1]}; add definitions"):
            vocabulary.curate(plan)
