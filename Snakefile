"""A study's notebooks as jobs, one a model and step, for a cluster that exists already:

    pip install -e ".[cluster]" snakemake-executor-plugin-slurm
    snakemake --config study=paper --executor slurm --jobs 20 --keep-going --default-resources slurm_partition=…

File names are the pipeline's, and a job is the line that a person types. Snakemake decides which notebooks start:
after a failure or a change, run the same line again (after a kill of Snakemake itself, once with ``--unlock``
before). What a notebook that starts does anew is decided by the manifests, so one that starts without need does no
work. Results are never deleted: not before a job (``update``), nor when it fails (``profiles/default``).
"""

import shlex
import subprocess
import sys

from xlm_utils.study.names import parse
from xlm_utils.generate import runs
from xlm_utils.run.pipeline import NOTEBOOKS, code_of, from_anywhere, outputs
from xlm_utils.study.records import fingerprint, manifest_path
from xlm_utils.study import PARAMS, open_study

NAME = from_anywhere(config.get("study", "demo"))
STUDY = open_study(NAME)
HERE = {"mem_mb": 8_000, "runtime": 240}  # MB and minutes; no GPU, so these run where Snakemake does, which has the network and the keys
NODE = {"gpu": 1, "mem_mb": 64_000, "runtime": 720}  # enough for 8B models; --set-resources changes it for one rule
THREADS = {"03_merge": 4, "04_generate": 4, "06_benchmark": 4, "08_why": 4}


def files(stage, **part):
    """Results of a stage, or of its part for one method or judge; a merge is a folder, and its manifest is written last."""
    made = outputs(open_study(NAME, **part))[stage]
    return [str(manifest_path(file) if file.parent == STUDY.models_folder else file) for file in made]


def card(method):
    return str(PARAMS / "methods" / f"{parse(method).card}.yaml")


def rater(judge):
    """A judge's card, and the sheets that people have filled."""
    return [str(PARAMS / "judges" / f"{judge}.yaml"), *(file for file in files("05_judge", judge=judge) if "/filled/" in file)]


PROMPTS = [str(PARAMS / "prompts" / language.prompt) for language in (STUDY.source, STUDY.target)]
MERGE = {method: files("03_merge", method=method) for method in STUDY.methods}
RATING = str(PARAMS / "prompts" / STUDY.judging.prompt)
JOBS = [  # stage, the notebook parameter that makes it a part, what it reads, what it needs
    ("01_curate", {}, [], HERE),
    ("02_translate", {}, files("01_curate"), HERE),
    *[("03_merge", {"method": method}, [card(method)], NODE) for method in STUDY.methods],
    *[("04_generate", {"method": model}, [*PROMPTS, *files("02_translate"), *MERGE.get(model, [])], NODE)
      for model in dict.fromkeys(run.model for run in runs(STUDY))],
    # a judge's rate limit and controls are one process's: a job a judge, not one a model and judge
    *[("05_judge", {"judge": judge}, [*rater(judge), RATING, *files("04_generate")], HERE) for judge in STUDY.judges],
    *[("06_benchmark", {"method": model}, MERGE.get(model, []), NODE) for model in STUDY.models],
    ("07_figures", {}, files("05_judge") + files("06_benchmark"), HERE),
    ("08_why", {}, files("07_figures"), NODE),  # by way of 07 all the others
]


rule all:
    input: files("08_why")


onstart:  # checks and downloads, before anything is paid for, and here: nodes may have no network
    if subprocess.run([sys.executable, "-m", "xlm_utils.run.pipeline", NAME, "--fetch"]).returncode:
        sys.exit(1)


for stage, part, reads, needs in JOBS:
    name = "+".join([stage, *part.values()])

    rule:
        name: name
        input: reads
        output: [update(file) for file in files(stage, **part) if file not in reads]
        log: str(STUDY.folder / "notebooks" / f"{name}.ipynb")
        params:
            notebook=str(NOTEBOOKS / f"{stage}.ipynb"),
            line=shlex.join(word for key, value in {"study": NAME, **part}.items() for word in ("-p", key, value)),
            depends=fingerprint([code_of(NOTEBOOKS / f"{stage}.ipynb"), STUDY.settings.model_dump(exclude={"methods"})]),
        threads: THREADS.get(stage, 1)
        resources: **needs
        localrule: needs is HERE
        retries: 1  # kernels that start at once can collide on a port
        shell: "{sys.executable} -m papermill {params.notebook:q} {log:q} --cwd {NOTEBOOKS:q} --kernel python3 --no-progress-bar {params.line}"
