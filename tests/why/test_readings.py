"""Readings of pico models: what is known of the parents holds, and nothing is read twice."""

import pandas as pd
import pytest

from xlm_utils import models
from xlm_utils.merge.merging import merge
from xlm_utils.why import layers

TERMS = pd.DataFrame({"term_id": list("abc"), "term": ["asthma", "wheezing", "airways"], "translation": ["yes", "慢性的", "disease"]})
TEXTS = {"en": ["a disease of the airways", "asthma with wheezing"], "ja": ["気道の慢性的な炎症"]}


def test_a_prompt_ends_with_the_term(pico_study):
    study = pico_study("llama")
    assert layers.up_to(study, study.source, "{x}") == "Term: {x}"
    assert layers.up_to(study, study.target, "喘息") == "用語：喘息"


def test_a_word_begins_in_several_forms_and_never_with_a_part_of_a_letter(pico_study):
    tokenizer = models.load(pico_study("llama"), "japanese")[1]
    found = tokenizer.convert_ids_to_tokens(layers.first_tokens(tokenizer, "wheezing"))
    assert {token.lstrip("Ġ") for token in found} > {"W"}
    assert layers.first_tokens(tokenizer, "鬱") == set(), "three bytes, none of them a letter"
    assert layers.first_tokens(tokenizer, "asthma") == layers.first_tokens(tokenizer, "Asthma")


def test_readings_of_the_parents_and_a_merge_are_kept(pico_study, monkeypatch):
    study = pico_study("llama", methods=["linear"])
    merge(study, "linear")
    names = ["japanese", "expert", "linear"]
    found = layers.read(study, names, TERMS, TEXTS)
    assert set(found["reading"]) == {"meet", "lens en en", "lens en ja", "lens ja en", "lens ja ja", "from expert", "from japanese"}
    assert set(found["layer"]) == {1, 2}
    table = found.groupby(["model", "reading"])["value"].mean().unstack()
    assert table.loc["expert", "from expert"] == table.loc["japanese", "from japanese"] == 0
    assert (table.loc["linear", ["from expert", "from japanese"]] < table.loc["japanese", "from expert"]).all(), "it lies between its parents"
    lens = found[found["reading"] == "lens en en"]
    assert set(lens["item"]) == {"a", "c"}, "the second's translation begins with a part of a letter"
    assert lens["value"].between(0, 1).all()
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("nothing is left to read"))
    pd.testing.assert_frame_equal(layers.read(study, names, TERMS, TEXTS), found)


def test_a_run_that_was_killed_keeps_the_models_that_it_had_read(pico_study, monkeypatch):
    study, load, loaded = pico_study("llama"), models.load, []

    def killed(study, name):
        loaded.append(name)
        if len(loaded) == 3:
            raise KeyboardInterrupt
        return load(study, name)

    monkeypatch.setattr(models, "load", killed)
    with pytest.raises(KeyboardInterrupt):
        layers.read(study, ["japanese", "ancestor"], TERMS, TEXTS)
    found = layers.read(study, ["japanese", "ancestor"], TERMS, TEXTS)
    assert loaded == ["expert", "japanese", "ancestor"] * 2, "the parents' states are not kept, their readings are"
    assert list(found["model"].unique()) == ["japanese", "ancestor"]
    assert not found.duplicated(["model", "reading", "item", "layer"]).any()
