"""Every case of parents and words that failed in the wild: the project's own code on it, what comes, and whether that is right.

    python measure/wild.py                # all, about two minutes on two CPU cores
    python measure/wild.py snomed rope    # the rows that have one of these words in their case

Models are pico (hidden 32, two to four layers, 300 tokens), the hub is a loopback, the SNOMED CT release is hand-made;
the ontology is the real wheel. A row is void where this machine lacks what it needs.
"""

import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from functools import cache, reduce
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.conftest import DEMO_ITEMS, pico_tokenizer, write_siblings, write_study  # noqa: E402
from tests.generate.test_caches import hybrid  # noqa: E402
from tests.merge.test_planning import FAMILIES, WIDE, change, in_memory_as_on_disk, siblings  # noqa: E402
from tests.models import test_turns as turns  # noqa: E402
from tests.models.test_adapters import by_peft, logits, lora  # noqa: E402
from tests.models.test_vocabularies import with_tokens  # noqa: E402
from tests.run.test_parents import config  # noqa: E402
from tests.support import rf2  # noqa: E402
from tests.support.hub import TOKEN, Hub  # noqa: E402
from xlm_utils import merge, models  # noqa: E402
from xlm_utils.benchmark import benchmarks  # noqa: E402
from xlm_utils.benchmark.harness import SharedPromptLM  # noqa: E402
from xlm_utils.benchmark.prepared import prepare  # noqa: E402
from xlm_utils.curate import snomed, terminologies, vocabulary  # noqa: E402
from xlm_utils.generate import decoding, generation  # noqa: E402
from xlm_utils.generate.languages import language_of  # noqa: E402
from xlm_utils.models import constituents, hub, libraries  # noqa: E402
from xlm_utils.models.weights import Tensors  # noqa: E402
from xlm_utils.run import checks  # noqa: E402
from xlm_utils.run.preflight import preflight  # noqa: E402
from xlm_utils.study import PARAMS, StudyError, open_study  # noqa: E402

TEXTS = ["用語：喘息\n定義：", "Term: asthma\nDefinition:", "yes", "はい いいえ no"]
METHODS = ("linear~expert_weight=0.5", "slerp", "task_arithmetic", "ties@ancestor", "dare_ties")
Findings = Iterator[tuple[str, bool | None]]  # what came, and whether it is right; None: could not be tried


class Row(NamedTuple):
    """One case of the list."""

    group: str
    case: str
    right: str
    find: Callable[["Scratch"], Findings]


ROWS: list[Row] = []


def row(group: str, case: str, right: str) -> Callable:
    """Add a row that a function looks into."""

    def add(find: Callable) -> Callable:
        ROWS.append(Row(group, case, right, find))
        return find

    return add


@dataclass
class Scratch:
    """A row's own folder, and the pico siblings that all rows share."""

    folder: Path
    siblings: dict[str, Path]

    def study(self, family: str = "llama", **settings: object):
        """A study over the siblings."""
        return write_study(self.folder, self.siblings, family, **settings)

    def expert(self, family: str = "llama") -> Path:
        """The folder of a sibling."""
        return self.siblings[family] / "expert"

    def changed(self, name: str, family: str = "llama", **settings: object) -> Path:
        """A copy of the expert with another config."""
        return config(self.expert(family), self.folder / name, **settings)

    def saved(self, name: str, model) -> Path:
        """A model of its own, with the pico tokenizer."""
        model.save_pretrained(self.folder / name)
        pico_tokenizer().save_pretrained(self.folder / name)
        return self.folder / name


def told(function: Callable, *arguments: object, **options: object) -> str:
    """The sentence that a call is refused with; "" where it is not."""
    try:
        function(*arguments, **options)
    except StudyError as error:
        return str(error)
    return ""


def refused(study, stages: tuple[str, ...] = ("03_merge",)) -> str:
    """What the checks before a run say against a study."""
    return told(preflight, study, stages).partition("\n")[2]


def printed(function: Callable, *arguments: object, **options: object) -> str:
    """What a call prints."""
    with redirect_stdout(io.StringIO()) as out:
        function(*arguments, **options)
    return out.getvalue()


def same(one, other) -> bool:
    """Whether two sets of tensors are equal, by name and bit for bit."""
    return one.shapes == other.shapes and all(torch.equal(one[name], other[name]) for name in one.shapes)


def whole(study, methods: tuple[str, ...] = METHODS) -> Findings:
    """Merges of a study: every tensor of the parents, and in memory what is on disk."""
    expert = Tensors(models.locate(study, "expert")).shapes
    for method in methods:
        merged = Tensors(merge.merge(study, method))
        equal = in_memory_as_on_disk(study, method)
        right = merged.shapes == expert and equal
        yield ("" if right else f"{method}: {len(merged.shapes)} of {len(expert)} tensors, in memory {'equal' if equal else 'other'}"), right
    yield f"{len(expert)} tensors in, {len(merged.shapes)} out, in memory as on disk, by {len(methods)} methods", True


def define(study, run: str, terms: pd.DataFrame | None = None) -> list[dict]:
    """Definitions of a study's terms by one of its runs, as notebook 04 makes them."""
    study.folder.mkdir(parents=True, exist_ok=True)
    if terms is None:
        terms = pd.DataFrame({"term_id": ["t1", "t2"], "term": ["asthma", "wheezing"], "translation": ["喘息", "気道"]})
    terms.to_csv(study.folder / "terms.csv", index=False)
    asked = next(candidate for candidate in generation.runs(study) if candidate.name == run)
    return [answer for batch in generation.define(study, asked, terms) for answer in batch]


def sentencepiece_model(folder: Path, name: str, kind: str = "bpe") -> Path:
    """A tiny ``tokenizer.model`` under one of its names."""
    import sentencepiece

    (folder / "text.txt").write_text("\n".join(["Term: asthma", "Definition: a disease of the airways", "用語：喘息"] * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "made"), vocab_size=60, model_type=kind, hard_vocab_limit=False, minloglevel=2
    )
    for left in (folder / "text.txt", folder / "made.vocab"):
        left.unlink()
    return (folder / "made.model").rename(folder / name)


# ---- parents: wrong weights, silently ---------------------------------------------------------------------------------------------


@row("parents", "two adapters in folders called checkpoint-300", "two folders; Linear is the mean, TIES is not the expert")
def _(scratch: Scratch) -> Findings:
    base = scratch.siblings["llama"] / "ancestor"
    runs = {name: scratch.folder / run / "checkpoint-300" for name, run in (("japanese", "ja"), ("expert", "med"))}
    for seed, adapter in enumerate(runs.values()):
        lora(base, adapter, seed)
    study = scratch.study(weights=dict.fromkeys(runs, base), adapters=runs)
    ja, med = (Tensors(models.locate(study, name)) for name in runs)
    yield "two folders", not same(ja, med)
    merged = Tensors(merge.merge(study, "linear~expert_weight=0.5"))
    mean = all(torch.equal(merged[name], ((ja[name].float() + med[name].float()) / 2).to(torch.bfloat16)) for name in ja.shapes)
    yield f"Linear is {'the' if mean else 'not the'} mean", mean
    strange = [method for method in METHODS[1:] if same(Tensors(merge.merge(study, method)), med)]
    yield f"{len(strange)} methods give the expert", not strange


@row("parents", "Llama with attention_bias and mlp_bias", "all tensors; Linear: the mean of every bias; in memory as on disk")
def _(scratch: Scratch) -> Findings:
    folders = siblings(scratch.folder, *FAMILIES["llama with biases"])
    study = scratch.study(weights=folders)
    yield from whole(study)
    merged, ours, theirs = (Tensors(folder) for folder in (merge.merge(study, METHODS[0]), folders["japanese"], folders["expert"]))
    biases = [name for name in merged.shapes if name.endswith(".bias")]
    mean = all(torch.equal(merged[name], ((ours[name].float() + theirs[name].float()) / 2).to(torch.bfloat16)) for name in biases)
    yield f"{len(biases)} biases are the mean", mean and len(biases) == 14


@row("parents", "Llama-3 donor with rope_theta as on the hub", "both spellings, both 500000")
def _(scratch: Scratch) -> Findings:
    folders = siblings(scratch.folder, "Llama", {**WIDE, "rope_theta": 500000.0})
    for folder in folders.values():
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        given.pop("rope_parameters")
        (folder / "config.json").write_text(json.dumps(given | {"rope_theta": 500000.0}), encoding="utf-8")
    written = json.loads((merge.merge(scratch.study(weights=folders), "linear") / "config.json").read_text(encoding="utf-8"))
    old, new = written.get("rope_theta"), written["rope_parameters"].get("rope_theta")
    yield f"rope_theta {old}, rope_parameters {new}", old == new == 500000.0


@row("parents", "an adapter's keys are of language_model, the model is plain", "a sentence: no key of the adapter fits")
def _(scratch: Scratch) -> Findings:
    adapter = lora(scratch.expert(), scratch.folder / "nested")
    stored = load_file(adapter / "adapter_model.safetensors")
    nested = {name.replace("model.model.", "model.model.language_model.model."): tensor for name, tensor in stored.items()}
    save_file(nested, adapter / "adapter_model.safetensors")
    came = refused(scratch.study(adapters={"expert": adapter}))
    yield came, "no key of the adapter fits" in came


@row("parents", "adapter_config.json names another base", "a sentence, or a printed line")
def _(scratch: Scratch) -> Findings:
    adapter = lora(scratch.expert(), scratch.folder / "other")
    about = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(about | {"base_model_name_or_path": "meta-llama/Meta-Llama-3-8B"}), encoding="utf-8")
    came = printed(preflight, scratch.study(adapters={"expert": adapter}), ["03_merge"])
    line = next((line for line in came.splitlines() if "as its base" in line), "")
    yield line, "names meta-llama/Meta-Llama-3-8B" in line


@row("parents", "LoRA on q_proj and lm_head of a tied model", "untied and equal to 1e-4, or a sentence")
def _(scratch: Scratch) -> Findings:
    adapter = lora(scratch.expert("gemma"), scratch.folder / "tied", target_modules=["q_proj", "lm_head"])
    came = refused(scratch.study("gemma", adapters={"expert": adapter}))
    yield came, "ties to its other end" in came
    plain = lora(scratch.expert("gemma"), scratch.folder / "plain")
    off = float((logits(constituents.with_adapter(scratch.expert("gemma"), plain, "gemma")) - by_peft(scratch.expert("gemma"), plain)).abs().max())
    yield f"without lm_head it is off by {off:.0e}", off <= 1e-4


@row("parents", "an adapter left in a whole model's folder", "model.safetensors, once, in 03, 04 and 06")
def _(scratch: Scratch) -> Findings:
    both = shutil.copytree(scratch.expert(), scratch.folder / "both")
    lora(scratch.expert(), both)
    plain, left = scratch.study(), scratch.study(weights={"expert": both})
    merge.merge(plain, "ties")
    shutil.move(plain.models_folder / "ties", scratch.folder / "plain_ties")
    one = Tensors(scratch.folder / "plain_ties")
    yield "03: the same merge", same(one, Tensors(merge.merge(left, "ties")))
    loaded = [models.load(study, "expert", dtype="float32")[:2] for study in (plain, left)]
    yield "04: the same texts", decoding.complete(*loaded[0], TEXTS, 20) == decoding.complete(*loaded[1], TEXTS, 20)
    asked = options(TEXTS[:2])
    yield "06: the same likelihoods", len({str(SharedPromptLM(*pair, 512).loglikelihood(asked)) for pair in loaded}) == 1


def options(texts: list[str]) -> list:
    """Requests of a choice task."""
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, (text, f" {option}"), i) for i, text in enumerate(texts) for option in ("yes", "no", "はい")]


# ---- parents: valid ones, and those that no merge can take --------------------------------------------------------------------------


@row("parents", "Gemma configs without and with tie_word_embeddings", "they match, in preflight and in 03")
def _(scratch: Scratch) -> Findings:
    study = scratch.study("gemma", weights={"expert": scratch.changed("sparse", "gemma", without=("tie_word_embeddings",))})
    yield refused(study) or "preflight: they match", not refused(study)
    tied = merge.check_parents(study).loc["tied embeddings"]
    yield f"03: {'same' if tied['same'] else 'different'}", bool(tied["same"])


@row("parents", "Gemma3ForConditionalGeneration", "one sentence in preflight, or its text model is taken and said")
def _(scratch: Scratch) -> Findings:
    text = json.loads((scratch.expert("gemma") / "config.json").read_text(encoding="utf-8"))
    seeing = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    folder = scratch.changed("seeing", "gemma", without=tuple(text), **seeing)
    (folder / "config.json").write_text(json.dumps(seeing), encoding="utf-8")
    came = refused(scratch.study("gemma", weights={"expert": folder}))
    yield came, "more than a model of text" in came


@row("parents", "GPT-2 and GPT-NeoX at the default batch size", "a batch size")
def _(scratch: Scratch) -> Findings:
    for family in ("gpt-2", "gpt-neox"):
        folders = siblings(scratch.folder / family, *FAMILIES[family])
        study = scratch.study(weights=folders)
        model, tokenizer, _ = models.load(study, "expert")
        size, _ = decoding.pick_batch_size(study, model, tokenizer, TEXTS * 100)
        yield f"{family}: {size}", size > 1


@row("parents", "consolidated.safetensors beside model.safetensors", "counted and merged once")
def _(scratch: Scratch) -> Findings:
    twice = shutil.copytree(scratch.expert(), scratch.folder / "twice")
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, twice / "consolidated.safetensors")
    study, facts = scratch.study(weights={"expert": twice}), {}
    for name in ("japanese", "expert"):
        checks.model(study, name, facts)
    counts = [facts[name]["parameters"] for name in facts]
    yield f"{counts[1]:,} parameters", counts[0] == counts[1]
    yield refused(study) or "merges", bool(merge.merge(study, "ties"))


@row("parents", "git-lfs pointer, half a file, second shard missing", "preflight names the file and what to do")
def _(scratch: Scratch) -> Findings:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    shards = shutil.copytree(scratch.expert(), scratch.folder / "shards")
    transformers.AutoModelForCausalLM.from_pretrained(scratch.expert()).save_pretrained(shards, max_shard_size="40KB")
    (shards / "model.safetensors").unlink(missing_ok=True)
    last = sorted(shards.glob("model-*.safetensors"))[-1]
    last.unlink()
    for name, change_file, right in (
        ("pointer", lambda file: file.write_text(pointer, encoding="utf-8"), "is a git-lfs pointer, not the weights: run git lfs pull"),
        ("half", lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "is cut off"),
    ):
        folder = shutil.copytree(scratch.expert(), scratch.folder / name)
        change_file(folder / "model.safetensors")
        came = refused(scratch.study(weights={"expert": folder}))
        yield came, f"model.safetensors {right}" in came
    came = refused(scratch.study(weights={"expert": shards}))
    yield came, f"{last.name} is missing" in came


@row("parents", "tied parent that stores lm_head.weight equal to its embedding", "merges, head dropped")
def _(scratch: Scratch) -> Findings:
    head = lambda stored: {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}  # noqa: E731
    tied = change(scratch.expert("gemma"), scratch.folder / "tied", lambda stored: stored | head(stored))
    study = scratch.study("gemma", weights={"expert": tied})
    yield refused(study) or "preflight: they match", not refused(study)
    yield "merged without a head", "lm_head.weight" not in Tensors(merge.merge(study, "linear")).shapes


@row("parents", "rotary_emb.inv_freq in one parent", "merges")
def _(scratch: Scratch) -> Findings:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    old = change(scratch.expert(), scratch.folder / "old", lambda stored: stored | {name: torch.ones(4)})
    study = scratch.study(weights={"expert": old})
    yield refused(study) or "preflight: they match", not refused(study)
    yield "merged, no buffer in it", name not in Tensors(merge.merge(study, "ties")).shapes


def grown(scratch: Scratch, tokenizer: bool) -> Path:
    """An adapter that adds a token to the expert, with its tokenizer or without."""
    adapter = lora(scratch.expert(), scratch.folder / f"added{tokenizer}", rows=301, modules_to_save=["embed_tokens", "lm_head"])
    if tokenizer:
        own = pico_tokenizer()
        own.add_tokens(["徐脈"])
        own.chat_template = "{{ messages[0].content }}!"
        own.save_pretrained(adapter)
    return adapter


@row("parents", "adapter with modules_to_save and one added token", "base resized with the adapter's tokenizer, or a sentence")
def _(scratch: Scratch) -> Findings:
    came = refused(scratch.study(adapters={"expert": grown(scratch, tokenizer=False)}))
    yield came, "it brings no tokenizer" in came
    adapter = grown(scratch, tokenizer=True)
    study = scratch.study(adapters={"expert": adapter})
    rows = Tensors(models.locate(study, "expert")).shapes["lm_head.weight"][0]
    yield f"with one: {rows} rows", rows == 301
    rows = Tensors(merge.merge(study, "linear")).shapes["lm_head.weight"][0]
    yield f"merged: {rows} rows", rows == 300


@row("parents", "parents of 300 and 308 rows (8 added tokens)", "merged by token with the general model's tokenizer")
def _(scratch: Scratch) -> Findings:
    expert = with_tokens(scratch.expert(), scratch.folder / "larger", lambda tokens: tokens, [f"<new {number}>" for number in range(8)])
    study = scratch.study(weights={"expert": expert})
    merged = Tensors(merge.merge(study, "linear~expert_weight=0.5"))
    general, other = (Tensors(models.locate(study, name))["lm_head.weight"][:300].float() for name in ("japanese", "expert"))
    yield f"{merged.shapes['lm_head.weight'][0]} rows, their mean", merged["lm_head.weight"].equal(((general + other) / 2).bfloat16())
    words = [models.load(study, name)[1].get_vocab() for name in ("linear~expert_weight=0.5", "japanese")]
    yield "the general model's tokenizer", words[0] == words[1]


@row("parents", "adapter folder with its own tokenizer and chat template", "used")
def _(scratch: Scratch) -> Findings:
    adapter = lora(scratch.expert(), scratch.folder / "own")
    tokenizer = pico_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(adapter)
    study = scratch.study(adapters={"expert": adapter}, generation={"max_new_tokens": 4, "chat_template": True, "dtype": "float32"})
    prompt = define(study, "expert")[0]["prompt"]
    yield f"a prompt ends in {prompt[-1]}", prompt.endswith("!")


@contextmanager
def loopback(scratch: Scratch) -> Iterator[Hub]:
    """A hub that the client in this process takes for the real one."""
    from huggingface_hub import constants

    hub.from_hub.cache_clear()
    with Hub() as server, ExitStack() as patched:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(scratch.folder / "hub")}
        patched.enter_context(patch.multiple(constants, **settings))
        patched.enter_context(patch.dict(os.environ, HF_TOKEN=TOKEN))
        yield server
    hub.from_hub.cache_clear()


@row("parents", "weights: a/adapter of the hub; adapter: someone/lora", "a sentence: give it as adapter:; fetched")
def _(scratch: Scratch) -> Findings:
    files = {file.name: file.read_bytes() for file in lora(scratch.expert(), scratch.folder / "made").iterdir()}
    with loopback(scratch) as server:
        server.add("someone/lora", files)
        came = refused(scratch.study(weights={"expert": "someone/lora"}))
        yield came, "an adapter, not a model: give it as adapter: beside" in came
        study = scratch.study(adapters={"expert": "someone/lora"})
        yield refused(study) or "fetched, and it fits", not refused(study)
        yield "merged", bool(merge.merge(study, "ties"))


@row("parents", "Qwen3.5 and LFM2, rows that end apart", "04: the texts of one by one; 06: as the stock model class")
def _(scratch: Scratch) -> Findings:
    from lm_eval.models.huggingface import HFLM

    for family in ("lfm2", "qwen3.5"):
        torch.manual_seed(1)
        model = hybrid(family)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.copy_(0.3 * torch.randn(parameter.shape))
        study = scratch.study(weights={"japanese": scratch.saved(family, model)})
        model, tokenizer, _ = models.load(study, "japanese", dtype="float32")
        model.generation_config.eos_token_id = list(range(20, 80))
        alone = [decoding.complete(model, tokenizer, [text], 24)[0] for text in TEXTS]
        apart = len({answer["tokens"] for answer in alone}) > 1
        yield f"{family}: 04 as one by one", apart and decoding.complete(model, tokenizer, TEXTS, 24) == alone
        ours = SharedPromptLM(model, tokenizer, 512).loglikelihood(options(TEXTS[:2]))
        stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1).loglikelihood(options(TEXTS[:2]), disable_tqdm=True)
        off = max(abs(one[0] - other[0]) for one, other in zip(ours, stock, strict=True))
        yield f"06 off by {off:.0e}", off < 1e-4


def tokenizer_of(scratch: Scratch, name: str, kind: str, class_name: str) -> Path:
    """The general model's folder with one file as its tokenizer."""
    general = shutil.copytree(scratch.siblings["llama"] / "japanese", scratch.folder / f"general_{name}")
    for file in [*general.glob("*token*"), *general.glob("*.jinja")]:
        file.unlink()
    sentencepiece_model(general, name, kind)
    (general / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}), encoding="utf-8")
    return general


@row("parents", "tokenizer.model or spiece.model only", "loads")
def _(scratch: Scratch) -> Findings:
    for name, kind, class_name in (("tokenizer.model", "bpe", "LlamaTokenizer"), ("spiece.model", "unigram", "T5Tokenizer")):
        study = scratch.study(weights={"japanese": tokenizer_of(scratch, name, kind, class_name)})
        came = refused(study)
        tokenizer = models.load(study, "japanese")[1]
        text = tokenizer.decode(tokenizer("asthma", add_special_tokens=False)["input_ids"])
        yield came or f"{name}: {text}", not came and text == "asthma"


@row("parents", "general model with spiece, sentencepiece.bpe or spm.model, tekken.json, *.tiktoken", "a whole tokenizer, or one sentence first")
def _(scratch: Scratch) -> Findings:
    kinds = {
        "tokenizer.model": ("bpe", "LlamaTokenizer"), "spiece.model": ("unigram", "T5Tokenizer"),
        "sentencepiece.bpe.model": ("unigram", "XLMRobertaTokenizer"), "spm.model": ("unigram", "DebertaV2Tokenizer"),
    }  # fmt: skip
    for name, (kind, class_name) in kinds.items():
        general = tokenizer_of(scratch, name, kind, class_name)
        merged = merge.merge(scratch.study(weights={"japanese": general}), "linear")
        ours, theirs = (transformers.AutoTokenizer.from_pretrained(folder)("asthma 喘息")["input_ids"] for folder in (merged, general))
        shutil.rmtree(merged)
        yield f"{name}: {'the same' if ours == theirs else 'other'} {len(ours)} tokens", ours == theirs and len(ours) > 2
    for name in ("tekken.json", "qwen.tiktoken"):
        general = tokenizer_of(scratch, f"{name}.model", "bpe", "LlamaTokenizer")
        for file in general.glob("*token*"):
            file.unlink()
        (general / f"{name}.model").unlink(missing_ok=True)
        shutil.copyfile(tekken(scratch) if name == "tekken.json" else tiktoken(scratch), general / name)
        study = scratch.study(weights={"japanese": general})
        came = refused(study)
        if came:
            yield came, "no tokenizer that can be read" in came
        else:
            folder = merge.merge(study, "linear")
            ours, theirs = (transformers.AutoTokenizer.from_pretrained(place)("asthma 喘息")["input_ids"] for place in (folder, general))
            yield f"{name}: {len(ours)} tokens", ours == theirs and len(ours) > 2


def tekken(scratch: Scratch) -> Path:
    """Bytes only, in Mistral's format."""
    from base64 import b64encode

    vocabulary = [{"rank": i, "token_bytes": b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)]
    special = [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))]
    about = {"pattern": r"\p{L}+|\s+|[^\s\p{L}]+", "num_vocab_tokens": 256, "default_vocab_size": 259, "default_num_special_tokens": 3,
             "version": "v3"}  # fmt: skip
    file = scratch.folder / "tekken.json"
    file.write_text(json.dumps({"config": about, "vocab": vocabulary, "special_tokens": special}), encoding="utf-8")
    return file


def tiktoken(scratch: Scratch) -> Path:
    """Bytes only, in tiktoken's format."""
    from base64 import b64encode

    file = scratch.folder / "made.tiktoken"
    file.write_text("".join(f"{b64encode(bytes([i])).decode()} {i}\n" for i in range(256)), encoding="utf-8")
    return file


@row("parents", "additional_chat_templates/, and a folder called tokenizer_old", "taken along; ignored")
def _(scratch: Scratch) -> Findings:
    general = shutil.copytree(scratch.siblings["llama"] / "japanese", scratch.folder / "general")
    (general / "additional_chat_templates").mkdir()
    (general / "additional_chat_templates" / "rag.jinja").write_text("{{ messages }}", encoding="utf-8")
    (general / "tokenizer_old").mkdir()
    merged = merge.merge(scratch.study(weights={"japanese": general}), "linear")
    templates = transformers.AutoTokenizer.from_pretrained(merged).chat_template
    yield f"templates {', '.join(templates) if isinstance(templates, dict) else 'one'}", isinstance(templates, dict) and "rag" in templates
    yield "no tokenizer_old", not (merged / "tokenizer_old").exists()


@row("parents", "code of its own (auto_map, unknown type)", "one sentence in preflight")
def _(scratch: Scratch) -> Findings:
    changes = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    came = refused(scratch.study(weights={"expert": scratch.changed("own", **changes)}))
    yield came, "it brings code of its own, which is not run" in came


@row("parents", "bnb-4bit weights", "one sentence in preflight")
def _(scratch: Scratch) -> Findings:
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    came = refused(scratch.study(weights={"expert": scratch.changed("nf4", **quantised)}))
    yield came, "its weights are quantised (bitsandbytes)" in came


@row("parents", "GPT-NeoX, Falcon of transformers 5; Cohere without qk-norm", "one sentence in preflight, or merged whole")
def _(scratch: Scratch) -> Findings:
    for family in ("gpt-neox", "falcon", "cohere without qk-norm"):
        study = scratch.study(weights=siblings(scratch.folder / family, *FAMILIES[family]))
        came = refused(study)
        yield f"{family}: {came}" if came else family, not came
        yield from whole(study, METHODS[:1] + METHODS[3:4])
        shutil.rmtree(study.models_folder)


@row("parents", "general and expert in one folder", "one sentence")
def _(scratch: Scratch) -> Findings:
    came = refused(scratch.study(weights={"expert": scratch.siblings["llama"] / "japanese"}))
    yield came, "japanese and expert can't be merged: both are" in came and "\n" not in came


@row("parents", "llama3 RoPE scaling and theta on one side", "a row of the parents' table")
def _(scratch: Scratch) -> Findings:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    table = merge.check_parents(scratch.study(weights={"expert": scratch.changed("scaled", rope_parameters=rope)}))
    found = table.loc["RoPE"]
    yield f"RoPE: same is {bool(found['same'])}, {found['what is done']}", not found["same"] and "500000" in found["expert"]


# ---- parents: texts -----------------------------------------------------------------------------------------------------------------


@row("parents", "stop_strings, num_return_sequences, forced_eos_token_id, penalties in generation_config.json", "40 tokens each, as without")
def _(scratch: Scratch) -> Findings:
    bent = shutil.copytree(scratch.siblings["llama"] / "japanese", scratch.folder / "bent")
    given = json.loads((bent / "generation_config.json").read_text(encoding="utf-8"))
    bends = {"stop_strings": ["a"], "num_return_sequences": 2, "penalty_alpha": 0.6, "prompt_lookup_num_tokens": 3, "dola_layers": "low",
             "forced_eos_token_id": 1, "repetition_penalty": 1.5, "max_length": 3}  # fmt: skip
    (bent / "generation_config.json").write_text(json.dumps(given | bends), encoding="utf-8")
    answers = []
    for weights in ({}, {"japanese": bent}):
        model, tokenizer, _ = models.load(scratch.study(weights=weights), "japanese", dtype="float32")
        model.generation_config.eos_token_id = [1]
        answers.append(decoding.complete(model, tokenizer, TEXTS, 40))
    yield f"{', '.join(str(answer['tokens']) for answer in answers[1])} tokens", answers[0] == answers[1]


def templated(scratch: Scratch, template: str, **generation: object):
    """A study whose general model has a chat template."""
    folder = shutil.copytree(scratch.siblings["llama"] / "japanese", scratch.folder / "templated", dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return scratch.study(weights={"japanese": folder}, generation={"max_new_tokens": 6, "dtype": "float32", **generation})


@row("parents", "template with strftime_now", "same prompts on two days")
def _(scratch: Scratch) -> Findings:
    study = templated(scratch, "{{ strftime_now('%d %b %Y') }}\n" + turns.CHATML, chat_template=True)
    tokenizer = models.load(study, "japanese")[1]
    days = []
    for day in (datetime(2026, 11, 28), datetime(2026, 11, 29)):
        from transformers.utils import chat_template_utils

        class Today(datetime):
            @classmethod
            def now(cls, tz: object = None, day: datetime = day) -> datetime:
                return day

        with patch.object(chat_template_utils, "datetime", Today):
            days.append(models.chat(tokenizer, turns.USER))
    yield days[0].partition("\n")[0], days[0] == days[1]
    yield "the date is in the key", str(models.DATE) in str(vars(templated_step(study)))


def templated_step(study):
    """The step of one templated run."""
    define(study, "japanese")
    return generation.step_of(study, next(run for run in generation.runs(study) if run.name == "japanese"), study.folder / "terms.csv")


@row("parents", "template that thinks unless told not to; reply <think>…", "no thought; unclosed thought: empty, finish length")
def _(scratch: Scratch) -> Findings:
    study = templated(scratch, turns.THINKS, chat_template=True)
    prompt = define(study, "japanese")[0]["prompt"]
    yield "thinking is off in the prompt", prompt.endswith("<think>\n\n</think>\n\n")
    tokenizer = pico_tokenizer()
    for reply, right in (("<think>\nhm\n</think>\n\nyes", ("yes", "stop")), ("<think>\nhm", ("", "length")), ("<think>hm</think>", ("", "empty"))):
        answer = decoding._row(tokenizer, [*tokenizer(reply)["input_ids"], 1], [1])
        came = answer["definition"], answer["finish"]
        yield f"{reply!r}: {came}", came == right
    yield "an empty one is not usable", not generation.usable(answer | {"output_language": "other"}, "ja")[0]


@row("parents", "Gemma's template (no system role), a task with a description", "in the user turn")
def _(scratch: Scratch) -> Findings:
    for name in ("REFUSES", "DROPS"):
        study = templated(scratch, getattr(turns, name))
        lm = SharedPromptLM(*models.load(study, "japanese")[:2], 512)
        came = lm.apply_chat_template(turns.TASK)
        yield f"{name.lower()}: {came!r}", "Answer.\n\n喘息" in came and "system" not in came


@row("parents", "template that raises without a system message, study without templates", "runs")
def _(scratch: Scratch) -> Findings:
    rows = define(templated(scratch, turns.NEEDS), "japanese")
    yield f"{len(rows)} definitions", len(rows) == 2


@row("parents", "template whose end of turn stands after a newline", "<|im_end|> is a stop token")
def _(scratch: Scratch) -> Findings:
    study = templated(scratch, turns.CHATML.replace("<|im_end|>", "\n<|im_end|>"))
    (models.locate(study, "japanese") / "generation_config.json").write_text('{"eos_token_id": 1}', encoding="utf-8")
    stops = models.load(study, "japanese")[0].generation_config.eos_token_id
    yield f"stops at {stops}", stops == [1, 4]


# ---- words --------------------------------------------------------------------------------------------------------------------------


@cache
def demo_words() -> pd.DataFrame:
    """The demo's vocabulary."""
    return vocabulary.rare_terms(open_study("demo"))[0]


@row("words", "HPO's British spellings and plurals of frequent words", "not rare; tumor 17, anemia 5, leukemia 3, edema 2 … seizure 6 in Brown")
def _(scratch: Scratch) -> Findings:
    table = demo_words()
    counts = {"Tumour": 17, "Anaemia": 5, "Leukaemia": 3, "Oedema": 2, "Generalised": 9, "Rigours": 4, "Seizures": 6}
    counts |= dict.fromkeys(("Delusions", "Tremors", "Hives"))
    for word, right in counts.items():
        count = vocabulary.frequency(word)
        yield f"{word} {count}", count > 1 and right in (None, count) and word not in set(table["term"])


@row("words", "Dyspnoea/Dyspnea, Hypocalcaemia/Hypocalcemia and their like", "one term")
def _(scratch: Scratch) -> Findings:
    table = demo_words()
    again = table["term"].map(vocabulary.spelling).duplicated().sum()
    yield f"{again} terms of {len(table):,} are there twice", again == 0
    yield "Dyspnea, not Dyspnoea", {"Dyspnea", "Hypocalcemia"} <= set(table["term"]) and not {"Dyspnoea", "Hypocalcaemia"} & set(table["term"])


def tagged(list_of: str, right: str) -> Findings:
    """Parts of speech of words."""
    wrong = [f"{word} {vocabulary.part_of_speech(word)}" for word in list_of.split() if vocabulary.part_of_speech(word) != right]
    yield f"{right}, {len(list_of.split()) - len(wrong)} of {len(list_of.split())} {' '.join(wrong)}".strip(), not wrong


@row("words", "mitochondrial, acral, perineal, periumbilical, miliary …", "adjective")
def _(scratch: Scratch) -> Findings:
    return tagged("mitochondrial acral perineal periumbilical miliary reticular radicular monoarticular anhedonic subacute", "adjective")


@row("words", "brachydactyly, camptodactyly, drusen; sneeze, snore, squint …", "noun")
def _(scratch: Scratch) -> Findings:
    return tagged("brachydactyly camptodactyly arachnodactyly platyspondyly drusen sneeze snore squint", "noun")


def spoken(right: dict[str, str], languages: tuple[str, ...] = ("en", "ja")) -> Findings:
    """Languages of texts."""
    for text, language in right.items():
        came = language_of(text, languages)
        yield f"{text[:12]} {came}", came == language


@row("words", "ACTH, TSH, FSH, LH, GH, PRLの分泌低下; Systemic lupus erythematosus の略。", "ja")
def _(scratch: Scratch) -> Findings:
    return spoken(dict.fromkeys(("ACTH, TSH, FSH, LH, GH, PRLの分泌低下", "Systemic lupus erythematosus の略。"), "ja"))


@row("words", "高血圧、糖尿病、脂質異常症。; 血小板減少症; ｱﾚﾙｷﾞｰ性鼻炎", "ja")
def _(scratch: Scratch) -> Findings:
    return spoken(dict.fromkeys(("高血圧、糖尿病、脂質異常症。", "血小板減少症", "ｱﾚﾙｷﾞｰ性鼻炎"), "ja"))


@row("words", "アナフィラキシーショック is a severe allergic reaction.; 心臟疾病ー", "en; other")
def _(scratch: Scratch) -> Findings:
    return spoken({"アナフィラキシーショック is a severe allergic reaction.": "en", "心臟疾病ー": "other"})


@row("words", '"The" and "123" with de/fr', "other")
def _(scratch: Scratch) -> Findings:
    return spoken({"The": "other", "123": "other"}, ("de", "fr"))


@row("words", "SNOMED: International zip beside an unpacked extension", "both read, or the archive is named")
def _(scratch: Scratch) -> Findings:
    folder = rf2.example().write(scratch.folder / "release")
    table = snomed.labels(folder)
    archive = rf2.zipped(folder)
    for path in folder.rglob("*INT*"):
        path.unlink()
    shutil.copy(archive, folder)
    came = snomed.labels(folder)
    yield f"{len(came)} of {len(table)} labels", came.equals(table)


@row("words", "SNOMED: language en-AU", "its own refset")
def _(scratch: Scratch) -> Findings:
    made = rf2.example()
    made.term(rf2.concept_id(2), "Glomulitis australis", rf2.SYNONYM, {snomed.DIALECTS["en-AU"]: rf2.PREFERRED}, file=rf2.MODULES[1])
    came = snomed.labels(made.write(scratch.folder / "release"), language="en-AU")["term"].tolist()
    yield ", ".join(came), came == ["Glomulitis australis"]


@row("words", "SNOMED: two dates of one release in a folder", "refused with both names")
def _(scratch: Scratch) -> Findings:
    folder = rf2.example().write(scratch.folder / "release")
    one = next(folder.rglob("sct2_Concept_*INT*"))
    other = one.with_name(one.name.replace(str(rf2.LATE), str(rf2.EARLY)))
    shutil.copy(one, other)
    came = told(snomed.labels, folder)
    yield came, one.name in came and other.name in came


def obo(scratch: Scratch, *lines: str) -> pd.DataFrame:
    """Labels of a hand-made ontology."""
    file = Path(tempfile.mkdtemp(dir=scratch.folder)) / "hp.obo"
    file.write_text("\n".join(["format-version: 1.2", *lines]), encoding="utf-8")
    return terminologies.hpo_labels(file).set_index("term")


TERM = ("[Term]", "id: HP:0000001", "name: Glomulitis")


@row("words", "OBO definition with ' ! ' inside its quotation marks", "kept whole")
def _(scratch: Scratch) -> Findings:
    came = obo(scratch, *TERM, 'def: "Red ! and swollen." [x] ! why')["definition"].tolist()
    yield str(came), came == ["Red ! and swollen."]


@row("words", r"OBO \n in a definition", "a space")
def _(scratch: Scratch) -> Findings:
    came = obo(scratch, *TERM, r'def: "Red and\nswollen." []')["definition"].tolist()
    yield str(came), came == ["Red and swollen."]


@row("words", "OBO: is_a of a term that is obsolete or outside the file", "read: a parent without a name is no label")
def _(scratch: Scratch) -> Findings:
    came = obo(scratch, *TERM, "is_a: HP:0000118 ! outside", "", "[Term]", "id: HP:0000003", "name: Gone", "is_obsolete: true")
    right = came.index.tolist() == ["Glomulitis"] and came["parent"].tolist() == ["HP:0000118"]
    yield f"{', '.join(came.index)}, parent {came['parent'].iloc[0]}", right


@row("words", "OBO: no blank line between stanzas; no blank before a comment", "read, or the right line")
def _(scratch: Scratch) -> Findings:
    came = obo(scratch, *TERM, "relationship: part_of HP:0000002! no blank", "[Term]", "id: HP:0000002", "name: Xanthosis")
    yield ", ".join(came.index), came.index.tolist() == ["Glomulitis", "Xanthosis"]
    came = told(obo, scratch, *TERM, "[Term]", "id: HP:0000002", "name Xanthosis")
    yield came, came.startswith("hp.obo, line 7: not a line of an OBO file")


def listed(scratch: Scratch, *lines: str) -> pd.DataFrame:
    """The vocabulary of a list of one's own, read back from its file."""
    (scratch.folder / "mine.csv").write_text("\n".join(["term,translation,concept,parent", *lines]), encoding="utf-8")
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["vocabulary"] = {"source": "csv", "path": str(scratch.folder / "mine.csv")}
    preset["judging"]["references"] = ["expert"]  # the list has no definitions
    (scratch.folder / "mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    return vocabulary.read_terms(vocabulary.curate(open_study(str(scratch.folder / "mine.yaml"))))


@row("words", "CSV: concepts 007, 07, 008; parent 1E5", "text")
def _(scratch: Scratch) -> Findings:
    came = listed(scratch, "glomulitis,甲,007,010", "xanthosis,乙,07,010", "bradyphonia,丙,008,1E5")
    yield " ".join([*came["concept"], *came["parent"]]), [*came["concept"], *came["parent"]] == ["007", "07", "008", "010", "010", "1E5"]


@row("words", "CSV: Ménièritis and kana in decomposed form", "composed")
def _(scratch: Scratch) -> Findings:
    came = listed(scratch, "Me\u0301nie\u0300ritis,カ\u3099,9,").loc[0, ["term", "translation"]].tolist()
    yield " ".join(came), came == ["Ménièritis", "ガ"]


@row("words", "normalised EM: 35mg/3〜5mg; COVID－19/COVID-19; ㎎, Ⅱ型", "0; 1; 1")
def _(scratch: Scratch) -> Findings:
    for answer, gold, right in (("35mg", "3〜5mg", 0), ("COVID－19", "COVID-19", 1), ("5㎎", "5mg", 1), ("Ⅱ型", "II型", 1)):
        came = benchmarks.normalised_em(answer, [gold])
        yield f"{answer} {came:g}", came == right


@row("words", "benchmarks.items: few-shot examples of a selection", "those of a whole run, or it is said")
def _(scratch: Scratch) -> Findings:
    study = scratch.study(benchmarks={"items": 0, "data_dir": str(DEMO_ITEMS), "sets": {}})
    for dataset in ("jcommonsenseqa", "jsquad", "xlsum_ja"):
        asked = []
        for samples in (None, [3, 1]):
            task = prepare(study).tasks[dataset]
            task.build_all_requests(**({"samples": samples} if samples else {}))
            asked.append({(instance.doc_id, instance.idx): instance.args for instance in task.instances})
        everything, selected = asked
        right = {(place, choice): given for (doc, choice), given in everything.items() for place in (0, 1) if doc == (1, 3)[place]}
        yield f"{dataset}: {'the same' if selected == right else 'others'}", selected == right


def outcome(found: Row, folder: Path, pico: dict[str, Path]) -> tuple[str, str]:
    """right, wrong or void; and what came."""
    folder.mkdir()
    os.environ |= {"XLM_HOME": str(folder / "home"), "XLM_CACHE": str(folder / "cache")}
    with ThreadPoolExecutor(1) as pool, redirect_stdout(io.StringIO()):
        future = pool.submit(lambda: list(found.find(Scratch(folder, pico))))
        if error := future.exception():
            return "wrong", f"{type(error).__name__}: {error}".splitlines()[0]
    places = (f"{folder}/", ""), (f"{folder.parent}/", "")  # where the scratch folder is, is nobody's business
    came = [(" ".join(reduce(lambda words, place: words.replace(*place), places, text).split()), right) for text, right in future.result()]
    verdict = "wrong" if any(right is False for _, right in came) else "void" if any(right is None for _, right in came) else "right"
    return verdict, "; ".join(text if right is not False else f"NOT RIGHT: {text or 'nothing'}" for text, right in came if text or right is False)


def main() -> None:
    """Run the rows, print each with its outcome, then the counts."""
    libraries.quiet()
    wanted = [found for found in ROWS if not sys.argv[1:] or any(word.lower() in found.case.lower() for word in sys.argv[1:])]
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="wild-") as scratch:
        pico = write_siblings(Path(scratch) / "siblings")
        for number, found in enumerate(wanted):
            start = time.monotonic()
            verdict, came = outcome(found, Path(scratch) / f"row{number}", pico)
            counts.setdefault(found.group, {"right": 0, "wrong": 0, "void": 0})[verdict] += 1
            print(f"{verdict:5} | {found.group} | {found.case} | {found.right} | {came} | {time.monotonic() - start:.1f} s", flush=True)
    for group, count in counts.items():
        print(f"{group}: {sum(count.values())} rows, " + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    sys.exit(any(count["wrong"] for count in counts.values()))


if __name__ == "__main__":
    main()
