"""Readings of pico models: what is known of the parents holds, nothing is read twice, intervals hold what they should."""

import numpy as np
import pandas as pd
import pytest

from xlm_utils import models
from xlm_utils.merge.merging import merge
from xlm_utils.why import readings

TERMS = pd.DataFrame({"term_id": list("abc"), "term": ["asthma", "wheezing", "airways"], "translation": ["yes", "慢性的", "disease"]})
TEXTS = {"en": ["a disease of the airways", "asthma with wheezing"], "ja": ["気道の慢性的な炎症"]}


def test_a_prompt_ends_with_the_term(pico_study):
    study = pico_study("llama")
    assert readings.up_to(study, study.source, "{x}") == "Term: {x}"
    assert readings.up_to(study, study.target, "喘息") == "用語：喘息"


def test_a_word_begins_in_several_forms_and_never_with_a_part_of_a_letter(pico_study):
    tokenizer = models.load(pico_study("llama"), "japanese")[1]
    found = tokenizer.convert_ids_to_tokens(readings.first_tokens(tokenizer, "wheezing"))
    assert {token.lstrip("Ġ") for token in found} > {"W"}
    assert readings.first_tokens(tokenizer, "鬱") == set(), "three bytes, none of them a letter"
    assert readings.first_tokens(tokenizer, "asthma") == readings.first_tokens(tokenizer, "Asthma")


def test_readings_of_the_parents_and_a_merge_are_kept(pico_study, monkeypatch):
    study = pico_study("llama", methods=["linear"])
    merge(study, "linear")
    names = ["japanese", "expert", "linear"]
    found = readings.read(study, names, TERMS, TEXTS)
    assert set(found["reading"]) == {"meet", "lens en en", "lens en ja", "lens ja en", "lens ja ja", "from expert", "from japanese"}
    assert set(found["layer"]) == {1, 2}
    table = found.groupby(["model", "reading"])["value"].mean().unstack()
    assert table.loc["expert", "from expert"] == table.loc["japanese", "from japanese"] == 0
    assert (table.loc["linear", ["from expert", "from japanese"]] < table.loc["japanese", "from expert"]).all(), "it lies between its parents"
    lens = found[found["reading"] == "lens en en"]
    assert set(lens["item"]) == {"a", "c"}, "the second's translation begins with a part of a letter"
    assert lens["value"].between(0, 1).all()
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("nothing is left to read"))
    pd.testing.assert_frame_equal(readings.read(study, names, TERMS, TEXTS), found)


def test_a_band_is_a_mean_with_the_interval_of_resampled_items():
    rows = [{"item": str(item), "layer": layer, "value": float(item % 2) if layer == 1 else 0.3} for item in range(100) for layer in (1, 2)]
    band = readings.bands(pd.DataFrame(rows)).set_index("layer")
    assert band["mean"].tolist() == pytest.approx([0.5, 0.3])
    assert band["n"].tolist() == [100, 100]
    assert np.allclose(band.loc[1, ["low", "high"]], [0.5 - 1.96 * 0.05, 0.5 + 1.96 * 0.05], atol=0.015), "the binomial's"
    assert np.allclose(band.loc[2, ["low", "high"]], 0.3)
