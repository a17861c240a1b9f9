"""What the models wrote, read from their runs' files: rows, counts, and every definition of a term side by side."""

from collections.abc import Mapping

import pandas as pd
from filelock import FileLock

from xlm_utils.draw.pages import as_text
from xlm_utils.generate.generation import runs
from xlm_utils.study import Study, read_jsonl, read_manifest, write_text


def rows(study: Study, names: list[str]) -> pd.DataFrame:
    """The rows of several finished runs (see ``generation.define``), one below the other."""
    return pd.DataFrame([row for name in names for row in read_jsonl(study.folder / "definitions" / f"{name}.jsonl")])


def side_by_side(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """One row a term: term_id, term, translation, the vocabulary's own definition (by whom it is), and one column a finished run.

    Written to ``definitions/side_by_side.csv`` as well, with a mark by which Excel knows UTF-8. Jobs that end at the same time take turns, so that
    the last one's table has every run.
    """
    folder = study.folder / "definitions"
    file = folder / "side_by_side.csv"
    with FileLock(folder / ".locks" / file.name):
        wide = table[["term_id", "term", "translation"]].assign(**{study.definitions_by: table["definition"]})
        for name in [run.name for run in runs(study) if read_manifest(folder / f"{run.name}.jsonl")]:
            wide[name] = wide["term_id"].map({row["term_id"]: row["definition"] for row in read_jsonl(folder / f"{name}.jsonl")})
        write_text(file, "\ufeff" + as_text(wide).to_csv(index=False))
    return wide


ENDINGS = {"empty": "empty", "loop": "loops", "length": "cut off"}  # finish → why such a row is no definition


def usable(row: Mapping, language: str) -> tuple[bool, str]:
    """Whether a row (see ``generation.define``) is a definition in a language, and if not, why: empty, loops, cut off or another language.

    What it says is another question. A row of a study that does not stop at loops is cut off where it loops.
    """
    reason = "empty" if not row["definition"] else ENDINGS.get(row["finish"], "")
    if not reason and row["output_language"] != language:
        reason = "another language"
    return not reason, reason


def summary(study: Study, names: list[str]) -> pd.DataFrame:
    """Per finished run: n, how it ended (stopped by itself, at a loop, cut off at the limit, empty), other language, usable, median tokens.

    The endings add up to n; ``other language`` counts among the rows that are not empty, ``usable`` as the function does.
    """
    found = []
    for name in names:
        table = rows(study, [name])
        if table.empty:
            continue
        finish = table["finish"].value_counts()
        found.append({
            "run": name, "n": len(table), "stopped": finish.get("stop", 0), "looped": finish.get("loop", 0), "cut off": finish.get("length", 0),
            "empty": finish.get("empty", 0),
            "other language": int(((table["output_language"] != table["language"]) & (table["finish"] != "empty")).sum()),
            "usable": sum(usable(row, row["language"])[0] for row in table.to_dict("records")),
            "median tokens": table["tokens"].median()})  # fmt: skip
    return pd.DataFrame(found)
