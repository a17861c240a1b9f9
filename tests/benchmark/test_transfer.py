"""The margin without a judge: against the harness's own model class, rivals of the own group, and controls that lie where they should."""

import numpy as np
import pandas as pd
import pytest
import torch

from xlm_utils import benchmark, curate, generate, models
from xlm_utils.benchmark import transfer
from xlm_utils.study import StudyError, open_study
from xlm_utils.study.records import read_jsonl

TERMS = pd.DataFrame({
    "term_id": list("abcdef"), "concept": ["A", "A", "B", "C", "D", "E"], "term": ["aa", "ab", "ba", "ca", "da", "ea"],
    "translation": ["ああ", "あい", "いう", "うえ", "えお", "おか"],
    "definition": ["first", "first", "second", "third", "", "a longer fifth"]})  # fmt: skip
GROUPS = {"A": "x", "B": "x", "C": "y", "D": "x", "E": "x"}


def test_rivals_are_other_concepts_with_a_definition_of_the_own_group_first():
    for seed in range(20):
        asked = dict(transfer.draw(TERMS, GROUPS, 2, 0, seed))
        assert list(asked) == [0, 1, 2, 3, 5], "a term without a definition is not asked about"
        for row, others in asked.items():
            concepts = [TERMS["concept"][number] for number in others]
            assert TERMS["concept"][row] not in concepts
            assert "D" not in concepts
            assert len(set(concepts)) == 2
        assert {TERMS["concept"][number] for number in asked[0]} == {"B", "E"}, "its own group has two"
    assert len(transfer.draw(TERMS, GROUPS, 2, 3, 0)) == 3
    assert transfer.draw(TERMS, GROUPS, 2, 3, 0) == transfer.draw(TERMS, GROUPS, 2, 3, 0)


def test_too_few_concepts_are_one_sentence():
    with pytest.raises(StudyError, match="definitions of more than 4 concepts, and the study has them of 4"):
        transfer.draw(TERMS, GROUPS, 4, 0, 0)


class Answers:
    """Stands for a model: the likelihood of a definition is written in a table."""

    def __init__(self, values):
        self.values = values

    def likelihoods(self, pairs):
        return [self.values[pair] for pair in pairs]


def test_a_margin_is_the_own_likelihood_a_token_minus_the_rivals_mean(pico_study):
    prompts, table = ["P", "Q", "R"], TERMS.iloc[[0, 2, 3]].reset_index(drop=True)
    values = {("P", " first"): (-4.0, 4), ("Q", " first"): (-8.0, 4), ("R", " first"): (-12.0, 4), ("Q", " second"): (-6.0, 2),
              ("P", " second"): (-2.0, 2), ("R", " second"): (-10.0, 2)}  # fmt: skip
    rows = transfer.score(Answers(values), pico_study("llama"), table, prompts, [(0, [1, 2]), (1, [0, 2])])
    assert rows == [
        {"term_id": "a", "margin": 1.5, "correct": True, "logp": -1.0, "tokens": 4},
        {"term_id": "c", "margin": 0.0, "correct": False, "logp": -3.0, "tokens": 2}]  # fmt: skip


def test_likelihoods_are_those_of_the_stock_class(pico_study):
    from lm_eval.models.huggingface import HFLM

    model, tokenizer, _ = models.load(pico_study("llama"), "japanese", dtype="float32")
    loaded = {}
    lm = transfer.language_model(pico_study("llama"), "japanese", {}, loaded)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    pairs = [(f"Term: {term}\nDefinition:", f" {text}") for term in TERMS["term"] for text in ("a slow beat", "pain", "a longer fifth text")]
    encoded = [(pair, *stock._encode_pair(*pair)) for pair in pairs]
    expected = [value for value, _ in stock._loglikelihood_tokens(encoded, disable_tqdm=True)]
    ours = lm.likelihoods(pairs)
    assert np.allclose([value for value, _ in ours], expected, atol=1e-3 if lm.model.dtype == torch.float32 else 0.5)
    assert [tokens for _, tokens in ours] == [len(option) for _, _, option in encoded]
    assert loaded["name"] == "japanese"


def test_the_hpos_groups_are_its_organ_systems():
    groups = curate.groups(open_study("demo"))
    named = dict(curate.labels(open_study("demo")).query("is_name")[["concept", "term"]].itertuples(index=False))
    by_term = {term: named[groups[concept]] for concept, term in named.items()}
    assert by_term["Bradycardia"] == "Abnormality of the cardiovascular system"
    assert by_term["Cataract"] == "Abnormality of the eye"
    systems = {groups[concept] for concept in groups if "bnormality" in named[groups[concept]]}
    assert 20 <= len(systems) <= 30, "HPO has some two dozen organ systems"


def test_each_run_is_asked_once_and_read_back(pico_study, monkeypatch, capsys):
    study = pico_study("llama")
    study.settings.__dict__["transfer"] = study.settings.transfer.model_copy(update={"rivals": 2})
    runs = [run for run in generate.runs(study) if run.model in ("japanese", "expert") and not run.name.endswith(".reference")]
    loaded = {}
    for _ in range(2):
        for run in runs:
            benchmark.ask_transfer(study, TERMS, run, GROUPS, loaded)
    assert capsys.readouterr().out.count("done before, kept") == len(runs)
    rows = benchmark.transfer_rows(study, [run.name for run in runs])
    assert len(rows) == 5 * len(runs)
    assert rows["margin"].abs().max() < 1, "a model of random weights ties nothing to anything"
    assert set(read_jsonl(study.folder / "transfer" / "expert.jsonl")[0]) == {"run", "term_id", "margin", "correct", "logp", "tokens"}


class Knows:
    """Stands for a model that knows every term of ``TERMS``, and what stands in the prompt already."""

    def likelihoods(self, pairs):
        of = {f" {row.definition}": [row.term] for row in TERMS.itertuples()} | {" first": ["aa", "ab"]}
        known = [any(f": {term}\n" in prompt for term in of[text]) for prompt, text in pairs]
        return [(0.0 if text.strip() in prompt.splitlines() else -1.0 if own else -5.0, 1) for (prompt, text), own in zip(pairs, known, strict=True)]


def test_controls_of_the_expert_lie_where_they_should(pico_study, monkeypatch):
    study = pico_study("llama", transfer={"rivals": 2})
    monkeypatch.setattr(transfer, "language_model", lambda *_: Knows())
    run = next(run for run in generate.runs(study) if run.name == "expert")
    for control in ("", *transfer.CONTROLS):
        benchmark.ask_transfer(study, TERMS, run, GROUPS, {}, control)
    rows = benchmark.transfer_rows(study, ["expert", "expert.unrelated", "expert.echo"]).groupby("run")[["margin", "correct"]].mean()
    assert rows.loc["expert"].tolist() == [4, 1]
    assert rows.loc["expert.echo"].tolist() == [5, 1], "the definition itself is known best of all"
    assert rows.loc["expert.unrelated", "margin"] <= 0
    assert rows.loc["expert.unrelated", "correct"] == 0, "its own term is never asked"
