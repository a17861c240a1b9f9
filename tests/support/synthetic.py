"""A finished study's files with made-up numbers, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from xlm_utils.generate import runs
from xlm_utils.report.results import BENCHMARKS, row_order
from xlm_utils.study import Study, open_study
from xlm_utils.study.records import digest, write_json

JAPANESE = ["高血糖症", "小頭症", "過多月経", "徐脈", "失神", "多指症", "眼瞼下垂", "肝腫大", "蕁麻疹", "難聴", "斜視", "側弯症"]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def add_definitions(study: Study) -> None:
    """Finished definitions of every run, and clinicians' definitions that differ; two merges say the same, and some texts are awkward."""
    table = pd.read_csv(study.folder / "terms.csv")
    table = table.assign(definition=[f"Definition of number {i}, {word}." for i, word in enumerate(table["translation"])])
    table.to_csv(study.folder / "terms.csv", index=False)
    awkward = ["", 'says "a", b;\nc', "=1+1", "a\r\nb\rc", "</script><b>"]
    for run in runs(study):
        texts = [f"{'ties' if run.name == 'linear' else run.name}の文 {i}" for i in range(len(table))]
        texts = awkward + texts[len(awkward) :] if run.name == "japanese" else texts
        path = study.folder / "definitions" / f"{run.name}.jsonl"
        write_lines(path, [{"term_id": term, "run": run.name, "definition": text} for term, text in zip(table["term_id"], texts, strict=True)])
        write_json(path.with_name(f"{path.name}.manifest.json"), {"sha256": digest(path), "key": run.name})


def make_study(home: Path, monkeypatch, terms: int = 24, judges: tuple[str, ...] = ("proxy",), seed: int = 0) -> Study:
    """The demo study with ``terms`` terms scored by ``judges`` and benchmarks run; one score in 20 is missing.

    The expert scores about 9, itself and the ancestor in Japanese 3, the general model 5, each merge a little more than the one before.
    """
    monkeypatch.setenv("XLM_HOME", str(home))
    monkeypatch.delenv("XLM_SMOKE", raising=False)
    study, draw = open_study("demo"), np.random.default_rng(seed)
    names = [f"HP:{i:07}:term{i}" for i in range(terms)]
    table = pd.DataFrame({
        "term_id": names, "concept": [n.rpartition(":")[0] for n in names], "term": [f"term{i}" for i in range(terms)],
        "translation": [JAPANESE[i % len(JAPANESE)] + ("" if i < len(JAPANESE) else str(i)) for i in range(terms)],
        "definition": "A definition.", "part_of_speech": "noun", "frequency": 0, "in_snomed": True,
        "seen": [i % 2 == 0 for i in range(terms)], "parent": [f"HP:{i // 3}" for i in range(terms)],
    })  # fmt: skip
    study.folder.mkdir(parents=True)
    table.to_csv(study.folder / "terms.csv", index=False)
    ease, runs = draw.normal(0, 2.2, terms), row_order(study)
    for number, judge in enumerate(judges):
        for place, run in enumerate(runs):
            level = {0: 9.3, 1: 3, 2: 3, 3: 5}.get(place, 4.35 + 0.25 * place) - 0.3 * number
            rows = []
            for reference in study.judging.references:
                values = level - (1.5 if reference == "clinician" else 0) + (ease if place else ease / 5) + draw.normal(0, 1.3, terms)
                for name, value, luck in zip(names, np.clip(values, 0, 10), draw.random(terms), strict=True):
                    lost = judge != "proxy" and luck < 0.05
                    score = None if lost else round(value, 2) if judge == "proxy" else round(value)
                    rows.append({
                        "term_id": name, "run": run, "judge": judge, "reference": reference, "score": score,
                        "status": "refusal" if lost and luck < 0.03 else "length" if lost else "ok", "served_model": judge,
                        "tokens_in": 0, "tokens_out": 0, "reply": None,
                    })  # fmt: skip
            write_lines(study.folder / "scores" / judge / f"{run}.jsonl", rows)
    for place, model in enumerate(study.models):
        columns = {}
        for key in BENCHMARKS:
            value = draw.uniform(0.3, 0.8) if key != "sts" or place else None
            columns[key] = {"value": value, "stderr": 0.05 if value else None, "n": 100, "metric": "acc"}
        path = study.folder / "benchmarks" / f"{model}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"model": model, "columns": columns}), encoding="utf-8")
        items = [{"model": model, "dataset": "pubmedqa", "item": i, "score": float(draw.random() < 0.4 + 0.05 * place)} for i in range(40)]
        write_lines(study.folder / "benchmarks" / f"{model}.samples.jsonl", items)
    return study
