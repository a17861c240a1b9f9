"""The Snakefile is the pipeline cut into jobs: same files, restarted as little as possible.

A stand-in for papermill writes what each notebook would, so that the plan is tested in seconds; ``make test-jobs``
runs the notebooks.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from xlm_utils import generate
from xlm_utils.benchmark import CONTROLS
from xlm_utils.run import pipeline
from xlm_utils.study import PARAMS, ROOT, open_study
from xlm_utils.study.records import manifest_path

SNAKEFILE = ROOT / "Snakefile"
PAPERMILL = '''
"""Stands in for papermill: writes a notebook's results at once; one that FAIL or KILL (with Snakemake itself) names ends after its first result."""
import json, os, sys
from pathlib import Path

notebook, log, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
part = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
log.write_text("executed")
with open(os.environ["STARTED"], "a") as started:
    started.write(log.stem + "\\n")
for file in map(Path, json.loads(Path(os.environ["RESULTS"]).read_text())[json.dumps([notebook.stem, part], sort_keys=True)]):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("x")
    if log.stem == os.environ.get("FAIL"):
        sys.exit("a notebook failed")
    if log.stem == os.environ.get("KILL"):
        os.killpg(0, 9)
'''


def results(study, home):
    """What the stand-in writes: stage and parameters of a job → its files."""
    found, whole = {}, open_study(study)
    models = dict.fromkeys([*whole.models, *whole.constituents])
    for part in [{}, *({"method": name} for name in models), *({"judge": name} for name in whole.judges)]:
        for stage, files in pipeline.outputs(open_study(study, drive_dir=home, **part)).items():
            files = [str(manifest_path(file) if file.parent.name == "models" else file) for file in files]
            found[json.dumps([stage, {"study": study, **part}], sort_keys=True)] = files
    return found


def test_the_snakefile_has_every_stage_and_no_file_name_of_its_own():
    text = SNAKEFILE.read_text(encoding="utf-8")
    stages = list(pipeline.outputs(open_study("demo")))
    assert list(dict.fromkeys(re.findall(r'^    \*?\[?\("(\d\d_\w+)"', text, flags=re.MULTILINE))) == stages
    assert not re.search(r"\.jsonl|\.csv|\.html|vocabulary|definitions/|scores/", text.split('"""')[2])


def test_what_the_jobs_of_a_stage_leave_is_what_the_stage_leaves():
    """So nothing is made twice, and nothing is left out."""
    study = open_study("paper")
    whole = pipeline.outputs(study)
    for stage, parts in {"03_merge": study.methods, "04_generate": [*study.models, study.by_role("ancestor")], "06_benchmark": study.models}.items():
        jobs = [file for method in parts for file in pipeline.outputs(open_study("paper", method=method))[stage]]
        assert sorted(jobs) == sorted(file for file in whole[stage])
    jobs = [file for judge in study.judges for file in pipeline.outputs(open_study("paper", judge=judge))["05_judge"]]
    assert sorted(jobs) == sorted(whole["05_judge"])


def test_the_jobs_of_notebook_06_ask_for_every_margin_that_the_whole_notebook_asks_for():
    """Also the ancestor's, which is no model of the tables and has no job: its files are no outputs, as a study may have too few definitions."""
    cells = [cell for cell in pipeline.code_of(ROOT / "notebooks" / "06_benchmark.ipynb") if "ask_transfer" in cell]
    asked = {}
    for method in ["all", *open_study("demo").models]:
        own = asked[method] = []
        plan = open_study("demo", method=method)
        ask = SimpleNamespace(CONTROLS=CONTROLS, evaluate=print, ask_transfer=lambda _, terms, run, *rest, own=own: own.append((run.name, *rest[2:])))
        names = {"benchmark": ask, "generate": generate, "merge": SimpleNamespace(ensure=print), "prepared": None, "plan": plan, "method": method}
        names |= {"translate": SimpleNamespace(terms=print), "curate": SimpleNamespace(groups=print)}
        exec("\n".join(cells), names)
    whole, jobs = asked.pop("all"), list(itertools.chain(*asked.values()))
    assert ("ancestor.ja",) in whole
    assert sorted(jobs) == sorted(whole)


@pytest.fixture
def snakemake(tmp_path):
    """A function that runs a study of two methods, then returns (exit status, jobs started, output)."""
    (tmp_path / "papermill").mkdir()
    (tmp_path / "papermill" / "__init__.py").touch()
    (tmp_path / "papermill" / "__main__.py").write_text(PAPERMILL, encoding="utf-8")
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    del preset["sweep"]
    started = tmp_path / "started"

    def run(*options, methods=("slerp", "dare_ties@ancestor#3"), fail="", kill="", checks=False, **settings):
        mine, home = str(tmp_path / "mine.yaml"), str(tmp_path / "home")
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset | settings | {"methods": list(methods)}), encoding="utf-8")
        (tmp_path / "results.json").write_text(json.dumps(results(mine, home)), encoding="utf-8")
        started.write_text("")
        own = {"XLM_HOME": home, "PYTHONPATH": f"{tmp_path}:{ROOT}", "STARTED": str(started), "RESULTS": str(tmp_path / "results.json")}
        own |= {"FAIL": fail, "KILL": kill}
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(tmp_path), "-c2"]
        command += ["--config", f"study={mine}", *options, *([] if checks else ["--no-hooks"])]
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=280, start_new_session=True)
        return done.returncode, sorted(started.read_text().split()), done.stdout + done.stderr

    return run


LAST = ["07_figures", "08_why"]  # show all models
FIRST = ["01_curate", "02_translate", "03_merge+dare_ties@ancestor#3", "03_merge+slerp", "04_generate+ancestor",
         "04_generate+dare_ties@ancestor#3", "04_generate+expert", "04_generate+japanese", "04_generate+slerp", "05_judge+proxy",
         "06_benchmark+dare_ties@ancestor#3", "06_benchmark+expert", "06_benchmark+japanese", "06_benchmark+slerp", *LAST]  # fmt: skip


def test_every_model_and_step_is_a_job_and_a_second_run_starts_none(snakemake, tmp_path):
    assert snakemake()[:2] == (0, FIRST)
    assert snakemake()[:2] == (0, [])
    study = open_study(str(tmp_path / "mine.yaml"), drive_dir=str(tmp_path / "home"))
    for file in itertools.chain(*pipeline.outputs(study).values()):
        assert file.exists() or file.parent.name == "models"


def test_a_new_method_starts_its_own_jobs_and_those_that_show_all_models(snakemake):
    snakemake()
    status, started, _ = snakemake(methods=("slerp", "dare_ties@ancestor#3", "linear"))
    assert (status, started) == (0, ["03_merge+linear", "04_generate+linear", "05_judge+proxy", "06_benchmark+linear", *LAST])


def test_a_changed_setting_plans_every_job_again(snakemake):
    snakemake()
    status, started, out = snakemake("--dry-run", seed=1)
    assert (status, started) == (0, [])
    assert "01_curate" in out


def test_a_failed_job_leaves_the_others_keeps_its_notebook_and_is_taken_up_again(snakemake, tmp_path):
    folder = tmp_path / "home" / "data" / "runs" / "mine"
    status, started, _ = snakemake("--keep-going", fail="04_generate+expert")
    assert status == 1
    assert started == sorted([*(name for name in FIRST if name not in ("05_judge+proxy", *LAST)), "04_generate+expert"])  # tried twice
    assert (folder / "notebooks" / "04_generate+expert.ipynb").read_text() == "executed"
    assert (folder / "definitions" / "expert.reference.jsonl").exists(), "what it had finished is kept"
    assert snakemake()[:2] == (0, ["04_generate+expert", "05_judge+proxy", *LAST])


def test_after_a_kill_and_an_unlock_the_same_line_goes_on(snakemake, tmp_path):
    assert snakemake(kill="04_generate+expert")[0] == -9
    assert (tmp_path / "home" / "data" / "runs" / "mine" / "definitions" / "expert.reference.jsonl").exists()
    assert snakemake("--unlock")[0] == 0
    status, started, out = snakemake()
    assert (status, "04_generate+expert" in started, "01_curate" in started) == (0, True, False), out[-2000:]


def test_checks_come_first_and_stop_every_job(snakemake):
    status, started, out = snakemake(checks=True, benchmarks={"data_dir": "nowhere"})
    assert (status, started) == (1, [])
    assert "data_dir: there is no folder nowhere" in out
