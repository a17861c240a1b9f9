"""Bad input, made and handed in: a scratch copy of ``params`` and builders of the cases that ``bad_input`` lists.

A case is an id, what is done with its input and what is right: words that the sentence must hold, or a value that the
input must be taken as. A builder gets a ``Scratch``, whose methods write files and open or check studies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.support.loopback import Loopback
from xlm_utils.ask import cards
from xlm_utils.ask.calls import run_calls
from xlm_utils.judge import judging
from xlm_utils.run import pipeline
from xlm_utils.run.preflight import preflight
from xlm_utils.study import PARAMS, ROOT, StudyError, inputs, names, open_study
from xlm_utils.study import study as study_module
from xlm_utils.translate import translation

LIMIT = 120  # s for a case; MergeKit or the tagger loads slowly where others use the cores, too
HOLDERS = [inputs, names, study_module, cards, pipeline]  # modules that look into params


class Scratch:
    """A folder of its own with a copy of ``params``, in which a case writes its input."""

    def __init__(self, folder: Path):
        self.folder, self.params = folder, folder / "params"
        shutil.copytree(PARAMS, self.params)
        for module in HOLDERS:
            module.PARAMS = self.params
        os.environ["XLM_HOME"] = str(folder / "home")

    def write(self, file: str, content: str | bytes | dict) -> Path:
        """A file of ``params`` from a text, bytes or a mapping."""
        path = self.params / file
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False) if isinstance(content, dict) else content
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def demo(self, edit: Callable[[dict], object] | None = None) -> dict:
        """The demo's preset, edited in place."""
        preset = yaml.safe_load((self.params / "demo.yaml").read_text(encoding="utf-8"))
        if edit:
            edit(preset)
        return preset

    def check(self, content: str | bytes | dict, *stages: str) -> str:
        """``--check`` of a study with this content, for some of its stages (by default, the ones without a model)."""
        path = self.write("case.yaml", content)
        study = open_study(str(path))
        pipeline.outputs(study)
        said = StringIO()
        with redirect_stdout(said):
            preflight(study, stages or ("01_curate", "02_translate", "05_judge"))
        return said.getvalue().strip().splitlines()[-1].strip()


class Case(NamedTuple):
    """One bad input: what is done with it, and what is right."""

    id: str
    act: Callable[[Scratch], object]
    right: str | tuple = ""  # a pattern that the sentence must hold, or (value,): what must come instead of a sentence


def at(path: str, value: object) -> Callable[[dict], None]:
    """An edit of a preset or card: ``generation.dtype`` → value."""

    def edit(found: dict) -> None:
        *parts, last = path.split(".")
        for part in parts:
            found = found[part]
        found[last] = value

    return edit


def study(id: str, edit: str | Callable, value: object, right: str | tuple, *stages: str) -> Case:
    """A case of the demo's preset with one value changed."""
    change = at(edit, value) if isinstance(edit, str) else edit
    return Case(id, lambda s: s.check(s.demo(change), *stages), right)


def raw(id: str, make: Callable[[str], str | bytes], right: str | tuple) -> Case:
    """A case of the demo's file with its text changed."""
    return Case(id, lambda s: s.check(make((s.params / "demo.yaml").read_text(encoding="utf-8"))), right)


def kept(table: str, id: str, make: Callable[[dict], object] | str | bytes, right: str | tuple, *, name: str = "mine", of: str = "ties") -> Case:
    """A case of a method's card (or, with ``table`` judges, a judge's), used by the demo and checked."""

    def act(s: Scratch) -> object:
        content: object = make
        if callable(make):
            content = yaml.safe_load((s.params / table / f"{of}.yaml").read_text(encoding="utf-8"))
            content = new if (new := make(content)) is not None else content
        text = content if isinstance(content, (str, bytes)) else yaml.safe_dump(content, sort_keys=False)
        s.write(f"{table}/{name}.yaml", text)
        where, stage = ("methods", "03_merge") if table == "methods" else ("judging.judges", "05_judge")
        preset = s.demo(at(where, [name]))
        preset["evolution"] |= {"evaluations": 1}
        return only(s, preset, stage)

    return Case(id, act, right)


def only(s: Scratch, preset: dict, stage: str) -> str:
    """The checks of one stage that concern cards, without models or downloads."""
    from xlm_utils.run import checks
    from xlm_utils.run.preflight import _methods

    found = open_study(str(s.write("case.yaml", preset)))
    if stage == "03_merge":
        return _methods(found)
    return " ".join(checks.answers(cards.load_card(name)) for name in checks.cards(found, [stage]))


def one_call(s: Scratch, edit: Callable[[dict], object], scenario: str = "ok") -> list:
    """One prompt to a loopback server through a card edited: (value, status)."""
    with Loopback([scenario]) as server:
        card = yaml.safe_load((s.params / "judges" / "local.yaml").read_text(encoding="utf-8")) | {"base_url": server.openai}
        edit(card)
        s.write("judges/mine.yaml", card)
        rows = run_calls(cards.load_card("mine"), ["prompt"], judging.SCHEMA, judging.parse, s.folder / "replies.sqlite", max_cost_usd=1)
    return [(row["value"], row["status"]) for row in rows]


def sweep(id: str, content: str | bytes, right: str | tuple) -> Case:
    """A case of the grid of ``ties``."""
    return Case(id, lambda s: (s.write("sweeps/ties.yaml", content), s.check(s.demo()))[1], right)


def prompt(id: str, file: str, content: str | bytes, right: str | tuple) -> Case:
    """A case of a prompt's file: what goes out to models or judges."""

    def act(s: Scratch) -> object:
        path = s.params / "prompts" / file
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(content)
        found = open_study("demo")
        if file == "judge.txt":
            return judging.prompt_for(found, {"term": "a", "translation": "b", "reference_text": "c", "definition": "d"})[:9]
        return translation.prompts(found, ["a"]) if file == "translate.txt" else found.prompt(found.target, "喘息")

    return Case(id, act, right)


def rows(id: str, dataset: str, edit: Callable[[dict], object] | None, right: str | tuple, *, break_it: str = "") -> Case:
    """A case of a benchmark's file in ``data_dir``, through ``--check``; ``edit`` None: an empty folder."""

    def act(s: Scratch) -> str:
        from xlm_utils.run.preflight import _folder

        folder = s.folder / "items"
        folder.mkdir()
        if edit:
            for file in (ROOT / "data" / "demo" / "benchmarks").glob("*.jsonl"):
                shutil.copy(file, folder)
            file = next(folder.glob(f"{dataset}*"))
            lines = file.read_text(encoding="utf-8").splitlines()
            first = json.loads(lines[0])
            edit(first)
            file.write_text("\n".join([break_it or json.dumps(first, ensure_ascii=False), *lines[1:]]) + "\n", encoding="utf-8")
        return _folder(open_study(str(s.write("case.yaml", s.demo(at("benchmarks.data_dir", str(folder)))))))

    return Case(id, act, right)


def opened(id: str, right: str | tuple, show: str = "folder", **parameters: object) -> Case:
    """A case of a notebook's parameters."""
    return Case(id, lambda s: getattr(open_study(**parameters), show) if show != "folder" else open_study(**parameters).folder.name, right)


def twice(path: str) -> Callable[[str], str]:
    """A text with its last line doubled by another value."""
    return lambda text: f"{text.rstrip()}\n{path}\n"


def live(s: Scratch, edit: Callable[[dict], object]) -> str:
    """``--check`` of a judge whose server answers."""
    with Loopback(["ok"]) as server:
        card = yaml.safe_load((PARAMS / "judges" / "local.yaml").read_text(encoding="utf-8")) | {"base_url": server.openai}
        edit(card)
        s.write("judges/mine.yaml", card)
        return only(s, s.demo(at("judging.judges", ["mine"])), "05_judge")


def outcome(case: Case, folder: Path) -> tuple[bool, str]:
    """Whether what comes is right, and what comes in one line."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            came = case.act(Scratch(folder))
    except StudyError as error:
        said = str(error)
        plain = isinstance(case.right, str) and re.search(case.right, said, re.DOTALL) and len(said) < 1500
        return bool(plain), f"sentence: {said}"
    except TimeoutError:
        return False, f"hangs for {LIMIT} s"
    except Exception as error:
        return False, f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return isinstance(case.right, tuple) and came == case.right[0], f"accepted: {came!r}"
