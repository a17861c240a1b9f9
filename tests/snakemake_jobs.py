"""`make test-jobs`: the notebooks as Snakemake's jobs leave what the pipeline leaves. Outside `make test`: each job starts a kernel of its own."""

import os
import re
import subprocess
import sys

import pytest

from xlm_utils.study import ROOT
from xlm_utils.study.records import sha256

RESULT = re.compile(r"\.(csv|jsonl|safetensors|html)$|/benchmarks/\w+\.json$")  # manifests tell how a file was made: which of two equal ones first


@pytest.mark.timeout(2400)
def test_jobs_that_run_beside_each_other_leave_the_pipeline_s_files(tmp_path):
    """At smoke size. With -c8 two jobs that need a model run at once, and both find the cache empty."""
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "-c8"]
    commands = {"pipeline": [sys.executable, "-m", "xlm_utils.run.pipeline"], "jobs": snakemake}
    found = {}
    for name, command in commands.items():
        home = tmp_path / name
        environment = {**os.environ, "XLM_SMOKE": "1", "XLM_HOME": str(home), "XLM_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "4"}, check=True, timeout=1200)
        found[name] = {file.relative_to(home).as_posix(): sha256(file) for file in home.rglob("*") if file.is_file() and RESULT.search(str(file))}
    assert found["jobs"].keys() == found["pipeline"].keys()
    assert [name for name in found["pipeline"] if found["jobs"][name] != found["pipeline"][name]] == []
