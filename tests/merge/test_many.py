"""Many merges in one pass, and candidates in one live model: the very weights of MergeKit's own planner, executor and writer."""

from __future__ import annotations

import math
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from mergekit.io.tensor_writer import TensorWriter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.merge.test_merging import _stock, copy_model, files
from xlm_utils.merge import chunked, merging, methods, planning, writing
from xlm_utils.models.constituents import locate
from xlm_utils.models.weights import Tensors
from xlm_utils.study import PARAMS, StudyError, inputs
from xlm_utils.study.names import parse, read_card
from xlm_utils.study.records import read_manifest, sha256

CARDS = sorted({*inputs.listed("methods")} | {f"{card}@ancestor" for card in inputs.listed("methods") if "base_model: base" in
                                              (PARAMS / "methods" / f"{card}.yaml").read_text()})  # fmt: skip
NAMES = ["layer_swap~bottom=1,top=0,transition=0" if name == "layer_swap" else name for name in CARDS]  # the pico models have two layers


def chosen(study, name: str, value: float) -> dict[str, float]:
    """The value, within its range, for each parameter that a name leaves free."""
    return {parameter: min(max(value, low), high) for parameter, (low, high) in methods.resolve(study, name).free.items()}


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_every_card_among_many_makes_the_files_that_mergekit_makes(pico_study, tmp_path, family):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    study = pico_study(family)
    values = {name: chosen(study, name, 0.6) if name.startswith("evo") else {} for name in NAMES}
    many = merging.merge_many(study, NAMES, values)
    for folder in many:
        config = yaml.safe_load(folder.with_name(f"{folder.name}.mergekit.yml").read_text())
        stock = tmp_path / folder.name
        seed = read_manifest(folder)["made_from"]["mask_seed"] or 0
        run_merge(MergeConfiguration.model_validate(config), str(stock), MergeOptions(quiet=True, random_seed=seed, copy_tokenizer=False))
        if config["merge_method"] == "ties":  # MergeKit's keeps any of the changes that tie at the threshold
            ours, theirs = (load_file(place / "model.safetensors") for place in (folder, stock))
            apart = sum(int((ours[tensor] != theirs[tensor]).sum()) for tensor in theirs)
            assert apart < 0.05 * sum(tensor.numel() for tensor in theirs.values())
        else:
            assert sha256(folder / "model.safetensors") == sha256(stock / "model.safetensors"), folder.name
        hashed = [sha256(file) for file in sorted(folder.glob("*.safetensors"))]
        assert read_manifest(folder)["weights_sha256"] == hashed
        assert read_manifest(folder)["sha256"] == sha256(folder)


@pytest.mark.parametrize("name", ["dare_ties", "dare_ties@ancestor", "linear", "task_arithmetic", "nearswap", "ram"])
def test_a_weight_of_minus_zero_becomes_what_mergekit_makes_of_it(pico_study, pico_siblings, tmp_path, name):
    def cross(sign):
        def change(tensors):
            for tensor in tensors.values():
                tensor.view(-1)[::3] = sign

        return change

    signs = {"japanese": -0.0, "ancestor": -0.0, "expert": -0.01}
    weights = {key: copy_model(pico_siblings["llama"] / key, tmp_path / key, cross(sign)) for key, sign in signs.items()}
    study = pico_study("llama", weights=weights)
    ours, theirs = load_file(merging.merge(study, name) / "model.safetensors"), _stock(study, name, tmp_path / "stock")
    for tensor, weight in ours.items():
        assert torch.equal(weight.view(torch.int16), theirs[tensor].to(torch.bfloat16).view(torch.int16)), tensor


def test_one_by_one_they_are_the_same_folders(pico_study, tmp_path, monkeypatch):
    study = pico_study("llama")
    names = [name for name in NAMES if not name.startswith("evo")]
    many = [files(folder) for folder in merging.merge_many(study, names)]
    monkeypatch.setattr(study, "models_folder", tmp_path / "alone")
    assert many == [files(merging.merge(study, name)) for name in names]


def test_nan_in_one_result_stops_no_other(pico_study, pico_siblings, tmp_path):
    def spoil(tensors):
        tensors["model.norm.weight"][3] = float("inf")

    study = pico_study("llama", weights={"ancestor": copy_model(pico_siblings["llama"] / "ancestor", tmp_path / "inf", spoil)})
    with pytest.raises(StudyError, match=r"method ties@ancestor: the merged tensor model\.norm\.weight holds NaN"):
        merging.merge_many(study, ["linear", "ties@ancestor", "slerp"])
    assert sorted(path.name for path in study.models_folder.glob("*.safetensors")) == []
    assert [(study.models_folder / name).is_dir() for name in ("linear", "ties@ancestor", "slerp")] == [True, False, True]
    assert not list(study.models_folder.glob("*.partial"))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no such advice")
def test_where_memory_is_scarce_the_files_leave_the_systems_cache_and_are_the_same(pico_study, monkeypatch):
    study, names, told = pico_study("llama"), ["linear", "ties@ancestor"], []
    roomy = [files(folder) for folder in merging.merge_many(study, names)]
    shutil.rmtree(study.models_folder)
    monkeypatch.setattr(merging, "virtual_memory", lambda: SimpleNamespace(available=0))
    fadvise = os.posix_fadvise
    monkeypatch.setattr(os, "posix_fadvise", lambda *asked: (told.append(asked[1:]), fadvise(*asked)))
    assert [files(folder) for folder in merging.merge_many(study, names)] == roomy
    shapes = Tensors(locate(study, "ancestor")).shapes
    written, read = told.count((0, 0, os.POSIX_FADV_DONTNEED)), [length for start, length, _ in told if start]
    assert written == 2 * len(shapes)
    assert sorted(read) == sorted(3 * [2 * math.prod(shape) for shape in shapes.values()])


def test_a_hash_that_fails_ends_the_merge_and_a_file_that_was_cut_is_one_sentence(pico_siblings, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, _: bytes):
            pass

        def update(self, _: memoryview) -> None:
            raise MemoryError

    monkeypatch.setattr(writing, "sha256", Broken)
    writer = writing.Writer(tmp_path / "ours", {"a": (3,)})
    with pytest.raises(MemoryError):
        writer.put("a", torch.ones(3, dtype=torch.bfloat16)).result()
    writer.thread.shutdown()
    writer._file.close()
    folder = copy_model(pico_siblings["llama"] / "expert", tmp_path / "cut", lambda tensors: None)
    tensors = Tensors(folder)
    last = max(tensors.shapes)
    assert torch.equal(tensors.read(last), tensors[last])
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)
    with pytest.raises(StudyError, match="cut off since the merge began"):
        tensors.read(last)


def test_shards_and_their_index_are_those_of_mergekits_writer(tmp_path, monkeypatch):
    tensors = {f"layer.{number}.weight": torch.randn(number + 1, 7).to(torch.bfloat16) for number in range(12)} | {"ä": torch.ones(()).bfloat16()}
    for shard in (100, 400, 10_000):
        monkeypatch.setattr(writing, "SHARD", shard)
        theirs = TensorWriter(str(tmp_path / f"theirs{shard}"), max_shard_size=shard)
        ours = writing.Writer(tmp_path / f"ours{shard}", {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        for name in sorted(tensors):
            theirs.save_tensor(name, tensors[name])
            ours.put(name, tensors[name]).result()
        theirs.finalize()
        hashes = ours.finish()
        ours.thread.shutdown()
        written = files(tmp_path / f"ours{shard}")
        assert written == files(tmp_path / f"theirs{shard}")
        assert hashes == {name: digest for name, digest in written.items() if not name.endswith("json")}
        assert ours.odd == ""


def test_parameters_are_those_that_mergekit_resolves(pico_study):
    from mergekit.config import MergeConfiguration
    from mergekit.merge_methods.registry import get
    from mergekit.parameter_resolver import resolve_parameters

    settings = [{"filter": "mlp", "value": [0.1, 0.7, 0.2]}, {"filter": "norm", "value": "1e-1"}, {"value": 0.5}]
    for setting in (settings, [0.0, 1.0], 3, settings[:1], [1, 2, 4], settings[0]):
        config = MergeConfiguration.model_validate({"merge_method": "ties", "base_model": "a", "models": [{"model": "b"}],
                                                    "parameters": {"density": setting, "weight": 1.0}})  # fmt: skip
        spec = next(spec for spec in get("ties").spec.parameters if spec.name == "density")
        for tensor in ("layers.0.mlp.up", "norm", "embed"):
            for depth in (0.0, 0.3, 0.5, 1.0):
                _, theirs = resolve_parameters(
                    get("ties").spec, tensor_name=tensor, inputs={"b": tensor}, sources=lambda _, own=config.parameters: [own], t=depth)  # fmt: skip
                assert planning._value(spec, [{"density": setting}], tensor, depth) == theirs["b"]["density"]


@pytest.mark.parametrize("room", [0.25, 0.0])
@pytest.mark.parametrize("name", [name for name in NAMES if read_card(parse(name).card)["parameters"]])
def test_candidates_leave_no_trace_in_a_live_model(pico_study, pico_siblings, tmp_path, monkeypatch, name, room):
    """One after another, some twice, some with a density of one, which draws nothing: each is the checkpoint of its parameters."""
    root = load_file(pico_siblings["gemma"] / "ancestor" / "model.safetensors")

    def leave(tensors):
        tensors.update({tensor: root[tensor] for tensor in tensors if "embed" in tensor or "up_proj" in tensor})

    weights = {key: copy_model(pico_siblings["gemma"] / key, tmp_path / key, leave) for key in ("japanese", "expert")}
    study = pico_study("gemma", weights=weights)
    monkeypatch.setattr(planning, "ROOM", room)
    stored, model = {}, AutoModelForCausalLM.from_pretrained(locate(study, "expert"), dtype=torch.bfloat16)
    search = planning.Live(model, study, name)
    for value in (0.3, 0.6, 0.6, 1.0, 0.3):
        search.merge(chosen(study, name, value))
        if value not in stored:
            monkeypatch.setattr(study, "models_folder", tmp_path / str(value))
            stored[value] = AutoModelForCausalLM.from_pretrained(merging.merge(study, name, chosen(study, name, value)), dtype=torch.bfloat16)
        for (parameter, ours), theirs in zip(model.named_parameters(), stored[value].parameters(), strict=True):
            assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16)), (value, parameter)


def test_numbers_that_are_kept_draw_the_same_masks():
    for room in (0, 1 << 23):
        chunked.forget(room)
        for n, density in ((7, 0.5), (chunked.CHUNK + 5, 0.3), (7, 0.2)):
            torch.manual_seed(n)
            expected, after = torch.bernoulli(torch.full((n,), density)).bool(), torch.get_rng_state()
            torch.manual_seed(n)
            mask = chunked._draw(n, density)
            assert np.array_equal(np.concatenate([mask(part) for part in chunked._parts(n, 64)]), expected)
            assert torch.equal(torch.get_rng_state(), after)
    assert chunked._room[0] == (1 << 23) - 4 * (7 + chunked.CHUNK + 5)
    chunked.forget()
