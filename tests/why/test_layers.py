"""What the hooks hear is what the model computes; meetings and distances are worked out by hand."""

import numpy as np
import pytest
import torch

from xlm_utils import models
from xlm_utils.study import StudyError
from xlm_utils.why import layers

TEXTS = ["Term: asthma", "用語：喘息", "Term: a disease of the airways with wheezing"]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_the_layers_outputs_are_the_hidden_states_that_the_model_itself_can_tell(pico_study, family):
    model, tokenizer, _ = models.load(pico_study(family), "japanese", dtype="float32")
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    heard = layers.states(model, tokenizer, TEXTS)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks, "none stays"
    for text, found in zip(TEXTS, heard, strict=True):
        with torch.inference_mode():
            alone = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        own = torch.cat(alone.hidden_states[1:])  # the last of these stands behind the final norm
        assert found.shape == own.shape
        assert torch.allclose(found[:-1], own[:-1], atol=1e-4), "padding changes nothing"
        chances = alone.logits[0, -1].softmax(-1)
        by_lens = layers.lens(model, found[:, [-1, -1]], [{7, 9}, set()], [{8}, {9}])
        assert by_lens.shape == (2, 2, 2), "lists, layers, texts"
        assert by_lens[:, -1].flatten().tolist() == pytest.approx([float(chances[7] + chances[9]), 0, float(chances[8]), float(chances[9])], abs=1e-5)


def test_a_final_norm_that_is_not_found_is_one_sentence(pico_study, monkeypatch):
    model, tokenizer, _ = models.load(pico_study("llama"), "japanese", dtype="float32")
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)  # or a pico model says nothing
    monkeypatch.setattr(layers, "to_logits", lambda model: model.lm_head)
    with pytest.raises(StudyError, match="final norm and head are not found"):
        layers.states(model, tokenizer, TEXTS)


def test_names_meet_where_each_is_the_others_only_nearest_neighbour():
    ours = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    assert layers.meeting(ours, 3 * ours).tolist() == [[True, True, True]], "length says nothing"
    theirs = torch.tensor([[[1.0, 0.1], [1.0, 1.73], [1.0, 1.19]]])  # 0, 90 and 45 degrees beside 6, 60 and 50
    assert layers.meeting(ours, theirs).tolist() == [[True, False, True]], "to 60 degrees 45 is nearer than 90, though to 90 none is nearer than 60"
    assert layers.meeting(ours, torch.ones(1, 3, 2)).tolist() == [[False, False, False]], "all alike: no one is nearest"


def test_of_n_unrelated_pairs_one_in_2n_minus_1_meets():
    generator = torch.Generator().manual_seed(0)
    for n in (5, 20):
        ours, theirs = (torch.randn(3000, n, 256, generator=generator) for _ in range(2))
        met = layers.meeting(ours, theirs).float().mean(1)
        assert float(met.mean()) == pytest.approx(1 / (2 * n - 1), abs=4 * float(met.std()) / 3000**0.5)
        assert abs(float(met.mean()) - 1 / n) > 4 * float(met.std()) / 3000**0.5


def test_a_distance_is_relative_and_a_mean_over_tokens():
    theirs = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    ours = torch.tensor([[[3.0, 9.0], [0.0, 2.0]]])
    assert layers.distance(ours, theirs).tolist() == pytest.approx([(5 / 5 + 0) / 2])
    assert np.allclose(layers.distance(ours, ours), 0)
