"""What people write, read strictly: every mistake is one sentence with file, line and what to do; ``1:30`` and dates stay text."""

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"
NAME = re.compile(r"(?!all$)\w[\w.-]{0,79}")  # of what becomes a file or a folder; all means every one
Model = TypeVar("Model", bound=BaseModel)


class Part(BaseModel):
    """Of what a file says: no key but these."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyError(Exception):
    """A mistake of the user's, told in one sentence; notebooks show it without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's own hook
        return [f"{type(self).__name__}: {self}"]


def short(value: object) -> str:
    """A value as a message shows it: never a whole preset."""
    text = repr(value) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def relative(path: Path) -> str:
    """A path as a person would type it from the repository root; elsewhere, the file's name."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def listed(folder: str) -> list[str]:
    """Names of the YAML files in a folder of ``params``."""
    return sorted(path.stem for path in (PARAMS / folder).glob("*.yaml"))


def read_text(path: Path) -> str:
    """A text file that a person wrote, without a byte order mark; a StudyError if it is no UTF-8 or holds control characters."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{relative(path)}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if odd := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text):
        line = text.count("\n", 0, odd.start()) + 1
        raise StudyError(f"{relative(path)}, line {line}: the control character U+{ord(odd[0]):04X} is no text; delete it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Strict(yaml.SafeLoader):
    """YAML without its surprises: a key is text and stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            said = key.value if isinstance(key, yaml.ScalarNode) else "that is a list or a mapping"
            if said in seen or not key.tag.endswith((":str", ":merge")):
                wrong = "there twice; delete one" if said in seen else "no text; put it in quotes"
                raise yaml.MarkedYAMLError(problem=f"the key {short(said)} is {wrong}", problem_mark=key.start_mark)
            seen.add(said)
        return super().construct_mapping(node, deep)


_Strict.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value) if re.fullmatch("[-+]?(0|[1-9][0-9]*)", node.value) else node.value)
_Strict.add_constructor("tag:yaml.org,2002:float", lambda loader, node: node.value if ":" in node.value else loader.construct_yaml_float(node))
_Strict.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; a StudyError if it is not one mapping whose keys are text and stand once."""
    file, text = relative(path), read_text(path)
    try:
        found = yaml.load(text, _Strict)
    except yaml.MarkedYAMLError as error:
        told = ": ".join(filter(None, (error.context, error.problem)))
        told = "a tab; YAML is indented with spaces" if "'\\t'" in told else told[:300]
        raise StudyError(f"{file}, line {(error.problem_mark or error.context_mark).line + 1}: {told}") from None
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        raise StudyError(f"{file}: not YAML: {short(str(error))}") from None
    if not isinstance(found, dict):
        what = "empty" if found is None else "a list" if isinstance(found, list) else "a single value"
        raise StudyError(f"{file}: {what}, and a mapping (key: value) is needed")
    return found


def shown(text: str) -> str:
    """A text without user and password of the addresses in it."""
    return re.sub(r"(?<=://)[^/\s@]*@", "", text)


def read_prompt(name: str, *needed: str) -> str:
    """A template of ``params/prompts``; a StudyError if there is no such file, or it lacks one of the ``{needed}`` fields."""
    path = PARAMS / "prompts" / name
    if not path.is_file():
        raise StudyError(f"prompt: no file params/prompts/{name[:80]}; there are {', '.join(sorted(p.name for p in path.parent.glob('*.txt')))}")
    text = read_text(path)
    if absent := [field for field in needed if f"{{{field}}}" not in text]:
        raise StudyError(f"prompt: params/prompts/{name} has no {{{absent[0]}}}, so prompts would be the same")
    return text


def fill(template: str, file: str, fields: Mapping[str, str]) -> str:
    """Put fields into a file's template in one pass, so that a field's text is never looked at again; a StudyError names an unknown one."""
    if unknown := [name for name in re.findall(r"\{(\w+)\}", template) if name not in fields]:
        raise StudyError(f"params/prompts/{file}: {{{unknown[0]}}} is not one of {', '.join(fields)}")
    return re.sub(r"\{(\w+)\}", lambda found: fields[found[1]], template)


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _once(values: tuple) -> tuple:
    if again := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"{short(again[0])} is there twice")
    return values


Whole = Annotated[int, BeforeValidator(_no_truth)]
Number = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
Once = AfterValidator(_once)  # a list without repetitions

_PLAIN = {  # pydantic's kinds of errors, in the words of people who write YAML
    "missing": "is missing", "string_too_short": "must not be empty", "string_type": "must be text; put it in quotes if it is meant as text",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list, such as [a, b]"), "float_type": "must be a number",
    "float_parsing": "must be a number", **dict.fromkeys(("dict_type", "model_type"), "must be a mapping (key: value)")}  # fmt: skip


def plain(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, in the words of people who write YAML or JSON."""
    return _PLAIN.get(error["type"]) or re.sub("^(Value error, |Input (?=should)|Tuple (?=should)|String (?=should))", "", error["msg"])[:500]


def checked(model: type[Model], found: dict, file: str, parameters: Mapping[tuple[str, ...], str] = {}) -> Model:
    """What a file says, as an instance of the model; a StudyError says the first thing that is wrong.

    ``parameters``: place in the file → notebook parameter that overrode it, to be named in its stead.
    """
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first, missing = error.errors()[0], [str(one["loc"][0]) for one in error.errors() if one["type"] == "missing" and len(one["loc"]) == 1]
    if len(missing) > 1:
        raise StudyError(f"{file}: {', '.join(missing)} are missing")
    where = tuple(map(str, first["loc"]))
    key = parameters.get(where) or f"{file}: {'.'.join(where)[:80]}"
    if first["type"] == "extra_forbidden":
        raise StudyError(f"{file}: unknown key {'.'.join(where)[:80]}; valid are {', '.join(_fields(model, where[:-1]))}")
    if not where or first["type"] == "missing":
        raise StudyError(f"{key} is missing" if where else f"{file}: {plain(first)}")
    raise StudyError(f"{key} = {shown(short(first['input']))}: {plain(first)}")


def _fields(model: Any, where: tuple[str, ...]) -> list[str]:
    """The keys that are valid at a place in the file; places that are a name or a number in a list are passed over."""
    for part in where:
        kinds = [model.model_fields[part].annotation] if part in model.model_fields else []
        for kind in kinds:
            kinds.extend(get_args(kind))  # of dict[str, X], X | None, Annotated[X, …]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), model)
    return list(model.model_fields)
