"""Merges of pico models against the published formulas, worked out here in float64; parents, cards and folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.synthetic import make_study
from xlm_utils.merge import distances, merging, methods, planning
from xlm_utils.models.constituents import locate
from xlm_utils.report import figures, planned, tables
from xlm_utils.study import PARAMS, ROOT, StudyError, inputs, names
from xlm_utils.study import study as study_module
from xlm_utils.study.records import read_manifest, sha256

FAMILIES = ("llama", "gemma")
ULP = 2**-8  # of bfloat16, relative
EVOLVED = {"expert_weight": 0.7, "expert_density": 0.4}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in sorted(load_file(folder / "model.safetensors").items())}


def of(study, name: str) -> dict[str, torch.Tensor]:
    return weights(locate(study, name))


def files(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def assert_equal(merged: dict, expected: dict, but: dict | None = None) -> None:
    """Equal to the precision of bfloat16, and of float32 where a sum cancels; ``but`` elements are set aside."""
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        off = (tensor - expected[name]).abs() > ULP * expected[name].abs() + 1e-8
        if but:
            off &= ~but[name]
        assert not off.any(), f"{name}: {int(off.sum())} of {off.numel()}"


def copy_model(folder: Path, to: Path, change=lambda tensors: None, **config: object) -> Path:
    """A copy of a model folder, its tensors changed in place by ``change``, its config updated."""
    to.mkdir(parents=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    if config:
        stored = json.loads((to / "config.json").read_text())
        (to / "config.json").write_text(json.dumps(stored | config))
    return to


# ---- the six published methods, formula by formula -------------------------------------------------


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:  # MergeKit: nearly parallel tensors are interpolated along the line
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def consensus(base: torch.Tensor, changes: list[torch.Tensor], weight: float, normalize: bool) -> torch.Tensor:
    """TIES after the trimming: the sign with the larger total wins, and the changes that have it are added."""
    weighted = torch.stack(changes) * weight
    sign = torch.where(weighted.sum(0) >= 0, 1, -1)
    agrees = weighted.sign() == sign
    change = (weighted * agrees).sum(0)
    total = weight * agrees.sum(0)
    return base + (change / torch.where(total == 0, 1, total) if normalize else change)


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_is_the_weighted_mean(pico_study, family):
    study = pico_study(family)
    merged = weights(merging.merge(study, "linear", {"general_weight": 0.3, "expert_weight": 0.9}))
    a, b = of(study, "japanese"), of(study, "expert")
    assert_equal(merged, {name: 0.25 * a[name] + 0.75 * b[name] for name in a})


@pytest.mark.parametrize("family", FAMILIES)
def test_slerp_follows_the_arc_and_is_symmetric(pico_study, pico_siblings, family):
    study = pico_study(family)
    a, b = of(study, "japanese"), of(study, "expert")
    merged = weights(merging.merge(study, "slerp", {"t": 0.25}))
    assert_equal(merged, {name: slerp(a[name], b[name], 0.25) for name in a})
    assert any(float(torch.cosine_similarity(a[n].flatten(), b[n].flatten(), 0)) < 0.9995 for n in a), "the arc was never taken"
    folder = pico_siblings[family]
    swapped = pico_study(family, weights={"japanese": folder / "expert", "expert": folder / "japanese"})
    assert_equal(weights(merging.merge(swapped, "slerp", {"t": 0.75})), merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_task_arithmetic_adds_the_task_vectors_that_are_not_the_bases(pico_study, family):
    study = pico_study(family)
    a, b, root = of(study, "japanese"), of(study, "expert"), of(study, "ancestor")
    assert_equal(weights(merging.merge(study, "task_arithmetic", {"weight": 0.6})), {n: a[n] + 0.6 * (b[n] - a[n]) for n in a})
    expected = {n: root[n] + 0.6 * (a[n] - root[n]) + 0.6 * (b[n] - root[n]) for n in a}
    assert_equal(weights(merging.merge(study, "task_arithmetic@ancestor", {"weight": 0.6})), expected)


def trim(change: torch.Tensor, density: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest changes, the first of equals, and where elements tie at a threshold that keeps only some of them."""
    size = change.abs().flatten()
    k = max(1, int(density * len(size)))
    kept = torch.zeros(len(size), dtype=torch.bool)
    kept[size.sort(descending=True, stable=True).indices[:k]] = True
    tied = size == size[kept].min()
    tied &= not kept[tied].all()
    return (change.flatten() * kept).view_as(change), tied.view_as(change)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", ["japanese", "ancestor"])
def test_ties_trims_elects_and_averages(pico_study, family, base):
    study = pico_study(family, base=base)
    root, merged = of(study, base), weights(merging.merge(study, "ties", {"density": 0.3}))
    tuned = [of(study, name) for name in ("japanese", "expert") if name != base]
    trimmed = {n: [trim((t[n] - root[n]).float().double(), 0.3)[0] for t in tuned] for n in root}
    assert_equal(merged, {n: consensus(root[n], trimmed[n], 0.5, normalize=True) for n in root})


@pytest.mark.parametrize("base", ["japanese", "ancestor"])
def test_mergekits_own_ties_differs_only_where_changes_tie_at_the_threshold(pico_study, tmp_path, base):
    study = pico_study("gemma", base=base)
    ours = weights(merging.merge(study, "ties"))
    theirs, root = _stock(study, "ties", tmp_path / "stock"), of(study, base)
    tuned = [of(study, name) for name in ("japanese", "expert") if name != base]
    tied = {n: torch.stack([trim((t[n] - root[n]).float().double(), 0.5)[1] for t in tuned]).any(0) for n in root}
    assert sum(int(t.sum()) for t in tied.values()) > 0, "no ties: the test shows nothing"
    assert_equal(ours, theirs, but=tied)


def _stock(study, name: str, folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """What MergeKit makes of the file beside a merge, none of our code between."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = yaml.safe_load((study.models_folder / f"{name}.mergekit.yml").read_text())
    options = MergeOptions(quiet=True, random_seed=seed, copy_tokenizer=False, write_model_card=False)
    run_merge(MergeConfiguration.model_validate(config), str(folder), options)
    return weights(folder)


def drop(change: torch.Tensor, density: float) -> torch.Tensor:
    """DARE: each change stays with this chance, by the next numbers of torch's generator; the L1 norm is restored."""
    kept = change * torch.bernoulli(torch.full(change.shape, density, dtype=torch.float32)).double()
    return kept * change.abs().sum() / kept.abs().sum()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", ["japanese", "ancestor"])
def test_dare_ties_drops_by_the_seeds_mask_and_restores_the_l1_norm(pico_study, family, base):
    study = pico_study(family, base=base)
    merged = weights(merging.merge(study, "dare_ties#5", {"density": 0.4, "weight": 0.8}))
    root, tuned = of(study, base), [of(study, name) for name in ("japanese", "expert") if name != base]
    torch.manual_seed(5)
    expected = {}
    for name in root:  # tensors in the order of their names, then models in the order of the card
        changes = [drop(model[name] - root[name], 0.4) for model in tuned]
        expected[name] = consensus(root[name], changes, 0.8, normalize=False)
    assert_equal(merged, expected)


def test_dare_ties_is_mergekits_bit_for_bit_also_where_a_fine_tune_left_a_tensor_alone(pico_study, pico_siblings, tmp_path):
    root = load_file(pico_siblings["gemma"] / "ancestor" / "model.safetensors")

    def leave(*parts):
        return lambda tensors: tensors.update({name: root[name] for name in tensors if any(part in name for part in parts)})

    general = copy_model(pico_siblings["gemma"] / "japanese", tmp_path / "general", leave("embed", "up_proj"))
    expert = copy_model(pico_siblings["gemma"] / "expert", tmp_path / "expert", leave("embed", "down_proj"))
    study = pico_study("gemma", weights={"japanese": general, "expert": expert})
    merging.merge(study, "dare_ties@ancestor#3", {"density": 0.2})
    ours = weights(merging.merge(study, "dare_ties@ancestor#3"))
    theirs = _stock(study, "dare_ties@ancestor#3", tmp_path / "stock", seed=3)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["ties@ancestor", "dare_ties@ancestor"])
def test_parents_in_float32_are_merged_as_mergekit_merges_them(pico_study, pico_siblings, tmp_path, name):
    def widen(tensors):
        tensors.update({key: tensor.float() * 1.001 for key, tensor in tensors.items()})

    parents = {n: copy_model(pico_siblings["llama"] / n, tmp_path / n, widen) for n in ("japanese", "expert", "ancestor")}
    study = pico_study("llama", weights=parents)
    ours = weights(merging.merge(study, name))
    theirs = _stock(study, name, tmp_path / "stock")
    differ = sum(int((ours[n] != theirs[n]).sum()) for n in theirs)
    tied = 0
    if name.startswith("ties"):
        root = of(study, "ancestor")
        tied = sum(int(trim((of(study, t)[n].float() - root[n].float()).double(), 0.5)[1].sum()) for n in root for t in ("japanese", "expert"))
    assert differ <= tied


def test_a_threshold_is_exact_among_ties_and_sizes_alike_in_their_upper_bits(monkeypatch):
    from xlm_utils.merge import chunked

    monkeypatch.setattr(chunked, "CHUNK", 64)
    chunked.forget()
    base, model = torch.zeros(1000), torch.randn(1000, generator=torch.Generator().manual_seed(1))
    model[::100] = 9
    model[:500:7] = 0.25  # ties, of which the first are kept
    model[600:700] = torch.linspace(0.25, 0.2509, 100)  # one in their upper 16 bits

    def ours(density):
        least, tied = chunked._threshold(model, base, density)
        sizes = model.abs().view(torch.int32)
        return torch.where((sizes > least) | (sizes == least) & (torch.arange(1000) < tied), model, 0)

    for density in (0.005, 0.3, 0.5, 0.9, 0.999):
        assert torch.equal(ours(density), trim(model, density)[0]), density
    chunked.forget()
    model[600:] = 0  # a threshold of 0 keeps what is larger
    assert torch.equal(ours(0.9), model)
    assert chunked._threshold(model, base, 0.9)[1] == 900, "of the changes of 0 that tie the first are kept"
    chunked.forget()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["even", "unlike the sample", "two values", "few values", "one value", "no number"])
def test_a_threshold_is_that_of_a_whole_sort_whatever_the_sample_says(monkeypatch, kind, threads):
    """Bounds come from every third change: the threshold may lie between them, on either, or where no sample is."""
    from xlm_utils.merge import chunked

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    n = 200_000
    base, model = torch.zeros(n), torch.randn(n, generator=torch.Generator().manual_seed(3))
    assert n >> 16 | 1 == 3
    if kind == "unlike the sample":
        model[::3] *= 1e-6
    elif kind == "two values":
        model = torch.where(model > 0.5, 2.0, -1.0)
    elif kind == "few values":
        model = (2 * model).round() / 2
    elif kind == "one value":
        model = torch.full((n,), -0.25)
    elif kind == "no number":
        model[5:500], model[7:900:5] = float("nan"), float("inf")
    sizes = model.view(torch.int32).bitwise_and(0x7FFFFFFF)
    order = sizes.sort(descending=True, stable=True).indices
    for density in (1 / n, 0.001, 0.1, 1 / 3, 0.5, 0.66, 0.67, 0.9, 0.9999):
        least, tied = chunked._threshold(model, base, density)
        if least > 0x7F800000:  # all that are no number are kept, and the result is refused
            assert (kind, tied) == ("no number", chunked.ALL)
            continue
        kept = (sizes > least) | (sizes == least) & (torch.arange(n) < tied)
        assert torch.equal(kept.nonzero().ravel(), order[: max(1, int(density * n))].sort().values), density


def test_a_threshold_among_numbers_that_are_none_keeps_them_all_whatever_their_bits():
    """The change of two different NaN is one of them, and libraries don't agree which; the result is refused anyway."""
    from xlm_utils.merge import chunked

    base, model = torch.randn(100), torch.randn(100)
    base.view(torch.int32)[3], model.view(torch.int32)[3] = 0x7FC00000, 0x7FC10000
    assert chunked._threshold(model, base, 0.01)[1] == chunked.ALL


def test_a_weight_that_is_no_number_stays_none_whatever_its_bits():
    """Rounding adds to the bits, and 0x7FFF would become -0 by that."""
    from xlm_utils.merge import kernels

    odd = np.array([0x7FFF, 0xFFFF, 0x7F81, 0x7F80, 0x3F80], np.uint16)
    made = np.empty_like(odd)
    kernels.averaged(made, (odd, odd), np.array([0.5, 0.5], np.float32), np.float32(1))
    values = torch.from_numpy(made).view(torch.bfloat16)
    assert values[:3].isnan().all(), values
    assert values[3:].tolist() == [float("inf"), 1]


@pytest.mark.parametrize("shape", [(7,), (300, 300), (1000, 1040), (640, 2048), (3000, 2048)])
@pytest.mark.parametrize("near", [1.0, 0.0])
def test_slerp_is_mergekit_s_on_one_thread_on_however_many(shape, near):
    from mergekit.merge_methods.base import TensorEntry, TensorGroup, TensorMetadata
    from mergekit.merge_methods.slerp import slerp as mergekit_s

    from xlm_utils.merge import chunked

    draw, threads = torch.Generator().manual_seed(1), torch.get_num_threads()
    one = torch.randn(shape, generator=draw).to(torch.bfloat16)
    other = (one.float() + near * torch.randn(shape, generator=draw)).to(torch.bfloat16)
    entries = (TensorEntry(id="one", tensor=one, is_base=True), TensorEntry(id="other", tensor=other, is_base=False))
    try:
        torch.set_num_threads(1)
        expected = mergekit_s(torch.tensor([0.3]), one[None], other[None])[0]
        for number in (1, 2):
            torch.set_num_threads(number)
            group = TensorGroup(entries, TensorMetadata(name="w"))
            assert torch.equal(chunked.merge("slerp", group, {"t": 0.3}), expected), number
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("normalize", [True, False])
def test_task_arithmetic_is_mergekit_s_normalised_or_not_and_knows_no_density(normalize):
    from mergekit.merge_methods.base import PerInputValues, TensorEntry, TensorGroup, TensorMetadata
    from mergekit.merge_methods.registry import get

    from xlm_utils.merge import chunked

    draw = torch.Generator().manual_seed(1)
    base = torch.randn(300, 50, generator=draw).to(torch.bfloat16)
    base[0] = -0.0
    models = [base.clone(), (base.float() + torch.randn(300, 50, generator=draw)).to(torch.bfloat16)]  # one of them is the base's own
    entries = [TensorEntry(id=str(n), tensor=tensor, is_base=n == 2) for n, tensor in enumerate([*models, base])]
    group = TensorGroup(tuple(entries), TensorMetadata(name="w"))
    shared = {"normalize": normalize, "rescale": False, "lambda": 0.7, "int8_mask": False}
    values = shared | {"weight": PerInputValues([("0", 0.5), ("1", -0.3)]), "density": PerInputValues([("0", 0.5), ("1", 0.5)])}
    (expected,) = get("task_arithmetic")((group,), parameters=values, dtype=torch.float32, out_dtype=torch.bfloat16)
    chunked.forget()
    assert torch.equal(chunked.merge("task_arithmetic", group, values).view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "dare_ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])  # none: one of each
@pytest.mark.parametrize(("weight", "density"), [(0.5, 0.7), (-0.5, 1.0)])
def test_a_merge_has_mergekit_s_bits_of_one_thread_on_however_many_and_leaves_the_parents_as_they_are(method, dtype, weight, density):
    from mergekit.merge_methods.base import PerInputValues, TensorEntry, TensorGroup, TensorMetadata
    from mergekit.merge_methods.registry import get

    from xlm_utils.merge import chunked

    draw, threads, pair = torch.Generator().manual_seed(1), torch.get_num_threads(), method in ("linear", "slerp")
    base = torch.randn(301, 500, generator=draw)
    base[::5] = -0.0
    tensors = [(base + 0.1 * torch.randn(301, 500, generator=draw) * (torch.rand(301, 500, generator=draw) < 0.9)) for _ in range(2)]
    dtypes = [dtype] * 3 if dtype else [torch.bfloat16, torch.float16, torch.float32]
    tensors = [tensor.to(own) for tensor, own in zip([*tensors, base], dtypes, strict=True)]
    before = [tensor.clone() for tensor in tensors]
    entries = [TensorEntry(id=number, tensor=tensor, is_base=number == (0 if pair else 2)) for number, tensor in enumerate(tensors)]
    group = TensorGroup(tuple(entries[:2] if pair else entries), TensorMetadata(name="w"))
    each = {"weight": PerInputValues([(0, weight), (1, 0.8 * weight)]), "density": PerInputValues([(0, 0.5), (1, density)])}
    values = each | {"normalize": False, "rescale": method == "dare_ties", "lambda": 1.0, "int8_mask": False}
    values = {"linear": {"weight": each["weight"], "normalize": True}, "slerp": {"t": 0.3}}.get(method, values)
    try:
        torch.set_num_threads(1)
        torch.manual_seed(7)
        (expected,) = get(method)((group,), parameters=values, dtype=torch.float32, out_dtype=torch.bfloat16)
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(7)
            chunked.forget()
            merged = chunked.merge(method, group, values).to(torch.bfloat16)
            if (method, dtype) == ("ties", torch.bfloat16):  # changes that tie at the threshold, which MergeKit does not keep in order
                expected = merged if number == 1 else expected
            assert torch.equal(merged.view(torch.int16), expected.view(torch.int16)), number
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


def test_linear_weights_that_sum_to_nothing_make_no_number_as_mergekit_s_do():
    from mergekit.merge_methods.base import PerInputValues, TensorEntry, TensorGroup, TensorMetadata
    from mergekit.merge_methods.registry import get

    from xlm_utils.merge import chunked

    entries = [TensorEntry(id=number, tensor=torch.full((5,), 1.0 + number), is_base=number == 0) for number in range(2)]
    group, values = TensorGroup(tuple(entries), TensorMetadata(name="w")), {"weight": PerInputValues([(0, 1.0), (1, -1.0)]), "normalize": True}
    (expected,) = get("linear")((group,), parameters=values, dtype=torch.float32, out_dtype=torch.float32)
    assert torch.equal(chunked.merge("linear", group, values), expected)
    assert not expected.isfinite().any()


@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_a_weight_that_is_no_number_is_in_dare_s_result_even_if_the_mask_drops_it(odd):
    from mergekit.merge_methods.base import PerInputValues, TensorEntry, TensorGroup, TensorMetadata

    from xlm_utils.merge import chunked

    torch.manual_seed(7)
    model = torch.ones(8, dtype=torch.bfloat16)
    model[int((torch.bernoulli(torch.full((8,), 0.5)) == 0).nonzero()[0])] = odd
    entries = [TensorEntry(id=number, tensor=own, is_base=number == 0) for number, own in enumerate([torch.zeros(8, dtype=torch.bfloat16), model])]
    values = {"weight": PerInputValues([(1, 1.0)]), "density": PerInputValues([(1, 0.5)]), "normalize": False, "rescale": True, "lambda": 1.0}
    torch.manual_seed(7)
    chunked.forget()
    merged = chunked.merge("dare_ties", TensorGroup(tuple(entries), TensorMetadata(name="w")), values)
    assert not merged.isfinite().all(), "or the merge would be written, without the rescaling"


def test_masks_are_those_that_torch_draws():
    from xlm_utils.merge import chunked

    for n, density in ((7, 0.5), (chunked.CHUNK + 5, 0.3), (100_000, 0.999)):
        torch.manual_seed(n)
        expected, after = torch.bernoulli(torch.full((n,), density)).bool(), torch.get_rng_state()
        torch.manual_seed(n)
        mask = chunked._draw(n, density)
        assert np.array_equal(np.concatenate([mask(part) for part in chunked._parts(n, 64)]), expected)
        assert torch.equal(torch.get_rng_state(), after)


def test_dare_keeps_every_change_in_expectation(pico_study):
    study = pico_study("llama")
    root, expert = of(study, "japanese"), of(study, "expert")
    seeds = [weights(merging.merge(study, f"dare_ties#{seed}", {"weight": 1, "density": 0.5})) for seed in range(8)]
    name = "lm_head.weight"
    change = expert[name] - root[name]
    mean = torch.stack([merged[name] - root[name] for merged in seeds]).mean(0)
    assert float((mean * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.05)


# ---- properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_under_another_path_changes_nothing(pico_study, pico_siblings, tmp_path, family):
    twin = copy_model(pico_siblings[family] / "japanese", tmp_path / "twin")
    study = pico_study(family, weights={"expert": twin})
    for name in ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "task_arithmetic@ancestor", "karcher", "arcee_fusion"):
        merged = weights(merging.merge(study, name))
        assert_equal(merged, of(study, "japanese"))
    whole = weights(merging.merge(study, "ties@ancestor", {"density": 1}))
    assert_equal(whole, of(study, "japanese"))


@pytest.mark.parametrize(
    ("name", "values", "parent"),
    [
        ("linear", {"general_weight": 1, "expert_weight": 0}, "japanese"), ("linear", {"general_weight": 0, "expert_weight": 1}, "expert"),
        ("slerp", {"t": 0}, "japanese"), ("slerp", {"t": 1}, "expert"),
        ("task_arithmetic", {"weight": 0}, "japanese"), ("task_arithmetic", {"weight": 1}, "expert"),
        ("ties", {"weight": 0, "density": 1}, "japanese"), ("ties", {"weight": 1, "density": 1}, "expert"),
        ("dare_ties", {"weight": 0, "density": 1}, "japanese"), ("dare_ties", {"weight": 1, "density": 1}, "expert"),
    ],
)  # fmt: skip
def test_weights_0_and_1_give_back_a_parent(pico_study, name, values, parent):
    study = pico_study("gemma")
    assert_equal(weights(merging.merge(study, name, values)), of(study, parent))


@pytest.mark.parametrize("name", sorted({*inputs.listed("methods")} | {f"{c}@ancestor" for c in inputs.listed("methods") if "base_model: base" in
                                        (PARAMS / "methods" / f"{c}.yaml").read_text()}))  # fmt: skip
def test_every_card_makes_a_new_model_that_runs(pico_study, name):
    study, name = pico_study("gemma"), name + "~bottom=1,top=0,transition=0" * (name == "layer_swap")  # its models have two layers
    searched = name.startswith("evo")
    values = {p: 0.4 for p in methods.resolve(study, name).free} if searched else {}
    folder = merging.merge(study, name, values)
    merged = weights(folder)
    assert any((merged[n] != tensor).any() for n, tensor in of(study, "japanese").items())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    assert model(**tokenizer("用語：喘息", return_tensors="pt")).logits.isfinite().all()


@pytest.mark.parametrize("name", ["dare_ties", "ties@ancestor", "evo_dare_ties@ancestor", "slerp", "della"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_in_memory_is_the_checkpoint_bit_for_bit(pico_study, family, name):
    study = pico_study(family)
    values = {p: 0.6 for p in methods.resolve(study, name).free}
    live = AutoModelForCausalLM.from_pretrained(locate(study, "expert"), dtype=torch.bfloat16)
    search = planning.Live(live, study, name)
    search.merge(dict.fromkeys(values, 0.3))  # a candidate before leaves no trace
    search.merge(values)
    stored = AutoModelForCausalLM.from_pretrained(merging.merge(study, name, values), dtype=torch.bfloat16)
    for (parameter, ours), theirs in zip(live.named_parameters(), stored.parameters(), strict=True):
        assert torch.equal(ours, theirs), parameter


def test_a_gpu_too_small_for_mergekits_copies_leaves_the_merge_to_the_cpu(pico_study, monkeypatch, capsys):
    study = pico_study("llama")
    folders = merging.parents(study, methods.render(study, "ties"))
    largest, every = 300 * 32, sum(tensor.numel() for tensor in load_file(folders["japanese"] / "model.safetensors").values())
    for module in (merging, planning):
        monkeypatch.setattr(module, "pick_device", lambda: ("cuda", "a GPU"))
    for memory, device in ((17 * 4 * largest + 2 * every, "cuda"), (17 * 4 * largest + 2 * every - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, memory=memory: SimpleNamespace(total_memory=memory))
        assert planning.math_device(folders)[0] == device
    merging.merge(study, "ties")
    assert "ties: merged on the CPU (merging on the GPU takes up to 0 GiB, and it has 0)" in capsys.readouterr().out


def test_merging_leaves_the_global_random_generators_alone(pico_study):
    study = pico_study("llama")
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.RandomState(1).rand(), torch.rand(1, generator=torch.Generator().manual_seed(1))
    merging.merge(study, "dare_ties")
    assert (np.random.rand(), torch.rand(1)) == expected


# ---- folders -------------------------------------------------------------------------------------------


def test_the_general_model_donates_tokenizer_template_and_stop_tokens(pico_study, pico_siblings, tmp_path):
    plain = copy_model(pico_siblings["llama"] / "expert", tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    (plain / "generation_config.json").unlink()
    study = pico_study("llama", weights={"expert": plain, "ancestor": plain})
    donor, folder = files(locate(study, "japanese")), files(merging.merge(study, "ties@ancestor"))
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert folder[name] == donor[name]
    model = AutoModelForCausalLM.from_pretrained(study.models_folder / "ties@ancestor")
    assert model.generation_config.eos_token_id == [1, 4]
    assert model.dtype == torch.bfloat16


def test_a_donor_without_generation_config_still_passes_on_its_stop_tokens(pico_study, pico_siblings, tmp_path):
    bare = copy_model(pico_siblings["llama"] / "japanese", tmp_path / "bare", eos_token_id=[1, 3])
    (bare / "generation_config.json").unlink()
    folder = merging.merge(pico_study("llama", weights={"japanese": bare}), "linear")
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [1, 3]


def test_the_same_merge_again_does_nothing_and_says_so(pico_study, capsys, monkeypatch):
    study = pico_study("llama")
    folder = merging.merge(study, "ties")
    before = files(folder)
    monkeypatch.setattr("xlm_utils.merge.planning.Plan.__call__", lambda *_: pytest.fail("merged again"))
    capsys.readouterr()
    assert merging.merge(study, "ties") == folder
    assert capsys.readouterr().out == "ties: already merged from the same parents with the same parameters\n"
    assert files(folder) == before
    with pytest.raises(pytest.fail.Exception):
        merging.merge(study, "ties", {"density": 0.2})


def test_a_merge_prints_one_line(pico_study, capfd):
    study = pico_study("llama")
    merging.merge(study, "slerp")
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err == ""


def test_a_full_disk_leaves_no_folder(pico_study, monkeypatch):
    study = pico_study("llama")

    def full(writer, name, data):
        (writer._folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xlm_utils.merge.writing.Writer._write", full)
    with pytest.raises(OSError, match="No space"):
        merging.merge(study, "ties")
    assert list(study.models_folder.glob("ties*")) == [], "neither a model nor the half of one"
    with pytest.raises(StudyError, match="no merged model ties"):
        locate(study, "ties")


FULL = """
import resource, signal, sys
from xlm_utils.merge import merging
from xlm_utils.study import open_study
study = open_study(sys.argv[1])
merging.merge(study, "linear")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is then an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
merging.merge(study, "slerp")
"""


def test_a_disk_that_really_ends_in_the_middle_of_the_weights_leaves_only_what_was_finished(pico_study, tmp_path):
    study = pico_study("llama")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", FULL, tmp_path / "preset" / "pico.yaml"], env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "File too large" in run.stderr
    assert sorted(path.name for path in study.models_folder.iterdir()) == [".locks", "linear", "linear.manifest.json", "linear.mergekit.yml"]


SCRIPT = """
import os, sys
from xlm_utils.merge import merging
from xlm_utils.study import open_study
study = open_study(sys.argv[1])
for name in ("linear", "dare_ties@ancestor", "della"):
    merging.merge(study, name)
merging._note = lambda *_: os._exit(9)  # dies when everything is written, before it is finished
merging.merge(study, "slerp")
"""


def test_two_processes_write_the_same_bytes_and_a_killed_one_leaves_no_model(pico_study, tmp_path):
    study = pico_study("gemma")
    written = []
    for hash_seed in ("1", "2"):
        home = tmp_path / hash_seed
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "XLM_HOME": str(home), "PYTHONPATH": str(ROOT)}
        run = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "preset" / "pico.yaml"], env=environment, capture_output=True, text=True)
        assert run.returncode == 9, run.stderr
        models = home / study.models_folder.relative_to(tmp_path / "home")
        written.append({name: files(models / name) for name in ("linear", "dare_ties@ancestor", "della")})
        assert not (models / "slerp").exists()
        assert read_manifest(models / "slerp") is None
    assert written[0] == written[1]


def test_the_file_beside_a_merge_works_with_mergekit_yaml_also_for_paths_with_a_plus(pico_study, pico_siblings, tmp_path):
    study = pico_study("llama", weights={"expert": copy_model(pico_siblings["llama"] / "expert", tmp_path / "base+med")})
    folder = merging.merge(study, "dare_ties#2")
    command = [Path(sys.executable).with_name("mergekit-yaml"), "--random-seed", "2", "--quiet", f"{folder}.mergekit.yml", tmp_path / "out"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert run.returncode == 0, run.stderr
    assert sha256(tmp_path / "out" / "model.safetensors") == sha256(folder / "model.safetensors")


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("tie", {}, ["'tie'", "ties", "slerp"]),
        ("ties", {"densty": 0.5}, ["'densty'", "weight, density"]),
        ("ties", {"density": 0}, ["density = 0", "0.01 to 1"]),
        ("ties", {"density": 1.2}, ["density = 1.2", "0.01 to 1"]),
        ("ties", {"weight": "half"}, ["weight = 'half'", "0 to 2"]),
        ("ties", {"weight": float("nan")}, ["weight = nan", "0 to 2"]),
        ("ties@nobody", {}, ["'nobody'", "japanese, ancestor"]),
        ("ties@expert", {}, ["'expert'", "japanese, ancestor"]),
        ("slerp@ancestor", {}, ["slerp", "general", "@ancestor"]),
        ("ties#1", {}, ["ties", "no random mask"]),
        ("dare_ties#x", {}, ["seed", "whole number"]),
        ("evo_dare_ties", {}, ["expert_weight, expert_density", "03_merge.ipynb"]),
        ("evo_dare_ties", {"general_weight": 0.5, **EVOLVED}, ["general_weight has no effect", "base japanese", "expert_weight"]),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_valid_ones(pico_study, name, values, words):
    with pytest.raises(StudyError) as error:
        methods.render(pico_study("llama"), name, **values)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda card: card.update(lable="TIES"), ["unknown key lable", "label"]),
        (lambda card: card.pop("reference"), ["reference is missing"]),
        (lambda card: card["parameters"]["density"].update(default=1.5), ["density.default = 1.5", "0.01 to 1"]),
        (lambda card: card["mergekit"]["models"][0].update(model="french"), ["'french'", "'general', 'expert', 'ancestor' or 'base'"]),
        (lambda card: card["mergekit"]["models"][0].update(paramters={}), ["unknown key mergekit.models.0.paramters", "parameters"]),
        (lambda card: card["parameters"].pop("density"), ["density", "$density"]),
        (lambda card: card["mergekit"].update(normalise=True), ["unknown key mergekit.normalise", "merge_method"]),
        (lambda card: card["mergekit"]["parameters"].update(normalise=card["mergekit"]["parameters"].pop("normalize")),
         ["the parameter normalise is unknown", "normalize"]),
        (lambda card: card["mergekit"]["parameters"].pop("lambda"), ["the parameter lambda is missing"]),
        (lambda card: card["mergekit"].update(merge_method="tiez"), ["'tiez'", "ties", "slerp"]),
    ],
)  # fmt: skip
def test_a_wrong_card_is_one_sentence_before_anything_is_merged(pico_study, tmp_path, monkeypatch, change, words):
    study = pico_study("llama")
    card = yaml.safe_load((PARAMS / "methods" / "ties.yaml").read_text(encoding="utf-8"))
    change(card)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "ties.yaml").write_text(yaml.safe_dump(card))
    for module in (inputs, names):
        monkeypatch.setattr(module, "PARAMS", tmp_path)
    with pytest.raises(StudyError) as error:
        merging.merge(study, "ties")
    for word in words:
        assert word in str(error.value)
    assert not (study.models_folder / "ties").exists()


def test_every_method_of_mergekit_for_two_fine_tunes_has_a_card():
    from mergekit.merge_methods.registry import registered_methods

    offered = {method.spec.name for method in registered_methods()} - {"passthrough"}  # which merges nothing
    described = {names.read_card(name)["mergekit"]["merge_method"] for name in inputs.listed("methods")}
    assert described == {name for name in offered if "chunked_" not in name}


def test_one_new_file_is_a_new_method_in_every_table_and_figure(tmp_path, monkeypatch, pico_study):
    params = tmp_path / "params"
    shutil.copytree(PARAMS, params)
    card = yaml.safe_load((params / "methods" / "ties.yaml").read_text(encoding="utf-8")) | {"label": "Gentle TIES"}
    (params / "methods" / "gentle.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    demo = (params / "demo.yaml").read_text(encoding="utf-8")
    preset = yaml.safe_load(demo)
    (params / "demo.yaml").write_text(yaml.safe_dump(preset | {"methods": [*preset["methods"], "gentle@ancestor"]}), encoding="utf-8")
    for module in (inputs, names, study_module):
        monkeypatch.setattr(module, "PARAMS", params)
    assert merging.merge(pico_study("llama"), "gentle@ancestor").name == "gentle@ancestor"
    study, label = make_study(tmp_path / "made", monkeypatch), "Gentle TIES (base: ancestor)"
    for table in (tables.table1(study), planned.table2(study)):
        assert label in table.index
    for figure in (figures.histograms(study), figures.forest(study), figures.benchmark_gaps(study)):
        assert label in figure.to_json()


def test_rendering_writes_every_parameter_and_names_models_not_folders(pico_study):
    study = pico_study("llama")
    assert yaml.safe_load(methods.config_yaml(study, "ties@ancestor", density=0.2)) == {
        "merge_method": "ties", "base_model": "ancestor",
        "models": [{"model": name, "parameters": {"weight": 0.5, "density": 0.2}} for name in ("japanese", "expert")],
        "parameters": {"normalize": True, "rescale": False, "lambda": 1.0, "int8_mask": False},
        "dtype": "float32", "out_dtype": "bfloat16",
    }  # fmt: skip
    published = methods.render(study, "ties")
    assert published["base_model"] == "japanese"
    assert [entry["model"] for entry in published["models"]] == ["expert"], "the base's own weight would have no effect"


def test_nan_in_a_parent_names_the_merged_tensor(pico_study, pico_siblings, tmp_path):
    def spoil(tensors):
        tensors["model.norm.weight"][3] = float("nan")

    study = pico_study("llama", weights={"expert": copy_model(pico_siblings["llama"] / "expert", tmp_path / "nan", spoil)})
    with pytest.raises(StudyError, match=r"model\.norm\.weight holds NaN"):
        merging.merge(study, "linear")
    assert not (study.models_folder / "linear").exists()


def test_parents_of_other_shapes_stop_before_mergekit(pico_study, pico_siblings, tmp_path):
    def widen(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"].repeat(2, 1)

    study = pico_study("llama", weights={"expert": copy_model(pico_siblings["llama"] / "expert", tmp_path / "wide", widen)})
    with pytest.raises(StudyError, match=r"lm_head\.weight is \(300, 32\) in one, \(600, 32\) in the other"):
        merging.merge(study, "linear")


def test_differences_between_parents_are_named_with_what_is_done(pico_study, pico_siblings, tmp_path):
    def stranger(tensors):
        for tensor in tensors.values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))

    expert = copy_model(pico_siblings["llama"] / "expert", tmp_path / "stranger", stranger)
    (expert / "chat_template.jinja").write_text("{{ messages }}")
    (expert / "generation_config.json").write_text('{"eos_token_id": [1]}')
    table = distances.check_parents(pico_study("llama", weights={"expert": expert}))
    assert not table.loc["chat template", "same"]
    assert table.loc["chat template", "what is done"] == "the merge takes japanese's"
    assert table.loc["tokenizer", "same"]
    assert table.loc["stops at tokens", ["japanese", "expert", "what is done"]].to_list() == ["1 4", "1", "the merge takes japanese's"]
    assert "expert is no fine-tune of ancestor" in table.loc["distance to ancestor", "what is done"]
    siblings = distances.check_parents(pico_study("llama"))
    assert siblings["same"].all()
    assert (siblings["what is done"] == "").all()


# ---- how far a merge lies from each model -----------------------------------------------------------------------


def test_distances_are_those_worked_out_in_float64_and_a_bases_own_task_vector_is_zero(pico_study):
    study = pico_study("llama")
    merging.merge(study, "ties")
    table = distances.l2_distances(study, ["japanese", "expert", "ties"])
    flat = {n: torch.cat([t.flatten() for t in of(study, n).values()]).double() for n in ("japanese", "expert", "ancestor", "ties")}
    for model in table.index:
        for other in ("japanese", "expert", "ancestor"):
            assert table.loc[model, other] == pytest.approx(float((flat[model] - flat[other]).norm()), rel=1e-5)
    assert table.loc["japanese", "japanese"] == 0
    assert distances.l2_distances(study, ["ties"]).equals(table.loc[["ties"]])


def test_a_merge_that_is_a_parent_is_no_distance_from_it(pico_study):
    study = pico_study("gemma")
    merging.merge(study, "task_arithmetic", {"weight": 1})
    assert distances.l2_distances(study, ["task_arithmetic"]).loc["task_arithmetic", "expert"] == 0
