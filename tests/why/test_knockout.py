"""Parts of layers that two models exchange: which parameters they are, that they come back, and what exchanging all must give."""

import pytest
import torch
from xlm_utils.translate.drawing import terms

from xlm_utils import models
from xlm_utils.why import knockout


def test_parts_are_blocks_of_layers_and_the_two_kinds_of_modules():
    names = [f"model.layers.{layer}.{module}" for layer in range(7) for module in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "norm.weight")]
    parts = knockout.parts(["model.embed_tokens.weight", *names, "model.norm.weight"], 3)
    assert {label: len(own) for label, own in parts.items()} == {"layers 1–3": 9, "layers 4–6": 9, "layers 7–7": 3, "attention": 7, "MLPs": 7}
    assert sorted(name for label, own in parts.items() if "layer" in label for name in own) == sorted(names)
    assert list(knockout.parts(names, 1))[:2] == ["layer 1", "layer 2"]
    assert list(knockout.parts(["h.0.c_fc.weight"], 1)) == ["layer 1"], "no module of a known name"


def test_what_is_exchanged_comes_back_also_after_an_error(pico_study):
    study = pico_study("gemma")
    one, other = (models.load(study, name, dtype="float32")[0] for name in ("japanese", "expert"))
    names = [name for name, _ in one.named_parameters()]
    inputs = torch.arange(5, 15)[None]
    with torch.inference_mode():
        before = [model(inputs).logits for model in (one, other)]
        with knockout.exchanged(one, other, names):
            assert torch.equal(one(inputs).logits, before[1])
            assert torch.equal(other(inputs).logits, before[0])
        with pytest.raises(ZeroDivisionError), knockout.exchanged(one, other, names[3:]):
            1 / 0  # noqa: B018
        assert all(torch.equal(model(inputs).logits, own) for model, own in zip((one, other), before, strict=True))


def test_knock_outs_are_measured_once_on_terms_that_the_study_does_not_run(pico_study, monkeypatch):
    study = pico_study("llama", why={"apart": 3, "block": 2}, transfer={"rivals": 2})
    own = terms(study)
    found = knockout.knock_out(study)
    assert list(found["part"].unique()) == ["", "layers 1–2", "attention", "MLPs"]
    assert len(found) == 2 * 4 * 3
    assert not set(found["term_id"]) & set(own["term_id"])
    whole = found[found["part"] == ""].set_index(["model", "term_id"])["margin"]
    layers = found[found["part"] == "layers 1–2"].set_index(["model", "term_id"])["margin"]
    assert (whole["japanese"] - layers["expert"]).abs().max() < (whole["japanese"] - whole["expert"]).abs().max() + 0.01, "its own layers again"
    monkeypatch.setattr(knockout, "language_model", lambda *_: pytest.fail("nothing is left to measure"))
    assert knockout.knock_out(study).equals(found)
