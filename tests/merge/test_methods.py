"""The methods beyond the paper's six, each against its published formula in float64.

Where a method sorts, elements within float32 rounding of a threshold may fall on either side: they are
set aside and counted.
"""

import pytest
import torch
from safetensors.torch import load_file

from tests.merge.test_merging import assert_equal, consensus, copy_model, drop, of, weights
from xlm_utils.merge import merging, planning
from xlm_utils.merge.methods import _counted as by_layer
from xlm_utils.models.loading import load
from xlm_utils.models.weights import LAYER
from xlm_utils.study import StudyError

NEAR = 1e-5  # relative distance to a threshold that float32 does not resolve


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def arc(x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    angle = torch.arccos((unit(x) * unit(y)).sum())
    return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)


def model_stock(x, y):
    cosine = (unit(x) * unit(y)).sum()
    return 2 * cosine / (1 + cosine) * (x + y) / 2


def multislerp(x, y):
    mean = unit(unit(x) + unit(y))
    tangents = [unit(v) - (unit(v) * mean).sum() * mean for v in (x, y)]
    step = sum(tangents) / 2
    size = step.norm() + 1e-8
    return (torch.cos(size) * mean + torch.sin(size) * step / size) * (x.norm() + y.norm()) / 2


def ram(x, y, enlarge=lambda shared, own: 1.0):
    a, b = x.abs() > 1e-5, y.abs() > 1e-5
    shared, only_a, only_b = a & b, a & ~b, b & ~a
    x_own, y_own = x * only_a * enlarge(shared.sum(), only_a.sum()), y * only_b * enlarge(shared.sum(), only_b.sum())
    return shared * (x + y) / 2 + x_own + y_own


def ram_plus(x, y):
    return ram(x, y, lambda shared, own: 1 + 0.1 * min(float(shared / max(float(own), 1e-5)), 0.2))


@pytest.mark.parametrize(
    ("name", "formula"),
    [("nuslerp", lambda x, y: arc(x, y, 0.5)), ("model_stock", model_stock), ("multislerp", multislerp), ("ram", ram), ("ramplus_tl", ram_plus)],
)
def test_methods_on_the_ancestor_follow_their_formulas(pico_study, pico_siblings, tmp_path, name, formula):
    root = load_file(pico_siblings["llama"] / "ancestor" / "model.safetensors")

    def leave(start):  # each fine-tune leaves every third row alone, another one each, so that some changes are not shared
        return lambda tensors: [tensors[n][start::3].copy_(root[n][start::3]) for n in tensors]

    parents = {n: copy_model(pico_siblings["llama"] / n, tmp_path / n, leave(start)) for start, n in enumerate(("japanese", "expert"))}
    study = pico_study("llama", weights=parents)
    base, general, expert = (of(study, n) for n in ("ancestor", "japanese", "expert"))
    merged = weights(merging.merge(study, name))
    assert_equal(merged, {n: base[n] + formula(general[n] - base[n], expert[n] - base[n]) for n in base})


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize(("card", "modules"), [("mlp_swap", (".mlp.",)), ("attention_swap", (".self_attn.", ".attn."))])
def test_a_swap_takes_whole_modules_and_nothing_else(pico_study, family, card, modules):
    study = pico_study(family)
    a, b = of(study, "japanese"), of(study, "expert")
    taken = {n for n in a if any(module in n for module in modules)}
    assert len(taken) >= 2 * (2 if card == "mlp_swap" else 1)
    for name, share in ((card, 1.0), (f"{card}~share=0.25", 0.25)):
        assert_equal(weights(merging.merge(study, name)), {n: a[n] + share * (b[n] - a[n]) if n in taken else a[n] for n in a})


def test_a_random_swap_takes_whole_matrices_of_the_layers_another_draw_for_another_seed(pico_study):
    study = pico_study("llama")
    a, b = of(study, "japanese"), of(study, "expert")
    taken = {}
    for name in ("random_swap", "random_swap#1", "random_swap#2", "random_swap~share=1"):
        merged = weights(merging.merge(study, name))
        taken[name] = {n for n in a if not torch.equal(a[n], merged[n])}
        assert_equal(merged, {n: b[n] if n in taken[name] else a[n] for n in a})
    matrices = {n for n in a if ".mlp." in n or "_attn." in n}
    assert taken["random_swap~share=1"] == matrices
    assert len({frozenset(names) for names in taken.values()}) == 4
    live = load(study, "japanese", "bfloat16")[0]
    planning.Live(live, study, "random_swap#1").merge({})
    assert_equal({n: w.double() for n, w in live.state_dict().items() if n in a}, weights(merging.merge(study, "random_swap#1")))


@pytest.mark.parametrize(
    ("values", "by_layer"),
    [("bottom=1,top=0,transition=0", [0, 1]), ("bottom=0,top=1,transition=0,share=0.5", [0.5, 0]), ("bottom=0,top=0,transition=1", [0.5, 0.5])],
)
def test_a_layer_swap_counts_layers_from_both_ends_and_leaves_what_stands_outside_them(pico_study, values, by_layer):
    study, name = pico_study("llama"), f"layer_swap~{values}"
    a, b = of(study, "japanese"), of(study, "expert")
    share = {n: by_layer[int(found[1])] if (found := LAYER.search(n)) else 0 for n in a}
    assert {"lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"} <= {n for n in share if not share[n]}
    merged = weights(merging.merge(study, name))
    assert_equal(merged, {n: a[n] + share[n] * (b[n] - a[n]) for n in a})
    live = load(study, "japanese", "bfloat16")[0]
    planning.Live(live, study, name).merge({})
    assert_equal({n: w.double() for n, w in live.state_dict().items() if n in a}, merged)


def test_more_counted_layers_than_there_are_are_one_sentence(pico_study):
    with pytest.raises(StudyError, match="bottom 4, top 2 and twice the transition 1 are more than the 2 layers"):
        merging.merge(pico_study("llama"), "layer_swap")
    with pytest.raises(StudyError, match="bottom is counted, so it is one number and no list over the layers"):
        merging.merge(pico_study("llama"), "layer_swap", {"bottom": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (18, [0] * 4 + [0.2] * 4 + [0.5] * 4 + [0.8] * 3 + [0] * 3), (32, [0] * 8 + [0.2] * 6 + [0.5] * 6 + [0.8] * 6 + [0] * 6),
        (3, [0.2, 0.5, 0.8]),
    ],
)  # fmt: skip
def test_boundaries_that_are_shares_of_the_layers_serve_models_of_any_depth(layers, expected):
    assert by_layer(bottom=0.25, transition=0, top=0.2, inside=[0.2, 0.5, 0.8], layers=layers) == expected
    assert by_layer(bottom=0.5, transition=0, top=0.5, inside=[0.2, 0.5, 0.8], layers=layers)[: layers // 2] == [0] * (layers // 2)


def test_counted_boundaries_have_half_of_the_next_group_in_their_transition():
    assert by_layer(bottom=2, transition=1, top=1, inside=[0.4, 1.0], layers=9) == [0, 0, 0.2, 0.4, 0.4, 1.0, 1.0, 0.5, 0]


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize(("bottom", "top", "by"), [(0.5, 0.0, [0, 0.9]), (0.49, 0.0, [0.9, 0.6]), (0.0, 0.5, [0.9, 0])])
def test_a_searched_layer_swap_follows_its_boundaries_and_shares_on_disk_and_in_memory(pico_study, family, bottom, top, by):
    study, values = pico_study(family), {"bottom": bottom, "top": top, "lower": 0.9, "middle": 0.6, "upper": 0.3}
    a, b = of(study, "japanese"), of(study, "expert")
    share = {n: by[int(found[1])] if (found := LAYER.search(n)) else 0 for n in a}
    merged = weights(merging.merge(study, "evo_layer_swap", values))
    assert_equal(merged, {n: a[n] + share[n] * (b[n] - a[n]) for n in a})
    live = load(study, "japanese", "bfloat16")[0]
    planning.Live(live, study, "evo_layer_swap").merge(values)
    assert_equal({n: w.double() for n, w in live.state_dict().items() if n in a}, merged)


def test_a_module_swap_takes_each_module_from_the_model_that_changed_it_more_for_its_kind(pico_study):
    study = pico_study("llama")
    base, parents = of(study, "ancestor"), {name: of(study, name) for name in ("japanese", "expert")}
    merged, taken = weights(merging.merge(study, "module_swap")), set()
    for module in (".mlp.", "_attn."):
        sizes = {}
        for name, own in parents.items():
            layers = [torch.stack([(own[n] - base[n]).square().sum() for n in base if module in n and f".{i}." in n]).sum().sqrt() for i in (0, 1)]
            sizes[name] = [size / (sum(layers) / 2) for size in layers]
        for i in (0, 1):
            winner = max(parents, key=lambda name: sizes[name][i])
            taken.add(winner)
            inside = [n for n in base if module in n and f".{i}." in n]
            assert_equal({n: merged[n] for n in inside}, {n: parents[winner][n] for n in inside})
    assert taken == {"japanese", "expert"}
    rest = [n for n in base if ".mlp." not in n and "_attn." not in n]
    assert_equal({n: merged[n] for n in rest}, {n: parents["japanese"][n] for n in rest})


def test_the_experts_task_vector_is_added_to_the_whole_general_model(pico_study):
    study = pico_study("llama")
    base, a, b = (of(study, n) for n in ("ancestor", "japanese", "expert"))
    for name, weight in (("chat_vector", 1.0), ("chat_vector~expert_weight=0.5", 0.5)):
        assert_equal(weights(merging.merge(study, name)), {n: a[n] + weight * (b[n] - base[n]) for n in a})


def test_nearswap_steps_towards_the_expert_by_t_at_most(pico_study):
    study = pico_study("gemma")
    a, b = of(study, "japanese"), of(study, "expert")
    assert_equal(weights(merging.merge(study, "nearswap")), {n: a[n] + (b[n] - a[n]).clamp(-0.001, 0.001) for n in a})


def test_the_karcher_mean_of_two_is_the_middle_of_the_arc(pico_study):
    study = pico_study("llama")
    a, b = of(study, "japanese"), of(study, "expert")
    expected = {n: arc(unit(a[n]), unit(b[n]), 0.5) * (a[n].norm() + b[n].norm()) / 2 for n in a if not torch.equal(a[n], b[n])}
    merged = weights(merging.merge(study, "karcher"))
    assert_equal({n: merged[n] for n in expected}, expected)


def test_dare_linear_adds_the_masked_changes_without_a_vote(pico_study):
    study = pico_study("gemma", base="ancestor")
    merged = weights(merging.merge(study, "dare_linear#4", {"density": 0.4, "weight": 0.8}))
    root, tuned = of(study, "ancestor"), [of(study, name) for name in ("japanese", "expert")]
    torch.manual_seed(4)
    expected = {}
    for name in root:
        expected[name] = root[name] + 0.8 * sum(drop(model[name] - root[name], 0.4) for model in tuned)
    assert_equal(merged, expected)


# ---- methods that sort ---------------------------------------------------------------------------------


def changes_of(study, base: str) -> tuple[dict, list[dict]]:
    """The base's tensors and the task vectors of the two fine-tunes that are not the base, as float32 holds them."""
    root, tuned = of(study, base), [of(study, name) for name in ("japanese", "expert") if name != base]
    return root, [{n: (model[n] - root[n]).float().double() for n in root} for model in tuned]


def near(values: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return (values - threshold).abs() <= NEAR * threshold.abs()


def assert_few(aside: dict[str, torch.Tensor]) -> None:
    """The set-aside elements are a small part, or the comparison shows nothing."""
    assert sum(int(mask.sum()) for mask in aside.values()) < 0.1 * sum(mask.numel() for mask in aside.values())


def crumbs(change: torch.Tensor, density: float, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the largest gamma and the smallest rest; and what lies at one of the two thresholds."""
    size, order = change.abs().flatten(), change.abs().flatten().sort().values
    count = len(order)
    kept = int(density * count)
    bottom = max(0, count - kept - int(gamma * count))
    low, high = order[bottom], order[bottom + kept - 1]
    inside = (size >= low) & (size <= high)
    return (change.flatten() * inside).view_as(change), (near(size, low) | near(size, high)).view_as(change)


@pytest.mark.parametrize("base", ["japanese", "ancestor"])
@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_leaves_out_both_ends(pico_study, name, base):
    study = pico_study("gemma", base=base)
    merged = weights(merging.merge(study, name, {"weight": 0.7, "density": 0.5, "gamma": 0.1}))
    root, changes = changes_of(study, base)
    found = {n: [crumbs(change[n], 0.5, 0.1) for change in changes] for n in root}
    aside = {n: torch.stack([at for _, at in pairs]).any(0) for n, pairs in found.items()}
    if name == "breadcrumbs":
        expected = {n: root[n] + 0.7 * sum(kept for kept, _ in pairs) for n, pairs in found.items()}
    else:
        expected = {n: consensus(root[n], [kept for kept, _ in pairs], 0.7, normalize=False) for n, pairs in found.items()}
    assert_few(aside)
    assert_equal(merged, expected, but=aside)


def test_sce_selects_by_variance_weighs_by_squares_and_erases_the_minority(pico_study):
    """Which of the elements that tie at the threshold are selected is read off the result, as it shifts the weights of all others."""
    study = pico_study("llama")
    merged = weights(merging.merge(study, "sce", {"select_topk": 0.4}))
    root, (general, expert) = changes_of(study, "ancestor")
    expected, aside = {}, {}
    for name in root:
        both = torch.stack([general[name], expert[name]])
        variance = ((both[0] - both[1]) / 2).square()
        most = int(torch.count_nonzero(variance) * 0.4)
        threshold = variance.flatten().sort(descending=True).values[most - 1]
        aside[name] = near(variance, threshold)
        selected = torch.where(aside[name], merged[name] != root[name], variance > threshold)
        assert abs(int(selected.sum()) - most) <= 2, name  # an element whose changes cancel looks as if it were left out
        both = both * selected
        share = both.square().flatten(1).mean(1)
        share = torch.full_like(share, 0.5) if share.sum() < 1e-6 else share / share.sum()
        share = share.view(2, *[1] * root[name].dim()) * (both.sign() == torch.where(both.sum(0) >= 0, 1, -1))
        expected[name] = root[name] + (both * share).sum(0) / share.sum(0).clamp(min=1e-6)
    assert_few(aside)
    assert_equal(merged, expected, but=aside)


def drop_by_rank(change: torch.Tensor, density: float) -> torch.Tensor:
    """DELLA: in each row the chance to stay rises with the rank from density − 0.1 to density + 0.1; the L1 norm is restored."""
    rows = change.float().abs().reshape(-1, change.shape[-1])
    rank = torch.argsort(torch.argsort(rows, dim=1), dim=1).double()
    chance = (density - 0.1) + 0.2 * rank / (rows.shape[1] - 1)
    kept = torch.bernoulli(chance.float()).double().view_as(change)
    return change * kept * change.abs().sum() / (change * kept).abs().sum()


@pytest.mark.parametrize("base", ["japanese", "ancestor"])
@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della_keeps_large_changes_more_often(pico_study, name, base):
    """Mask by mask. A chance at float32's rounding of the drawn number could differ; none of these does."""
    study = pico_study("llama", base=base)
    merged = weights(merging.merge(study, f"{name}#6", {"weight": 0.8, "density": 0.5}))
    root, changes = changes_of(study, base)
    torch.manual_seed(6)
    expected = {}
    for tensor in root:
        kept = [drop_by_rank(change[tensor], 0.5) for change in changes]
        added = root[tensor] + 0.8 * sum(kept)
        expected[tensor] = added if name == "della_linear" else consensus(root[tensor], kept, 0.8, normalize=True)
    assert_equal(merged, expected)


def test_della_s_masks_follow_the_rank_in_a_row(pico_study):
    study = pico_study("llama")
    root, (change,) = changes_of(study, "japanese")
    name = "lm_head.weight"
    stayed = torch.zeros_like(root[name])
    for seed in range(6):
        merged = weights(merging.merge(study, f"della_linear#{seed}", {"weight": 1, "density": 0.5}))
        stayed += merged[name] != root[name]
    rank = change[name].abs().argsort(1).argsort(1)
    half = rank.shape[1] // 2
    small, large = float(stayed[rank < half].mean()) / 6, float(stayed[rank >= half].mean()) / 6
    assert small == pytest.approx(0.45, abs=0.02)  # between .4 and .5
    assert large == pytest.approx(0.55, abs=0.02)


def test_arcee_fusion_takes_the_important_weights_of_the_expert(pico_study):
    study = pico_study("gemma")
    merged = weights(merging.merge(study, "arcee_fusion"))
    general, expert = of(study, "japanese"), of(study, "expert")
    expected, aside = {}, {}
    for name in general:
        p, q = expert[name].softmax(-1) + 1e-8, general[name].softmax(-1) + 1e-8
        importance = (expert[name] - general[name]).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
        first, middle, third = (importance.flatten().sort().values[int(q * (importance.numel() - 1))] for q in (0.25, 0.5, 0.75))
        threshold = middle + 1.5 * (third - first)
        aside[name] = (importance - threshold).abs() <= 0.02 * threshold.abs() + 1e-12  # a divergence of nearly equal rows is small beside its terms
        expected[name] = torch.where(importance >= threshold, expert[name], general[name])
    assert_few(aside)
    assert_equal(merged, expected, but=aside)


def test_evolved_dare_ties_weighs_and_drops_each_model_by_its_own_parameters(pico_study):
    study = pico_study("gemma")
    values = {"general_weight": 0.5, "expert_weight": 0.9, "general_density": 0.6, "expert_density": 0.3}
    merged = weights(merging.merge(study, "evo_dare_ties@ancestor#2", values))
    root, (general, expert) = changes_of(study, "ancestor")
    torch.manual_seed(2)
    expected = {}
    for name in root:
        changes = [weight * drop(change[name], density) for change, weight, density in ((general, 0.5, 0.6), (expert, 0.9, 0.3))]
        expected[name] = consensus(root[name], changes, 1, normalize=False)
    assert_equal(merged, expected)
