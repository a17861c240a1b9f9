"""`make rehearse`: the paper's run from its first check to its last figure, with only the far end of each wire replaced.

The working tree is copied to a scratch folder, so that nothing lands in the user's. There the same command runs
the same notebooks with the same YAML; the hub, the two judges and the SNOMED CT release are stand-ins
(``hub.py`` with ``published.py``, ``loopback.py``, ``rf2.py``), reached through the clients' own settings.

With ``--wild`` the parents are as many are in the wild: the general model's tokenizer is a ``tokenizer.model`` alone, and
the expert is an adapter of the ancestor, which the copy of its pair's file then names. Its search is short there.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from tests.support import published
from tests.support.hub import TOKEN, Hub
from tests.support.loopback import Loopback
from xlm_utils.study import ROOT

MODELS = ["japanese", "expert", "slerp", "ties", "linear", "task_arithmetic", "dare_ties", "evo_dare_ties"]
JUDGES = {"gpt-4o": "GPT-4o", "gemini-1.5-pro": "Gemini 1.5 Pro"}
COLUMNS = ["pubmedqa", "jaqket_v2", "jcommonsenseqa", "jsquad", "xwinograd_ja", "xlsum_ja", "mcqa", "dc", "sts"]


def answer(prompt: str, strictness: float = 2) -> str:
    """What a judge who knows the invented terms says: a translation, or the likeness of a definition to a right one."""
    row = next(row for row in published.TERMS if json.dumps(row[0].capitalize()) in prompt)
    if prompt.startswith("Translate"):
        return json.dumps({"translation": row[1], "established": True})
    quoted = {field: json.loads(text) for field, text in re.findall(r'^(.*?): (".*")$', prompt, re.MULTILINE)}
    names = (("Reference definition", "Definition to grade"), ("Reference description", "Description to rate"))  # of the two wordings
    reference, given = next((quoted[one], quoted[other]) for one, other in names if one in quoted)
    likeness = max(difflib.SequenceMatcher(None, given, right).ratio() for right in (reference, row[3]))
    return json.dumps({"score": int(10 * likeness**strictness)})


def copy_of_the_tree(folder: Path) -> Path:
    """The files that git knows or would add, without the runs, caches and raw data that it ignores."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def environment(scratch: Path, hub: Hub, openai: Loopback, gemini: Loopback) -> dict[str, str]:
    """This process's variables, with the clients' own settings pointing at the stand-ins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XLM_", "OPENAI_", "GEMINI_", "GOOGLE_"))}
    return kept | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(scratch / "hub"), "HF_TOKEN": TOKEN, "XLM_CACHE": str(scratch / "cache"),
        "OPENAI_BASE_URL": openai.openai, "OPENAI_API_KEY": "sk-rehearsal", "GOOGLE_GEMINI_BASE_URL": gemini.root,
        "GEMINI_API_KEY": "rehearsal", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip


def run(tree: Path, settings: dict[str, str]) -> str:
    """`make study STUDY=paper`, shown as it goes."""
    command = [sys.executable, "-m", "xlm_utils.run.pipeline", "paper"]
    with subprocess.Popen(command, cwd=tree, env=settings, stdout=subprocess.PIPE, text=True) as process:
        lines = [print(line, end="", flush=True) or line for line in process.stdout]
    if process.returncode:
        sys.exit(f"the rehearsal failed (its files are kept in {tree})")
    return "".join(lines)


def with_adapter(tree: Path) -> None:
    """Let the copied study's expert be the ancestor with an adapter, and its search short."""
    changes = {
        "paper": ("evaluations: 200", "evaluations: 20"),
        "pairs/suzume-biomedical": (f"weights: {published.EXPERT},", f"weights: ancestor, adapter: {published.ADAPTER},"),
    }
    for name, (old, new) in changes.items():
        file = tree / "params" / f"{name}.yaml"
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        file.write_text(text.replace(old, new), encoding="utf-8")


def findings(tree: Path, hub: Hub, wild: bool = False) -> list[str]:
    """What is not as the paper's run must leave it, one line each."""
    folder = tree / "data" / "runs" / "paper"
    figures = folder / "figures"  # of SNOMED CT: not in the repository
    wrong = [f"no {name}" for name in ("table1.csv", "table2.csv", "figure1.html") if not (figures / name).is_file()]
    if wrong:
        return wrong
    table1, table2 = (pd.read_csv(figures / name, index_col="model") for name in ("table1.csv", "table2.csv"))
    for judge in JUDGES.values():
        columns = {column.rpartition(": ")[2]: column for column in table1 if column.startswith(f"{judge}, against")}
        measured = table1[list(columns.values())].rename(columns={column: name for name, column in columns.items()})
        if list(measured["n"]) != [len(published.TERMS)] * len(table1) or measured["mean"].isna().any() or measured["missing"].any():
            wrong.append(f"Table 1, {judge}: {measured.to_dict('list')}")
    measured = table2[[column for column in table2 if column.endswith(": value")]]
    if measured.shape != (len(MODELS), len(COLUMNS)):
        wrong.append(f"Table 2 has {measured.shape[0]} models and {measured.shape[1]} columns")
    wrong += [f"Table 2, {column}" for column in measured if measured[column].isna().any() and "STS" not in column]  # no r of a constant
    for model in MODELS:
        result = json.loads((folder / "benchmarks" / f"{model}.json").read_text(encoding="utf-8"))
        if result["unavailable"] or list(result["columns"]) != COLUMNS or len(result["datasets"]) != 18:  # the similarity is scored in two ways
            wrong.append(f"benchmarks of {model}: {list(result['datasets'])}, unavailable {result['unavailable']}")
    made = [*(folder / name for name in ("vocabulary.csv", "translated.csv", "terms.csv")), *(folder / "models" / name for name in MODELS[2:])]
    results = [path for kind in ("definitions/*.jsonl", "scores/*/*.jsonl", "benchmarks/*.json*", "*.jsonl") for path in folder.glob(kind)]
    for path in [*made, *(path for path in results if not path.name.endswith(".manifest.json"))]:
        if not path.with_name(f"{path.name}.manifest.json").is_file():
            wrong.append(f"{path.relative_to(tree)} has no manifest")
    sources = json.loads((folder / "models" / "ties.manifest.json").read_text(encoding="utf-8"))["sources"]
    parents = {"japanese": published.JAPANESE, "expert": published.ANCESTOR if wild else published.EXPERT}
    expected = {name: f"{id}@{hub.repositories['models', id].commit}" for name, id in parents.items()}
    expected["expert"] += f" + {published.ADAPTER}" if wild else ""
    if sources != expected:
        wrong.append(f"the manifest of a merge names {sources}")
    fetched = [path for method, path in hub.requests if method == "GET" and "/storage/" in path and path.endswith(".safetensors")]
    if len(fetched) != len(set(fetched)):
        wrong.append("a file of a model was downloaded twice")
    return wrong


def complaints(tree: Path) -> list[str]:
    """Lines that the notebooks wrote to standard error: progress bars aside, a reader can't act on any."""
    found = []
    for path in sorted((tree / "data" / "runs" / "paper" / "notebooks").glob("*.ipynb")):
        outputs = [output for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])]
        text = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
        found += [f"{path.stem}: {line}" for line in re.split(r"[\r\n]+", text) if line.strip() and "it/s" not in line and "call/s" not in line]
    return found


def main() -> None:
    """Rehearse, check what came out, and run once more: nothing may be left to do."""
    wild, started = "--wild" in sys.argv[1:], time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    with ExitStack() as servers:
        hub = published.fill(servers.enter_context(Hub()), wild=wild)
        openai = servers.enter_context(Loopback(["ok"] * 40 + ["429_after", "ok"], answer=answer, shutdown_date="2027-01-14"))
        gemini = servers.enter_context(Loopback(answer=lambda prompt: answer(prompt, strictness=1.6)))
        tree = copy_of_the_tree(scratch / "tree")
        published.release().write(tree / "data" / "raw" / "snomed" / "SnomedCT_Rehearsal")
        if wild:
            with_adapter(tree)
        settings = environment(scratch, hub, openai, gemini)
        run(tree, settings)
        wrong, calls = findings(tree, hub, wild) + complaints(tree), len(openai.prompts) + len(gemini.prompts)
        second = run(tree, settings)
        if "running" in second or len(openai.prompts) + len(gemini.prompts) != calls:
            wrong.append("a second run did something again")
    if wrong:
        sys.exit("\n".join(["the rehearsal came out wrong:", *wrong, f"(its files are kept in {scratch})"]))
    shutil.rmtree(scratch)
    print(f"rehearsed in {time.monotonic() - started:.0f} s: {calls} calls of two judges, {len(hub.requests)} requests to the hub")


if __name__ == "__main__":
    main()
