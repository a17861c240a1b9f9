"""What a search delivers, evaluated as it is delivered: under its own random mask, beside the default and the other arms.

The search compares candidates under one mask, and the merge that is kept draws another.
"""

from collections.abc import Callable

import pandas as pd

from xlm_utils.merge import evolution
from xlm_utils.merge.evolution import Fitness, evaluator
from xlm_utils.study import PARAMS, Study
from xlm_utils.study.names import parse
from xlm_utils.study.records import Step, append_jsonl, fingerprint, read_jsonl


def delivered(study: Study, make_fitness: Callable[[Study], Fitness], candidates: pd.DataFrame, name: str = "evo_dare_ties") -> pd.DataFrame:
    """The delivered merge and its method's default under the study's own mask, beside the best candidate of each arm; says who is ahead.

    Args:
        candidates: rows of one or more arms, as ``evolution.search`` gives them; the first arm's best is what is delivered.
        name: the searched method; its default is the card without ``evo_``, where there is one.

    Returns:
        a row each: ``of``, ``objective``, ``accuracy``. Kept in ``evolution_delivered.jsonl``; done again when the candidates change.
    """
    arms = dict(list(candidates.groupby("arm", sort=False)))
    values = evolution.best(study, next(iter(arms.values())), name)
    plain = parse(name)._replace(card=parse(name).card.removeprefix("evo_"), seed="")
    asked = {"delivered, under its own mask": (name, values)}
    if plain.card != parse(name).card and (PARAMS / "methods" / f"{plain.card}.yaml").exists():
        asked["default, under the same mask"] = (str(plain), {})
    step = Step(study.folder / f"evolution_delivered_{name}.jsonl", candidates=fingerprint(candidates.to_dict("records")), asked=fingerprint(asked))
    with step:
        if not step.done:
            step.partial.unlink(missing_ok=True)
            for of, (method, parameters) in asked.items():
                append_jsonl(step.partial, [{"of": of, **evaluator(study, make_fitness, method, study.seed)(parameters)}])
            step.finish()
    rows = read_jsonl(step.path)
    rows += [{"of": f"best of {evolution.ARMS[arm]}, under the search's mask"} | dict(part.loc[part["objective"].idxmax(), ["objective", "accuracy"]])
             for arm, part in arms.items()]  # fmt: skip
    table = pd.DataFrame(rows)[["of", "objective", "accuracy"]]
    first, rest = table.iloc[0], table.iloc[1:]
    ahead = [f"{row.of} ({row.objective:.3f})" for row in rest.itertuples() if row.objective > first["objective"]]
    print(f"{name}: {first['of']}: objective {first['objective']:.3f}; " + (f"better: {', '.join(ahead)}" if ahead else "nothing did better"))
    return table
