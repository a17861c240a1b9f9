"""What the tasks need beside their YAML: rows of the data sets, from the hub or a local folder, checked before anything runs; and metrics.

``load`` is the ``custom_dataset`` function of every task here, so that ``lm-eval run`` and the notebooks read the same rows: from the hub, or
with ``--metadata '{"data_dir": "folder"}'`` from JSON Lines files in the upstream schema; stock task keys and today's hub keys are understood.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import StatisticsError, correlation
from typing import Annotated, Literal, NotRequired

import huggingface_hub  # loads its parts when they are used
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from xlm_utils.models.libraries import datasets
from xlm_utils.study.inputs import ROOT, StudyError, Whole, plain, read_text

HUB = "https://huggingface.co/datasets/"
SEARCHED = 1000  # rows, about, of a split that only a search may look at: medmcqa_jp has 182,000 of them
PUBMEDQA_TEST = Path(__file__).with_name("pubmedqa_test_pmids.txt")  # official test_ground_truth.json, MIT
Said = Annotated[str, Field(min_length=1)]


class DataError(StudyError):
    """A data set that can't be reached or read; one sentence with the way out."""


Some = Annotated[list[str], Field(min_length=1)]
Texts = Annotated[list[Said], Field(min_length=1)]
COLUMNS: dict[str, dict] = {  # data set → its columns; the last are those of JMedBench's question answering and document classification
    "pubmedqa": {"QUESTION": Said, "CONTEXTS": Some, "final_decision": Literal["yes", "no", "maybe"]},
    "jaqket_v2": {"question": Said, "answers": TypedDict("Answers", {"text": Texts}),
                  "ctxs": TypedDict("Contexts", {"text": Some, "has_answer": list[bool]})},
    "jcommonsenseqa": {"question": Said} | {f"choice{n}": str for n in range(5)} | {"label": Annotated[Whole, Field(ge=0, le=4)]},
    "jsquad": {"context": Said, "question": Said, "answers": TypedDict("Answers", {"text": Texts})},
    "xwinograd_ja": {"sentence1": Said, "sentence2": Said, "answer": Annotated[Literal["1", "2"], BeforeValidator(str)]},  # a number, too
    "xlsum_ja": {"text": Said, "summary": Said},
    "jcsts": {"premise": Said, "hypothesis": Said, "label": Annotated[Whole, Field(ge=0, le=5)]},
    "": {"question": Said, "options": Annotated[list[str], Field(min_length=2)], "answer_idx": Annotated[Whole, Field(ge=0)],
         "metadata": TypedDict("Metadata", {"context": NotRequired[str]})}}  # fmt: skip
SHAPES = {name: TypeAdapter(TypedDict(name or "MultipleChoice", columns)) for name, columns in COLUMNS.items()}


def _upstream(name: str, row: dict) -> dict:
    """A row as the stock task expects it, of what its file or the hub has today."""
    if name == "pubmedqa" and "question" in row and isinstance(row.get("context"), dict):
        return {**row, "QUESTION": row["question"], "CONTEXTS": row["context"].get("contexts")}
    if name == "jaqket_v2" and isinstance(row.get("answers"), list):
        row = {**row, "answers": {"text": row["answers"]}}
    if name == "jaqket_v2" and isinstance(row.get("ctxs"), list):  # up to a hundred retrieved contexts, of which the task uses the first five
        row = {**row, "ctxs": {key: [c.get(key) for c in row["ctxs"][:5]] for key in ("text", "has_answer")}}
    return row


def _derived(name: str, row: dict) -> dict:
    """What the task's templates use beside a row's own columns."""
    if name == "jcommonsenseqa":
        return {"choices": [row[f"choice{n}"] for n in range(5)]}
    if name == "xwinograd_ja":
        return {"choices": [row["sentence1"].strip(), row["sentence2"].strip()], "label": int(row["answer"]) - 1}
    return {} if name in COLUMNS else {"metadata": {"context": row["metadata"].get("context", "")}}


def load(name: str, path: str, files: dict, needs: list, config: str | None = None, raw: dict | None = None, data_dir: str | None = None, **_):
    """Rows of one data set as the harness wants them, which hands over more than is used; ``name`` picks the schema.

    Of a local ``data_dir`` they are the ``files`` (split → name; a split outside ``needs`` may be missing), else of the hub's repository ``path`` in
    its configuration ``config``, or ``raw`` files of it (split → name) where it is no loadable data set. Returns a ``datasets.DatasetDict`` with one
    checked ``datasets.Dataset`` per split found. A DataError: one sentence that names the data set, the file and line, and where to get a good copy.
    """
    found = {}
    source = _from_folder(name, path, files, needs, raw or {}, data_dir) if data_dir else _from_hub(name, path, files, needs, config, raw)
    for split, rows in source:
        checked = [row for row in (check_row(name, path, where, row) for where, row in rows) if row is not None]
        if checked:
            found[split] = datasets.Dataset.from_list(checked)
    if missing := [split for split in needs if split not in found]:
        copy = f"get a whole copy from {HUB}{path}, put it into a folder as {files[missing[0]]} and name the folder in data_dir"
        raise DataError(f"data set {name}: no usable rows for its {missing[0]} split; {copy}")
    return datasets.DatasetDict(found)


def check_row(name: str, path: str, where: str, row: object) -> dict | None:
    """A row in the data set's schema, or None where the stock data set drops it; a DataError says ``where`` it does not fit."""
    if not isinstance(row, dict):
        raise DataError(f"data set {name}: {where}: not an object with named fields; a good copy is at {HUB}{path}")
    try:
        checked = SHAPES.get(name, SHAPES[""]).validate_python(_upstream(name, row))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"data set {name}: {where}: {'.'.join(map(str, first['loc']))}: {plain(first)}; a good copy is at {HUB}{path}") from None
    if "options" in checked and checked["answer_idx"] >= len(checked["options"]):
        outside = f"answer_idx {checked['answer_idx']} is outside the {len(checked['options'])} options"
        raise DataError(f"data set {name}: {where}: {outside}; a good copy is at {HUB}{path}")
    unanswerable = name == "jaqket_v2" and not any(checked["ctxs"]["has_answer"])  # such a row the stock data set drops
    return None if unanswerable else checked | _derived(name, checked)


def _from_folder(name: str, path: str, files: dict, needs: list, raw: dict, data_dir: str) -> Iterator[tuple[str, list]]:
    folder, place = Path(data_dir).expanduser(), data_dir.removeprefix(f"{ROOT}/")
    for split, file_name in files.items():
        file = next((f for f in (folder / file_name, folder / raw.get(split, file_name)) if f.is_file()), None)
        if file:
            yield split, _read(name, path, file)
        elif split in needs:
            raise DataError(f"data set {name}: no file {file_name} in the folder {place}; get it from {HUB}{path} and put it there")


def _read(name: str, path: str, file: Path) -> list[tuple[str, object]]:
    """Rows of a JSON Lines file (or of one JSON list), each with the place it stands at."""
    try:
        text = read_text(file)
    except StudyError as error:
        raise DataError(f"data set {name}: {error}; a good copy is at {HUB}{path}") from None
    rows, whole = [], file.suffix == ".json"
    for number, line in [(0, text)] if whole else enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append((f"{file.name}, line {number}", json.loads(line)))
            except json.JSONDecodeError as error:
                where = f"{file.name}, line {number or error.lineno}"
                raise DataError(f"data set {name}: {where}: not JSON ({error.msg}); a good copy is at {HUB}{path}") from None
    if whole and rows:
        rows = [(f"{file.name}, row {number}", row) for number, row in enumerate(rows[0][1], 1)]
    if not rows:
        raise DataError(f"data set {name}: {file.name} is empty; a good copy is at {HUB}{path}")
    return rows


def _from_hub(name: str, path: str, files: dict, needs: list, config: str | None, raw: dict | None) -> Iterator[tuple[str, list]]:
    try:
        if raw:
            copies = {split: Path(huggingface_hub.hf_hub_download(path, file, repo_type="dataset")) for split, file in raw.items()}
            loaded = {split: json.loads(copy.read_text(encoding="utf-8")) for split, copy in copies.items()}
        else:
            loaded = datasets.load_dataset(path, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # unreachable, unknown or changed
        way = f"get it from {HUB}{path}, put {' and '.join((raw or files).values())} into a folder and name that folder in data_dir"
        raise DataError(f"data set {name}: {path} can't be loaded from the hub ({type(error).__name__}); {way}") from None
    if name == "pubmedqa":
        loaded = _official_split(loaded["train"])
    for split in files:
        if split in loaded:
            step = 1 if split in needs else max(1, len(loaded[split]) // SEARCHED)
            yield split, [(f"{path}, {split} row {number}", loaded[split][number]) for number in range(0, len(loaded[split]), step)]


def _official_split(rows) -> dict[str, list[dict]]:
    """The hub has all 1,000 labelled rows in one split: the official 500 for the test, the others beside it."""
    official = set(PUBMEDQA_TEST.read_text(encoding="utf-8").split())
    split: dict[str, list[dict]] = {"train": [], "test": []}
    for row in rows:
        split["test" if str(row["pubid"]) in official else "train"].append(row)
    if len(split["test"]) != len(official):
        raise DataError(f"data set pubmedqa: {len(split['test'])} of the {len(official)} official test rows found; see github.com/pubmedqa/pubmedqa")
    return split


def similarity_pair(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """The similarity the model finds likeliest, 0–5, beside the gold one."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"pearson": (float(likelihoods.index(max(likelihoods))), float(doc["label"]))}


def with_and_without_premise(doc: dict) -> list[str]:
    """The two contexts that the hypothesis is read in."""
    return [f"テキスト1：{doc['premise']}\nテキスト2：", "テキスト2："]


def likelihood_pair(doc: dict, results: list[tuple[float, bool]]) -> dict:
    """How much likelier the premise makes the hypothesis, log p(h | p) − log p(h) in nats, beside the gold similarity."""
    (given, _), (alone, _) = results
    return {"pearson": (given - alone, float(doc["label"]))}


def pearson(pairs: list[tuple[float, float]]) -> float:
    """Pearson's r of (prediction, gold) pairs; NaN where it is undefined (fewer than two, or one side constant)."""
    try:
        return correlation(*zip(*pairs, strict=True))
    except StatisticsError:
        return float("nan")
