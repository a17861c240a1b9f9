"""`make rehearse`: the paper's run from its first check to its last figure, with only the far end of each wire replaced.

The working tree is copied to a scratch folder, so that nothing lands in the user's. There the same command runs
the same notebooks with the same YAML; the hub, the two judges and the SNOMED CT release are stand-ins
(``hub.py`` with ``published.py``, ``loopback.py``, ``rf2.py``), reached through the clients' own settings.

With ``--second`` the study is another pair's (``second_pair.py``): Spanish, parents of different vocabularies, an answer key and a
published merge beside them, HPO's own translations, no benchmarks. With ``--wild`` the parents are as many are in the wild:
the general model's tokenizer is a ``tokenizer.model`` alone, and the expert is an adapter of the ancestor, which the copy of its
pair's file then names. Its search is short there.
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

from tests.support import published, second_pair
from tests.support.hub import TOKEN, Hub
from tests.support.loopback import Loopback
from xlm_utils.models.weights import Tensors, eos_ids
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


def run(tree: Path, settings: dict[str, str], study: str) -> str:
    """`make study STUDY=…`, shown as it goes."""
    command = [sys.executable, "-m", "xlm_utils.run.pipeline", study]
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


def second_findings(tree: Path) -> list[str]:
    """What is not as the second pair's run must leave it, one line each."""
    folder, figures = tree / "data" / "runs" / "spanish", tree / "figures" / "spanish"
    table1, terms = (pd.read_csv(file) for file in (figures / "table1.csv", folder / "terms.csv"))
    wrong, labels = [], ["Spanish medical model", "Published merge"]
    if len(terms) != second_pair.ASKED or not set(terms["translation"]) <= {row[2] for row in second_pair.TERMS}:
        wrong.append(f"terms.csv has {terms['translation'].tolist()}")
    counts = table1[[name for name in table1 if name.endswith(": n")]]
    if not set(labels) <= set(table1["model"]) or len(table1) != 11 or (counts != second_pair.ASKED).any(axis=None):
        wrong.append(f"Table 1: {table1['model'].tolist()}, {counts.to_dict('list')}")
    if not (figures / "figure1.html").is_file() or (figures / "table2.csv").exists():
        wrong.append("no Figure 1, or a Table 2 where none was asked")
    general, there = (Tensors(next(iter((tree.parent / "hub").glob(f"hub/models--{id.replace('/', '--')}/snapshots/*"))))
                      for id in (second_pair.SPANISH, published.ANCESTOR))  # fmt: skip
    known = [second_pair.tokenizer(*about).get_vocab() for about in ((460, ("es", "en")), (420, ("en",)))]
    own = sorted(known[0][token] for token in known[0].keys() - known[1].keys())
    for name in ("slerp", "ties", "dare_ties@ancestor", "linear", "evo_dare_ties"):
        merged, made = Tensors(folder / "models" / name), json.loads((folder / "models" / f"{name}.manifest.json").read_text(encoding="utf-8"))
        rows = [tensor[own] for tensors in (merged, general) for tensor in (tensors["model.embed_tokens.weight"], tensors["lm_head.weight"])]
        same = rows[0].equal(rows[2]) and rows[1].equal(rows[3]) and not merged["lm_head.weight"].equal(general["lm_head.weight"])
        if not same or not {"key", "theirs"}.isdisjoint(made["sources"]) or eos_ids(folder / "models" / name) != [1, 5]:
            wrong.append(f"{name}: rows of its own {same}, made from {list(made['sources'])}, stops at {eos_ids(folder / 'models' / name)}")
    if not own or there.shapes["lm_head.weight"] == general.shapes["lm_head.weight"]:
        wrong.append("the vocabularies do not differ")
    speaks = re.compile(r"japan|[ぁ-ヿ一-鿿]", re.IGNORECASE)
    for file in [*figures.glob("*.csv"), *figures.glob("*.json")]:
        if found := speaks.search(file.read_text(encoding="utf-8")):
            wrong.append(f"{file.name} of a Spanish study says {found[0]!r}")
    return wrong


def complaints(tree: Path, study: str) -> list[str]:
    """Lines that the notebooks wrote to standard error: progress bars aside, a reader can't act on any."""
    found = []
    for path in sorted((tree / "data" / "runs" / study / "notebooks").glob("*.ipynb")):
        outputs = [output for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", [])]
        text = "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")
        found += [f"{path.stem}: {line}" for line in re.split(r"[\r\n]+", text) if line.strip() and "it/s" not in line and "call/s" not in line]
    return found


def main() -> None:
    """Rehearse, check what came out, and run once more: nothing may be left to do."""
    wild, second, started = "--wild" in sys.argv[1:], "--second" in sys.argv[1:], time.monotonic()
    study, say = ("spanish", second_pair.answer) if second else ("paper", answer)
    scratch = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    with ExitStack() as servers:
        hub = servers.enter_context(Hub())
        _ = second_pair.fill(hub) if second else published.fill(hub, wild=wild)
        openai = servers.enter_context(Loopback(["ok"] * 40 + ["429_after", "ok"], answer=say, shutdown_date="2027-01-14"))
        gemini = servers.enter_context(Loopback(answer=lambda prompt: say(prompt, 1.6)))
        tree = copy_of_the_tree(scratch / "tree")
        if second:
            second_pair.write(tree)
        else:
            published.release().write(tree / "data" / "raw" / "snomed" / "SnomedCT_Rehearsal")
        if wild:
            with_adapter(tree)
        settings = environment(scratch, hub, openai, gemini)
        run(tree, settings, study)
        found = second_findings(tree) if second else findings(tree, hub, wild)
        wrong, calls = found + complaints(tree, study), len(openai.prompts) + len(gemini.prompts)
        if "running" in run(tree, settings, study) or len(openai.prompts) + len(gemini.prompts) != calls:
            wrong.append("a second run did something again")
    if wrong:
        sys.exit("\n".join(["the rehearsal came out wrong:", *wrong, f"(its files are kept in {scratch})"]))
    shutil.rmtree(scratch)
    print(f"rehearsed in {time.monotonic() - started:.0f} s: {calls} calls of two judges, {len(hub.requests)} requests to the hub")


if __name__ == "__main__":
    main()
