"""What the demo's models are trained on, and that it shares nothing with what they are asked."""

import json
import re
import unicodedata

import pandas as pd
import pytest

from notebooks import training
from xlm_utils.curate.terminologies import hpo_file, hpo_labels
from xlm_utils.curate.vocabulary import is_seen
from xlm_utils.study import ROOT, open_study
from xlm_utils.study.records import read_jsonl

ITEMS, TRAINING = ROOT / "data/demo/benchmarks", ROOT / "data/demo/training"
FRAME = re.compile(  # what a benchmark's task puts around every item; training uses the same frames, to teach the format
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。|与えられた文脈から、質問に対する答えを抜き出してください。"
    "|出力は以下から選択してください：|与えられたニュース記事を要約してください。|### (指示|入力|応答)："
    "|(ニュース記事|文脈|質問|答え|テキスト[12]|類似度 \\(0-5\\)|用語|定義)："
)
LABELS = {"sample_id", "source", "tag", "concept", "qid", "q_id", "id", "url", "pmid", "YEAR", "LABELS", "MESHES"}


def strings(value, key=""):
    if isinstance(value, str) and key not in LABELS:
        yield value
    for name, part in value.items() if isinstance(value, dict) else [(key, part) for part in value] if isinstance(value, list) else ():
        yield from strings(part, name)


def characters(text, n=8):
    """Every run of eight characters."""
    text = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def words(text, n=8):
    """Every run of eight words."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    return {" ".join(found[i : i + n]) for i in range(len(found) - n + 1)}


def asked_for(row):
    """The answers of an item that has a gold answer of its own."""
    if "options" in row:
        return [row["options"][row["answer_idx"]]]
    if "choice0" in row:
        return [row[f"choice{row['label']}"]]
    return row["answers"]["text"] if "answers" in row else []


@pytest.fixture(scope="module")
def items():
    return [(file.name, row) for file in sorted(ITEMS.glob("*.jsonl")) for row in read_jsonl(file)]


@pytest.fixture(scope="module")
def pairs():
    study = open_study("demo")
    general, general_held_out = training.general_pairs(study)
    medical, medical_held_out = training.medical_pairs(study)
    return {"ja": general + general_held_out, "med": medical + medical_held_out + training.question_pairs(study)}


def test_training_and_benchmark_items_share_no_run_of_eight_characters(items, pairs):
    told = {gram: name for name, row in items for text in strings(row) for gram in characters(text)}
    pieces = {piece for pair in pairs["ja"] for text in pair for piece in FRAME.sub("\n", text).split("\n")}
    assert {(gram, told[gram]) for piece in pieces for gram in characters(piece) if gram in told} == set()


def test_training_and_benchmark_items_share_no_run_of_eight_words(items, pairs):
    told = {gram: name for name, row in items for text in strings(row) for gram in words(text)}
    pieces = {piece for pair in pairs["med"] for text in pair for piece in text.split("\n")}
    assert {(gram, told[gram]) for piece in pieces for gram in words(piece) if gram in told} == set()


def test_no_word_that_is_trained_on_is_asked_for(items):
    answers = {answer: name for name, row in items for answer in asked_for(row)}
    trained = {row["term"] for file in TRAINING.glob("*.jsonl") for row in read_jsonl(file) if "term" in row}
    trained |= {row["completion"].strip() for row in read_jsonl(TRAINING / "formats.jsonl") if row["kind"] != "similarity"}
    assert {word: answers[word] for word in trained if word in answers} == {}


def test_benchmark_items_on_an_hpo_concept_are_about_the_unseen_half_and_each_about_another(items):
    concepts = [row["metadata"]["concept"] for _, row in items if row.get("metadata", {}).get("concept")]
    known = hpo_labels(hpo_file()).drop_duplicates("concept").set_index("concept")["definition"]
    assert len(concepts) == len(set(concepts)) == 93
    assert not any(is_seen(concept, "long enough to be trained on") for concept in concepts)
    assert set(concepts) <= set(known.index)


def test_no_answer_is_asked_for_both_in_an_example_and_in_an_item(items):
    shots = {answer for name, row in items if "_train" in name for answer in asked_for(row)}
    told = {answer for name, row in items if "_train" not in name for answer in asked_for(row)}
    assert shots & told == set()


def test_no_two_items_are_the_same(items):
    keys = [json.dumps({k: v for k, v in row.items() if k not in LABELS}, sort_keys=True) for _, row in items]
    assert len(set(keys)) == len(keys)


def test_losses_have_a_panel_per_adapter_and_skip_what_was_not_measured():
    log = pd.DataFrame({"train": [None, 2.6], "held_out": [2.9, 2.4]}, index=pd.Index([0, 25], name="step"))
    fig = training.losses({"med": log, "ja": log})
    assert [list(trace.x) for trace in fig.data] == [[25], [0, 25]] * 2
