"""docs/bring-your-own.md does what it says: its files are written and its commands run, in a copy of the project."""

import json
import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from tests.support.loopback import SERVED, Loopback
from xlm_utils.study import ROOT

PAGE = ROOT / "docs" / "bring-your-own.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LOCAL = "http://127.0.0.1:8000/v1"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project's files in another folder, as git would hand them out."""
    target = tmp_path_factory.mktemp("copy")
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("figures/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


# what no table or figure of a study of astronomy in French may speak of
ELSEWHERE = re.compile(r"clinic|medic|japan|\bHPO\b|SNOMED|JMdict|organ system|benchmark|(?<!\.)published|[ぁ-ヿ一-鿿]", re.IGNORECASE)


def answer(prompt):
    """A judge's and a translator's reply."""
    return json.dumps({"translation": f"mot{len(prompt)}", "established": True} if "Translate" in prompt else {"score": 7})


@pytest.mark.timeout(1800)
def test_every_block_of_the_page_works_in_its_order(copy):
    environment = {**os.environ, "PYTHONPATH": str(copy), "TQDM_DISABLE": "1"}
    environment.setdefault("XLM_CACHE", str(ROOT / "data" / "cache"))
    environment.pop("XLM_SMOKE", None)
    commands = 0
    said = ""
    with Loopback(answer=answer) as server:
        for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if kind == "bash":
                for line in text.strip().splitlines():
                    command = [sys.executable, "-m", *shlex.split(line.replace(LOCAL, server.openai).removeprefix("python -m "))]
                    small = {"XLM_SMOKE": "1"} if "french" in line and "--check" not in line else {}
                    done = subprocess.run(command, cwd=copy, env=environment | small, capture_output=True, text=True)
                    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
                    commands, said = commands + 1, said + done.stdout
            else:
                first, _, rest = text.partition("\n")
                (copy / first.removeprefix("# ")).parent.mkdir(parents=True, exist_ok=True)
                (copy / first.removeprefix("# ")).write_text(rest, encoding="utf-8")
    assert commands == 9
    assert "ok  task einfach: 3 items\n" in said
    assert "ok  terminology csv: words.csv: 6 different terms of the list → 6 translated → 6 run" in said
    assert "ok  terminology csv: stars.csv: 8 different terms of the list → what has no translation, by local\n" in said
    sheet = (copy / "data" / "runs" / "german" / "people" / "round1.html").read_text(encoding="utf-8")
    rubric = re.search(r'"rubric": "(.*?)", "rows"', sheet)[1]
    assert "Rating a definition in German" in rubric
    assert not re.search(r"\{|japan", rubric, re.IGNORECASE)
    folder = copy / "data" / "runs" / "german"
    assert (folder / "models" / "weak_ties" / "model.safetensors").exists()
    assert len((folder / "scores" / "local" / "weak_ties.jsonl").read_text(encoding="utf-8").splitlines()) == 12  # six words, two references
    prompts = [prompt for prompt in server.prompts if "astronomy" in prompt]
    assert prompts
    assert not [prompt for prompt in prompts if ELSEWHERE.search(prompt)]
    there = (copy / "figures" / "french+smoke=1").glob("[!b]*")  # beside.csv is of both studies
    files = [file for file in there if file.suffix in (".csv", ".json") or file.with_suffix(".csv").exists()]
    assert {"table1.csv", "figure1.json", "forest.json", "transfer.csv", "lens.json"} <= {file.name for file in files}
    assert not [(file.name, found[0]) for file in files if (found := ELSEWHERE.search(file.read_text(encoding="utf-8")))]
    assert not (copy / "figures" / "french+smoke=1" / "table2.csv").exists()
    beside = pd.read_csv(copy / "figures" / "french+smoke=1" / "beside.csv", index_col="model")
    assert beside.loc["linear", "published: GPT-4o, expert: mean"] == 5.33
    assert beside.loc["general", "here: local, vocabulary: mean"] == 7
    kept = copy / "data" / "runs" / "french+smoke=1" / "results"
    assert sorted(file.name for file in kept.iterdir()) == ["about.yaml", "table1.csv"]
    assert yaml.safe_load((kept / "about.yaml").read_text(encoding="utf-8"))["judges"] == {"local": SERVED["openai"]}


def test_the_commands_without_a_study_have_the_options_that_their_page_names():
    page = (ROOT / "docs" / "without-a-study.md").read_text(encoding="utf-8")
    named = re.findall(r"^python -m (xlm_utils\.\S+)", page, flags=re.MULTILINE)
    assert named == ["xlm_utils.run.compare", "xlm_utils.run.inspect"]
    for module, part in zip(named, page.split("\n## ")[1:], strict=True):
        told = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        ours = "\n".join(line for line in part.splitlines() if not line.startswith("lm-eval"))
        options = set(re.findall(r"--[a-z]+", ours)) - {"--limit", "--log"}  # of lm-eval and inspect_ai
        assert options
        assert options <= set(re.findall(r"--[a-z]+", told))
