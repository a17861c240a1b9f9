"""A study: one preset YAML plus overrides → one validated, frozen object with its folders.

Everything that a run depends on is in the preset (``params/<study>.yaml``); a notebook's
parameters override single values, and a run with overrides gets a folder of its own.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm_utils.study import notebook
from xlm_utils.study.inputs import PARAMS, ROOT, StudyError, checked, listed, read_prompt, read_yaml, relative, short
from xlm_utils.study.names import ADDING, BENCHMARKING, MERGING, OVERRIDES, SMOKE, apply, given, grid, is_file, parse, read_card, split_name, suffix
from xlm_utils.study.notebook import mount_drive, parameter_cells, parameters_of, tidy_kernel
from xlm_utils.study.records import commit, versions
from xlm_utils.study.settings import Language, Settings, project_path


class Study:
    """A validated preset with overrides applied; its parts are attributes (``study.generation``)."""

    sweep_of: "Study | None" = None  # the study whose hyper-parameters this one varies
    beside: Path | None = None  # results kept from elsewhere, which notebook 07 shows beside this study's

    def __init__(self, preset: str, settings: Settings, changed: Mapping[str, object], method: str, judge: str, home: str = ""):
        self.preset, self.settings, self.changed, self.home = preset, settings, dict(changed), home
        self.name = name = Path(preset).stem if is_file(preset) else preset
        home = ROOT / Path(home).expanduser()  # never relative to the kernel's working directory, which depends on who started it
        own, shared = suffix(self.changed, {*self.changed} - {*ADDING}), Path("data") / "runs" / f"{name}{suffix(self.changed, MERGING)}"
        self.folder = home / "data" / "runs" / f"{name}{own}"
        # a trial on few terms changes no benchmark: it reads those of the study without it
        self.benchmarks_folder = home / "data" / "runs" / f"{name}{suffix(self.changed, BENCHMARKING)}" / "benchmarks"
        self.replies = home / shared / "replies.sqlite"  # to all calls: a trial on few terms counts towards the whole
        # Google Drive is small and slow: merges, which can be made again, stay on the runtime's own disk
        roomy = ROOT / Path(os.environ.get("XLM_HOME", "")).expanduser() if home.is_relative_to(notebook.DRIVE) else home
        self.models_folder = roomy / shared / "models"
        licensed = settings.vocabulary.source == "snomed"  # its terms, which figures show on hover, stay out of what is committed
        self.figures = self.folder / "figures" if licensed else home / "figures" / f"{name}{own}"
        self.method, self.judge = method, judge

    def __getattr__(self, part: str) -> Any:
        if part.startswith("_") or part not in Settings.model_fields:
            raise AttributeError(f"a study has no {part!r}; it has {', '.join(Settings.model_fields)}")
        return getattr(self.settings, part)

    def by_role(self, role: str) -> str:
        """Name of the constituent with this role (``general``, ``expert`` or ``ancestor``)."""
        for name, constituent in self.constituents.items():
            if constituent.role == role:
                return name
        raise StudyError(f"study {self.name}: no constituent has the role {role!r}, and this step needs one")

    @property
    def models(self) -> list[str]:
        """Models in the order of the tables: expert, general model, what is only scored, then every merge."""
        return [self.by_role("expert"), self.by_role("general"), *self.scored, *self.methods]

    @property
    def scored(self) -> list[str]:
        """Constituents that are asked and scored, and never merged: roles ``upper`` (an answer key) and ``published``."""
        return [name for name, constituent in self.constituents.items() if constituent.role in ("upper", "published")]

    @property
    def parents(self) -> list[str]:
        """The other constituents, which a merge is made of or measured from."""
        return [name for name in self.constituents if name not in self.scored]

    @property
    def searched(self) -> list[str]:
        """Methods with a parameter that neither their card nor their name gives a value, so that a search must find it."""
        free = {method: read_card(parse(method).card)["parameters"].items() for method in self.methods}
        return [m for m, own in free.items() if any("default" not in about and key not in parse(m).values for key, about in own)]

    @property
    def definitions_by(self) -> str:
        """Who wrote the vocabulary's definitions."""
        return self.vocabulary.definitions_by or ("clinicians" if self.domain == "medicine" else "vocabulary")

    def swept(self) -> "Study":
        """This study with its grids' points for methods, on terms and in a run folder of its own; a StudyError: no sweep, or a grid is no good."""
        if self.sweep is None:
            raise StudyError(f"study {self.name}: it has no sweep; add sweep: {{grids: [ties], terms: 12}}; grids: {', '.join(listed('sweeps'))}")
        points = dict.fromkeys(point for name in self.sweep.grids for point in grid(name))
        methods = [_arm(point, self.base) for point in points] if "base" in self.changed else list(points)
        settings = self.settings.model_copy(update={"methods": tuple(methods)})
        swept = Study(self.preset, settings, self.changed | {"sweep": 1}, self.method, self.judge, self.home)
        swept.sweep_of = self
        return swept

    @property
    def judges(self) -> list[str]:
        """Judge cards to run: those of the study, or the one named by the ``judge`` parameter."""
        return list(self.judging.judges) if self.judge == "all" else [self.judge]

    def options(self, **more: str) -> str:
        """Papermill's options that take another notebook to this run: ``-p study demo+limit=8``, and ``more`` parameters."""
        named = "".join(f"+{key}={value}" for key, value in sorted(self.changed.items()) if key not in ("smoke", "sweep"))
        parameters = {"study": f"{self.preset}{named}", **more}
        parameters |= {"sweep": "true"} if self.sweep_of else {}
        parameters |= {"drive_dir": self.home} if self.home != os.environ.get("XLM_HOME", "") else {}
        return shlex.join(word for key, value in parameters.items() for word in ("-p", key, value))

    def label(self, model: str) -> str:
        """Name of a model as the tables print it."""
        if model in self.constituents:
            return self.constituents[model].label
        name = parse(model)
        card = read_card(name.card)
        details = [f"{parameter.replace('_', ' ')}: {value:g}" for parameter, value in name.values.items()]
        details += [f"base: {name.base}"] * bool(name.base) + [f"seed: {name.seed}"] * bool(name.seed)
        if self.evolution.fitness == "published" and any("default" not in about for about in card["parameters"].values()):
            details.append("contaminated")  # its parameters were searched on the items that are reported
        return card["label"] + (f" ({', '.join(details)})" if details else "")

    def prompt(self, language: Language, term: str) -> str:
        """The prompt for one term; the term is data, so braces in it mean nothing."""
        return read_prompt(language.prompt, "term").replace("{domain}", self.domain).replace("{term}", term)

    def go_on(self, notebook: str) -> str:
        """The line that ends a notebook: the next one of this run, with Papermill and in JupyterLab."""
        declared, changed = parameters_of(notebook), {key: value for key, value in self.changed.items() if key != "smoke"}
        apart = {key: value for key, value in changed.items() if key in declared and key != "sweep"}
        rest = "".join(f"+{key}={value}" for key, value in sorted(changed.items()) if key not in (*apart, "sweep"))
        given = {"study": f"{self.preset}{rest}"} if self.preset != "demo" or rest else {}
        given |= apart | ({"sweep": True} if self.sweep_of and "sweep" in declared else {})
        given |= {"drive_dir": self.home} if self.home != os.environ.get("XLM_HOME", "") else {}
        here = f"set {', '.join(f'`{key} = {value!r}`' for key, value in given.items())}" if given else "run it as it is"
        return f"Next: [{notebook}]({notebook}.ipynb) ({here}), or `papermill {notebook}.ipynb out.ipynb {self.options()}`"

    def show(self, *parts: str) -> None:
        """Print the study, its folder and the settings that a notebook uses, the versions and the commit.

        ``parts``: keys of the settings, such as ``vocabulary``, and ``device``: where it runs, and why. None: all settings.
        """
        changed = "".join(f", {key}={value}" for key, value in self.changed.items())
        rows = {"study": f"{self.name} ({self.title}){changed}", "files": relative(self.folder) if self.folder.is_relative_to(ROOT) else self.folder}
        values = self.settings.model_dump(exclude_none=True, exclude={"title"})
        for part in parts or values:
            value = "{}: {}".format(*pick_device()) if part == "device" else values.get(part, "")
            if part == "constituents":
                rows |= {name: f"{c['role']}: {c['weights']}{' + ' + c['adapter'] if 'adapter' in c else ''}" for name, c in value.items()}
            elif value != "":
                rows[part] = ", ".join(f"{key}={_plain(item)}" for key, item in value.items()) if isinstance(value, dict) else _plain(value)
        rows |= {"versions": ", ".join(f"{name} {version}" for name, version in versions().items()), "commit": commit()}
        print("\n".join(f"{key:<{max(map(len, rows))}}  {value}" for key, value in rows.items()))


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def open_study(
    study: str = "demo", method: str = "all", judge: str = "all", judge_base_url: str = "",
    sweep: bool | str = False, drive_dir: str = "", beside: str = "", **overrides: object,
) -> Study:  # fmt: skip
    """Read ``params/<study>.yaml`` (or a YAML file by path), apply overrides (of its name, then parameters), validate everything.

    ``method``, ``judge`` and ``judge_base_url`` choose what to run and where; ``sweep`` takes the study's ``swept``; ``drive_dir`` is the folder that
    ``data/runs`` and ``figures`` go to instead of the project's own (``XLM_HOME`` where it is empty); ``beside`` is a folder of kept results;
    every other parameter is one of ``OVERRIDES`` and gets a run folder of its own. Called in a notebook, it also looks at the parameters cells just
    above: a name injected there that the notebook does not have (``-p methd ties``) is an error here, not a silent default. A StudyError names the
    value and what is valid.
    """
    tidy_kernel()
    if str(sweep).lower() not in ("true", "false"):  # Papermill passes a string
        raise StudyError(f"sweep = {sweep!r}: must be true or false")
    texts = {"study": study, "method": method, "judge": judge, "judge_base_url": judge_base_url, "drive_dir": drive_dir, "beside": beside}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise StudyError(f"{name} = {short(value)}: must be text, in quotes")
    if cells := parameter_cells():
        declared = cells[-1]
        for name in sorted(set().union(*cells) - declared):
            raise StudyError(f"this notebook has no parameter {name!r}; it has {', '.join(sorted(declared))}")
    study, named = split_name(study)
    path = Path(study) if is_file(study) else PARAMS / f"{study}.yaml"
    if not path.is_file():
        raise StudyError(f"study {short(study)} is not one of {', '.join(listed('.'))}, nor a YAML file")
    preset, smoke = read_yaml(path), os.environ.get("XLM_SMOKE") == "1"
    changed = named | given(overrides)
    apply(preset, (SMOKE if smoke else {}) | changed)
    settings = checked(Settings, preset, path.name, {OVERRIDES[name]: name for name in changed})
    if smoke:
        small = settings.sweep and settings.sweep.model_copy(update={"grids": settings.sweep.grids[:1], "terms": 4})
        settings = settings.model_copy(update={"methods": settings.methods[::2][:2], "sweep": small})
    if "base" in changed:
        settings = settings.model_copy(update={"methods": tuple(_arm(method, settings.base) for method in settings.methods)})
    home = drive_dir or os.environ.get("XLM_HOME", "")
    mount_drive(home)
    result = Study(study, settings, ({"smoke": 1} if smoke else {}) | changed, method, judge, home)
    if str(sweep).lower() == "true":
        result = result.swept()
    if beside and not (project_path(beside) / "table1.csv").is_file():
        there = ", ".join(sorted(relative(file.parent) for file in ROOT.glob("data/results/*/table1.csv")))
        raise StudyError(f"beside = {short(beside)}: no folder with a table1.csv; there are {there}")
    result.beside = project_path(beside) if beside else None
    valid = list(dict.fromkeys(["all", *result.models, *settings.constituents]))
    if method not in valid:
        raise StudyError(f"method {short(method)} is not one of {', '.join(valid)}")
    for name in result.judges:
        if name not in listed("judges"):
            raise StudyError(f"judge {short(name)} is not one of all, {', '.join(listed('judges'))}")
    return result


def _arm(method: str, base: str) -> str:
    """The method with another base, if its card lets one be chosen: ``ties`` → ``ties@ancestor``."""
    name = parse(method)
    return str(name._replace(base=base)) if not name.base and read_card(name.card)["mergekit"]["base_model"] == "base" else method


def pick_device() -> tuple[str, str]:
    """Device for the models and the reason for it."""
    import torch

    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name(0)} is visible to PyTorch"
    return "cpu", "no CUDA device is visible to PyTorch"
