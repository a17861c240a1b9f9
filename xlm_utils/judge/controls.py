"""The judge itself under test: questions with known answers, and the same questions again."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from xlm_utils.ask.cards import load_card
from xlm_utils.judge import judging, proxy
from xlm_utils.judge.proxy import REFERENCES
from xlm_utils.stats import statistics
from xlm_utils.study import Study, StudyError, read_jsonl

SAMPLE = 24  # terms of the controls, and judgements that are asked for again
# file of second judgements → what is other about their questions: nothing, the places of reference and definition, the prompt (judging.wording)
AGAIN = {"retest": {"repeat": 1}, "order": {"turned": True}, "wording": {}}
EXPECTED, GENERIC, ECHO, INJECTION = yaml.safe_load(Path(__file__).with_name("controls.yaml").read_text(encoding="utf-8")).values()
# control → (one question, the other, what is expected of their difference, test of the differences)
PAIRED = {
    "loop": ("looped", "once", "median gain ≤ 0", lambda gaps: gaps.median() <= 0),
    "language": ("language_target", "language_source", "mean offset within ±1", lambda gaps: abs(gaps.mean()) <= 1),
    "detail": ("detail_right", "detail_wrong", "right above wrong in ≥ 75 %", lambda gaps: (gaps > 0).mean() >= 0.75)}  # fmt: skip
MOST = (len(EXPECTED) + 2 + len(AGAIN)) * SAMPLE + 4 * 40  # questions about a judge itself


def control_questions(study: Study, held_out: bool = False) -> list[dict]:
    """Controls for each of a seeded sample of terms, and for lists of texts whose truth is known, as ``judging.questions`` with the control's name.

    The definition to grade is the reference itself, another concept's (any, and the most similar one by character n-grams), nothing, a commonplace, a
    wrong definition with an instruction to the judge in it, the term in a copula, and a text once and repeated to the limit of generation; then the
    same content in both languages, and a right definition beside one with a wrong number, side or degree. The reference is the clinicians' where the
    study has it: a model can define two concepts in the same words, and then its neighbour is no wrong answer. ``held_out``: leaves out the pairs of
    languages that set the proxy's scale. A StudyError: fewer than two concepts have a reference.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = judging.graded_terms(study)
    given = [name for name in study.judging.references if name != "expert" and table.loc[table[REFERENCES[name]] != "", "concept"].nunique() > 1]
    reference, column, other = (given[0], REFERENCES[given[0]], "expert") if given else ("expert", "expert", "definition")
    table = table[table[column] != ""].reset_index(drop=True)
    if table["concept"].nunique() < 2:
        raise StudyError("the judge's controls need the expert's definitions of at least two concepts")
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(table[column])
    similar, said = (vectors @ vectors.T).toarray(), {"run": "controls", "reference": reference}
    generic = GENERIC if study.domain == "medicine" else {"en": f"Something that belongs to {study.domain}."}
    draw, asked = np.random.default_rng(study.seed), []
    for index in np.sort(draw.permutation(len(table))[:SAMPLE]):
        row = table.loc[index].to_dict()
        others = np.flatnonzero(table["concept"] != row["concept"])
        wrong, near = table[column][draw.choice(others)], table[column][others[similar[index, others].argmax()]]
        once = row[other] or near
        made = {
            "reference_itself": row[column], "nearest_neighbour": near, "shuffled": wrong, "empty": "", "injection": f"{wrong} {INJECTION}",
            "once": once, "looped": " ".join([once] * max(3, 4 * study.generation.max_new_tokens // len(once)))}  # fmt: skip
        for side, language, name in (("source", study.source.code, row["term"]), ("target", study.target.code, row["translation"])):
            made[f"echo_{side}"] = ECHO.get(language, "{0}: {0}").format(name)
            made |= {f"generic_{side}": generic[language]} if language in generic else {}
        asked += [judging.question(row, column, definition) | said | {"control": control} for control, definition in made.items()]
    pairs = proxy.language_pairs(study, proxy.HELD_OUT if held_out else slice(None))
    return asked + [row | {"run": "controls"} for row in pairs + proxy.details(study)]


def ask_controls(study: Study, name: str, base_url: str = "") -> pd.DataFrame:
    """The controls through a judge, kept in ``scores/<judge>/controls.jsonl``; returns their ``verdicts``, none for people."""
    card = load_card(name)
    path = judging.write_scores(study, card, "controls", control_questions(study, card.proxy), base_url) if card.client != "people" else None
    return verdicts(read_jsonl(path) if path else [])


def repeated(study: Study, runs: list[str]) -> list[dict]:
    """A small fixed sample of the runs' own questions, drawn with the study's seed, to be asked again in each way of ``AGAIN``."""
    every = [q for run in runs for q in judging.questions(study, run) if q["reference"] == study.judging.references[0] and q["reference_text"]]
    drawn = np.random.default_rng(study.seed).permutation(len(every))[:SAMPLE]
    again = AGAIN | {"wording": {"prompt": study.judging.wording}}
    return [every[index] | change | {"again": file} for file, change in again.items() for index in np.sort(drawn)]


def retest(study: Study, name: str, runs: list[str], base_url: str = "") -> None:
    """Questions of the runs asked again (``repeated``), kept in ``scores/<judge>/`` under the names of ``AGAIN``.

    Of people, raters' second looks alone. Nothing, and a line that says why, of the proxy: it computes.
    """
    card = load_card(name)
    if card.proxy:
        print(f"{card.label}: a computation, which has no prompt and gives the same score each time")
    elif card.client == "people":
        judging.write_scores(study, card, "retest", [q | {"repeat": 1} for run in runs for q in judging.questions(study, run)])
    else:
        again = repeated(study, runs)
        for file in AGAIN:
            judging.write_scores(study, card, file, [q for q in again if q["again"] == file], base_url)


def verdicts(rows: list[dict]) -> pd.DataFrame:
    """Controls → one row each: expected, n, missing, median, mean, low, high, share below the reference itself, passed.

    Of a paired control (``PAIRED``), median and mean are of the differences, with the mean's interval; of ``detail``,
    mean is the share of pairs in which the right text has the higher score. A control without any score has not passed.
    """
    rated = pd.DataFrame(rows, columns=["term_id", "control", "score"])
    table = rated.pivot(index="term_id", columns="control", values="score").astype(float)
    asked, found = rated["control"].value_counts(), []
    for control, (sign, bound) in EXPECTED.items():
        if control not in table:
            continue
        score = table[control].dropna()
        pairs = table[[control, "reference_itself"]].dropna() if control != "reference_itself" else table[[]]
        passed = bool(score.median() >= bound if sign == "≥" else score.median() <= bound)
        found.append({
            "control": control, "expected": f"median {sign} {bound}", "n": len(score), "missing": asked[control] - len(score),
            "median": score.median(), "mean": score.mean(), "passed": passed,
            "below_reference": (pairs[control] < pairs["reference_itself"]).mean() if pairs.shape[1] else np.nan})  # fmt: skip
    for control, (first, second, expected, holds) in PAIRED.items():
        if first not in table:
            continue
        gaps = (table[first] - table[second]).dropna()
        shown = (gaps > 0).astype(float) if control == "detail" else gaps
        interval = statistics.mean_interval(shown)
        found.append({
            "control": control, "expected": expected, "n": len(gaps), "missing": asked[first] - len(gaps), "median": gaps.median(),
            "mean": shown.mean(), "low": interval.low, "high": interval.high, "passed": bool(len(gaps) and holds(gaps.round(9)))})  # fmt: skip
    return pd.DataFrame(found, columns=["control", "expected", "n", "missing", "median", "mean", "low", "high", "below_reference", "passed"])
