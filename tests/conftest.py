"""Fixtures shared by the tests: pico models that are siblings, and studies over them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from xlm_utils.study.settings import ROOT

DEMO_ITEMS = ROOT / "data" / "demo" / "benchmarks"

if workers_of_xdist := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # tests side by side, and what they start, share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers_of_xdist))))

SENTENCES = ["Term: asthma", "Definition: a disease of the airways with wheezing", "用語：喘息", "定義：気道の慢性的な炎症", "yes no はい いいえ"]
CHAT = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests, which have a time limit of their own, go first, dealt out: each worker begins with a part of the list."""
    limits = {item: marker.args[0] for item in items if (marker := item.get_closest_marker("timeout"))}
    longest, others = sorted(limits, key=limits.get, reverse=True), [item for item in items if item not in limits]
    workers, dealt = int(workers_of_xdist or 1), []
    for worker in range(workers):
        first = longest[worker::workers]
        size = max(0, (len(items) - len(dealt)) // (workers - worker) - len(first))
        dealt += first + others[:size]
        del others[:size]
    items[:] = dealt


def pico_tokenizer():
    """A byte-level BPE of 300 tokens that really tokenizes, with a chat template and two stop tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    fast.chat_template = CHAT
    return fast


def write_siblings(root: Path) -> dict[str, Path]:
    """Folders ``llama`` and ``gemma``, each with an ``ancestor`` and its fine-tunes ``japanese`` and ``expert`` (bf16)."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    from xlm_utils.models.libraries import quiet

    quiet()
    tokenizer = pico_tokenizer()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": [1, 4], "bos_token_id": 2}
    configs = {
        "llama": (LlamaForCausalLM, LlamaConfig(**size, **tokens, max_position_embeddings=512)),
        "gemma": (Gemma3ForCausalLM, Gemma3TextConfig(**size, **tokens, head_dim=8, sliding_window=64, max_position_embeddings=512)),
    }
    for family, (model_class, config) in configs.items():
        generator = torch.Generator().manual_seed(7)
        torch.manual_seed(7)
        model = model_class(config).to(torch.bfloat16)
        for name in ("ancestor", "japanese", "expert"):
            sibling = model_class(config).to(torch.bfloat16)
            sibling.load_state_dict(model.state_dict())
            if name != "ancestor":
                with torch.no_grad():
                    for weight in sibling.parameters():
                        weight.add_(0.004 * torch.randn(weight.shape, generator=generator))
            sibling.generation_config.eos_token_id = [1, 4]
            sibling.save_pretrained(root / family / name)
            tokenizer.save_pretrained(root / family / name)
    return {family: root / family for family in configs}


def write_study(
    folder: Path, siblings: dict[str, Path], family: str = "llama", *, weights: dict[str, Path] | None = None,
    adapters: dict[str, Path | str] | None = None, evolution: dict | None = None, **settings: object,
):  # fmt: skip
    """A study over pico siblings: ``adapters`` of constituents, and any of a preset's settings."""
    from xlm_utils.study import PARAMS, open_study

    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8")) | settings
    for name, constituent in preset["constituents"].items():
        constituent.pop("adapter", None)
        constituent.pop("tokens", None)
        constituent["weights"] = str((weights or {}).get(name, siblings[family] / name))
        constituent |= {"adapter": str(adapters[name])} if name in (adapters or {}) else {}
    preset["evolution"] |= evolution or {}
    shutil.rmtree(path := folder / "preset", ignore_errors=True)
    path.mkdir()
    (path / "pico.yaml").write_text(yaml.safe_dump(preset, sort_keys=False), encoding="utf-8")
    return open_study(str(path / "pico.yaml"))


@pytest.fixture(scope="session")
def pico_siblings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of ``write_siblings``, made once."""
    return write_siblings(tmp_path_factory.mktemp("pico"))


@pytest.fixture
def pico_study(pico_siblings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A study over pico siblings in a run folder of its own: ``pico_study("llama", base="ancestor")``."""
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    return partial(write_study, tmp_path, pico_siblings)


@pytest.fixture
def item_study(pico_study):
    """A function that opens a pico study in float32 with two of the demo's items per data set."""

    def make(family: str = "llama", items: int = 2, **settings: object):
        settings = {"generation": {"dtype": "float32"}, **settings}
        benchmarks = {"items": items, "data_dir": str(DEMO_ITEMS), "sets": {}, **settings.pop("benchmarks", {})}
        return pico_study(family, benchmarks=benchmarks, **settings)

    return make
