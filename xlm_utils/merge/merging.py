"""From methods' MergeKit configurations to merged checkpoints."""

import shutil
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path

import yaml
from psutil import virtual_memory

from xlm_utils.merge.methods import DTYPES, RECIPE, check_specification, parents, render, resolve, written_out
from xlm_utils.models import buffers
from xlm_utils.models.constituents import locate, source
from xlm_utils.models.libraries import Tensor, torch
from xlm_utils.models.vocabularies import own_rows, token_tensors
from xlm_utils.models.weights import FLOATING, Tensors, eos_ids, read_config, read_tokenizer, spell_rope_twice
from xlm_utils.study import Step, Study, StudyError, digest, pick_device, read_manifest, relative, write_text

TOGETHER, HELD = 20, 1 << 30  # merges in one pass over the parents; bytes of tensors in memory, unless the largest alone takes more


def merge(study: Study, name: str, values: Mapping[str, float] | None = None) -> Path:
    """Merge by a card and return the folder of the result; a merge that exists is not made again.

    The general model donates config, tokenizer, chat template and generation config. A StudyError: what is asked does not fit, or makes NaN or Inf.
    """
    return merge_many(study, [name], {name: values or {}})[0]


def merge_many(study: Study, names: Sequence[str], values: Mapping[str, Mapping[str, float]] | None = None) -> list[Path]:
    """As many merges as are named, each the one that ``merge`` makes: a tensor is read once and goes through all of the methods.

    ``values`` has the parameters of methods that need some. A StudyError as of ``merge``; a result with NaN or Inf stops no other. Killed, the merges
    under way (at most ``TOGETHER``) leave nothing.
    """
    values, merges = values or {}, {}
    for name in dict.fromkeys(names):
        config = render(study, name, **values.get(name, {}))
        folders = parents(study, config)
        config, weights = written_out(study, config, folders), {parent: digest(folder) for parent, folder in folders.items()}
        step = Step(study.models_folder / name, config=config, mask_seed=resolve(study, name).seed, parents=weights, **RECIPE)
        merges[name] = (step, config, folders)
    with ExitStack() as locks:
        for name in sorted(merges):  # in one order in every process, or two could wait for each other
            locks.enter_context(merges[name][0])
        due = [name for name, (step, *_) in merges.items() if not step.done]
        for name in (name for name in merges if name not in due):
            print(f"{name}: already merged from the same parents with the same parameters")
        for first in range(0, len(due), TOGETHER):
            _merge(study, {name: merges[name] for name in due[first : first + TOGETHER]}, values)
    return [merges[name][0].path for name in names]


def _merge(study: Study, merges: Mapping[str, tuple[Step, dict, dict[str, Path]]], values: Mapping[str, Mapping]) -> None:
    from xlm_utils.merge import chunked, own
    from xlm_utils.merge.planning import Plan, math_device
    from xlm_utils.merge.writing import Writer

    every = {name: folder for _, _, folders in merges.values() for name, folder in folders.items()}
    donor, (device, reason) = every[study.by_role("general")], math_device(every)
    for name, (_, config, _) in merges.items():
        check_specification(config)
        if device != pick_device()[0]:
            print(f"{name}: merged on the CPU ({reason})")
    for named, merged in dict.fromkeys((tuple(folders), tuple(e["model"] for e in config["models"])) for _, config, folders in merges.values()):
        comparable({name: every[name] for name in named}, merged)
    tensors = {folder.resolve(): Tensors(folder) for folder in every.values()}
    shapes, waiting, odd = tensors[donor.resolve()].shapes, deque(), []
    keep = 2 * sum(map(prod, shapes.values())) * (len(tensors) + len(merges)) < virtual_memory().available
    chunked.forget()

    def read(tensor: str) -> list[Future]:
        return [readers.submit(parent.read, tensor, keep) for parent in tensors.values()]

    def put(tensor: str, stored: dict[Path, Tensor], name: str) -> Future:
        return writers[name].put(tensor, plans[name](tensor, stored.__getitem__).cpu())

    with ExitStack() as stack:
        stack.callback(own.forget)
        stack.callback(buffers.forget)
        for step, *_ in merges.values():
            shutil.rmtree(step.partial, ignore_errors=True)  # a killed merge can't be continued
            stack.callback(shutil.rmtree, step.partial, ignore_errors=True)
        plans = {name: Plan(config, folders, step.made_from["mask_seed"], device, shapes) for name, (step, config, folders) in merges.items()}
        writers = {name: Writer(step.partial, shapes, keep) for name, (step, *_) in merges.items()}
        for writer in writers.values():
            stack.callback(writer.thread.shutdown, cancel_futures=True)
        dressed = stack.enter_context(ThreadPoolExecutor(1)).submit(_dress, [step.partial for step, *_ in merges.values()], donor)
        readers, ahead = stack.enter_context(ThreadPoolExecutor(len(tensors))), None
        most = max(HELD, 2 * (len(tensors) + 1) * max(map(prod, shapes.values())))
        for tensor, following in pairwise([*shapes, None]):
            stored, size = {folder: part.result() for folder, part in zip(tensors, ahead or read(tensor), strict=True)}, 2 * prod(shapes[tensor])
            held = len(tensors) * (size + 2 * prod(shapes[following or tensor]))
            ahead = read(following) if following and held + size <= most else None
            held = held if ahead else len(tensors) * size
            beside = [name for name, plan in plans.items() if plan.bare and held + len(plans) * size <= most]
            for some in (beside, *([name] for name in plans if name not in beside)):
                while waiting and sum(bytes for _, bytes in waiting) + held + len(some) * size > most:
                    waiting.popleft()[0].result()  # only now, as the parents were read meanwhile
                way = chunked.each if len(some) >= torch.get_num_threads() else map  # with fewer each has all of the threads
                waiting.extend((written, size) for written in way(partial(put, tensor, stored), some))
            chunked.forget()
            del stored  # before the next are read: an embedding of 8B has a GiB in every parent
        while waiting:
            waiting.popleft()[0].result()
        dressed.result()
        for name, (step, config, folders) in merges.items():
            hashes = writers[name].finish()
            if writers[name].odd:
                odd.append(f"method {name}: the merged tensor {writers[name].odd} holds NaN or Inf")
                continue
            _note(step, config, folders, values.get(name, {}))
            step.finish(hashes, weights_sha256=list(hashes.values()), device=device, sources={parent: source(study, parent) for parent in folders})
            print(f"{name}: merged into {relative(step.path)}")
    if odd:
        raise StudyError(odd[0])


def _note(step: Step, config: dict, folders: Mapping[str, Path], values: Mapping) -> None:
    """Write the configuration beside a merge, as ``mergekit-yaml`` takes it, and how what that makes of it differs."""
    from xlm_utils.merge import own

    name, seed = step.path.name, step.made_from["mask_seed"]
    command = f"mergekit-yaml {name}.mergekit.yml" if seed is None else f"mergekit-yaml --random-seed {seed} {name}.mergekit.yml"
    note = f"# {command} <folder> makes the same of the tensors in its tables, but for changes that tie at a TIES threshold and SLERP's last bits"
    if config["merge_method"] in own.NAMES:
        note = "# a method of this project, which mergekit-yaml does not know"
    if any(own_rows(folders.values()).values()):
        note += "\n# and for rows of tokens that the general model alone has, which stay its own"
    if any(isinstance(value, list) for value in values.values()):
        note += "\n# and for what stands behind the last layer, which MergeKit gives the first value of a list"
    write_text(step.path.with_name(f"{name}.mergekit.yml"), f"{note}\n{yaml.safe_dump(with_folders(config, folders), sort_keys=False)}")


def with_folders(config: dict, folders: Mapping[str, Path]) -> dict:
    """The configuration as MergeKit reads it; in a plain string a path's + would begin an adapter, and its @ a revision."""
    places = {model: {"model": {"path": str(folder.resolve())}} for model, folder in folders.items()}
    models = [{**entry, "model": places[entry["model"]]} for entry in config["models"]]
    return {**config, "base_model": places[config["base_model"]], "models": models}


def comparable(folders: Mapping[str, Path], merged: Collection[str]) -> None:
    """A StudyError, which names the first difference, if parents don't have the same tensors of the same shapes, in floating point.

    Rows of the vocabulary may differ (they are merged by token). Those that are ``merged`` must not be one and the same either.
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
    by_rows = {name: token_tensors(folders[name], theirs) for name, theirs in tensors}
    for (first, parent), (name, theirs) in zip(tensors[:1] * len(tensors), tensors, strict=True):
        for tensor in sorted(parent.shapes.keys() | theirs.shapes.keys()):
            ours, other = (shapes.get(tensor, "none") for shapes in (parent.shapes, theirs.shapes))
            if ours != other and not (tensor in by_rows[first] and tensor in by_rows[name] and ours[1:] == other[1:]):
                raise StudyError(f"{first} and {name} can't be merged: the shape of {tensor} is {ours} in one, {other} in the other")


def _dress(folders: Sequence[Path], donor: Path) -> None:
    """Give merges the donor's config, tokenizer, chat templates and generation config, beside the arithmetic."""
    from transformers import GenerationConfig

    folder, *others = folders
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
    for other in others:
        shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)


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
