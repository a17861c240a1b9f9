"""What comes for bad input: every case as real input, in a scratch copy of ``params``; one line each, and the counts.

    python -m measure.bad_input [--only S03,M01]

A case is an id, the input's builder and what is right: words that the sentence must hold, or a value that the
input must be taken as. Wrong is a traceback, a hang, an acceptance where a sentence is due, or a sentence without
those words. Add cases to ``CASES``; a builder gets a ``Scratch``, whose methods write files and open or check studies.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.support.loopback import Loopback
from xlm_utils.ask import cards
from xlm_utils.ask.calls import run_calls
from xlm_utils.benchmark.tasks import data
from xlm_utils.judge import judging
from xlm_utils.run import pipeline
from xlm_utils.run.preflight import preflight
from xlm_utils.study import PARAMS, ROOT, StudyError, inputs, method_cards, names, open_study, settings
from xlm_utils.study import study as study_module
from xlm_utils.translate import llm

LIMIT = 60  # s for a case
HOLDERS = [inputs, method_cards, names, settings, study_module, cards, pipeline]  # modules that look into params


class Scratch:
    """A folder of its own with a copy of ``params``, in which a case writes its input."""

    def __init__(self, folder: Path):
        self.folder, self.params = folder, folder / "params"
        shutil.copytree(PARAMS_OF_THE_KIT, self.params)
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
    from xlm_utils.run import budget
    from xlm_utils.run.preflight import _methods

    found = open_study(str(s.write("case.yaml", preset)))
    if stage == "03_merge":
        return _methods(found)
    return " ".join(budget.answers(cards.load_card(name)) for name in budget.cards(found, [stage]))


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
        return llm.prompts(found, ["a"]) if file == "translate.txt" else found.prompt(found.target, "喘息")

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


TIES = (PARAMS / "methods" / "ties.yaml").read_text(encoding="utf-8")
LOCAL = (PARAMS / "judges" / "local.yaml").read_text(encoding="utf-8")
JUDGE = (PARAMS / "prompts" / "judge.txt").read_text(encoding="utf-8")
PARAMS_OF_THE_KIT = PARAMS
MANY = [round(0.01 + number / 1e5, 6) for number in range(1000)]

CASES = [
    raw("S03", lambda t: t.replace("vocabulary: {", "vocabulary:\n\tsource: hpo\nx: {"), r"case\.yaml, line \d+: a tab"),
    study("S09", "seed", True, "seed = True: must be a number"),
    study("S11", "seed", 2**32, "seed = 4294967296: .*4294967295"),
    study("S15", "evolution.sigma", float("inf"), "sigma = inf: "),
    raw("S22", lambda t: t + "\n1: 2\n", r"line \d+: the key '1' is no text"),
    raw("S24", lambda t: t.replace("vocabulary: {", "vocabulary: {true: 1, "), r"line \d+: the key 'true' is no text"),
    study("S28", "methods", "slerp", "methods = 'slerp': must be a list"),
    study("S31", "methods", ["ties", "ties"], "methods.*'ties' is there twice"),
    study("S31b", "methods", ["ties~density=0.3", "ties~density=0.30"], "there twice"),
    study("S38", lambda p: (p["constituents"].update(ties=p["constituents"].pop("expert"))), None, "'ties' is the name of a method"),
    study("S42", "judging.judges", ["proxy", "proxy"], "judges.*'proxy' is there twice"),
    study("S43", "judging.judges", "proxy", "judges = 'proxy': must be a list"),
    study("S52", lambda p: p.pop("constituents"), None, r"case\.yaml: constituents is missing$"),
    study("S63", "sweep.terms", 10**6, "sweep.terms = 1000000: "),
    study("S67", "evolution.columns", [], "columns = .*at least 1 item"),
    study("S68", "judging.references", [], "references = .*at least 1 item"),
    raw("S72", lambda t: ("# caf\xe9\n" + t).encode("latin-1", "replace"), r"case\.yaml, line 1: not UTF-8"),
    raw("S73", lambda t: t.encode("utf-16"), r"case\.yaml, line 1: not UTF-8"),
    study("S79", "target.code", "xx", "jmdict knows Japanese.*'xx'"),
    study("S83", "dare_seeds", 100_000, "dare_seeds = 100000: .*1000"),
    raw("S89", lambda t: 'title: "open\n' + t, r"line \d+: while (scanning a quoted scalar|parsing)"),
    raw("S90", lambda t: t.replace("sample: 160", "sample: 1:30"), "sample = '1:30': must be a whole number"),
    study("S93", "vocabulary", {"source": "csv", "path": "data/demo", "sample": 4}, "that is a folder.*CSV"),
    raw("S96", lambda t: f"{t}\n---\ntitle: other\n", r"line \d+: .*another document"),
    study("S98", "constituents.expert.label", "", "expert.label = '': must not be empty"),
    raw("S-dup", lambda t: t + "\nseed: 1\n", r"line \d+: the key 'seed' is there twice"),
    raw("S-bomb", lambda t: "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)) + t, "unknown key a;"),
    raw("S-deep", lambda t: "a: " + "[" * 5000, "nested too deeply|not YAML"),
    raw("S-long", lambda t: f"title: {'x' * 500_000}\n" + t.split("\n", 3)[3], "title = 'xxx.{0,80}…"),
    kept("methods", "M01", "", "mine.yaml: empty"),
    kept("methods", "M02", "- a\n", "mine.yaml: a list"),
    kept("methods", "M05", at("parameters.weight.range", "0 to 1"), "weight.range = '0 to 1': must be a list"),
    kept("methods", "M07", at("parameters.weight.range", [1]), "weight.range"),
    kept("methods", "M15", at("mergekit.merge_method", "tiez"), "mine.yaml.*no method 'tiez'"),
    kept("methods", "M16", at("mergekit.parameters.normalise", True), "mine.yaml.*normalise"),
    kept("methods", "M17", at("parameters", None), "parameters = None: must be a mapping"),
    kept("methods", "M18", at("parameters", []), r"parameters = \[\]: must be a mapping"),
    kept("methods", "M22", at("random", "yes"), "random = 'yes'"),
    kept("methods", "M24", at("label", 5), "label = 5: must be text"),
    kept("methods", "M26", "# \xcf\n".encode("latin-1") + TIES.encode(), "mine.yaml, line 1: not UTF-8"),
    kept("methods", "M27", TIES.replace("  density: {", "  density: {range: [0, 1], note: x}\n  density: {", 1), "'density' is there twice"),
    kept("methods", "M37", lambda c: c, "'expert' is the name of a method", name="expert"),
    kept("methods", "M38", lambda c: c, "'all' .*can't be named so", name="all"),
    sweep("W02", "- 1\n", "ties.yaml: a list"),
    sweep("W03", "density: 0.5\n", "density = 0.5: must be a list"),
    sweep("W10", "density: [true]\n", "density = True: must be a number"),
    sweep("W12", "density: null\n", "density = None: must be a list"),
    sweep("W14", "density:\n\t- 0.5\n", "line 2: a tab"),
    sweep("W15", "density: [0.2]\ndensity: [0.3]\n", "line 2: the key 'density' is there twice"),
    sweep("W17", f"weight: {MANY}\ndensity: {MANY}\n", "1,000,000 combinations"),
    kept("judges", "J01", "", "mine.yaml: empty"),
    kept("judges", "J12", at("key_env", "LOCAL"), "key_env = 'LOCAL': must be a list", of="local"),
    kept("judges", "J15", at("name", "x"), "unknown key name", of="local"),
    kept("judges", "J16", LOCAL + "\n1: 2\n", "the key '1' is no text"),
    kept("judges", "J20", LOCAL + "\nx:\n\ty: 1\n", "a tab"),
    kept("judges", "J27", at("model", "nope==1"), "encoder is .*fast-universal.*nope==1", of="proxy"),
    Case("J06b", lambda s: one_call(s, at("requests_per_minute", float("inf"))), "requests_per_minute = inf"),
    Case("J11b", lambda s: _live(s, at("params", {"tempretaure": 0})), "params.tempretaure is not one of"),
    kept("judges", "J22b", LOCAL + "\nprice_in: 5\nprice_in: 0\n", "'price_in' is there twice"),
    Case("J28b", lambda s: one_call(s, at("params", {"model": "x"})), "model is no sampling parameter"),
    kept("judges", "J28c", at("params", {"model": "x"}), "model is no sampling parameter", of="local"),
    Case("J30b", lambda s: one_call(s, at("params", {"stream": True})), "stream is no sampling parameter"),
    Case("J31b", lambda s: one_call(s, at("params", {"n": 3})), "n is no sampling parameter"),
    kept("judges", "J32", LOCAL.encode() + "\n# \xfc\n".encode("latin-1"), r"mine.yaml, line \d+: not UTF-8"),
    kept("judges", "J38", at("base_url", "http://127.0.0.1:8000/v1\n/x"), "base_url = .*should match pattern", of="local"),
    Case("J40", lambda s: one_call(s, at("params", {"response_format": {}})), "response_format is no sampling parameter"),
    prompt("P01", "complete_ja.txt", "\ufeff用語：{term}\n", ("用語：喘息\n",)),
    prompt("P10", "complete_ja.txt", "{term}\x00\n", "complete_ja.txt, line 1: the control character U.0000"),
    prompt("P12", "judge.txt", JUDGE + "{foo}", "judge.txt: {foo} is not one of"),
    prompt("P13", "judge.txt", "用語".encode("shift-jis"), "judge.txt, line 1: not UTF-8"),
    prompt("P14", "judge.txt", "\ufeff" + JUDGE, (JUDGE[:9],)),
    prompt("P15", "translate.txt", "Translate to {target_language}", "translate.txt has no {term}"),
    prompt("P16", "translate.txt", '{foo} {term}', "translate.txt: {foo} is not one of"),
    prompt("P17", "judge.txt", "", "judge.txt has no {"),
    rows("B06", "jcommonsenseqa", at("label", True), "jcommonsenseqa.*line 1: label: .*number"),
    rows("B20", "jcommonsenseqa", at("question", ""), "jcommonsenseqa.*line 1: question"),
    rows("B35", "", None, "none of the 17 data sets"),
    rows("B36", "jcommonsenseqa", at("label", 1), "jcommonsenseqa.*line 1: not JSON", break_it="{"),
    opened("PP05", "limit = True: must be a number", limit="true"),
    opened("PP07", "limit = 10{20,}", limit=10**30),
    opened("PP40", "study '../params/demo': must be the name", study="../params/demo"),
    opened("PP45", "there twice", study="demo+limit=4+limit=5"),
    opened("PP59", "judge_base_url = 5: must be text", judge_base_url=5),
    opened("PP71", "drive_dir = 5: must be text", drive_dir=5),
    opened("PP-8", ("demo+limit=8",), limit="8.0"),
    opened("PP-yes", ("demo+chat_template=True",), chat_template="yes"),
    study("F10", "seed", 10**30, "seed = 10{20,}"),
    raw("F08", lambda t: t.replace("sample: 160", "sample: yes"), "sample = True: must be a number"),
    study("F79", "target.code", "xx", "jmdict knows Japanese.*'xx'"),
    study("F63", "sweep.terms", 10**6, "sweep.terms"),
    study("F68", "judging.references", [], "references"),
    study("F69", "judging.references", ["expert", "expert"], "'expert' is there twice"),
    study("F42", "judging.judges", ["proxy", "proxy"], "'proxy' is there twice"),
    study("F38", lambda p: (p["constituents"].update(ties=p["constituents"].pop("expert"))), None, "'ties' is the name of a method"),
    study("F67", "evolution.columns", [], "columns"),
    study("F15", "evolution.sigma", float("inf"), "sigma = inf"),
]  # fmt: skip


def _live(s: Scratch, edit: Callable[[dict], object]) -> str:
    """``--check`` of a judge whose server answers."""
    with Loopback(["ok"]) as server:
        card = yaml.safe_load(LOCAL) | {"base_url": server.openai}
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
    except data.DataError as error:
        return isinstance(case.right, str) and bool(re.search(case.right, str(error))), f"sentence: {error}"
    except TimeoutError:
        return False, f"hangs for {LIMIT} s"
    except Exception as error:
        return False, f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return isinstance(case.right, tuple) and came == case.right[0], f"accepted: {came!r}"


def main() -> None:
    """Run the cases and print what comes; the exit status is the number of wrong ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="ids, with commas between")
    chosen = parser.parse_args().only.split(",")
    counts: Counter[str] = Counter()
    for case in CASES:
        if chosen != [""] and case.id not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            right, line = outcome(case, Path(folder))
        counts["right" if right else "wrong"] += 1
        line = " ".join(line.replace(folder, "…").split())
        print(f"{'' if right else 'WRONG '}{case.id:<7}{time.monotonic() - started:5.1f} s  {line[:200]}", flush=True)
    print(f"{counts.total()} cases: {counts['right']} right, {counts['wrong']} wrong")
    sys.exit(min(counts["wrong"], 99))


if __name__ == "__main__":
    main()
