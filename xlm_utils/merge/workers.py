"""Who evaluates the candidates of a search: this process, or Ray actors with a live model and, where there are GPUs, a GPU each."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from xlm_utils.merge.merging import merge_into
from xlm_utils.models.loading import load
from xlm_utils.study import ROOT, Study, StudyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Fitness = Callable[["PreTrainedModel", "PreTrainedTokenizerBase"], Mapping[str, float]]
Values = Mapping[str, "float | list[float]"]
INHERITED = ("XLM_HOME", "XLM_CACHE", "XLM_SMOKE", "OMP_NUM_THREADS")  # of this process's environment, if set


class Evaluator:
    """One live model into which candidates are merged and then evaluated, one after the other."""

    def __init__(self, study: Study, make_fitness: Callable[[Study], Fitness], name: str, seed: int):
        self.study, self.name, self.seed = study, name, seed
        self.fitness = make_fitness(study)
        self.model, self.tokenizer, _ = load(study, study.by_role("general"))

    def evaluate(self, values: Values) -> dict[str, float]:
        """What the fitness says of the candidate with these parameters."""
        merge_into(self.model, self.study, self.name, values, seed=self.seed)
        return {key: float(value) for key, value in self.fitness(self.model, self.tokenizer).items()}


class Evaluators:
    """The ``study.workers`` evaluators of one search: a context; models are loaded when the first candidate comes.

    Candidates and answers are those of one process, in the same order, whatever the number of workers.

    Args:
        make_fitness: takes the study and gives the fitness; called where the candidates are evaluated.
        seed: of the random masks.
    """

    def __init__(self, study: Study, make_fitness: Callable[[Study], Fitness], name: str, seed: int):
        self.given, self.workers = (study, make_fitness, name, seed), study.workers
        self._alone: Evaluator | None = None
        self._actors: list = []
        self._ray_is_ours = False

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(self, *_: object) -> None:
        if self._actors or self._ray_is_ours:
            import ray

            for actor in self._actors:
                ray.kill(actor)  # its memory is free at once, also when the cluster is not ours to stop
            if self._ray_is_ours:
                ray.shutdown()

    def map(self, candidates: Sequence[Values]) -> Iterator[dict[str, float]]:
        """Each candidate's fitness, in the order of the candidates."""
        if candidates and self.workers > 1 and importlib.util.find_spec("ray") is None:
            print(f"workers = {self.workers}: Ray is not installed (pip install 'ray>=2.50'), so candidates are evaluated here, one by one")
            self.workers = 1
        if self.workers == 1:
            for values in candidates:
                self._alone = self._alone or Evaluator(*self.given)
                yield self._alone.evaluate(values)
        elif candidates:
            from ray.util import ActorPool

            self._actors = self._actors or self._start()
            yield from ActorPool(self._actors).map(lambda actor, values: actor.evaluate.remote(values), candidates)

    def _start(self) -> list:
        """An actor per worker, on the cluster of RAY_ADDRESS, whose nodes share this file system, or one of this machine's own.

        Raises:
            StudyError: the cluster has fewer GPUs (or, without any, fewer cores) than workers, who would wait for ever.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            self._ray_is_ours = True
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
            variables = {"PYTHONPATH": path} | {name: os.environ[name] for name in INHERITED if name in os.environ}
            # a cluster has its own resources; on this machine a core is a worker, however few there are
            local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": self.workers, "include_dashboard": False}
            ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, **local)
        kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < self.workers:
            raise StudyError(f"workers = {self.workers}: each needs a {kind}, and Ray's cluster has {there}")
        print(f"{self.workers} workers on Ray, one {kind} each ({'RAY_ADDRESS' if 'RAY_ADDRESS' in os.environ else 'this machine'})")
        actor = ray.remote(Evaluator).options(**({"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}))
        return [actor.remote(*self.given) for _ in range(self.workers)]
