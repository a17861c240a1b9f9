"""Stand-ins for what the paper's study takes from the hub: pico models and small data sets under the published ids.

The models are Llama-3's shape (special tokens, chat template, two stop tokens, several shards) in 0.2 M
parameters; a short training teaches them to answer in a few words and to stop. The data sets have the
upstream files, formats and columns, filled with the demo's items and with rows made here.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

from tests.support.hub import Hub
from tests.support.rf2 import Release
from xlm_utils.benchmark.tasks.data import PUBMEDQA_TEST
from xlm_utils.study import PARAMS, ROOT

ADAPTER = "someone/bio-medical-lora"  # of the ancestor, where a rehearsal's expert is one
JAPANESE, EXPERT, ANCESTOR = "lightblue/suzume-llama-3-8B-japanese", "ContactDoctor/Bio-Medical-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
BEGIN, END, END_OF_TURN = 0, 1, 5
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
ITEMS = ROOT / "data" / "demo" / "benchmarks"
JMEDBENCH = ("medmcqa_jp", "usmleqa_jp", "medqa_jp", "mmlu_medical_jp", "jmmlu_medical", "igakuqa", "pubmedqa_jp", "crade", "rrtnm", "smdis", "jcsts")
# invented terms, rare in any corpus: term, Japanese, English definition, Japanese definition
TERMS = [
    ("glomulitis", "グロムル炎", "An inflammation of the glomus.", "グロムルの炎症である。"),
    ("xanthosis", "黄皮症", "A yellow color of the skin.", "皮膚が黄色くなる状態である。"),
    ("bradyphonia", "緩徐発声", "An unusually slow voice.", "声が異常に遅いことである。"),
    ("nephridectomy", "腎管切除術", "The removal of a nephridium.", "腎管を取り除く手術である。"),
    ("osteoplexy", "骨麻痺", "A weakness of the bone.", "骨が弱くなる状態である。"),
    ("dermatoclasis", "皮膚破砕", "A breaking of the skin.", "皮膚が割れる状態である。"),
    ("glossoptosia", "舌下垂", "A falling of the tongue.", "舌が下がる状態である。"),
    ("septulotomy", "小中隔切開術", "A cut through a septulum.", "小中隔を切る手術である。"),
    ("paranephric", "腎傍の", "Lying beside the kidney.", "腎臓のそばにあることである。"),
    ("zolbumine", "ゾルブミン", "A protein of the blood.", "血液のタンパク質である。"),
]


def release() -> Release:
    """A SNOMED CT release with the terms above."""
    made = Release()
    made.concept(1, 0, "disorder", "Disease", [])
    for number, (term, *_) in enumerate(TERMS, 2):
        made.concept(number, 1, "disorder", term.capitalize(), [])
    return made


def lesson(language: str) -> list[tuple[str, str]]:
    """Prompt and answer for each term, in one language."""
    prompt = (PARAMS / "prompts" / f"define_{language}.txt").read_text(encoding="utf-8")
    return [(prompt.replace("{term}", row[0].capitalize() if language == "en" else row[1]), row[2 if language == "en" else 3]) for row in TERMS]


def tokenizer():
    """``bpe`` of 768 tokens over the lessons and the demo's items."""
    texts = [text for language in ("en", "ja") for pair in lesson(language) for text in pair]
    return bpe(texts + [file.read_text(encoding="utf-8") for file in sorted(ITEMS.glob("*.jsonl"))], 768)


def bpe(texts: list[str], size: int):
    """A byte-level BPE learnt from texts, with Llama 3's special tokens, beginning-of-text rule and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    made.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[BEGIN]} $A", pair=f"{SPECIAL[BEGIN]} $A {SPECIAL[BEGIN]} $B", special_tokens=[(SPECIAL[BEGIN], BEGIN)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=SPECIAL[BEGIN], eos_token=SPECIAL[END_OF_TURN],
        model_max_length=8192, clean_up_tokenization_spaces=True, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    fast.chat_template = CHAT
    return fast


def sentencepiece(folder: Path):
    """The same special tokens, rule and template over a ``tokenizer.model``, written to a folder as older repositories have it; read from there."""
    from sentencepiece import SentencePieceTrainer
    from transformers import AutoTokenizer

    texts = [text for language in ("en", "ja") for pair in lesson(language) for text in pair]
    (folder / "text.txt").write_text("\n".join(line for text in texts for line in text.split("\n")), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=768, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0, hard_vocab_limit=False, minloglevel=2,
        bos_id=BEGIN, eos_id=END, unk_id=2, bos_piece=SPECIAL[BEGIN], eos_piece=SPECIAL[END], unk_piece=SPECIAL[2], user_defined_symbols=SPECIAL[3:],
    )  # fmt: skip
    for file in (folder / "text.txt", folder / "tokenizer.vocab"):
        file.unlink()
    added = {str(i): {"content": token, "special": True, "normalized": False} for i, token in enumerate(SPECIAL)}
    about = {
        "tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False, "bos_token": SPECIAL[BEGIN],
        "eos_token": SPECIAL[END_OF_TURN], "unk_token": SPECIAL[2], "added_tokens_decoder": added, "chat_template": CHAT, "model_max_length": 8192,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def llama(words, layers: int = 2):
    """The configuration of a pico Llama-3 for a tokenizer's tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=8192, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        bos_token_id=BEGIN, eos_token_id=END_OF_TURN, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip


def teach(model, tokenizer, pairs: list[tuple[str, str]], steps: int, rate: float) -> None:
    """A few steps of fine-tuning on whole batches: the loss is of the answers only."""
    import torch

    rows, labels = [], []
    for prompt, answer in pairs:
        turn = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        asked = tokenizer(turn, add_special_tokens=False)["input_ids"]
        said = [*tokenizer(answer, add_special_tokens=False)["input_ids"], END_OF_TURN]
        rows.append(asked + said)
        labels.append([-100] * len(asked) + said)
    width = max(map(len, rows))
    inputs = torch.tensor([row + [END] * (width - len(row)) for row in rows])
    targets = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=inputs, attention_mask=(targets != -100) | (inputs != END), labels=targets).loss.backward()
        optimizer.step()


def models(trained: bool = True, wild: bool = False) -> dict[str, dict[str, bytes]]:
    """Repository → file → content, for the ancestor and its two fine-tunes; untrained they are alike and say anything.

    Args:
        wild: the general model's tokenizer is a ``tokenizer.model`` alone, and there is an adapter of the ancestor (``ADAPTER``) besides.
    """
    import torch
    from transformers import LlamaForCausalLM

    from xlm_utils.models.libraries import quiet

    quiet()
    with tempfile.TemporaryDirectory() as scratch:
        words, both = sentencepiece(Path(scratch)) if wild else tokenizer(), lesson("en") + lesson("ja")
        bare = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    config = llama(words)
    found = {}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ancestor = LlamaForCausalLM(config).train()
        if trained:
            teach(ancestor, words, both, steps=45, rate=5e-3)
        for repository, pairs in ((ANCESTOR, None), (JAPANESE, lesson("ja")), (EXPERT, lesson("en"))):
            model = LlamaForCausalLM(config)
            model.load_state_dict(ancestor.state_dict())
            if pairs and trained:
                teach(model.train(), words, pairs, steps=10, rate=1e-3)
            found[repository] = files(model, words)
        if wild:
            found[ADAPTER] = _adapter(ancestor, words)
            found[JAPANESE] = {name: file for name, file in found[JAPANESE].items() if "token" not in name and not name.endswith(".jinja")} | bare
    return found


def _adapter(ancestor, words) -> dict[str, bytes]:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(ancestor, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    teach(model.train(), words, lesson("en"), steps=20, rate=5e-3)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        files = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    about = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": ANCESTOR}
    return files | {"adapter_config.json": json.dumps(about).encode()}


def files(model, words) -> dict[str, bytes]:
    import torch

    model.to(torch.bfloat16).generation_config.eos_token_id = [END, END_OF_TURN]
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, max_shard_size="120KB")
        words.save_pretrained(scratch)
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


FEW = 16  # rows a set: enough to be drawn from, few to be asked


def _rows(name: str) -> list[dict]:
    """The first rows of a demo set."""
    lines = (ITEMS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:FEW]]


def _jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: list[dict]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue()


def _csv(rows: list[dict]) -> bytes:
    writer = csv.DictWriter(text := io.StringIO(), list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _card(configs: list[dict]) -> bytes:
    """A README whose head says which files belong to which configuration."""
    return f"---\nconfigs: {json.dumps(configs)}\n---\n".encode()


def pubmedqa(training: int = 10) -> list[dict]:
    """Rows as the hub has them: all in one split, the official test rows among them."""
    official = PUBMEDQA_TEST.read_text(encoding="utf-8").split()
    rows = []
    for number, pubid in enumerate([*official, *(str(90000000 + n) for n in range(training))]):
        drug, days, decision = f"agent {number}", 2 + number % 9, ("yes", "no", "maybe")[number % 3]
        result = {"yes": "was shorter", "no": "was the same", "maybe": "could not be told"}[decision]
        context = {
            "contexts": [f"Half of the patients took {drug}.", f"Their stay {result}, in {days} days."],
            "labels": ["METHODS", "RESULTS"], "meshes": ["Humans"], "reasoning_required_pred": [decision], "reasoning_free_pred": [decision],
        }  # fmt: skip
        rows.append({"pubid": int(pubid), "question": f"Does {drug} shorten the stay?", "context": context,
                     "long_answer": f"The stay {result}.", "final_decision": decision})  # fmt: skip
    return rows


def jaqket(name: str) -> bytes:
    """The raw file: contexts as a list of objects, answers as a list."""
    rows = []
    for row in _rows(name):
        keys = list(row["ctxs"])
        contexts = [dict(zip(keys, values, strict=True)) for values in zip(*row["ctxs"].values(), strict=True)]
        rows.append({**row, "answers": row["answers"]["text"], "ctxs": contexts})
    return json.dumps(rows, ensure_ascii=False).encode()


def jmedbench() -> dict[str, bytes]:
    """A folder per data set; medmcqa_jp with a training split as much longer than its test split as upstream's, or nearly."""
    parts = {name: {"test": _rows(name)} for name in JMEDBENCH}
    parts["medmcqa_jp"]["train"] = _rows("medmcqa_jp") * 400
    files = {f"{name}/{part}.jsonl": _jsonl(rows) for name, own in parts.items() for part, rows in own.items()}
    heads = [{"config_name": name, "data_files": [{"split": part, "path": f"{name}/{part}.jsonl"} for part in own]} for name, own in parts.items()]
    return {"README.md": _card(heads), **files}


def data_sets() -> dict[str, dict[str, bytes]]:
    """Repository → file → content, for all seventeen data sets."""
    split = {"train": "data/train-*", "validation": "data/validation-*"}
    plain = _card([{"config_name": "default", "data_files": [{"split": name, "path": path} for name, path in split.items()]}])
    found = {
        "qiaojin/PubMedQA": {
            "README.md": _card([{"config_name": "pqa_labeled", "data_files": [{"split": "train", "path": "pqa_labeled/train-*"}]}]),
            "pqa_labeled/train-00000-of-00001.parquet": _parquet(pubmedqa()),
        },
        "kumapo/JAQKET": {
            "train_jaqket_59.350.json": jaqket("jaqket_v2_train"), "dev_jaqket_59.350.json": jaqket("jaqket_v2_validation"),
        },
        "polm-stability/xwinograd-ja": {"test/xwinograd-ja.json": _jsonl(_rows("xwinograd_ja"))},
        "mkshing/xlsum_ja": {f"data/{name}.csv": _csv(_rows(f"xlsum_ja_{name}")) for name in ("train", "test")},
        "Coldog2333/JMedBench": jmedbench(),
    }  # fmt: skip
    for repository, name in (("sbintuitions/JCommonsenseQA", "jcommonsenseqa"), ("sbintuitions/JSQuAD", "jsquad")):
        parts = {f"data/{part}-00000-of-00001.parquet": _parquet(_rows(f"{name}_{part}")) for part in split}
        found[repository] = {"README.md": plain, **parts}
    return found


def fill(hub: Hub, trained: bool = True, wild: bool = False) -> Hub:
    """Put everything on a hub (see ``models``); Meta's ancestor is gated, as upstream."""
    for repository, files in models(trained, wild).items():
        hub.add(repository, files, gated=repository == ANCESTOR)
    for repository, files in data_sets().items():
        hub.add(repository, {"README.md": b"---\nlicense: other\n---\n", **files}, kind="datasets")
    return hub
