"""docs/bring-your-own.md does what it says: its files are written and its commands run, in a copy of the project."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.support.loopback import Loopback
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


@pytest.mark.timeout(900)
def test_every_block_of_the_page_works_in_its_order(copy):
    environment = {**os.environ, "PYTHONPATH": str(copy), "TQDM_DISABLE": "1"}
    environment.setdefault("XLM_CACHE", str(ROOT / "data" / "cache"))
    environment.pop("XLM_SMOKE", None)
    commands = 0
    with Loopback() as server:
        for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if kind == "bash":
                for line in text.strip().splitlines():
                    command = [sys.executable, "-m", *shlex.split(line.replace(LOCAL, server.openai))]
                    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
                    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
                    commands += 1
            else:
                first, _, rest = text.partition("\n")
                (copy / first.removeprefix("# ")).parent.mkdir(parents=True, exist_ok=True)
                (copy / first.removeprefix("# ")).write_text(rest, encoding="utf-8")
    assert commands == 5
    assert (copy / "data" / "runs" / "german" / "people" / "round1.html").exists()
    folder = copy / "data" / "runs" / "german"
    assert (folder / "models" / "weak_ties" / "model.safetensors").exists()
    assert len((folder / "scores" / "local" / "weak_ties.jsonl").read_text(encoding="utf-8").splitlines()) == 12  # six words, two references


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
