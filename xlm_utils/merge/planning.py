"""MergeKit's plan of a merge for every tensor that the parents store, whatever its table of architectures lists."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from mergekit.architecture import ModelArchitecture, ModuleArchitecture, ModuleDefinition, WeightInfo, arch_info_for_config
from mergekit.config import ConfigReader, MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import _model_out_config
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from xlm_utils.models.weights import EMBEDDINGS, LAYER, Tensors


class Stored(ModuleArchitecture):
    """The tensors of a checkpoint: before the layers, in each, and behind them."""

    def __init__(self, before: list[WeightInfo], layers: list[list[WeightInfo]], behind: list[WeightInfo]):
        self.before, self.layers, self.behind = before, layers, behind

    def pre_weights(self, config: object) -> list[WeightInfo]:
        """Embeddings."""
        return self.before

    def layer_weights(self, index: int, config: object) -> list[WeightInfo]:
        """One layer's tensors."""
        return self.layers[index]

    def post_weights(self, config: object) -> list[WeightInfo]:
        """Final norm and head."""
        return self.behind

    def num_layers(self, config: object) -> int:
        """How many layers there are."""
        return len(self.layers)


class Planner(MergePlanner):
    """MergeKit's planner, but what stands behind the layers gets the last value of a gradient; ``unlisted`` are tensors its table lacks."""

    def __init__(self, configuration: MergeConfiguration, options: MergeOptions, folders: Mapping[str, Path]):
        LoaderCache().setup(options)
        config = configuration.base_model.config(trust_remote_code=False)
        listed, tensors = _listed(config), Tensors(next(iter(folders.values())))
        names, count = tensors.shapes, tensors.layers
        self.unlisted = sorted(names.keys() - {weight.name for weight in listed}, key=_natural)
        # MergeKit's order first, as random masks are drawn in it; a tensor that the table requires and no parent has is none
        weights = [weight for weight in listed if weight.name in names] + [WeightInfo(name=name) for name in self.unlisted]
        parts: dict[int, list[WeightInfo]] = defaultdict(list)
        for weight in weights:
            layer = LAYER.search(weight.name)
            parts[int(layer[1]) if layer else -1 if EMBEDDINGS.search(weight.name) else count].append(weight)
        self._behind = {weight.name for weight in parts[count]}
        stored = Stored(parts[-1], [parts[layer] for layer in range(count)], parts[count])
        architecture = ModelArchitecture(
            modules={"default": ModuleDefinition(architecture=stored)}, architectures=config.architectures, model_type=config.model_type)  # fmt: skip
        super().__init__(configuration, architecture, options, _model_out_config(configuration, architecture))

    def plan_tensor(self, weight: WeightInfo, weights_in: list[WeightInfo], models: list, cfg_reader: ConfigReader) -> None:
        """As MergeKit's, at the depth where the tensor stands."""
        super().plan_tensor(weight, weights_in, models, cfg_reader.with_t(1) if weight.name in self._behind else cfg_reader)


def _listed(config: object) -> list[WeightInfo]:
    """What MergeKit's table lists for an architecture, in its order."""
    architecture = arch_info_for_config(config)
    return architecture.all_weights(config) if architecture and list(architecture.modules) == ["default"] else []


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
