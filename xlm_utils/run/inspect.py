"""Is a merge whole, and where does it lie between its parents? ``python -m xlm_utils.run.inspect MERGE --parents A B [--base C]``.

Models are folders or hub ids. Findings are ``ok``, ``look`` (may be meant) or ``wrong``; with a wrong one the command ends with status 1.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from xlm_utils import models
from xlm_utils.generate.decoding import complete
from xlm_utils.merge.distances import facts_of
from xlm_utils.models import hub
from xlm_utils.models.constituents import WITHOUT_ADAPTER
from xlm_utils.models.libraries import PreTrainedTokenizerBase, quiet
from xlm_utils.models.weights import CHUNK, EMBEDDINGS, UNREADABLE, Tensors, eos_ids, older_rope, read_tokenizer
from xlm_utils.study import StudyError, pick_device, project_path, read_text

PROMPTS = ("What is asthma?", "Name the capital of Japan.", "Write one sentence about rain.", "What is 12 + 30?", "Say hello in French.")
DECISIVE = ("architecture", "parameters", "tied embeddings", "head size", "vocabulary")  # no ordinary merge has others than its parents


def counted(names: Iterable[str]) -> str:
    """How many names there are, and the first of them."""
    return ", such as ".join([str(len(names := sorted(names))), *names[:1]])


def files(merge: Path, parents: dict[str, Path], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str, str]]:
    """What the small files say, against the parents': config, tokenizer, chat template, and where a generation ends."""
    shapes, theirs = Tensors(merge).shapes, {name: facts_of(folder, Tensors(folder).shapes) for name, folder in parents.items()}
    for fact, value in facts_of(merge, shapes).items():
        same = [name for name, facts in theirs.items() if facts[fact] == value]
        told = f"as {' and '.join(same)}" if same else "; ".join(f"{name} has {facts[fact]}" for name, facts in theirs.items())
        if fact not in ("shapes", "stops at tokens"):  # told below, in words
            yield fact, f"{value}, {told}", "ok" if same else "wrong" if fact in DECISIVE else "look"
    if lacking := older_rope(json.loads(read_text(merge / "config.json"))):
        yield "rotary base", f"{' and '.join(lacking)} missing or other than in rope_parameters: to transformers 4 it is another model", "look"
    rows = next((shape[0] for name, shape in shapes.items() if EMBEDDINGS.search(name)), 0)
    yield "rows of the embedding", f"{rows:,} for {len(tokenizer):,} tokens", "ok" if rows >= len(tokenizer) else "wrong"
    if not (known := eos_ids(merge)):
        yield "end token", "neither generation_config.json nor config.json names one, so that no answer ends", "wrong"
        return
    lacking = [token for token in models.stop_tokens(known, tokenizer) if token not in known]
    stops, unheard = (" ".join(map(str, tokenizer.convert_ids_to_tokens(ids))) for ids in (known, lacking))
    told = f", but not at {unheard}, which the tokenizer or its chat template ends with" if lacking else ""
    yield "end token", f"stops at {stops}{told}", "wrong" if lacking else "ok"


def weights(merge: Path, parents: dict[str, Path], base: Path | None) -> Iterator[tuple[str, str, str]]:
    """What the tensors say, each read once: lost or new ones, NaN, copies of a parent, and the place between the parents.

    The place is the least-squares combination of the task vectors, which start at the base, or else at the first parent.
    """
    import torch

    own, others = Tensors(merge), {name: Tensors(folder) for name, folder in parents.items()}
    lost = set.intersection(*(set(other.shapes) for other in others.values())) - set(own.shapes)
    yield "tensors lost", counted(lost), "wrong" if lost else "ok"
    yield "tensors of no parent", counted(new := set(own.shapes).difference(*(other.shapes for other in others.values()))), "wrong" if new else "ok"
    points = [*([Tensors(base)] if base else []), *others.values()]
    broken, copied, unlike, gram = [], Counter(), 0, np.zeros((len(points), len(points)))
    for name, shape in own.shapes.items():
        weight = own[name]
        if not weight.isfinite().all():
            broken.append(name)
        elif all(point.shapes.get(name) == shape for point in points):
            tensors = [*(point[name] for point in points), weight]
            theirs = tensors[-1 - len(others) : -1]
            if any(not theirs[0].equal(other) for other in theirs[1:]):
                unlike += 1
                copied.update(parent for parent, other in zip(others, theirs, strict=True) if other.to(weight.dtype).equal(weight))
            for origin, *ends in zip(*(tensor.reshape(-1).split(CHUNK) for tensor in tensors), strict=True):
                steps = torch.stack([end.float() - origin.float() for end in ends])
                gram += (steps @ steps.T).double().numpy()
    yield "NaN or Inf", counted(broken), "wrong" if broken else "ok"
    for parent in others:
        verdict = "wrong" if copied[parent] == unlike else "look" if copied[parent] else "ok"
        yield f"untouched from {parent}", f"{copied[parent]} of the {unlike} tensors in which the parents differ", verdict if unlike else "look"
    vectors, along, length = gram[:-1, :-1], gram[:-1, -1], float(gram[-1, -1])
    shares = np.linalg.lstsq(vectors, along, rcond=None)[0]
    beside = np.sqrt(max(0.0, 1 - float(shares @ along) / length)) if length else 0.0
    start, *ends = [*(["the base"] if base else []), *parents]
    ways = zip(shares, ends, np.sqrt(vectors.diagonal()), strict=True)
    way = ", ".join(f"{share:.2f} of the way to {name} (which is {far:.3g})" for share, name, far in ways)
    yield "place", f"{np.sqrt(length):.3g} from {start}: {way}; {beside:.0%} of that distance leads elsewhere", "ok"


def answers(merge: Path, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> Iterator[tuple[str, str, str]]:
    """Whether transformers loads it whole, and what it answers: greedy, with its chat template and the end tokens of its own files."""
    quiet()
    from transformers import AutoModelForCausalLM, GenerationConfig

    options = {"dtype": "auto", "device_map": pick_device()[0], "generation_config": GenerationConfig(), **WITHOUT_ADAPTER}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(merge, output_loading_info=True, **options)
    except (*UNREADABLE, RuntimeError) as error:  # shapes that the config does not have are a RuntimeError
        yield "loads", str(error).strip().splitlines()[0], "wrong"
        return
    odd = [f"{key.replace('_', ' ')}: {counted(map(str, names))}" for key, names in loading.items() if names]
    yield "loads", "; ".join(odd) or "every tensor has its place", "wrong" if odd else "ok"
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    model.generation_config = GenerationConfig(eos_token_id=eos_ids(merge) or None, pad_token_id=tokenizer.pad_token_id)
    templated = bool(tokenizer.chat_template)
    texts = [models.chat(tokenizer, [{"role": "user", "content": prompt}], of=merge.name) if templated else prompt for prompt in prompts]
    said = complete(model.eval(), models.leave_open(tokenizer, merge.name), texts, max_new_tokens=96, templated=templated, stop_at_loop=True)
    ends = Counter(row["finish"] for row in said)
    yield "answers", ", ".join(f"{count} {finish}" for finish, count in ends.items()), "ok" if ends["stop"] else "look"
    for prompt, row in zip(prompts, said, strict=True):
        yield prompt, f"{row['definition']!r} ({row['finish']})", ""


def main() -> None:
    """Command line: a merge and its parents; a line a finding."""
    parser = argparse.ArgumentParser(description="What users of a merge ask of its folder: does it load, stop, keep its tokenizer, hold NaN?")
    parser.add_argument("merge")
    parser.add_argument("--parents", nargs=2, required=True, metavar="MODEL")
    parser.add_argument("--base", metavar="MODEL", help="their common ancestor, where task vectors start; else the first parent")
    parser.add_argument("--prompts", type=Path, help="a text file, one question a line (\\n for a line break), for other sample answers")
    asked, wrong = parser.parse_args(), 0
    try:
        named = filter(None, [asked.merge, *asked.parents, asked.base])
        folders = {name: hub.from_hub(name, None) if hub.is_on_hub(name) else project_path(name).resolve() for name in named}
        merge, parents = folders[asked.merge], {name: folders[name] for name in asked.parents}
        tokenizer = read_tokenizer(merge, asked.merge)
        prompts = [line.replace("\\n", "\n") for line in read_text(asked.prompts).splitlines() if line.strip()] if asked.prompts else list(PROMPTS)
        found = files(merge, parents, tokenizer), weights(merge, parents, folders.get(asked.base)), answers(merge, tokenizer, prompts)
        for question, answer, verdict in chain(*found):
            print(f"{verdict:<6} {question}: {answer}", flush=True)
            wrong += verdict == "wrong"
    except (StudyError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.exit(f"findings that are wrong: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main()
