"""CMA-ES over the free parameters of a method card, every candidate merged in memory and evaluated at once.

The search optimises a smooth objective: accuracies of few items tie, and CMA-ES stops on ties. Candidates are compared under one
random mask, and the merge that is kept draws another: it is evaluated as it is delivered.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata

import numpy as np
import pandas as pd

from xlm_utils.benchmark.prepared import data_folder
from xlm_utils.merge.methods import RECIPE, Method, parents, resolve
from xlm_utils.models.libraries import PreTrainedModel, PreTrainedTokenizerBase
from xlm_utils.models.loading import load
from xlm_utils.study import PARAMS, Step, Study, StudyError, append_jsonl, digest, fingerprint, parse, read_jsonl, read_manifest, sha256

MASK_SEED = 1_000_003  # added to the study's seed: one mask for the whole search, a fresh one for the final merge

Fitness = Callable[[PreTrainedModel, PreTrainedTokenizerBase], Mapping[str, float]]


def evaluator(study: Study, make_fitness: Callable[[Study], Fitness], name: str, seed: int) -> Callable[[Mapping], dict[str, float]]:
    """What the fitness says of candidates: parameters → answers, each merged into one live model under one random mask."""
    from xlm_utils.merge.planning import Live

    fitness, (model, tokenizer, _) = make_fitness(study), load(study, study.by_role("general"))
    live = Live(model, study, name, seed)

    def evaluate(values: Mapping[str, float | list[float]]) -> dict[str, float]:
        live.merge(values)
        return {key: float(value) for key, value in fitness(model, tokenizer).items()}

    return evaluate


def search(study: Study, make_fitness: Callable[[Study], Fitness], name: str = "evo_dare_ties") -> pd.DataFrame:
    """Search the free parameters of a method; a search that was killed goes on where it was.

    ``make_fitness`` takes the study and gives a function of the live merged model and its tokenizer (``fitness.scorer``): ``objective``, of which
    more is better, and ``accuracy``. A method's mask seed plays no part: the search has one of its own.

    Returns a row per candidate in order of evaluation: ``generation``, ``evaluation``, the parameters, ``objective``, ``accuracy``; kept in
    ``evolution.jsonl``. Why there are no more is printed. A StudyError: the method has nothing to search, or an objective is not a number.
    """
    method, settings = resolve(study, name), study.evolution
    check(study)
    axes = method.free  # or with layer groups each of them at so many depths (``expert_weight.1`` …)
    if settings.layer_groups > 1:
        axes = {f"{parameter}.{group + 1}": bounds for parameter, bounds in axes.items() for group in range(settings.layer_groups)}
    if not axes:
        raise StudyError(f"method {name}: its card has no parameter to search")
    # what a fitness depends on besides ``evolution``: where the items come from, how they are put, and what computes
    data = {item.name: sha256(item) for item in sorted(items.glob("*.json*"))} if (items := data_folder(study)) else {}
    asked = {"data": data, "chat_template": study.benchmarks.chat_template, "dtype": study.generation.dtype}
    step = Step(
        study.folder / _file(name), template=method.template, free=axes, fixed=method.fixed, seed=study.seed,
        settings=settings.model_dump(), asked=asked, **RECIPE, cma=metadata.version("cma"),
        parents={parent: digest(place) for parent, place in parents(study, method.template).items()})  # fmt: skip
    with step:
        if step.done:
            print(f"{name}: already searched (CMA-ES {read_manifest(step.path)['ended']})")
            return pd.DataFrame(read_jsonl(step.path))
        logged, rows = read_jsonl(step.partial), []
        live = cache(lambda: evaluator(study, make_fitness, name, study.seed + MASK_SEED))  # its model is loaded when a candidate is new
        if logged:
            print(f"{name}: the search goes on after {len(logged)} of {settings.evaluations} candidates")

        def assess(generation: int, points: np.ndarray) -> list[float]:
            """Objectives of points in the unit cube, shape (candidates, parameters)."""
            for point in points:
                values = {axis: low + float(x) * (high - low) for (axis, (low, high)), x in zip(axes.items(), point, strict=True)}
                row = {"generation": generation, "evaluation": len(rows), **values}
                if len(rows) < len(logged):  # replayed: the same answers lead the search along the same way
                    if not row.items() <= logged[len(rows)].items():
                        raise StudyError(f"{step.partial.name}: candidate {len(rows)} is not this search's; delete the file to search anew")
                    rows.append(logged[len(rows)])
                    continue
                answer = live()(_values(method, row))
                if not math.isfinite(answer["objective"]):
                    raise StudyError(f"method {name}: the objective is {answer['objective']} at {_values(method, row)}")
                rows.append(row | answer)
                append_jsonl(step.partial, rows[-1:])
            return [row["objective"] for row in rows[-len(points) :]]

        ended = _evolve(study, len(axes), assess)
        print(f"{name}: CMA-ES {ended}")
        step.finish(ended=ended)
    return pd.DataFrame(rows)


def check(study: Study) -> None:
    """Stop with a StudyError, before anything costly, if the models that a search writes into would be quantised."""
    if study.generation.quantization != "none":
        what = f"generation.quantization = {study.generation.quantization!r}: a search writes its candidates into a live model, which must not be"
        raise StudyError(f"{what} quantised; take none, or leave the methods with searched parameters out")


def _file(name: str) -> str:
    """Log of a method's search; the methods with another mask seed share it, and the paper's method has the short name."""
    card, _, base, _ = parse(name)
    return f"evolution{'' if card == 'evo_dare_ties' else f'_{card}'}{'@' if base else ''}{base}.jsonl"


def _values(method: Method, row: dict) -> dict[str, float | list[float]]:
    """A candidate's parameters as ``merging.merge`` takes them; layer groups become MergeKit's gradients over the layers."""
    depths = {p: [float(value) for axis, value in row.items() if axis.rpartition(".")[0] == p] for p in method.free}
    return {p: at or float(row[p]) for p, at in depths.items()}


def _evolve(study: Study, dimensions: int, assess: Callable[[int, np.ndarray], list[float]]) -> str:
    """CMA-ES in the unit cube, from its middle; says how it ended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not import matplotlib", UserWarning)  # for its plots, which are not used
        import cma

    settings, budget = study.evolution, study.evolution.evaluations
    generator = np.random.default_rng(study.seed)  # cma's default is NumPy's global one, which an evaluation may reset
    given = {"bounds": [0, 1], "verbose": -9, "seed": math.nan, "popsize": settings.population}
    strategy = cma.CMAEvolutionStrategy([0.5] * dimensions, settings.sigma, given | {"randn": lambda *shape: generator.standard_normal(shape)})
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


def delivered(study: Study, make_fitness: Callable[[Study], Fitness], candidates: pd.DataFrame, name: str = "evo_dare_ties") -> pd.DataFrame:
    """The delivered merge and its method's default under the study's own mask, beside the best of ``search``'s candidates; says who is ahead.

    The default is the card without ``evo_``, where there is one. Returns a row each: ``of``, ``objective``, ``accuracy``; kept in
    ``evolution_delivered.jsonl``, and done again when the candidates change.
    """
    plain = parse(name)._replace(card=parse(name).card.removeprefix("evo_"), seed="")
    asked = {"delivered, under its own mask": (name, best(study, candidates, name))}
    if plain.card != parse(name).card and (PARAMS / "methods" / f"{plain.card}.yaml").exists():
        asked["default, under the same mask"] = (str(plain), {})
    step = Step(study.folder / f"evolution_delivered_{name}.jsonl", candidates=fingerprint(candidates.to_dict("records")), asked=fingerprint(asked))
    with step:
        if not step.done:
            step.partial.unlink(missing_ok=True)
            for of, (method, parameters) in asked.items():
                append_jsonl(step.partial, [{"of": of, **evaluator(study, make_fitness, method, study.seed)(parameters)}])
            step.finish()
    top = candidates.loc[candidates["objective"].idxmax(), ["objective", "accuracy"]]
    table = pd.DataFrame([*read_jsonl(step.path), {"of": "best of CMA-ES, under the search's mask", **top}])[["of", "objective", "accuracy"]]
    first, rest = table.iloc[0], table.iloc[1:]
    ahead = [f"{row.of} ({row.objective:.3f})" for row in rest.itertuples() if row.objective > first["objective"]]
    print(f"{name}: {first['of']}: objective {first['objective']:.3f}; " + (f"better: {', '.join(ahead)}" if ahead else "nothing did better"))
    return table
