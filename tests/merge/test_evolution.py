"""The search on pico models: its budget, its log, and that nothing but its seed decides where it goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xlm_utils.merge import evolution, merging
from xlm_utils.models.loading import load
from xlm_utils.study import StudyError
from xlm_utils.study.records import read_jsonl

NAME = "evo_dare_ties@ancestor"
BUDGET = {"evaluations": 8, "population": 4, "sigma": 0.3}


class Closeness:
    """A smooth fitness: minus the distance to the expert's weights; counts its calls and fails at one of them."""

    def __init__(self, study, dies_at: int | None = None):
        self.target = torch.cat([p.flatten() for p in load(study, "expert", "float32")[0].parameters()])
        self.calls, self.dies_at = 0, dies_at

    def __call__(self, model, tokenizer):
        np.random.seed(0)  # as LM Evaluation Harness does
        torch.manual_seed(0)
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        assert tokenizer("asthma")["input_ids"]
        distance = (torch.cat([p.flatten() for p in model.parameters()]).float() - self.target).norm()
        return {"objective": -float(distance.detach()), "accuracy": 0.5}


def test_every_candidate_is_logged_within_its_range_and_the_best_is_found(pico_study):
    study = pico_study("gemma", evolution=BUDGET)
    table = evolution.search(study, Closeness, name=NAME)
    assert list(table.columns) == [
        "generation", "evaluation", "general_weight", "general_density", "expert_weight", "expert_density", "objective", "accuracy",
    ]  # fmt: skip
    assert table["generation"].tolist() == [0] * 4 + [1] * 4
    assert table["evaluation"].tolist() == list(range(8))
    assert table["objective"].nunique() == 8
    assert table.filter(like="weight").to_numpy().min() >= 0
    assert table.filter(like="density").to_numpy().min() >= 0.05
    assert table.filter(regex="weight|density").to_numpy().max() <= 1
    assert read_jsonl(study.folder / "evolution@ancestor.jsonl") == table.to_dict("records")
    best = evolution.best(study, table, NAME)
    assert best == table.sort_values("objective").iloc[-1][list(best)].to_dict()
    assert merging.merge(study, NAME, best).is_dir()


def test_a_killed_search_goes_on_along_the_same_way(pico_study, tmp_path, capsys):
    study = pico_study("llama", evolution=BUDGET)
    whole, log = evolution.search(study, Closeness, name=NAME), study.folder / "evolution@ancestor.jsonl"
    first = log.rename(tmp_path / "whole.jsonl")
    dying = Closeness(study, dies_at=5)
    with pytest.raises(KeyboardInterrupt):
        evolution.search(study, lambda _: dying, name=NAME)
    assert not log.exists()
    rest = Closeness(study)
    capsys.readouterr()
    resumed = evolution.search(study, lambda _: rest, name=NAME)
    assert "goes on after 5 of 8 candidates" in capsys.readouterr().out
    assert (dying.calls, rest.calls) == (5, 3)
    assert resumed.equals(whole)
    assert log.read_bytes() == first.read_bytes()


def test_a_finished_search_is_not_run_again(pico_study, capsys):
    study = pico_study("llama", evolution=BUDGET)
    first = evolution.search(study, Closeness, name=NAME)
    again = evolution.search(study, lambda _: pytest.fail("evaluated again"), name=NAME)
    assert again.equals(first)
    assert "already searched" in capsys.readouterr().out


def test_generations_draw_new_candidates_although_an_evaluation_resets_numpys_generator(pico_study):
    study = pico_study("llama", evolution=BUDGET)
    table = evolution.search(study, Closeness, name=NAME)
    assert not table[["expert_weight", "general_weight"]].duplicated().any()


def test_cma_comes_closer_in_later_generations(pico_study):
    study = pico_study("llama", base="ancestor", evolution={"evaluations": 48, "population": 8, "sigma": 0.3})
    table = evolution.search(study, Closeness)
    by_generation = table.groupby("generation")["objective"].mean()
    assert by_generation.iloc[-1] > by_generation.iloc[0]
    best = evolution.best(study, table)
    assert best["expert_weight"] > 0.7
    assert best["general_weight"] < 0.3


def test_with_the_japanese_base_its_dead_parameters_are_not_searched(pico_study):
    study = pico_study("llama", evolution={"evaluations": 3, "population": 2})
    table = evolution.search(study, Closeness)
    assert set(evolution.best(study, table)) == {"expert_weight", "expert_density"}
    assert len(table) == 3, "the budget ends within the second generation"
    assert (study.folder / "evolution.jsonl").exists()


def test_what_is_delivered_is_evaluated_under_its_own_mask_beside_the_default(pico_study, capsys):
    study = pico_study("llama", evolution=BUDGET)
    candidates = evolution.search(study, Closeness, name=NAME)
    table = evolution.delivered(study, Closeness, candidates, NAME).set_index("of")["objective"]
    assert list(table.index) == ["delivered, under its own mask", "default, under the same mask", "best of CMA-ES, under the search's mask"]
    assert table.iloc[2] == candidates["objective"].max()
    values = evolution.best(study, candidates, NAME)
    model, tokenizer, _ = load(study, study.by_role("general"))
    merging.merge_into(model, study, NAME, values, seed=study.seed)
    assert table.iloc[0] == pytest.approx(Closeness(study)(model, tokenizer)["objective"])
    said = capsys.readouterr().out
    for of, objective in table.iloc[1:].items():
        assert (f"{of} ({objective:.3f})" in said) == (objective > table.iloc[0])
    evolution.delivered(study, lambda _: pytest.fail("evaluated again"), candidates, NAME)


def test_layer_groups_are_gradients_over_the_layers_and_the_best_merges(pico_study):
    study = pico_study("llama", evolution=BUDGET | {"evaluations": 4, "layer_groups": 2})
    table = evolution.search(study, Closeness)
    axes = ["expert_weight.1", "expert_weight.2", "expert_density.1", "expert_density.2"]
    assert list(table.columns[2:6]) == axes
    assert (table["expert_weight.1"] != table["expert_weight.2"]).all()
    best = evolution.best(study, table)
    assert best == {"expert_weight": [table.loc[table["objective"].idxmax(), axis] for axis in axes[:2]],
                    "expert_density": [table.loc[table["objective"].idxmax(), axis] for axis in axes[2:]]}  # fmt: skip
    assert merging.merge(study, "evo_dare_ties", best).is_dir()


def test_a_search_finds_the_boundaries_and_shares_of_a_layer_swap(pico_study):
    study = pico_study("llama", evolution={"evaluations": 40, "population": 8, "sigma": 0.3})
    table = evolution.search(study, Closeness, name="evo_layer_swap")
    assert list(table.columns[2:7]) == ["bottom", "top", "lower", "middle", "upper"]
    best = evolution.best(study, table, "evo_layer_swap")
    assert max(best["bottom"], best["top"]) < 0.5, "all layers are the expert's, whom the objective favours"
    model, tokenizer, _ = load(study, "japanese")
    merging.merge_into(model, study, "evo_layer_swap", best)
    assert Closeness(study)(model, tokenizer)["objective"] == pytest.approx(table["objective"].max())
    assert merging.merge(study, "evo_layer_swap", best).is_dir()
    grouped = pico_study("llama", evolution=BUDGET | {"layer_groups": 2})
    with pytest.raises(StudyError, match=r"counted, so it is one number.*evolution\.layer_groups: 1"):
        evolution.search(grouped, Closeness, name="evo_layer_swap")


def test_the_first_value_of_a_gradient_is_the_first_layer_s_and_the_last_the_last_s(pico_study):
    study, model = pico_study("llama"), load(pico_study("llama"), "japanese", "bfloat16")[0]
    start = {name: weight.clone() for name, weight in model.named_parameters()}
    merging.merge_into(model, study, "evo_dare_ties", {"expert_weight": [0.0, 1.0], "expert_density": 1.0})
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, start[name])}
    assert not [name for name in moved if ".layers.0." in name]
    assert [name for name in moved if ".layers.1." in name]


def test_another_mask_seed_needs_no_search_of_its_own(pico_study):
    study = pico_study("llama", evolution=BUDGET)
    table = evolution.search(study, Closeness, name=NAME)
    assert evolution.search(study, lambda _: pytest.fail("searched again"), name=f"{NAME}#3").equals(table)
    values = evolution.best(study, table, NAME)
    folders = [merging.merge(study, name, values) for name in (NAME, f"{NAME}#3")]
    assert merging.identical(study, [NAME, f"{NAME}#3"]) == [], folders


def test_a_search_on_reported_items_is_called_contaminated_wherever_its_name_stands(pico_study):
    assert pico_study(evolution={"fitness": "disjoint"}).label("evo_dare_ties") == "Evo. DARE TIES"
    published = pico_study(evolution={"fitness": "published"})
    assert published.label("evo_dare_ties@ancestor") == "Evo. DARE TIES (base: ancestor, contaminated)"
    assert published.label("dare_ties") == "DARE TIES"


def test_the_mask_is_the_same_for_all_candidates_and_another_in_the_final_merge(pico_study):
    study = pico_study("llama")
    values = {"expert_weight": 0.9, "expert_density": 0.5}
    model = load(study, "japanese", "bfloat16")[0]

    def merged(seed: int | None) -> torch.Tensor:
        merging.merge_into(model, study, "evo_dare_ties", values, seed)
        return torch.cat([p.flatten() for p in model.parameters()]).clone()

    search_seed = study.seed + evolution.MASK_SEED
    assert torch.equal(merged(search_seed), merged(search_seed))
    assert not torch.equal(merged(search_seed), merged(None))


def test_an_objective_that_is_not_a_number_stops_the_search(pico_study):
    study = pico_study("llama", evolution=BUDGET)
    with pytest.raises(StudyError, match="the objective is nan"):
        evolution.search(study, lambda _: lambda *_: {"objective": float("nan"), "accuracy": 0.0}, name=NAME)


def test_a_method_without_parameters_can_not_be_searched(pico_study):
    with pytest.raises(StudyError, match="model_stock: its card has no parameter"):
        evolution.search(pico_study("llama"), lambda *_: {}, name="model_stock")


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_search_needs_models_that_are_not_quantised(pico_study, quantization):
    """Candidates are written into the live model: into nf4 they don't fit, and int8 would round them to nothing."""
    study = pico_study("llama", generation={"quantization": quantization})
    with pytest.raises(StudyError, match=f"generation.quantization = '{quantization}': a search writes its candidates into a live model"):
        evolution.search(study, Closeness)


def test_a_search_with_another_chat_template_or_method_is_another_search(pico_study, capsys):
    study = pico_study("llama", evolution={"evaluations": 2, "population": 2})
    evolution.search(study, Closeness)
    study.settings = study.settings.model_copy(update={"benchmarks": study.benchmarks.model_copy(update={"chat_template": True})})
    evolution.search(study, Closeness)
    assert "already searched" not in capsys.readouterr().out
    assert evolution._file("evo_dare_ties@ancestor#3") == "evolution@ancestor.jsonl"
    assert evolution._file("evo_ties") == "evolution_evo_ties.jsonl"
