"""The planned comparisons: every merge against the general model and against the expert asked in the target language, and what may be said of them.

A merge helps only where it beats both, whether or not output that is no definition counts as 0; and the same by the margin, without a judge.
And Table 2, with what its differences are worth item by item.
"""

import itertools

import pandas as pd

from xlm_utils.ask.cards import load_card
from xlm_utils.benchmark.prepared import COLUMNS, columns
from xlm_utils.benchmark.transfer import CONTROLS, transfer_rows
from xlm_utils.report import results
from xlm_utils.report.results import BENCHMARKS, captioned, control_run, judge_label, load_scores, note, reference_label, row_label, row_order, text
from xlm_utils.stats import paired, statistics
from xlm_utils.study import Study, read_jsonl

INTERVAL = f"Intervals: 95 % BCa bootstrap over terms, {statistics.RESAMPLES:,} resamples."
COUNTED = {"difference": "counted", "low": "counted_low", "high": "counted_high", "p": "counted_p"}  # the same with no definition as 0


def differences(study: Study) -> pd.DataFrame:
    """Every merge minus the general model, and minus the expert asked in the target language, paired by term.

    A Holm family per judge and reference holds all of them, since one sentence claims them together. Returns judge, reference, model, minus (what is
    subtracted), then what ``statistics.compare`` gives, with ``p_holm``; and counted, counted_low, counted_high, counted_p_holm: the difference where
    output that is no definition scores 0.
    """
    baselines, rows, blocks = (study.by_role("general"), control_run(study)), [], {}
    for (judge, reference), block in load_scores(study).groupby(["judge", "reference"], sort=False):
        table, counted = (block.pivot(index="term_id", columns="run", values=values) for values in ("score", "counted"))
        facts = block.drop_duplicates("term_id").set_index("term_id").reindex(table.index)
        pairs = [(run, base) for base in baselines for run in study.methods if run in table and base in table]
        blocks[judge, reference] = pairs, table, counted
        for run, base in pairs:
            score = statistics.compare(table[run], table[base], facts["parent"], study.seed)
            second = statistics.compare(counted[run], counted[base], seed=study.seed)
            rows.append(_row(study, judge_label(judge), reference, run, base, score, second))
    for ((judge, reference), judged), ((person, other), own) in itertools.product(blocks.items(), repeat=2):
        one, two = load_card(judge), load_card(person)
        if reference == other and one.client != "people" and (two.client, two.kind) == ("people", "people"):
            for run, base in [pair for pair in own[0] if pair in judged[0]]:
                score, counted = (statistics.prediction_powered(mine[run] - mine[base], theirs[run] - theirs[base], facts["concept"])
                                  for mine, theirs in zip(own[1:], judged[1:], strict=True))  # fmt: skip
                rows.append(_row(study, f"{judge_label(person)}, with {judge_label(judge)}", reference, run, base, score, counted))
    columns = ["judge", "reference", "model", "minus", "n", "ties", "difference", "low", "high", "p", "p_holm", "counted", "counted_low"]
    columns += ["counted_high", "counted_p_holm", "rank_biserial", "cluster_low", "cluster_high", "clusters", "detectable", "reason"]
    columns += ["n_rated", "lambda", "classical_low", "classical_high"] if any("lambda" in row for row in rows) else []
    frame = pd.DataFrame(rows, columns=[*columns, "counted_p"])
    for p in ("p", "counted_p"):
        frame[f"{p}_holm"] = frame.groupby(["judge", "reference"], sort=False)[p].transform(statistics.holm)
    frame = frame[columns]
    bases, people = " and from ".join(row_label(study, base) for base in baselines), f" {text('people')}" if "lambda" in frame else ""
    return captioned(frame, "differences", interval=INTERVAL, bases=bases, people=people)


def _row(study: Study, judge: str, reference: str, run: str, base: str, score: dict, counted: dict) -> dict:
    named = {"judge": judge, "reference": reference, "model": row_label(study, run), "minus": row_label(study, base)}
    return named | score | {name: counted[key] for key, name in COUNTED.items()}


def helped(found: pd.DataFrame) -> pd.DataFrame:
    """Of ``differences``: judge, reference, model and ``helps``, true where every row of the model holds on both means."""
    holds = (found["difference"] > 0) & (found["p_holm"] < 0.05) & (found["counted"] > 0) & (found["counted_p_holm"] < 0.05)
    both = found.assign(helps=holds).groupby(["judge", "reference", "model"], sort=False)
    return both["helps"].agg(lambda rows: bool(rows.all() and len(rows) == 2)).reset_index()


def claims(study: Study) -> list[str]:
    """What the planned comparisons allow to be said: a sentence per judge and reference, built from intervals and adjusted p-values."""
    found, said = differences(study), []
    if found.empty:
        return ["No merge was scored by the same judge as both of its comparisons: nothing can be said."]
    bases = " and ".join(found["minus"].unique())
    for (judge, reference), rows in helped(found).groupby(["judge", "reference"], sort=False):
        block = found[(found["judge"] == judge) & (found["reference"] == reference)]
        winners = rows.loc[rows["helps"], "model"]
        shown = "; ".join(f"{model}: {_numbers(block[block['model'] == model])}" for model in winners)
        if len(winners):
            text = f"{len(winners)} of {len(rows)} merges score above both {bases}, whether or not unusable output counts as 0 ({shown})"
        else:  # the one that comes nearest to beating both
            near = block.loc[block["model"] == block.groupby("model", sort=False)["difference"].min().idxmax()]
            text = f"no merge is shown to score above both {bases}; nearest is {near['model'].iloc[0]} ({_numbers(near)})"
        said.append(f"{judge}, against {reference_label(study, reference)}: {text}.")
    return said


def _numbers(rows: pd.DataFrame) -> str:
    parts = [f"{row.difference:+.2f} [{row.low:.2f}, {row.high:.2f}], counted {row.counted:+.2f} [{row.counted_low:.2f}, {row.counted_high:.2f}]"
             for row in rows.itertuples()]  # fmt: skip
    return " and ".join(parts).replace("-", "−")


def seen_unseen(study: Study) -> pd.DataFrame:
    """Gain of every merge over the general model on terms whose concept the expert saw in training, on the others, and the gains' difference.

    Returns judge, reference, model, then per half its mean gain with interval and n (``seen``, ``unseen``), ``interaction`` (seen minus unseen) with
    low and high, p, and p_holm over the merges of a judge and reference. No row without both halves.
    """
    general, rows = study.by_role("general"), []
    for (judge, reference), block in load_scores(study).groupby(["judge", "reference"], sort=False):
        table = block.pivot(index="term_id", columns="run", values="score")
        seen = block.drop_duplicates("term_id").set_index("term_id")["seen"].reindex(table.index).astype(bool)
        for run in [run for run in study.methods if run in table and general in table and seen.nunique() == 2]:
            gain = table[run] - table[general]
            row = {"judge": judge_label(judge), "reference": reference, "model": row_label(study, run)}
            for name, half in (("seen", gain[seen]), ("unseen", gain[~seen])):
                interval = statistics.mean_interval(half, study.seed, "gain")
                row |= {f"n_{name}": int(half.notna().sum()), name: half.mean(), f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row | statistics.compare_groups(gain[seen], gain[~seen], study.seed))
    columns = ["judge", "reference", "model", "n_seen", "seen", "seen_low", "seen_high", "n_unseen", "unseen", "unseen_low", "unseen_high"]
    columns += ["interaction", "low", "high", "p", "p_holm", "reason"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_holm"] = frame.groupby(["judge", "reference"], sort=False)["p"].transform(statistics.holm)
    none = "" if rows else " No two groups of terms: this vocabulary does not know of both seen and unseen ones."
    return captioned(frame, "seen_unseen", interval=INTERVAL, general=study.label(general), none=none)


def transfer(study: Study) -> pd.DataFrame:
    """A row a run: note, n, margin (nats a token) with its interval, accuracy among the own and the rival terms, logp; then the merges' differences.

    ``minus …``: the paired difference in margin from the general model and from the expert asked in the target language, with
    low, high and p_holm (all of them one family). Index: model labels; empty where nothing was asked.
    """
    expert, *others = row_order(study)
    controls = {f"{expert}.{control}": f"control: {what}" for control, what in CONTROLS.items()}
    rows = transfer_rows(study, [expert, *controls, *others])
    table, bases = rows.pivot(index="term_id", columns="run", values="margin"), (study.by_role("general"), control_run(study))
    found, tested = {}, {}
    for run, block in rows.groupby("run", sort=False):
        interval = statistics.mean_interval(block["margin"], study.seed)
        what = f"control: asked in {study.source.name}" if run == expert else controls.get(run) or note(study, run)
        found[run] = {("", "note"): what, ("", "n"): len(block), ("", "margin"): block["margin"].mean(), ("", "low"): interval.low,
                      ("", "high"): interval.high, ("", "accuracy"): block["correct"].mean(), ("", "logp"): block["logp"].mean()}  # fmt: skip
        for base in bases if run in study.methods else ():
            if base in table:
                tested[run, base] = statistics.compare(table[run], table[base], seed=study.seed)
    adjusted = dict(zip(tested, statistics.holm([one["p"] for one in tested.values()]), strict=True))
    for (run, base), one in tested.items():
        group = f"minus {row_label(study, base)}"
        found[run] |= {(group, part): (one | {"p_holm": adjusted[run, base]})[part] for part in ("difference", "low", "high", "p_holm")}
    names = [f"{row_label(study, expert)}, {run.rpartition('.')[2]}" if run in controls else row_label(study, run) for run in found]
    frame = pd.DataFrame.from_dict(found, orient="index").set_axis(pd.Index(names, name="model"))
    frame.columns = pd.MultiIndex.from_tuples(frame.columns) if len(frame) else pd.MultiIndex.from_arrays([[], []])
    kind = " (in the HPO, the organ system)" if study.vocabulary.source == "hpo" else ""
    return captioned(frame, "transfer", given=reference_label(study), kind=kind, rivals=study.transfer.rivals, chance=1 / (study.transfer.rivals + 1))


def table2(study: Study) -> pd.DataFrame:
    """Benchmark scores in the paper's layout beside the published ones; a column that was not run is NaN.

    Index: model labels. Columns per benchmark: value, low, high (95 %), n, chance (what guessing gives), p_holm (of the
    difference from the general model, see ``column_differences``; the page marks those below .05 with a star), published.
    """
    published = results.published_benchmarks()
    found, tested = results.load_benchmarks(study), column_differences(study).set_index(["column", "model"])["p_holm"]
    frame = {}
    for key, name in ((key, BENCHMARKS.get(key, key)) for key in columns(study)):
        frame |= {(name, part): found.xs(key, level="column")[part].array for part in ("value", "low", "high", "n", "chance")}
        frame[name, "p_holm"] = [tested.get((name, row_label(study, run))) for run in study.models]
        if study.repeats and key in published:
            frame[name, "published"] = published[key].reindex([results.kept_key(study, run) for run in study.models]).to_numpy()
    table = pd.DataFrame(frame, index=pd.Index([row_label(study, run) for run in study.models], name="model")).astype(float)
    metrics = found["metric"].dropna().groupby("column", sort=False).unique()
    measured = "; ".join(f"{BENCHMARKS.get(key, key)}: {', '.join(sorted(names))}" for key, names in metrics.items())
    others = {column: sets for column, sets in columns(study).items() if sets != COLUMNS.get(column, sets)}
    shown = {column: ", ".join(name + study.benchmarks.ending for name in sets) for column, sets in others.items()}
    more = text("table2", "published") if study.repeats else ""
    if fewer := [f"{BENCHMARKS[column]}: mean of {names}" for column, names in shown.items()]:
        more += f" Columns of other data sets{' than published' * bool(study.repeats)}: {'; '.join(fewer)}."
    if study.evolution.fitness == "published":
        searched = ", ".join(BENCHMARKS.get(column, column) for column in study.evolution.columns)
        more += f" contaminated: parameters that were searched on the items reported here ({searched})."
    return captioned(table, "table2", measured=measured, general=study.label(study.by_role("general")), more=more)


def column_differences(study: Study) -> pd.DataFrame:
    """Every merge against the general model in every column, paired by item; a Holm family per column.

    Returns column (as printed), model, then what ``paired.compare_means`` gives (for similarity ``compare_correlations``), with ``p_holm``.
    A column that one of the two models lacks is left out.
    """
    general, items, rows = study.by_role("general"), _items(study), []
    for column, sets in columns(study).items() if len(items) else ():
        parts = [items[items["dataset"] == dataset].pivot(index="item", columns="model") for dataset in sets]
        for merge in study.methods:
            if not all({merge, general} <= set(part.columns.get_level_values("model")) for part in parts):
                continue
            if all(part["score"].isna().all(axis=None) for part in parts):  # similarity has no score per item
                answers, gold = parts[0]["prediction"].astype(float), parts[0]["gold", general].astype(float)
                found = paired.compare_correlations(answers[merge], answers[general], gold, study.seed)
            else:
                found = paired.compare_means([(part["score", merge], part["score", general]) for part in parts], study.seed)
            rows.append({"column": BENCHMARKS.get(column, column), "model": row_label(study, merge)} | found)
    frame = pd.DataFrame(rows, columns=["column", "model", "n", "difference", "low", "high", "p", "p_holm", "reason"])
    frame["p_holm"] = frame.groupby("column", sort=False)["p"].transform(statistics.holm)
    return captioned(frame, "column_differences", general=study.label(general), resamples=paired.RESAMPLES)


def _items(study: Study) -> pd.DataFrame:
    """One row per item of the general model and the merges: model, dataset, item, score, gold, prediction; empty without samples."""
    rows = [row for model in (study.by_role("general"), *study.methods) for row in read_jsonl(study.benchmarks_folder / f"{model}.samples.jsonl")]
    return pd.DataFrame(rows, columns=["model", "dataset", "item", "score", "gold", "prediction"]).astype({"score": float})


def remark() -> str:
    """What the published tables allow to be said of scores and benchmarks over seven models: a sentence with both judges and Holm over nine."""
    parts = []
    for judge, values in results.published_scores().items():
        table = results.published_benchmarks().join(values.rename("score")).drop(index="expert")
        found = pd.DataFrame([paired.correlate(table[key], table["score"]) for key in BENCHMARKS], list(BENCHMARKS), ["rho", "p"])
        firm = [BENCHMARKS[key] for key in found.index[statistics.holm(found["p"]) < 0.05]]
        rho = f"{found.loc['pubmedqa', 'rho']:.2f}".replace("-", "−")
        parts.append(f"by {judge} ρ = {rho} with PubMedQA, and {', '.join(firm) or 'no column'} below .05 after Holm over nine")
    return f"Published definition scores against benchmarks, n = {len(table)} models: {'; '.join(parts)}."
