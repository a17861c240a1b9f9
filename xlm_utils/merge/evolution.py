"""CMA-ES over the free parameters of a method card, every candidate merged in memory and evaluated at once.

The search optimises a smooth objective: accuracies of few items tie, and CMA-ES stops on ties. A random
search over as many candidates says what the strategy is worth.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from xlm_utils.benchmark.prepared import data_folder
from xlm_utils.merge.methods import Method, resolve
from xlm_utils.merge.parents import RECIPE, digests, parents
from xlm_utils.models.hints import PreTrainedModel, PreTrainedTokenizerBase
from xlm_utils.models.loading import load
from xlm_utils.study import Study, StudyError
from xlm_utils.study.names import parse
from xlm_utils.study.records import Step, append_jsonl, read_jsonl, read_manifest, sha256

MASK_SEED = 1_000_003  # added to the study's seed: one mask for the whole search, a fresh one for the final merge
ARMS = {"cma": "CMA-ES", "random": "random search"}

Fitness = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]]
Assess = Callable[[int, np.ndarray], list[float]]  # generation, points in the unit cube, shape (candidates, parameters) → objectives


def evaluator(study: Study, make_fitness: Callable[[Study], Fitness], name: str, seed: int) -> Callable[[Mapping], dict[str, float]]:
    """What the fitness says of candidates: parameters → answers, each merged into one live model under one random mask."""
    from xlm_utils.merge.planning import Live

    fitness, (model, tokenizer, _) = make_fitness(study), load(study, study.by_role("general"))
    live = Live(model, study, name, seed)

    def evaluate(values: Mapping[str, float | list[float]]) -> dict[str, float]:
        live.merge(values)
        return {key: float(value) for key, value in fitness(model, tokenizer).items()}

    return evaluate


def search(
    study: Study, make_fitness: Callable[[Study], Fitness], *, folder: Path | None = None, name: str = "evo_dare_ties", random: bool = False
) -> pd.DataFrame:
    """Search the free parameters of a method; a search that was killed goes on where it was.

    Args:
        make_fitness: takes the study and gives a function of the live merged model and its tokenizer, which
            gives ``objective`` (larger is better) and ``accuracy``: ``fitness.scorer``.
        folder: where ``evolution.jsonl`` goes (``evolution_random.jsonl`` for the random arm); the study's folder by default.
        name: a method whose card has parameters, with its arms: ``evo_dare_ties@ancestor``. Its mask seed
            plays no part: the search has one of its own.
        random: draw every candidate uniformly instead, as many as the finished search has evaluated.

    Returns:
        a row per candidate in order of evaluation: ``arm``, ``generation``, ``evaluation``, the parameters,
        ``objective``, ``accuracy``; why there are no more is printed.

    Raises:
        StudyError: the method has no parameter to search, or a candidate's objective is not a number.
    """
    method, settings = resolve(study, name), study.evolution
    check(study)
    axes, arm = _axes(method, settings.layer_groups), "random" if random else "cma"
    if not axes:
        raise StudyError(f"method {name}: its card has no parameter to search")
    folder, file = folder or study.folder, _file(name)
    budget = (read_manifest(folder / file) or {}).get("candidates", settings.evaluations) if random else settings.evaluations
    step = Step(
        folder / (file.replace(".jsonl", "_random.jsonl") if random else file),
        arm=arm, template=method.template, free=axes, fixed=method.fixed, seed=study.seed, budget=budget,
        settings=settings.model_dump(exclude={"random"}), asked=_asked(study),
        parents=digests(parents(study, method.template)), **RECIPE, cma=metadata.version("cma"))  # fmt: skip
    with step:
        if step.done:
            ended = read_manifest(step.path)["ended"]
            print(f"{name}: already searched ({ARMS[arm]}: {ended})")
            return pd.DataFrame(read_jsonl(step.path))
        logged, rows, taken = read_jsonl(step.partial), [], []  # taken: candidates evaluated, and seconds
        live = cache(lambda: evaluator(study, make_fitness, name, study.seed + MASK_SEED))  # its model is loaded when a candidate is new
        if logged:
            print(f"{name}: the search goes on after {len(logged)} of {budget} candidates")

        def assess(generation: int, points: np.ndarray) -> list[float]:
            first, fresh = len(rows), []
            for number, point in enumerate(points, first):
                values = {axis: low + float(x) * (high - low) for (axis, (low, high)), x in zip(axes.items(), point, strict=True)}
                row = {"arm": arm, "generation": generation, "evaluation": number, **values}
                if number >= len(logged):
                    fresh.append(row)
                elif row.items() <= logged[number].items():  # replayed: the same answers lead the search along the same way
                    rows.append(logged[number])
                else:
                    raise StudyError(f"{step.partial.name}: candidate {number} is not this search's; delete the file to search anew")
            evaluate, started = live() if fresh else None, time.perf_counter()
            for row in fresh:
                answer = evaluate(_values(method, row))
                if not math.isfinite(answer["objective"]):
                    raise StudyError(f"method {name}: the objective is {answer['objective']} at {_values(method, row)}")
                rows.append(row | answer)
                append_jsonl(step.partial, rows[-1:])
            taken.append((len(fresh), time.perf_counter() - started))
            return [row["objective"] for row in rows[first:]]

        ended = (_draw if random else _evolve)(study, len(axes), budget, assess)
        fresh, seconds = map(sum, zip(*taken, strict=True))
        print(f"{name}: {ARMS[arm]} {ended}" + (f" ({60 * fresh / seconds:.1f} a minute)" if fresh else ""))
        step.finish(candidates=len(rows), ended=ended)
    return pd.DataFrame(rows)


def check(study: Study) -> None:
    """Stop with a StudyError, before anything costly, if the models that a search writes into would be quantised."""
    if study.generation.quantization != "none":
        raise StudyError(
            f"generation.quantization = {study.generation.quantization!r}: a search writes its candidates into a live model, which must not be"
            " quantised; take none, or leave the methods with searched parameters out"
        )


def _asked(study: Study) -> dict:
    """What a fitness depends on besides ``evolution``: where the items come from, how they are put, and what computes."""
    folder = data_folder(study)
    data = {file.name: sha256(file) for file in sorted(folder.glob("*.json*"))} if folder else {}
    return {"data": data, "chat_template": study.benchmarks.chat_template, "dtype": study.generation.dtype}


def _file(name: str) -> str:
    """Log of a method's search; the methods with another mask seed share it, and the paper's method has the short name."""
    card, _, base, _ = parse(name)
    return f"evolution{'' if card == 'evo_dare_ties' else f'_{card}'}{'@' if base else ''}{base}.jsonl"


def _axes(method: Method, groups: int) -> dict[str, tuple[float, float]]:
    """What is searched: the method's free parameters, or with layer groups each of them at so many depths (``expert_weight.1`` …)."""
    if groups == 1:
        return dict(method.free)
    return {f"{parameter}.{group}": bounds for parameter, bounds in method.free.items() for group in range(1, groups + 1)}


def _values(method: Method, row: dict) -> dict[str, float | list[float]]:
    """A candidate's parameters as ``merging.merge`` takes them; layer groups become MergeKit's gradients over the layers."""
    depths = {p: [float(value) for axis, value in row.items() if axis.rpartition(".")[0] == p] for p in method.free}
    return {p: at or float(row[p]) for p, at in depths.items()}


def _draw(study: Study, dimensions: int, budget: int, assess: Assess) -> str:
    generator = np.random.default_rng([study.seed, 1])  # not the stream that CMA-ES draws from
    points, size = generator.random((budget, dimensions)), study.evolution.population
    for first in range(0, budget, size):
        assess(first // size, points[first : first + size])
    return f"ended after its {budget} candidates"


def _evolve(study: Study, dimensions: int, budget: int, assess: Assess) -> str:
    """CMA-ES in the unit cube, from its middle; says how it ended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not import matplotlib", UserWarning)  # for its plots, which are not used
        import cma

    settings = study.evolution
    generator = np.random.default_rng(study.seed)  # cma's default is NumPy's global one, which an evaluation may reset
    options = {
        "popsize": settings.population, "bounds": [0, 1], "verbose": -9, "seed": math.nan,
        "randn": lambda *shape: generator.standard_normal(shape)}  # fmt: skip
    strategy = cma.CMAEvolutionStrategy([0.5] * dimensions, settings.sigma, options)
    for first in range(0, budget, settings.population):
        if reasons := strategy.stop():
            return f"ended by itself after {first} of {budget} candidates: {', '.join(reasons)}"
        points = strategy.ask()
        affordable = points[: budget - first]
        objectives = assess(first // settings.population, np.array(affordable))
        if len(affordable) == len(points):  # else the budget ends within this generation
            strategy.tell(points, [-objective for objective in objectives])
    return f"ended after its {budget} candidates"


def best(study: Study, candidates: pd.DataFrame, name: str = "evo_dare_ties") -> dict[str, float | list[float]]:
    """Parameters of the candidate with the largest objective (the first of equals), as ``merging.merge`` takes them."""
    return _values(resolve(study, name), candidates.loc[candidates["objective"].idxmax()].to_dict())
