"""A smaller vocabulary: a checkpoint that knows only the tokens of a committed list, and gives the same tokens on every text made of them.

A merge of two tokens is tried in order of its rank, whatever surrounds them. So where the list holds, with every
token that a text ends in, the tokens on the way to it (``python -m tests.tokens`` closes it so), the trimmed tokenizer walks the same way.
Bytes are always kept: any other text is spelled with them, which ``report_bytes`` tells.
"""

import gzip
import json
import re
from pathlib import Path

from xlm_utils.models.configs import spell_rope_twice
from xlm_utils.models.libraries import PreTrainedTokenizerBase, quiet, torch, transformers
from xlm_utils.study import StudyError, cached_step, digest, sha256

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
EOS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_tokens(file: Path) -> list[str]:
    """The tokens of a list (gzip; one JSON string a line, as tokens may be line breaks)."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def trim(base: Path, tokens: Path) -> Path:
    """The checkpoint ``base`` with the tokens of the list alone, made once; the list's hash is part of the key.

    A StudyError: the list names a token that the model does not have, or the tokenizer is not a BPE of merges.
    """
    step = cached_step(f"{base.name}-trimmed", rope="twice", base=digest(base), tokens=sha256(tokens))
    with step:
        if not step.done:
            cut(base, step.partial, tokens)
            step.finish()
    return step.path


def cut(base: Path, folder: Path, tokens: Path) -> None:
    """Write what ``trim`` returns into a folder; raises as it does."""
    state = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = state["model"].get("vocab")
    if state["model"]["type"] != "BPE":
        raise StudyError(f"{tokens.name}: only a BPE vocabulary can be trimmed, and that of {base.name} is {state['model']['type']}")
    kept = read_tokens(tokens)
    if unknown := [token for token in kept if token not in vocabulary]:
        raise StudyError(f"{tokens.name}: {base.name} has no token {unknown[0]!r}")
    print(f"trimming {base.name} to {len(kept):,} of its {len(vocabulary):,} tokens (once)")
    old = [vocabulary[token] for token in kept]
    new = {token: number for number, token in enumerate(kept)}
    state["model"]["vocab"] = new
    state["model"]["merges"] = [[a, b] for a, b in state["model"]["merges"] if a in new and b in new and a + b in new]
    state["added_tokens"] = [{**added, "id": new[added["content"]]} for added in state["added_tokens"] if added["content"] in new]
    for special in state["post_processor"]["special_tokens"].values():
        special["ids"] = [new[token] for token in special["tokens"]]
    quiet()
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    ends = [model.get_input_embeddings] + [model.get_output_embeddings] * (not model.config.tie_word_embeddings)
    weights = [end().weight.detach()[torch.tensor(old)] for end in ends]
    model.resize_token_embeddings(len(old))
    for end, rows in zip(ends, weights, strict=True):
        end().weight.data.copy_(rows)
    place = {number: position for position, number in enumerate(old)}
    for config in (model.config, model.generation_config):
        for key in EOS:
            if (ids := getattr(config, key, None)) is not None:
                setattr(config, key, [place[token] for token in ids] if isinstance(ids, list) else place[ids])
    model.save_pretrained(folder)
    spell_rope_twice(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def report_bytes(tokenizer: PreTrainedTokenizerBase, texts: list[str], what: str) -> int:
    """Number of texts that the vocabulary has to spell with bytes; one printed line if there are any."""
    spelled = {number for token, number in tokenizer.get_vocab().items() if BYTE.fullmatch(token)}
    found = sum(not spelled.isdisjoint(ids) for ids in tokenizer(texts)["input_ids"]) if spelled and texts else 0
    if found:
        print(f"{what}: {found} of {len(texts)} texts hold characters outside the vocabulary, which the model reads byte by byte")
    return found
