"""Definitions → scores from 0 to 10, by an LLM judge, the offline proxy or people.

The design is the paper's: the judge sees the term in both languages, a reference definition and the definition to grade. The prompt
(``judging.prompt``) is ours; the paper prints none.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from xlm_utils.ask.calls import announce, run_calls
from xlm_utils.ask.cards import OFFLINE, Card, load_card
from xlm_utils.ask.replies import identity
from xlm_utils.generate import runs as all_runs
from xlm_utils.judge import people, proxy
from xlm_utils.study import Step, Study, StudyError, digest, fingerprint, read_jsonl, read_manifest, write_text
from xlm_utils.study.inputs import fill, read_prompt
from xlm_utils.translate.translation import terms

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"], "additionalProperties": False}
NUMBER = r"(-?\d{1,9}(?:\.\d{1,9})?)(?![\d.]*\d)(?:\s*/\s*10(?!\d))?"
SCORE = re.compile(rf"""["']score["']\s*:\s*["']?\s*{NUMBER}\s*["']?\s*[,}}]""")
BARE = re.compile(rf"""\A\s*["']?{NUMBER}["']?\s*\Z""")


def prompt_for(study: Study, asked: dict) -> str:
    """The judge's prompt; terms and definitions go in as JSON strings, so that each stays on its line, in its quotes.

    A question may name another ``prompt`` file, or be ``turned``: the lines of reference and definition change places. A StudyError: it has none.
    """
    texts = {"term_source": "term", "term_target": "translation", "reference": "reference_text", "definition": "definition"}
    quoted = {field: json.dumps(asked[column], ensure_ascii=False) for field, column in texts.items()}
    fields = {"source_language": study.source.name, "target_language": study.target.name, **quoted}
    file = asked.get("prompt", study.judging.prompt)
    template = read_prompt(file, *fields)
    if asked.get("turned"):
        template, found = re.subn(r"(.*\{reference\}.*)(\n(?:.*\n)*)(.*\{definition\}.*)", r"\3\2\1", template)
        if not found:
            raise StudyError(f"params/prompts/{file}: {{reference}} needs a line before {{definition}}'s, so that the two can change places")
    return fill(template, file, fields | {"domain": study.domain})


def parse(text: str) -> tuple[int | None, str]:
    """A whole reply → (score, status); a missing score is a status, never 0.

    The score may stand among words, as text or out of ten; two different ones are none.

    >>> parse('{"score": 7}'), parse('{"score": "7/10"}'), parse('{"score": 11}'), parse('{"score": 7.5}')
    ((7, 'ok'), (7, 'ok'), (None, 'out_of_range'), (None, 'unparsable'))
    """
    found = {float(score) for score in SCORE.findall(text) or BARE.findall(text)}
    if len(found) != 1 or not (score := found.pop()).is_integer():
        return None, "unparsable"
    return (int(score), "ok") if 0 <= score <= 10 else (None, "out_of_range")


def definitions_file(study: Study, run: str) -> Path:
    """Finished definitions of one run; a StudyError before notebook 04 has made them."""
    path = study.folder / "definitions" / f"{run}.jsonl"
    if read_manifest(path) is None:
        expert = study.by_role("expert")
        model = expert if run.startswith(f"{expert}.") else run  # its control and its reference
        raise StudyError(f"no definitions of {run} yet; run 04_generate.ipynb with {study.options(method=model)}")
    return path


def graded_terms(study: Study) -> pd.DataFrame:
    """The study's terms with the expert's reference definition beside the clinicians' (columns ``expert`` and ``definition``)."""
    table = terms(study).astype({"term_id": str})
    return table.assign(expert=table["term_id"].map(_definitions(study, f"{study.by_role('expert')}.reference", table)))


def _definitions(study: Study, run: str, table: pd.DataFrame) -> dict[str, str]:
    """Definitions of a finished run: term_id → text, for every term of the table."""
    found = {str(row["term_id"]): row["definition"] for row in read_jsonl(definitions_file(study, run))}
    if missing := set(table["term_id"]) - set(found):
        raise StudyError(f"definitions/{run}.jsonl has none for {len(missing)} of the terms, such as {min(missing)}; run 04_generate.ipynb again")
    return found


def questions(study: Study, run: str) -> list[dict]:
    """What the judge is asked about one run: every term against every reference of the study."""
    table = graded_terms(study)
    given, every = _definitions(study, run, table), itertools.product(study.judging.references, table.to_dict("records"))
    return [question(row, proxy.REFERENCES[by], given[row["term_id"]]) | {"run": run, "reference": by} for by, row in every]


def question(row: dict, reference: str, definition: str) -> dict:
    """One definition to be graded against the reference in a column of the terms' row."""
    return {key: row[key] for key in ("term_id", "concept", "term", "translation")} | {"reference_text": row[reference], "definition": definition}


def judge(study: Study, name: str, run: str, base_url: str = "") -> Path:
    """Score one run's definitions: ``scores/<judge>/<run>.jsonl``, a row per term and reference.

    Resumes; a finished file is kept unless terms, definitions, references, prompt or card have changed. A StudyError: definitions are missing, or the
    judge can't go on (see ``calls.run_calls``).
    """
    return write_scores(study, load_card(name), run, questions(study, run), base_url)


def write_scores(study: Study, card: Card, output: str, asked: list[dict], base_url: str = "") -> Path:
    """``scores/<judge>/<output>.jsonl`` for any questions; those with ``repeat`` are asked anew (see ``calls.run_calls``)."""
    expert = definitions_file(study, f"{study.by_role('expert')}.reference")
    made_from = {"questions": fingerprint(asked), "terms": digest(study.folder / "terms.csv"), "expert": digest(expert)}
    if card.client == "people":
        given = people.read(study, card)
        if (given["status"] == "not rated").all():
            print(f"{card.name}/{output}.jsonl: not written, as nothing is rated yet")
            return study.folder / "scores" / card.name / f"{output}.jsonl"
        made_from |= {"ratings": fingerprint(given.to_dict("records"))}
    elif card.proxy:
        made_from |= proxy.open_encoder(card.model)[1] | {"right": fingerprint(proxy.language_pairs(study)), "form": "term deleted, minus the others"}
    else:
        prompt = read_prompt(next((q["prompt"] for q in asked if "prompt" in q), study.judging.prompt))
        made_from |= {"judge": identity(card, SCHEMA, base_url), "model": card.model, "params": card.params, "prompt": fingerprint(prompt)}
    step = Step(study.folder / "scores" / card.name / f"{output}.jsonl", **made_from)
    with step:
        if step.done:
            print(f"{card.name}/{step.path.name}: done before, kept")
            return step.path
        rows, notes = scores(study, card, asked, base_url)
        write_text(step.partial, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["status"] != people.NOT_DRAWN))
        step.finish(label=card.label, proxy=card.proxy, note=card.note, **notes)
    return step.path


def scores(study: Study, card: Card, asked: list[dict], base_url: str = "") -> tuple[list[dict], dict]:
    """Rows for questions, in their order, and what the manifest notes about the judge.

    An empty definition is asked about like any other: it is what the model said, and leaving it out would flatter a model that often says nothing.
    Only a missing *reference* makes a question void (status ``no_reference``): nothing was asked, so the score is missing, not zero.
    """
    askable = [q for q in asked if q["reference_text"]]
    answers, notes = {"proxy": _proxy, "people": people.answers}.get(card.client, _llm)(study, card, askable, base_url)
    void = {"score": None, "status": "no_reference", "served_model": None, "tokens_in": 0, "tokens_out": 0, "reply": None}
    rest, named = iter(answers), ("term_id", "run", "reference", "control")
    about = [{key: q[key] for key in named if key in q} | {"judge": card.name} for q in asked]
    return [said | (next(rest) if q["reference_text"] else void) for q, said in zip(asked, about, strict=True)], notes


def _llm(study: Study, card: Card, asked: list[dict], base_url: str) -> tuple[list[dict], dict]:
    prompts, repeats = [prompt_for(study, q) for q in asked], [q.get("repeat", 0) for q in asked]
    replies = run_calls(card, prompts, SCHEMA, parse, study.replies, base_url=base_url, max_cost_usd=study.judging.max_cost_usd, repeats=repeats)
    columns = ("status", "served_model", "tokens_in", "tokens_out", "reply")
    return [{"score": reply["value"]} | {key: reply[key] for key in columns} for reply in replies], {}


def _proxy(study: Study, card: Card, asked: list[dict], *_: object) -> tuple[list[dict], dict]:
    encode, found = proxy.open_encoder(card.model)
    ruler = proxy.Ruler(graded_terms(study), pd.DataFrame(proxy.language_pairs(study)), (study.source.code, study.target.code), encode)
    rated = ruler.rate(pd.DataFrame(asked)) if asked else []
    same = {"status": "ok", "served_model": found["encoder"], "tokens_in": 0, "tokens_out": 0}
    anchors = {code: round(high, 4) for code, high in ruler.high.items()} | {"set_by": ruler.set_by}
    return [{"score": score, **same, "reply": f"closeness {close:.4f}"} for score, close in rated], {"anchors": anchors}


def score(study: Study, term: str, definition: str, name: str = "proxy", base_url: str = "") -> pd.DataFrame:
    """One's own definition of a term of the study, in either language, through a judge: a row per reference. A StudyError: no such term."""
    table = graded_terms(study)
    chosen = table[(table["term"].str.lower() == term.lower()) | (table["translation"] == term)]
    if chosen.empty:
        raise StudyError(f"{term!r} is none of the study's terms; there are {', '.join(table['translation'].head(8))} and {len(table) - 8} more")
    row = chosen.iloc[0].to_dict()
    asked = [question(row, proxy.REFERENCES[which], definition) | {"run": "own", "reference": which} for which in study.judging.references]
    return _at_once(study, name, asked, base_url)[["term", "translation", "definition", "reference_text", "score"]]


def _at_once(study: Study, name: str, asked: list[dict], base_url: str) -> pd.DataFrame:
    found = scores(study, load_card(name).model_copy(update={"batch": False}), asked, base_url)[0]  # somebody waits
    return pd.DataFrame([question | row for question, row in zip(asked, found, strict=True)])


def preview(study: Study, name: str, run: str, n: int = 1, base_url: str = "") -> pd.DataFrame:
    """The first ``n`` judgements of a run, to be read before paying for all; their replies are stored and not asked for again."""
    asked = [q for q in questions(study, run) if q["reference"] == study.judging.references[0]][:n]
    return _at_once(study, name, asked, base_url)[["term", "translation", "reference_text", "definition", "score", "status", "reply"]]


def plan(study: Study, name: str, runs: list[str], base_url: str = "", more: Sequence[dict] = ()) -> dict:
    """What judging these runs would take, printed before anything is spent: calls, tokens, cost, time, shutdown date; people get their sheets.

    ``more``: questions beside the runs' own, such as ``controls.control_questions``; one with ``repeat`` is asked again. A StudyError: together with
    what the study has spent, the cost is above ``judging.max_cost_usd``.
    """
    card = load_card(name)
    if card.client in OFFLINE:
        print(f"{card.label}: no calls and no cost; {card.note}")
        if card.client == "people":
            names = [run.name for run in all_runs(study) if run.language.code == study.target.code]
            done = all(read_manifest(study.folder / "definitions" / f"{name}.jsonl") for name in names)
            people.announce(study, card, [q for name in names for q in questions(study, name)] if done else [])
        return {"calls": 0, "usd": 0.0}
    asked = [q for run in runs for q in questions(study, run)] + list(more)
    return announce(study, card, [(prompt_for(study, q), q.get("repeat", 0)) for q in asked if q["reference_text"]], SCHEMA, base_url)


def send(study: Study, name: str, runs: list[str], base_url: str = "", more: Sequence[dict] = ()) -> None:
    """Ask a judge in batch mode all that ``plan`` counts, so that runs share batches and don't wait for one another; other judges nothing."""
    card = load_card(name)
    if card.batch:
        _llm(study, card, [q for q in [*(q for run in runs for q in questions(study, run)), *more] if q["reference_text"]], base_url)
