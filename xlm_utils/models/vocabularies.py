"""Another vocabulary: a checkpoint that knows only the tokens of a list, or has its rows in the order of another model's tokens.

A merge of two tokens is tried in order of its rank, whatever surrounds them. So where the list holds, with every
token that a text ends in, the tokens on the way to it (``python -m tests.tokens`` closes it so), the trimmed tokenizer walks the same way.
Bytes are always kept: any other text is spelled with them, which ``report_bytes`` tells.

Tokens of two models are the same if both tokenizers spell them alike. It is what MergeKit's ``tokenizer: {source: base}`` does before it merges; its
methods then mix rows that only one parent has, so a merge takes those back from ``own_rows``.
"""

import gzip
import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from xlm_utils.models.libraries import PreTrainedTokenizerBase, quiet, safetensors, torch, transformers
from xlm_utils.models.weights import EMBEDDINGS, HEAD, Tensors, opened, read_config, read_tokenizer, spell_rope_twice, weight_files
from xlm_utils.study import StudyError, cached_step, digest, sha256, write_json

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
EOS, OWN = ("bos_token_id", "eos_token_id", "pad_token_id"), "own_rows.json"
NEW = "vocabulary.safetensors"  # of two files' tensors of a name ``Tensors`` takes the later file's, as the index says here, which MergeKit goes by


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
    old, new = [vocabulary[token] for token in kept], {token: number for number, token in enumerate(kept)}
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


def by_token(name: str, folder: Path, general: str, donor: Path) -> Path:
    """The checkpoint ``folder`` with the donor's tokens: itself if they are its own, else a copy, made once, whose other tensors are links.

    Rows of other tokens, and of none, have the donor's weights there. A StudyError: an embedding has other rows than the config says.
    """
    if folder == donor or (order := _order(folder, donor)) is None:
        return folder
    step = cached_step(f"{name}-by-token", weights=digest(folder), donor=digest(donor))
    with step:
        if not step.done:
            own = [row for row, old in enumerate(order) if old < 0]
            print(f"{name}: it has the tokens of {len(order) - len(own):,} of {general}'s {len(order):,} rows, which are merged (once)")
            _write(step.partial, folder, donor, torch.tensor(order), own)
            step.finish()
        for file in weight_files(folder):  # which may have been moved since
            if not (link := step.path / file.name).exists():
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
    return step.path


def own_rows(folders: Collection[Path]) -> dict[str, list[int]]:
    """Tensor → rows that none of these copies but the donor has; empty where all are models as they came."""
    kept = [json.loads((folder / OWN).read_text(encoding="utf-8")) for folder in folders if (folder / OWN).is_file()]
    return {tensor: sorted({row for about in kept for row in about["rows"]}) for about in kept for tensor in about["tensors"]}


def token_tensors(folder: Path, tensors: Tensors) -> list[str]:
    """The tensors of a checkpoint that have a row for each token. A StudyError: none has as many as the config says."""
    rows = read_config(folder / "config.json", folder.name).vocab_size
    heads, own = (HEAD, "lm_head.bias", "embed_out.weight"), [name for name, shape in tensors.shapes.items() if shape[0] == rows]
    found = [name for name in own if EMBEDDINGS.search(name) or name in heads]
    if not any(map(EMBEDDINGS.search, found)):
        raise StudyError(f"{folder}: config.json says that vocab_size is {rows}, and no embedding has as many rows")
    return found


@cache  # asked for every merge; a process keeps to the tokenizers that it found, as to the hub's copies
def _order(folder: Path, donor: Path) -> list[int] | None:
    """For each of the donor's rows the row of the same token, or -1; None if every token of both is in one place, of as many rows."""
    sizes = [read_config(one / "config.json", one.name).vocab_size for one in (folder, donor)]
    files = [file.read_bytes() if (file := one / "tokenizer.json").is_file() else None for one in (folder, donor)]
    if sizes[0] == sizes[1] and files[0] and files[0] == files[1]:  # reading the tokenizers would take a second
        return None
    ours, theirs = (read_tokenizer(one, one.name).get_vocab() for one in (folder, donor))
    shared = {token: (ours[token], theirs[token]) for token in ours.keys() & theirs.keys()}
    if sizes[0] == sizes[1] and all(one == other for one, other in shared.values()):
        return None
    place = {other: one for one, other in shared.values() if one < sizes[0]}
    return [place.get(row, -1) for row in range(sizes[1])]


def _write(copy: Path, folder: Path, donor: Path, order: "torch.Tensor", own: list[int]) -> None:
    ours, theirs, changed = Tensors(folder), Tensors(donor), {}
    for name in token_tensors(folder, ours):
        if theirs.shapes.get(name, ())[1:] == ours.shapes[name][1:]:  # else the parents differ in more, which is told when they are compared
            rows = ours[name][order.clamp(min=0)]
            rows[own] = theirs[name][own].to(rows.dtype) if own else rows[own]
            changed[name] = rows
    places = {name: file.name for file in weight_files(folder) for name in opened(file).keys()}  # noqa: SIM118
    if HEAD in places and HEAD not in ours.shapes:  # stored although it is the embedding
        changed[HEAD] = next(rows for name, rows in changed.items() if EMBEDDINGS.search(name)).clone()
    copy.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(changed, copy / NEW, metadata={"format": "pt"})
    write_json(copy / "model.safetensors.index.json", {"metadata": {}, "weight_map": places | dict.fromkeys(changed, NEW)})
    read_tokenizer(donor, donor.name).save_pretrained(copy)
    write_json(copy / "config.json", json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"vocab_size": len(order)})
    write_json(copy / OWN, {"tensors": sorted(changed), "rows": own})
