"""Parts of layers that two models exchange: which parameters they are, that they come back, and what exchanging all must give."""

import pytest
import torch

from xlm_utils import models
from xlm_utils.benchmark import transfer
from xlm_utils.study.records import read_jsonl
from xlm_utils.translate import terms
from xlm_utils.why import layers


def test_parts_are_blocks_of_layers_and_the_two_kinds_of_modules():
    names = [f"model.layers.{layer}.{module}" for layer in range(7) for module in ("self_attn.q_proj.weight", "mlp.up_proj.weight", "norm.weight")]
    parts = layers.parts(["model.embed_tokens.weight", *names, "model.norm.weight"], 3)
    assert {label: len(own) for label, own in parts.items()} == {"layers 1–3": 9, "layers 4–6": 9, "layer 7": 3, "attention": 7, "MLPs": 7}
    assert sorted(name for label, own in parts.items() if "layer" in label for name in own) == sorted(names)
    assert list(layers.parts(names, 1))[:2] == ["layer 1", "layer 2"]
    assert list(layers.parts(["h.0.c_fc.weight"], 1)) == ["layer 1"], "no module of a known name"


def test_what_is_exchanged_comes_back_also_after_an_error(pico_study):
    study = pico_study("gemma")
    one, other = (models.load(study, name, dtype="float32")[0] for name in ("japanese", "expert"))
    names = [name for name, _ in one.named_parameters()]
    weights = [{name: own.detach().clone() for name, own in model.named_parameters()} for model in (one, other)]
    inputs = torch.arange(5, 15)[None]
    with torch.inference_mode():
        before = [model(inputs).logits for model in (one, other)]
        with layers.exchanged(one, other, names):
            assert torch.equal(one(inputs).logits, before[1])
            assert torch.equal(other(inputs).logits, before[0])
        with pytest.raises(ZeroDivisionError), layers.exchanged(one, other, names[3:]):
            1 / 0  # noqa: B018
    for model, own in zip((one, other), weights, strict=True):
        assert all(torch.equal(values, own[name]) for name, values in model.named_parameters()), "bit for bit"


def test_knock_outs_are_measured_once_on_terms_that_the_study_does_not_run(pico_study, monkeypatch):
    study = pico_study("llama", why={"apart": 4, "block": 2}, transfer={"rivals": 2})
    own = terms(study)
    found = layers.knock_out(study)
    assert list(found["part"].unique()) == ["", "layers 1–2", "attention", "MLPs"]
    assert len(found) == 2 * 4 * 4
    assert not set(found["term_id"]) & set(own["term_id"])
    monkeypatch.setattr(layers, "language_model", lambda *_: pytest.fail("nothing is left to measure"))
    assert layers.knock_out(study).equals(found)


def test_margins_are_those_of_a_model_that_holds_the_exchanged_weights(pico_study):
    study = pico_study("llama", why={"apart": 4, "block": 2}, transfer={"rivals": 2})
    found = layers.knock_out(study)
    own, whole = (found[(found["model"] == "japanese") & (found["part"] == part)].set_index("term_id")["margin"] for part in ("layers 1–2", ""))
    mixed = layers.language_model(study, "japanese", {})
    theirs = dict(models.load(study, "expert")[0].named_parameters())
    with torch.no_grad():
        for name, values in mixed.model.named_parameters():
            if ".layers." in name:
                values.copy_(theirs[name])
    table, asked = layers.spare(study, 4)
    rows = transfer.score(mixed, study, table, [study.prompt(study.target, term) for term in table["translation"]], asked)
    assert own.to_dict() == pytest.approx({row["term_id"]: row["margin"] for row in rows}, abs=1e-5)
    assert (own - whole).abs().max() > 1e-4, "and they differ from its own"


def test_a_run_that_was_killed_goes_on_with_the_next_part(pico_study, monkeypatch):
    study, score, asked = pico_study("llama", why={"apart": 4, "block": 2}, transfer={"rivals": 2}), transfer.score, []

    def killed(*given):
        asked.append(given)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(transfer, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        layers.knock_out(study)
    (partial,) = (study.folder / "why").glob("*.partial")
    assert [row["part"] for row in read_jsonl(partial)] == [""], "the second part lacks one of its models"
    found = layers.knock_out(study)
    assert len(asked) == 4 + 2 * 3
    assert not found.duplicated(["model", "part", "term_id"]).any()
    assert len(found) == 2 * 4 * 4
