"""RegMean and WUDI-Merging against their formulas, worked out here in NumPy's float64 from models run whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mergekit.common import ModelReference
from mergekit.merge_methods.base import TensorGroup
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.merge.test_merging import assert_equal, copy_model, of, weights
from tests.merge.test_planning import FAMILIES, in_memory_as_on_disk, siblings
from xlm_utils.merge import merging, methods, own, planning
from xlm_utils.models.constituents import locate
from xlm_utils.models.loading import load
from xlm_utils.models.weights import LAYER
from xlm_utils.study import StudyError
from xlm_utils.study.records import read_manifest
from xlm_utils.translate.translation import terms, unreported

READ = {
    "target": ["用語：喘息\n定義：", "用語：徐脈\n定義：", "用語：失神\n定義："],
    "source": ["Term: asthma\nDefinition: a disease of the airways with wheezing", "Term: syncope\nDefinition: a brief loss of consciousness"],
}
MODELS = [ModelReference.parse(f"m{number}") for number in range(3)]
NOT_ONE_BY_ONE = ("mixtral", "gpt-2", "mamba")  # families whose layers hold other matrices than linear layers


@pytest.fixture
def reading(monkeypatch):
    """The texts that RegMean's models read, in the place of a vocabulary's."""
    read = dict(READ)
    monkeypatch.setattr(methods, "_texts", lambda _, language, count: json.dumps(read[language], ensure_ascii=False))
    return read


def inputs_of(folder: Path, read: list[str]) -> dict[str, np.ndarray]:
    """What every linear module of a whole model reads, shape (tokens, inputs)."""
    model, tokenizer, seen = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            into = seen[f"{name}.weight"] = []
            module.register_forward_hook(lambda _, args, __, into=into: into.append(args[0][0].numpy()))
    with torch.no_grad():
        for text in read:
            model(**tokenizer(text, return_tensors="pt"))
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in seen.items()}


def regmean(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    grams = [alpha * z.T @ z / len(z) + (1 - alpha) * np.diag(np.diag(z.T @ z / len(z))) for z in (x, y)]
    return (a @ grams[0] + b @ grams[1]) @ np.linalg.inv(grams[0] + grams[1])


def wudi(a: np.ndarray, b: np.ndarray, cutoff: float) -> np.ndarray:
    """Where the objective's gradient vanishes, of least norm; the Gram's eigenvalues are the squared singular values of the stack."""
    squares = [(t, (t**2).sum()) for t in (a, b)]
    gram = sum(t.T @ t / n for t, n in squares)
    return a + b + sum((t - a - b) @ t.T @ t / n for t, n in squares) @ np.linalg.pinv(gram, cutoff**2, hermitian=True)


def in_layers(tensors: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in tensors.items() if tensor.dim() == 2 and LAYER.search(name)}


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("name", ["regmean", "regmean~alpha=0.4"])
def test_regmean_weighs_each_linear_layer_by_what_its_model_reads_and_averages_the_rest(pico_study, reading, family, name):
    study = pico_study(family)
    a, b = of(study, "japanese"), of(study, "expert")
    x, y = inputs_of(locate(study, "japanese"), READ["target"]), inputs_of(locate(study, "expert"), READ["source"])
    expected = {n: (a[n] + b[n]) / 2 for n in a}
    merged = weights(merging.merge(study, name))
    assert len(in_layers(a)) == 14
    assert not all(torch.allclose(merged[n], expected[n], rtol=2**-8) for n in in_layers(a)), "the texts made no difference"
    for n in in_layers(a):
        expected[n] = torch.from_numpy(regmean(a[n].numpy(), b[n].numpy(), x[n], y[n], 0.4 if "~" in name else 0.9))
    assert_equal(merged, expected)


def test_regmean_takes_an_input_from_the_model_that_reads_it_and_the_mean_where_none_does(monkeypatch):
    read = {"m0": torch.tensor([[2.0, 0, 0], [1, 0, 0]]), "m1": torch.tensor([[0.0, 3, 0]])}
    monkeypatch.setattr(own, "linear_layers", lambda _: {"w"})
    monkeypatch.setattr(own, "read_by", lambda folder, *_: read[folder])
    pair = TensorGroup.from_tensors([torch.tensor([[1.0, 1, 1]]), torch.tensor([[5.0, 5, 5]])], ids=MODELS[:2], base_index=0, name="w")
    assert own.regmean.implementation(pair, 0.9, dict.fromkeys(MODELS, "")).tolist() == [[1, 5, 3]]
    read["m1"] = torch.tensor([[1.0, 3, 0]])  # the first input: 2.5 of one model's squares a token, 1 of the other's
    assert own.regmean.implementation(pair, 0.0, dict.fromkeys(MODELS, "")).tolist() == [[pytest.approx((2.5 * 1 + 1 * 5) / 3.5), 5, 3]]


def test_regmean_reads_terms_that_no_table_reports_and_other_texts_make_another_merge(pico_study, reading, capsys):
    study = pico_study("llama")
    merging.merge(study, "regmean")
    before = read_manifest(study.models_folder / "regmean")
    assert [json.loads(entry["parameters"]["texts"]) for entry in before["made_from"]["config"]["models"]] == [READ["target"], READ["source"]]
    merging.merge(study, "regmean")
    assert "regmean: already merged" in capsys.readouterr().out
    reading["source"] = READ["source"][:1]
    merging.merge(study, "regmean")
    assert read_manifest(study.models_folder / "regmean")["weights_sha256"] != before["weights_sha256"]


def test_the_texts_are_of_unreported_terms_in_both_languages_the_source_s_with_their_definitions(pico_study):
    study = pico_study("llama")
    own, spare = terms(study), unreported(study)
    assert not set(spare["concept"]) & set(own["concept"])
    assert not set(spare["translation"]) & set(own["translation"])
    japanese, english = (json.loads(methods._texts(study, language, 20)) for language in ("target", "source"))
    asked = {study.prompt(study.target, row.translation): f"{study.prompt(study.source, row.term)} {row.definition}" for row in spare.itertuples()}
    assert len(set(japanese)) == 20
    assert english == [asked[prompt] for prompt in japanese]
    assert len(json.loads(methods._texts(study, "target", 10_000))) == len(spare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "unreported", lambda _: spare.head(0))
        with pytest.raises(StudyError, match="no translated term is left that no table reports"):
            methods._texts(study, "target", 20)


def test_layers_may_be_asked_for_in_any_order(pico_study):
    folder, read = locate(pico_study("gemma"), "expert"), json.dumps(READ["source"])
    expected = inputs_of(folder, READ["source"])
    own.forget()
    with torch.no_grad():
        for name in sorted(own.linear_layers(str(folder)), reverse=True):
            np.testing.assert_allclose(own.read_by(str(folder), read, name).numpy(), expected[name], rtol=1e-4, atol=1e-6)
    own.forget()


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("name", ["wudi", "wudi~cutoff=0.3"])
def test_wudi_is_where_the_gradient_of_its_objective_vanishes_and_adds_the_rest(pico_study, family, name):
    study, cutoff = pico_study(family), 0.3 if "~" in name else 0.1
    base, a, b = (of(study, n) for n in ("ancestor", "japanese", "expert"))
    merged, expected = weights(merging.merge(study, name)), {n: a[n] + b[n] - base[n] for n in base}
    apart = {n: torch.from_numpy(wudi((a[n] - base[n]).numpy(), (b[n] - base[n]).numpy(), cutoff)) + base[n] - expected[n] for n in in_layers(a)}
    assert_equal(merged, expected | {n: expected[n] + t for n, t in apart.items()})
    assert "# a method of this project, which mergekit-yaml does not know\n" in (study.models_folder / f"{name}.mergekit.yml").read_text()


def solve(monkeypatch, a: torch.Tensor, b: torch.Tensor, cutoff: float = 0.0) -> torch.Tensor:
    monkeypatch.setattr(own, "linear_layers", lambda _: {"w"})
    return own.wudi.implementation(TensorGroup.from_tensors([torch.zeros_like(a), a, b], ids=MODELS, base_index=0, name="w"), cutoff)


@pytest.mark.parametrize("shape", [(40, 12), (5, 30)])
@pytest.mark.parametrize("rank", [3, 5])
def test_wudi_s_gradient_vanishes_at_any_shape_and_rank_in_the_span_of_the_task_vectors(monkeypatch, shape, rank):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(shape[0], rank, generator=generator).double() @ torch.randn(rank, shape[1], generator=generator).double() for _ in "ab")
    b *= 1e-4  # a fine-tune that changed little counts as much: each term is over its own square
    found = solve(monkeypatch, a, b)
    gradient = sum((found - t) @ t.T @ t / t.square().sum() for t in (a, b))
    assert gradient.norm() < 1e-10 * a.norm()
    inside = torch.cat([a, b * 1e4])
    assert (found - found @ torch.linalg.pinv(inside, rtol=1e-10) @ inside).norm() < 1e-8 * found.norm()


def test_wudi_s_gradient_vanishes_along_what_is_kept_and_the_rest_is_the_sum(monkeypatch):
    """Rounding makes a full rank of a low one; solved for exactly, the small directions carry the result far away."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(40, 3, generator=generator).double() @ torch.randn(3, 20, generator=generator).double() for _ in "ab")
    a, b = (t + 1e-4 * torch.randn(t.shape, generator=generator).double() for t in (a, b))
    kept = torch.linalg.svd(torch.cat([a / a.norm(), b / b.norm()]))[2][:6]
    found, exact = solve(monkeypatch, a, b, cutoff=0.01), solve(monkeypatch, a, b)
    gradient = sum((found - t) @ t.T @ t / t.square().sum() for t in (a, b))
    assert (gradient @ kept.T).norm() < 1e-6 * a.norm()
    assert torch.allclose(found - found @ kept.T @ kept, a + b - (a + b) @ kept.T @ kept)
    assert (exact - a - b).norm() > 1.5 * (found - a - b).norm()


def test_wudi_adds_what_acts_apart_and_takes_once_what_both_do(monkeypatch):
    a, b = torch.zeros(2, 4).double(), torch.zeros(2, 4).double()
    a[:, :2], b[:, 2:] = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[5.0, 6], [7, 8]])
    assert torch.allclose(solve(monkeypatch, a, b), a + b)
    assert torch.allclose(solve(monkeypatch, a, a), a)
    assert torch.equal(solve(monkeypatch, a, torch.zeros_like(a)), a), "a model that left the layer alone"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["regmean", "wudi"])
def test_families_whose_layers_are_linear_merge_in_memory_as_on_disk_and_others_are_refused(pico_study, tmp_path, reading, family, name):
    study = pico_study(weights=siblings(tmp_path, *FAMILIES[family]))
    if family in NOT_ONE_BY_ONE:
        with pytest.raises(StudyError, match="is no linear layer of its own, and this method knows no other matrices"):
            merging.merge(study, name)
        return
    merged = weights(merging.merge(study, name))
    assert in_memory_as_on_disk(study, name)
    a, b, base = (of(study, n) for n in ("japanese", "expert", "ancestor"))
    rest = merged.keys() - in_layers(a)
    assert ("bias" in " ".join(rest)) == any(n.endswith("bias") for n in a)
    assert_equal({n: merged[n] for n in rest}, {n: (a[n] + b[n]) / 2 if name == "regmean" else a[n] + b[n] - base[n] for n in rest})


def test_wudi_needs_an_ancestor(pico_study):
    study = pico_study("llama")
    study.constituents.pop("ancestor")
    with pytest.raises(StudyError, match="no constituent has the role 'ancestor', and this step needs one"):
        merging.merge(study, "wudi")


def test_neither_method_depends_on_the_number_of_threads(pico_study, reading):
    study, threads = pico_study("gemma"), torch.get_num_threads()
    made = {}
    for number in (1, 2):
        torch.set_num_threads(number)
        for name in ("regmean", "wudi"):
            folder = merging.merge(study, name)
            made.setdefault(name, []).append((folder / "model.safetensors").read_bytes())
            (study.models_folder / f"{name}.manifest.json").unlink()
    torch.set_num_threads(threads)
    assert all(first == second for first, second in made.values())


def test_models_that_changed_under_the_same_path_are_read_anew(pico_study, pico_siblings, reading, tmp_path):
    study = pico_study("llama", weights={"expert": copy_model(pico_siblings["llama"] / "expert", tmp_path / "expert")})
    model = load(study, "japanese", "bfloat16")[0]
    planning.Live(model, study, "regmean").merge({})
    shutil.rmtree(tmp_path / "expert")
    copy_model(pico_siblings["llama"] / "expert", tmp_path / "expert", lambda tensors: [tensor.mul_(2) for tensor in tensors.values()])
    planning.Live(model, study, "regmean").merge({})
    a, b = of(study, "japanese"), of(study, "expert")
    x, y = inputs_of(locate(study, "japanese"), READ["target"]), inputs_of(tmp_path / "expert", READ["source"])
    expected = {n: torch.from_numpy(regmean(a[n].numpy(), b[n].numpy(), x[n], y[n], 0.9)) for n in in_layers(a)}
    assert_equal({n: w.double() for n, w in model.state_dict().items() if n in expected}, expected)
