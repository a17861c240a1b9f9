"""All eight notebooks of a study, headless: ``python -m xlm_utils.run.pipeline demo``.

A stage whose notebook, settings and inputs are those of its last finished run, and whose results are
still there, starts no kernel. A killed run goes on where it stopped, because every notebook does.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from xlm_utils import benchmark
from xlm_utils.ask.cards import Card, load_card
from xlm_utils.benchmark.prepared import columns
from xlm_utils.generate.generation import runs
from xlm_utils.judge import people
from xlm_utils.models.constituents import locate, source
from xlm_utils.run.preflight import preflight
from xlm_utils.study import PARAMS, ROOT, Study, StudyError, open_study, relative
from xlm_utils.study.names import is_file, split_name
from xlm_utils.study.records import digest, fingerprint, read_manifest, sha256, write_json

NOTEBOOKS = ROOT / "notebooks"


def outputs(study: Study) -> dict[str, list[Path]]:
    """What each stage leaves behind when it runs for the study's ``method`` and ``judge``, in running order."""

    def chosen(names: Iterable[str]) -> list[str]:
        return [name for name in names if study.method in ("all", name)]

    def judged(card: Card) -> list[Path]:
        if card.client == "people" and not card.sheet:  # has scores once people have rated; a sheet that comes in makes the stage run again
            return [study.folder / card.name / f"{card.round}.key.csv", *people.files(study, card)[1]]
        return [study.folder / "scores" / card.name / f"{run}.jsonl" for run in scored]

    folder, names = study.folder, [run.name for run in runs(study) if chosen([run.model])]
    scored = [name for name in names if not name.endswith(".reference")]
    table2 = ("table2.csv", "table2.html") if columns(study) else ()
    return {
        "01_curate": [folder / "vocabulary.csv"],
        "02_translate": [folder / "translated.csv", folder / "terms.csv"],
        "03_merge": [study.models_folder / method for method in chosen(study.methods)],
        "04_generate": [folder / "definitions" / f"{name}.jsonl" for name in names],
        "05_judge": [file for card in map(load_card, study.judges) for file in judged(card)],
        "06_benchmark": [study.benchmarks_folder / f"{model}.json" for model in chosen(study.models)],
        "07_figures": [study.figures / name for name in ("table1.csv", "table1.html", *table2, "figure1.html")],
        "08_why": [study.figures / f"{name}.html" for name in ("lens", "meeting", "knockout", "kept", "lost")]}  # fmt: skip


def code_of(notebook: Path) -> list[str]:
    """A notebook's code cells; its prose and outputs change no result."""
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def stage_key(study: Study, notebook: Path, before: str) -> str:
    """Hash of what a stage depends on: the notebook's code, the study's settings, all cards and prompts, and the stages before it."""
    cards = {file.relative_to(PARAMS).as_posix(): sha256(file) for file in sorted(PARAMS.glob("*/*"))}
    return fingerprint([code_of(notebook), study.settings.model_dump(), cards, before])


def is_done(record: Path, key: str, files: list[Path]) -> bool:
    """Whether the stage's record has this key and every result is there, unchanged."""
    if not record.exists():
        return False
    saved = json.loads(record.read_text(encoding="utf-8"))
    return saved["key"] == key and saved["outputs"] == {relative(f): digest(f) for f in files if f.exists() and (f.is_file() or read_manifest(f))}


def execute(notebook: Path, output: Path, parameters: dict, again: bool = False) -> None:
    """Run one notebook in a fresh kernel, keeping the executed copy also when it fails."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output.parent.mkdir(parents=True, exist_ok=True)
    quiet = Config(KernelManager={"transport_encryption": "auto"})  # a kernel that could encrypt warns where it doesn't
    try:
        papermill.execute_notebook(notebook, output, parameters, kernel_name="python3", cwd=NOTEBOOKS, progress_bar=sys.stderr.isatty(), config=quiet)
    except PapermillExecutionError as error:
        raise StudyError(f"{notebook.name} failed: {error.ename}: {error.evalue} (see {relative(output)})") from None
    except DeadKernelError:
        raise StudyError(f"{notebook.name}: its kernel was killed (by hand, or for want of memory); run again to go on") from None
    except RuntimeError as error:
        if again or "Kernel died before replying" not in str(error):
            raise
        print(f"{notebook.name}: the kernel did not start (ports can collide); trying once more")
        execute(notebook, output, parameters, again=True)


def fetch(study: Study) -> None:
    """Check what stages without results need, but for this machine's memory, and bring weights and data sets here, for nodes without a network."""
    preflight(study, {stage for stage, files in outputs(study).items() if not all(f.exists() for f in files)}, here=False)
    for name in study.constituents:
        print(f"  here  model {name}: {digest(locate(study, name))[:12]}", flush=True)
    print(f"  here  data sets: {len(benchmark.prepare(study).tasks)}")


def from_anywhere(name: str) -> str:
    """A study as a notebook, whose kernel runs in another folder, can open it: a file by its whole path."""
    preset, _ = split_name(name)
    return str(Path(preset).resolve()) + name.removeprefix(preset) if is_file(preset) else name


def run(name: str, judge_base_url: str = "") -> None:
    """Run a study's stages in order and print seconds per stage and where the results are; another address is for translator and judges."""
    study = open_study(name)
    parameters = {} if name == "demo" else {"study": from_anywhere(name)}  # the notebooks' own default is the demo
    times, before, checked = {}, "", False
    for number, (stage, files) in enumerate(outputs(study).items()):
        notebook, record = NOTEBOOKS / f"{stage}.ipynb", study.folder / "stages" / f"{stage}.json"
        started, key = time.monotonic(), stage_key(study, notebook, before)
        if is_done(record, key, files):
            print(f"{stage}: nothing to do", flush=True)
            times[stage] = "kept"
        else:
            if not checked:
                preflight(study, list(outputs(study))[number:], base_url=judge_base_url)
            checked = True
            print(f"{stage}: running", flush=True)
            asked_at = {"judge_base_url": judge_base_url} if judge_base_url and stage in ("02_translate", "05_judge") else {}
            execute(notebook, study.folder / "notebooks" / notebook.name, parameters | asked_at)
            if lacking := [relative(f) for f in files if not f.exists()]:
                raise StudyError(f"{stage} ended without {', '.join(lacking)} (see {relative(study.folder / 'notebooks')})")
            sources = {name: source(study, name) for name in study.constituents} if stage in ("03_merge", "04_generate", "06_benchmark") else {}
            write_json(record, {"key": key, "outputs": {relative(f): digest(f) for f in files}, "sources": sources})
            times[stage] = f"{time.monotonic() - started:.0f}"
        before = fingerprint([key, {relative(f): digest(f) for f in files}])
    print("\nstage                seconds")
    for stage, seconds in times.items():
        print(f"{stage:<20} {seconds:>7}")
    print(f"\ntables and figures  {relative(study.figures)}/\nexecuted notebooks  {relative(study.folder / 'notebooks')}/")


def main() -> None:
    """Command line: the name of a study."""
    parser = argparse.ArgumentParser(description="Run a study's eight notebooks, resuming where they stopped.")
    parser.add_argument("study", nargs="?", default="demo")
    parser.add_argument("--check", action="store_true", help="only the checks before all of its stages")
    parser.add_argument("--judge_base_url", default="", help="another address for the judges and an LLM that translates, such as a local server's")
    parser.add_argument("--fetch", action="store_true", help="only checks, not of this machine's memory, and downloads")
    asked = parser.parse_args()
    try:
        if asked.check:
            study = open_study(asked.study)
            preflight(study, list(outputs(study)), base_url=asked.judge_base_url)
        elif asked.fetch:
            fetch(open_study(asked.study))
        else:
            run(asked.study, asked.judge_base_url)
    except (StudyError, OSError) as error:  # a full or read-only disk, too
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; what is done is kept, run again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
