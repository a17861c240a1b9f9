"""From a method's MergeKit configuration to a merged checkpoint, or into a live model."""

import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from xlm_utils.merge.layers import written_out
from xlm_utils.merge.methods import DTYPES, check_specification, render, resolve
from xlm_utils.models.configs import read_config, read_tokenizer, spell_rope_twice
from xlm_utils.models.constituents import locate, source
from xlm_utils.models.libraries import quiet
from xlm_utils.models.weights import FLOATING, Tensors, eos_ids
from xlm_utils.study import Step, Study, StudyError, digest, pick_device, read_manifest, relative, sha256, write_text

if TYPE_CHECKING:
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from transformers import PreTrainedModel

RECIPE = {"mergekit": metadata.version("mergekit"), "tensors": "all that the parents store"}  # of the key of whatever is merged
COPIES = 17  # float32 copies of one tensor that MergeKit holds at once on a GPU: TIES sorts it, in about eleven times its size


def _with_folders(config: dict, folders: Mapping[str, Path]) -> dict:
    """The configuration as MergeKit reads it, folders for names."""

    def model(name: str) -> str | dict:
        path = str(folders[name].resolve())
        # in a plain string MergeKit takes what follows + for an adapter, and what follows @ for a revision
        return {"model": {"path": path}} if set("+@") & set(path) else path

    models = [{**entry, "model": model(entry["model"])} for entry in config["models"]]
    return {**config, "base_model": model(config["base_model"]), "models": models}


def parents(study: Study, config: dict) -> dict[str, Path]:
    """Folders of the models that a configuration names, and of the general model, which donates the tokenizer."""
    names = [study.by_role("general"), config["base_model"], *(entry["model"] for entry in config["models"])]
    return {name: locate(study, name) for name in dict.fromkeys(names)}


def merge(study: Study, name: str, values: Mapping[str, float] | None = None) -> Path:
    """Merge by a card and return the folder of the result; a merge that exists is not made again.

    The general model donates config, tokenizer, chat template and generation config.

    A StudyError: the card, the values or the parents don't fit, or the result holds NaN or Inf.
    """
    config, seed = render(study, name, **(values or {})), resolve(study, name).seed
    folders = parents(study, config)
    config = written_out(study, config, folders)
    weights = {parent: digest(folder) for parent, folder in folders.items()}
    step = Step(study.models_folder / name, config=config, mask_seed=seed, parents=weights, **RECIPE)
    with step:
        if step.done:
            print(f"{name}: already merged from the same parents with the same parameters")
            return step.path
        comparable(folders, [entry["model"] for entry in config["models"]])
        with_folders, (device, reason) = _with_folders(config, folders), math_device(folders)
        if device != pick_device()[0]:
            print(f"{name}: merged on the CPU ({reason})")
        shutil.rmtree(step.partial, ignore_errors=True)  # a killed merge can't be continued
        try:
            with _mergekit(with_folders, seed, device) as (configuration, options):
                from mergekit.graph import Executor

                from xlm_utils.merge import own
                from xlm_utils.merge.planning import Planner

                planner = Planner(configuration, options, folders)
                for _ in Executor(planner.plan_to_disk(str(step.partial)), math_device=device, storage_device="cpu").run(quiet=True):
                    pass
            _dress(step.partial, folders[study.by_role("general")])
            _finite(step.partial, name)
            command = f"mergekit-yaml {name}.mergekit.yml" if seed is None else f"mergekit-yaml --random-seed {seed} {name}.mergekit.yml"
            note = f"# {command} <folder> makes the same weights, but for changes that tie at a TIES threshold"
            if config["merge_method"] in own.NAMES:
                note = f"# a method of this project, which mergekit-yaml does not know{own.told()}"
            if planner.unlisted:
                note += f"\n# and {len(planner.unlisted)} tensors that MergeKit leaves out, such as {planner.unlisted[0]}"
            if any(isinstance(value, list) for value in (values or {}).values()):
                note += "\n# and for what stands behind the last layer, which MergeKit gives the first value of a list"
            write_text(step.path.with_name(f"{name}.mergekit.yml"), f"{note}\n{yaml.safe_dump(with_folders, sort_keys=False)}")
            hashes = [sha256(file) for file in sorted(step.partial.glob("*.safetensors"))]
            step.finish(weights_sha256=hashes, device=device, sources={parent: source(study, parent) for parent in folders})
        finally:
            shutil.rmtree(step.partial, ignore_errors=True)
    print(f"{name}: merged into {relative(step.path)}{own.told()}")
    return step.path


def math_device(folders: Mapping[str, Path]) -> tuple[str, str]:
    """Where to compute a merge, and the reason: a GPU that holds a model and MergeKit's copies of its largest tensor, or the CPU.

    It is asked of the GPU's whole memory, not of what is free, so that a search and the merge of what it found
    draw their random masks on the same device.
    """
    import torch

    device, reason = pick_device()
    if device == "cpu":
        return device, reason
    sizes = [math.prod(shape) for shape in Tensors(next(iter(folders.values()))).shapes.values()]
    needed, there = COPIES * 4 * max(sizes) + 2 * sum(sizes), torch.cuda.get_device_properties(0).total_memory
    if there < needed:
        return "cpu", f"merging on the GPU takes up to {needed / 2**30:.0f} GiB, and it has {there / 2**30:.0f}"
    return device, reason


def is_searched(study: Study, name: str) -> bool:
    """Whether a method's parameters have no default, so that an evolution must find them."""
    method = resolve(study, name)
    return any("default" not in method.card["parameters"][parameter] for parameter in method.free)


def ensure(study: Study, name: str) -> Path:
    """A merge that is there, or made now if its parameters are fixed; a search belongs to notebook 03."""
    return locate(study, name) if is_searched(study, name) else merge(study, name)


def identical(study: Study, names: Sequence[str]) -> list[list[str]]:
    """Groups of finished merges with the very same weights."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(read_manifest(locate(study, name))["weights_sha256"]), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def merge_into(model: "PreTrainedModel", study: Study, name: str, values: Mapping[str, float], seed: int | None = None) -> None:
    """Merge tensor by tensor into a live model: the same weights as in the checkpoint that ``merge`` writes.

    Args:
        model: of the parents' architecture, in any dtype; its parameters are overwritten.
        seed: of the random mask, if not the method's own.
    """
    config = render(study, name, **values)
    seed = resolve(study, name).seed if seed is None else seed
    folders = parents(study, config)
    config, (device, _) = written_out(study, config, folders), math_device(folders)
    with _mergekit(_with_folders(config, folders), seed, device) as (configuration, options):
        import torch
        from mergekit.graph import Executor

        from xlm_utils.merge.planning import Planner

        planner = Planner(configuration, options, folders)
        planner._plan()  # MergeKit 0.1.5's public plan_in_memory ends in a TypeError of pydantic's
        names, live = {task: weight.name for weight, task in planner._tensors}, dict(model.named_parameters(remove_duplicate=False))
        out = getattr(torch, DTYPES["out_dtype"])
        made = ((names[task], tensor.to(out)) for task, tensor in Executor(list(names), math_device=device, storage_device=device).run(quiet=True))
        if not set(names.values()) <= live.keys():  # GPT-2's and GPT-NeoX's have other names in memory, and the experts of a mixture are one there
            stored = {name: tensor.cpu() for name, tensor in made}
            made = type(model).from_pretrained(None, config=model.config, state_dict=stored).named_parameters()
        for name, tensor in made:
            live[name].copy_(tensor)


@contextmanager
def _mergekit(with_folders: dict, seed: int | None, device: str) -> "Iterator[tuple[MergeConfiguration, MergeOptions]]":
    """The configuration, checked against MergeKit's own specification of the method, while the masks are seeded.

    MergeKit itself gets no seed: it would reset the generators of Python and NumPy as well.
    """
    quiet()
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.options import MergeOptions

    from xlm_utils.merge import activations, own

    name, specs = with_folders["merge_method"], check_specification(with_folders)
    own.apart.clear()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
            torch.manual_seed(seed or 0)
            options = MergeOptions(quiet=True, device=device, copy_tokenizer=False, write_model_card=False)
            if device == "cpu" and f"chunked_{name}" in specs:  # the same weights in less memory; see chunked.py
                with_folders = {**with_folders, "merge_method": f"chunked_{name}", "dtype": None}
            yield MergeConfiguration.model_validate(with_folders), options
    finally:
        LoaderCache().loaders.clear()  # it is keyed by path, and other files may stand there next time
        activations.forget()


def comparable(folders: Mapping[str, Path], merged: Collection[str]) -> None:
    """Stop before MergeKit starts if the parents don't fit: the same tensors of the same shapes, in floating point.

    Args:
        merged: the parents that must not be one and the same.

    Raises:
        StudyError: one sentence that names the first difference.
    """
    places: dict[Path, str] = {}
    for name, folder in folders.items():
        if name in merged and (other := places.setdefault(folder.resolve(), name)) != name:
            raise StudyError(f"{other} and {name} can't be merged: both are {folder}")
        read_config(folder / "config.json", name)
    tensors = [(name, Tensors(folder)) for name, folder in folders.items()]
    for name, theirs in tensors:
        if odd := next((tensor for tensor, dtype in theirs.dtypes.items() if dtype not in FLOATING), ""):
            raise StudyError(f"{name} can't be merged: its {odd} is {theirs.dtypes[odd]}, so quantised; take the model in 16 bits")
    for (first, parent), (name, theirs) in zip(tensors[:1] * len(tensors), tensors, strict=True):
        for tensor in sorted(parent.shapes.keys() | theirs.shapes.keys()):
            ours, other = (shapes.get(tensor, "none") for shapes in (parent.shapes, theirs.shapes))
            if ours != other:
                raise StudyError(f"{first} and {name} can't be merged: the shape of {tensor} is {ours} in one, {other} in the other")


def _dress(folder: Path, donor: Path) -> None:
    """Give merged weights the donor's config, tokenizer, chat templates and generation config."""
    from transformers import GenerationConfig

    config = read_config(donor / "config.json", donor.name)
    config.dtype = DTYPES["out_dtype"]
    config.save_pretrained(folder)
    spell_rope_twice(folder, donor)
    for file in map(Path, read_tokenizer(donor, donor.name).save_pretrained(folder)):
        if (own := donor / file.relative_to(folder)).is_file():  # byte for byte, and older versions can read it, too
            shutil.copyfile(own, file)
    generation = donor / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)
    else:
        GenerationConfig.from_model_config(config).save_pretrained(folder)
    if eos_ids(folder) != eos_ids(donor):
        raise StudyError(f"the merged model would stop at the tokens {eos_ids(folder)}, but its donor {donor.name} at {eos_ids(donor)}")


def _finite(folder: Path, name: str) -> None:
    tensors = Tensors(folder)
    for tensor in tensors.shapes:
        weights = tensors[tensor]
        if not weights.sum().isfinite() and not weights.isfinite().all():  # the sum is quick, and finite where all weights are (or nearly so)
            raise StudyError(f"method {name}: the merged tensor {tensor} holds NaN or Inf")
