"""Which of the ancestor's tokens the demo needs: those of HPO, JMdict, the demo's files, and every prompt around them.

The list is committed (``data/demo/tokens.txt.gz``); ``python -m tests.tokens`` writes it again, in about a minute.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from xlm_utils.curate.terminologies import hpo_file
from xlm_utils.models.vocabularies import BYTE
from xlm_utils.study import PARAMS, ROOT, open_study

DEMO = ROOT / "data" / "demo"
TOKENS = DEMO / "tokens.txt.gz"
HPO_TEXT = re.compile(r'(?:name: |def: "|synonym: ")(.*?)(?:" [A-Z\[].*)?')
COLUMNS = (("Kanji", "text"), ("Kana", "text"), ("SenseGloss", "text"))  # of JMdict
# Written after the list, and left out of it, since a longer list is another model: sets that the demo doesn't ask, and what its search
# looks at, where nine sentences are split more finely than by the whole tokenizer (none into bytes).
LATER = ("medmcqa_jp", "usmleqa_jp", "medqa_jp", "mmlu_medical_jp", "pubmedqa_jp", "pubmedqa_train")
OTHERS = tuple(f"define_{code}" for code in ("de", "es", "fr", "ko", "zh"))  # prompts in languages that the demo does not ask in
AT_ONCE = 20_000  # texts a batch


def close(state: dict, used: Iterable[str]) -> list[str]:
    """``used`` tokens with those that build them by merges, all bytes, and all added tokens that mean something, in the order of their ids.

    Args:
        state: a BPE ``tokenizer.json``.
    """
    vocabulary = state["model"]["vocab"]
    rank = {tuple(pair): number for number, pair in enumerate(state["model"]["merges"])}
    kept = {token for token in vocabulary if BYTE.fullmatch(token)}
    kept |= {added["content"] for added in state["added_tokens"] if not added["content"].startswith("<unused")}
    for token in set(used):
        parts = list(token)
        kept |= {token, *(character for character in parts if character in vocabulary)}
        while len(parts) > 1:
            best, at = min((rank.get(pair, len(rank)), at) for at, pair in enumerate(pairwise(parts)))
            if best == len(rank):  # an added token, which no merge makes
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            kept.add(parts[at])
    return sorted(kept, key=vocabulary.__getitem__)


def texts() -> Iterator[str]:
    """Every text that the demo may read, as the models read it: words inside their prompts, sentences with and without a blank before them."""
    study = open_study("demo")
    asked = {language.code: study.prompt(language, "{term}") for language in (study.source, study.target)}  # a prompt's file is read once
    for line in hpo_file().read_text(encoding="utf-8").splitlines():
        if found := HPO_TEXT.fullmatch(line):
            plain = re.sub(r"\\(.)", r"\1", found[1])
            yield from (plain, f" {plain}", asked[study.source.code].replace("{term}", plain))
    folder = Path(str(importlib.util.find_spec("jamdict_data").submodule_search_locations[0]))
    with closing(sqlite3.connect(f"file:{folder / 'jamdict.db'}?mode=ro", uri=True)) as dictionary:
        for table, column in COLUMNS:
            for (word,) in dictionary.execute(f"select {column} from {table}"):
                yield word if table == "SenseGloss" else asked[study.target.code].replace("{term}", word)
    items = [file for file in DEMO.glob("*/*.jsonl") if file.parent.name in ("training", "benchmarks") and file.stem not in LATER]
    prompts = [file for file in PARAMS.glob("prompts/*.txt") if file.stem not in OTHERS]
    written = [*items, *prompts, *(ROOT / "xlm_utils/benchmark/tasks").glob("*.yaml")]
    for file in sorted(written):
        content = file.read_text(encoding="utf-8").replace("{domain}", study.domain)
        lines = content.splitlines()
        values = [value for line in lines for value in _strings(json.loads(line))] if file.suffix == ".jsonl" else [content, *lines]
        for value in values:
            yield from (value, f" {value}")


def _strings(value: object) -> Iterator[str]:
    """The strings inside a JSON value."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(part)


def needed_tokens(base: Path) -> list[str]:
    """The tokens of the ancestor ``base`` that the demo's texts end in, and those that build them (see ``models.vocabularies``)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    used: set[int] = set()
    everything = list(dict.fromkeys(texts()))
    for start in range(0, len(everything), AT_ONCE):
        for row in tokenizer.encode_batch_fast(everything[start : start + AT_ONCE]):
            used.update(row.ids)
    state = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    return close(state, map(tokenizer.id_to_token, used))


def write_tokens(tokens: list[str], file: Path = TOKENS) -> None:
    """Write a list; the same tokens give the same bytes."""
    lines = "".join(json.dumps(token, ensure_ascii=False) + "\n" for token in tokens)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))
