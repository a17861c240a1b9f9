"""Table 1 and what stands around it: data frames, and files a person can open.

Every table keeps numbers as numbers; only ``save_table`` turns them into text. Columns are grouped: ``(judge and reference, statistic)``. A proxy
judge says so in its column header, published numbers have columns of their own, and a control row says what it is a control for.
"""

import itertools
import json
from collections import Counter

import numpy as np
import pandas as pd

from xlm_utils.ask.cards import OFFLINE, load_card
from xlm_utils.draw.pages import as_text, page, table_html
from xlm_utils.generate import generation
from xlm_utils.judge import controls, judging, people
from xlm_utils.report import results
from xlm_utils.report.planned import INTERVAL
from xlm_utils.report.results import captioned, group_label, judge_label, load_scores, note, row_label, row_order, summary, text
from xlm_utils.stats import paired, statistics
from xlm_utils.study import Study, StudyError, read_jsonl, write_text

UNUSABLE = ("another language", "loops", "cut off", "empty")
WITHOUT = {"proxy": "an encoder: it has no prompt, and computes the same again", "people": "people read a sheet, not a prompt"}


def _grouped(study: Study, parts: dict[str, pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Parts (indexed by run) side by side under their headers, one row per run of the study."""
    runs = row_order(study)
    frame = {("", "note"): [note(study, run) for run in runs]}
    for header, part in parts.items():
        frame |= {(header, column): part[column].reindex(runs).array for column in columns if column in part}
    return pd.DataFrame(frame, index=pd.Index([row_label(study, run) for run in runs], name="model"))


def table1(study: Study) -> pd.DataFrame:
    """Definition scores in the paper's layout, with n, missing and interval, beside the published ones.

    Index: model labels. Columns: ``("", "note")``, then per judge and reference median, mean, low, high, offset_off (see ``without_offset``; where
    the judge has an offset), counted (the mean with output that is no definition at 0) with their intervals, std, n, missing, then ``("no
    definition", …)``: how many outputs are in another language, loop, are cut off or empty, then ``("published: GPT-4o", …)`` median, mean, std.
    """
    found, asked = summary(study), controls_table(study)
    known = asked[asked["control"] == "language"].dropna(subset="average").set_index("judge")
    parts = {}
    for (judge, reference), part in found.groupby(["judge", "reference"], sort=False):
        offset = known.loc[judge_label(judge)] if judge_label(judge) in known.index else None
        parts[group_label(study, judge, reference)] = (part if offset is None else without_offset(part, offset)).set_index("run")
    parts["no definition"] = answers(study)
    repeated = [results.kept_key(study, run) for run in row_order(study)]
    for judge, part in pd.read_csv(results.PUBLISHED / "table1.csv").groupby("judge", sort=False) if study.repeats else ():
        parts[f"published: {judge}"] = part.set_index("model").reindex(repeated).set_axis(row_order(study))
    means = [f"{mean}{end}" for mean in ("offset_off", "counted") for end in ("", "_low", "_high")]
    frame = _grouped(study, parts, ["median", "mean", "low", "high", *means, "std", "n", "missing", *UNUSABLE])
    gaps = [f"{row.model} ({row.judge}, {row.reference}): {row.reason}" for row in found.itertuples() if row.reason]
    no_interval = f" No interval: {'; '.join(gaps)}." if gaps else ""
    published, rows = text("table1", "published") if study.repeats else "", known.itertuples()
    said = [f"{row.Index} " + f"{row.average:+.2f} [{row.low:.2f}, {row.high:.2f}], n = {row.n} pairs".replace("-", "−") for row in rows]
    blanks = {"target": study.target.name, "source": study.source.name, "given": results.reference_label(study), "judges": "; ".join(said)}
    offsets = f" {text('table1', 'offsets', **blanks)}" if said else ""
    return captioned(frame, "table1", interval=INTERVAL, offsets=offsets, published=published, gaps=no_interval)


def answers(study: Study) -> pd.DataFrame:
    """How many outputs of each finished run are no definition, by reason (``generate.usable``): index run, columns ``UNUSABLE``."""
    runs = [run for run in row_order(study) if (study.folder / "definitions" / f"{run}.jsonl").exists()]
    counts = Counter((run, reason) for (run, _), reason in results.unusable(study, runs).items())
    return pd.DataFrame([[counts[run, reason] for reason in UNUSABLE] for run in runs], index=runs, columns=list(UNUSABLE), dtype="Int64")


def without_offset(means: pd.DataFrame, offset: pd.Series) -> pd.DataFrame:
    """Rows of ``summary`` with offset_off, offset_off_low, offset_off_high: their mean without what the judge gives the target language.

    That is mean − share · offset, for the share of the scored texts that are in the target language (NaN where the texts are not there).
    The two are of different texts, so the interval is MOVER's: distances to the ends of both add up in squares (Zou & Donner 2008,
    Statistics in Medicine 27, 1693–1702). ``offset``: average, low and high of the judge's *language* control (see ``controls.verdicts``).
    """
    share, mean = means["in_target"], means["mean"]
    left = mean - share * offset["average"]
    below = np.hypot(mean - means["low"], share * (offset["high"] - offset["average"]))
    above = np.hypot(means["high"] - mean, share * (offset["average"] - offset["low"]))
    return means.assign(offset_off=left, offset_off_low=left - below, offset_off_high=left + above)


def controls_table(study: Study) -> pd.DataFrame:
    """Each judge's controls with what was expected of them, and in words whether it passed; empty without ``controls.jsonl``."""
    rows, folder = [], study.folder / "scores"
    for judge in dict.fromkeys([*study.judges, *sorted(path.parent.name for path in folder.glob("*/controls.jsonl"))]):
        if asked := read_jsonl(folder / judge / "controls.jsonl"):
            found = controls.verdicts(asked)
            found = found.rename(columns={"median": "middle", "mean": "average"})  # a control has no best and no worst
            rows += found.assign(judge=judge_label(judge), verdict=found["passed"].map({True: "passed", False: "FAILED"})).to_dict("records")
    columns = ["judge", "control", "expected", "n", "missing", "middle", "average", "low", "high", "below_reference", "verdict"]
    return captioned(pd.DataFrame(rows, columns=columns), "controls", given=results.reference_label(study))


def missing_table(study: Study) -> pd.DataFrame:
    """Missing scores by status, and the means if all of them were 0 or 10; grouped like Table 1."""
    found = summary(study)
    counts = pd.DataFrame(found["statuses"].tolist(), index=found.index).fillna(0).astype("Int64")
    found = found.join(counts).rename(columns={"mean_low": "mean, all 0", "mean_high": "mean, all 10"})
    parts = {group_label(study, *key): part.set_index("run") for key, part in found.groupby(["judge", "reference"], sort=False)}
    return captioned(_grouped(study, parts, ["n", *sorted(counts), "mean, all 0", "mean, all 10"]).drop(columns=("", "note")), "missing")


def agreements(study: Study) -> pd.DataFrame:
    """Every pair of judges on the same answers, and people on what they both rated; a judge with itself is ``properties``'.

    Returns reference, first, second, then what ``paired.agreement`` gives, ``tau`` of the models' order and ``models``.
    """
    scores, rows = load_scores(study), []
    controls = [run for run in scores["run"].unique() if note(study, run)]
    for reference, block in scores[~scores["run"].isin(controls)].groupby("reference", sort=False):
        table = block.pivot(index=["run", "term_id"], columns="judge", values="score")
        means = table.groupby("run").mean()
        for first, second in itertools.combinations(block["judge"].unique(), 2):
            named = {"reference": reference, "first": judge_label(first), "second": judge_label(second)}
            rows.append(named | paired.agreement(table[first], table[second]) | paired.same_order(means[first], means[second]))
    for judge in scores["judge"].unique():
        if load_card(judge).client == "people":
            texts = scores[(scores["judge"] == judge) & scores["reply"].notna()].drop_duplicates(["reference", "reply"])
            given = pd.DataFrame([{row.partition("-")[2][0]: rating for row, rating in json.loads(reply).items()} for reply in texts["reply"]])
            for one, other in itertools.combinations(sorted(given), 2):
                named = {"reference": texts["reference"].iloc[0], "first": f"{judge_label(judge)}: rater {one}", "second": f"rater {other}"}
                rows.append(named | paired.agreement(given[one], given[other]))
    frame = pd.DataFrame(rows, columns=["reference", "first", "second", "n", "kappa", "alpha", "spearman", "bias", "tau", "models", "reason"])
    frame["models"] = frame["models"].astype("Int64")
    return captioned(frame, "agreement")


def rated(study: Study) -> pd.DataFrame:
    """How far each proxy of the study agrees with the mean of the ratings written for this repository, and their two passes with each other.

    Returns of, half (``choose``: what forms were chosen by; ``report``), n, spearman, kappa (quadratic). Terms that the study does not run are out.
    """
    table, rows = judging.graded_terms(study).set_index("term_id"), []
    file = people.read(study, load_card("written_ratings"))
    file = file[file["term_id"].isin(table.index)].pivot(index=["term_id", "definition", "half"], columns="copy", values="rating").reset_index()
    if len(file):
        measured = {"two passes of one reader: consistency": (file[1], file[2])}
        texts = table.loc[file["term_id"]].reset_index().assign(said=file["definition"]).to_dict("records")
        asked = [judging.question(text, "definition", text["said"]) | {"run": "ratings", "reference": "clinician"} for text in texts]
        for card in (card for card in map(load_card, study.judges) if card.proxy):
            scores = pd.DataFrame(judging.scores(study, card, asked)[0])["score"].astype(float)
            measured[f"{card.label} and the mean rating"] = (scores, (file[1] + file[2]) / 2)
        for half in ("choose", "report"):
            own = file["half"] == half
            rows += [{"of": name, "half": half} | paired.agreement(a[own], b[own]) for name, (a, b) in measured.items()]
    return captioned(pd.DataFrame(rows, columns=["of", "half", "n", "spearman", "kappa", "reason"]), "rated" if rows else "not_rated")


def properties(study: Study) -> pd.DataFrame:
    """A row per judge and property (see the caption): judge, property, points, low, high, noise, n, remark (why there is no number)."""
    scores, rows = load_scores(study), []
    texts = generation.rows(study, list(scores["run"].unique()))
    lengths = {(row.run, str(row.term_id)): np.log2(max(len(row.definition), 1)) for row in texts.itertuples()} if len(texts) else {}
    for judge, block in scores.groupby("judge", sort=False):
        asked = read_jsonl(study.folder / "scores" / judge / "controls.jsonl")
        for row in controls.verdicts(asked).query("control == 'language'").itertuples():
            rows.append({"judge": judge, "property": "language", "value": row.mean, "low": row.low, "high": row.high, "n": row.n})
        if echo := [row["score"] for row in asked if row["control"] == "echo_target" and row["score"] is not None]:
            ends = statistics.mean_interval(echo, study.seed)
            rows.append({"judge": judge, "property": "echo", "value": np.mean(echo), "low": ends.low, "high": ends.high, "n": len(echo)})
        block = block[block["reference"] == block["reference"].iloc[-1]]
        length = [lengths.get(key, np.nan) for key in zip(block["run"], block["term_id"], strict=True)]
        rows.append({"judge": judge, "property": "length"} | paired.within_slope(length, block["score"], block["term_id"]))
        for file, name in {"retest": "asked again", "order": "order", "wording": "wording"}.items():
            again = pd.DataFrame(read_jsonl(study.folder / "scores" / judge / f"{file}.jsonl"))
            client = load_card(judge).client
            none = {"remark": WITHOUT[client] if client in OFFLINE else "not asked yet"}
            rows.append({"judge": judge, "property": name} | (none if again.empty else moved(again, scores[scores["judge"] == judge])))
    frame = pd.DataFrame(rows, columns=["judge", "property", "value", "low", "high", "noise", "n", "remark"]).fillna({"remark": ""})
    numbers = dict.fromkeys(("value", "low", "high", "noise"), float)
    frame = frame.assign(judge=frame["judge"].map(judge_label)).astype({**numbers, "n": "Int64"}).rename(columns={"value": "points"})
    return captioned(frame, "properties", target=study.target.name, source=study.source.name)


def moved(again: pd.DataFrame, first: pd.DataFrame) -> dict:
    """How far second judgements lie from the first: value (mean of second minus first), low, high, noise, n (both scored), remark.

    noise: standard deviation of one judgement, which is that of the differences over √2.
    """
    both = again.merge(first, on=["run", "reference", "term_id"], suffixes=("_again", ""))[["score_again", "score"]].astype(float)
    gaps = (both["score_again"] - both["score"]).dropna()
    ends = statistics.mean_interval(gaps, what="difference")
    return {"value": gaps.mean(), "low": ends.low, "high": ends.high, "noise": gaps.std(ddof=1) / np.sqrt(2), "n": len(gaps), "remark": ends.reason}


def extremes(study: Study, run: str, judge: str = "") -> pd.DataFrame:
    """The three terms that gained and the three that lost most against the general model: term, translation, score before and after, both texts.

    By the study's first reference and, if none is named, first judge; terms that lack a score are left out. A StudyError: the judge scored not both.
    """
    scores, models = load_scores(study), [study.by_role("general"), run]
    judge = judge or scores["judge"].iloc[0]
    block = scores[(scores["judge"] == judge) & (scores["reference"] == scores["reference"].iloc[0])]
    if missing := set(models) - set(block["run"]):
        raise StudyError(f"{judge} has not scored {', '.join(sorted(missing))}; it has scored {', '.join(block['run'].unique()) or 'nothing'}")
    pairs = block.pivot(index="term_id", columns="run", values="score")[models].dropna().set_axis(["before", "after"], axis=1)
    table = block.drop_duplicates("term_id").set_index("term_id")[["term", "translation"]].join(pairs, how="inner")
    gain = (table["after"] - table["before"]).sort_values(ascending=False, kind="stable")
    picked = table.loc[[*gain.index[gain > 0][:3], *gain.index[gain < 0][-3:]]]
    texts = generation.rows(study, models).pivot(index="term_id", columns="run", values="definition").rename(index=str)
    return picked.join(texts[models].rename(columns=lambda model: row_label(study, model))).reset_index(drop=True)


def save_table(study: Study, frame: pd.DataFrame, name: str):
    """Write ``figures/<study>/<name>.csv`` (all numbers) and ``.html`` (to read); returns the table for a notebook to show.

    The page stands alone, and says the study's ``proxy`` sentence where it has one.
    """
    from IPython.display import HTML

    flat = frame.copy()
    if isinstance(frame.columns, pd.MultiIndex):
        flat.columns = [": ".join(filter(None, pair)) for pair in frame.columns]
    html, flat = table_html(frame, study.proxy), as_text(flat)
    write_text(study.figures / f"{name}.csv", flat.to_csv(index=not isinstance(frame.index, pd.RangeIndex), float_format="%.6g", lineterminator="\n"))
    write_text(study.figures / f"{name}.html", page(frame.attrs.get("title", name), html))
    return HTML(html)
