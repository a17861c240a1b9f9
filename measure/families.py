"""Public models' configurations, family by family, in pico size: from the checks to a definition, or the sentence that refuses.

    python measure/families.py             # all, about a minute on two CPU cores
    python measure/families.py gemma       # those with this word in their name

Each has the keys of its config.json on the hub, spelt as there, with sizes that are small; the weights are random. Three
siblings of each go through the checks and the parents' table and are merged by TIES and Linear, on disk and in memory. The
TIES merge defines two terms; its texts in a batch are compared with those of one prompt alone, and notebook 06's likelihoods
with the stock model class's.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from importlib.resources import files
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from wild import TEXTS, Scratch, define, options, refused  # and the project is found

from tests.conftest import pico_tokenizer
from tests.merge.test_planning import in_memory_as_on_disk
from xlm_utils import merge, models
from xlm_utils.benchmark.harness import SharedPromptLM
from xlm_utils.generate import decoding
from xlm_utils.models import libraries
from xlm_utils.models.weights import LAYER, Tensors

SIZE = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "bos_token_id": 2, "eos_token_id": 1}
WIDE = {**SIZE, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512, "hidden_act": "silu", "torch_dtype": "bfloat16"}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "llama3"}
BERT_LIKE = {"torch_dtype": "float32", "vocab_size": 300, "bos_token_id": 2, "eos_token_id": 1}
FAMILIES = {  # name: model_type, architecture, and what config.json says beside the sizes
    "Llama-3.1": ("llama", "LlamaForCausalLM", WIDE | {
        "attention_bias": False, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": LLAMA3, "tie_word_embeddings": False,
        "eos_token_id": [1, 4]}),
    "Llama-3.2 (1B)": ("llama", "LlamaForCausalLM", WIDE | {
        "attention_bias": False, "head_dim": 16, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": LLAMA3 | {"factor": 32.0},
        "tie_word_embeddings": True}),
    "Qwen2.5": ("qwen2", "Qwen2ForCausalLM", WIDE | {
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 128, "max_window_layers": 2, "use_sliding_window": False,
        "tie_word_embeddings": True, "use_mrope": False}),
    "Qwen3": ("qwen3", "Qwen3ForCausalLM", WIDE | {
        "attention_bias": False, "head_dim": 16, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "max_window_layers": 4, "use_sliding_window": False, "tie_word_embeddings": True}),
    "Gemma-2": ("gemma2", "Gemma2ForCausalLM", WIDE | {
        "attention_bias": False, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid", "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 64}),
    "Gemma-3 (1B)": ("gemma3_text", "Gemma3ForCausalLM", WIDE | {
        "attention_bias": False, "cache_implementation": "hybrid", "head_dim": 16, "query_pre_attn_scalar": 16, "rms_norm_eps": 1e-6,
        "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 64, "sliding_window_pattern": 6,
        "eos_token_id": [1, 4]}),
    "Mistral-7B v0.3": ("mistral", "MistralForCausalLM", WIDE | {
        "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False}),
    "Phi-3 (128k)": ("phi3", "Phi3ForCausalLM", WIDE | {
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, "pad_token_id": 0,
        "attention_bias": False, "embd_pdrop": 0.0, "num_key_value_heads": 4, "original_max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_scaling": {"long_factor": [1.1, 1.2, 1.3, 1.4], "short_factor": [1.0, 1.0, 1.1, 1.1], "type": "longrope"}, "rope_theta": 10000.0,
        "sliding_window": 128, "tie_word_embeddings": False}),
    "OLMo-2": ("olmo2", "Olmo2ForCausalLM", WIDE | {
        "attention_bias": False, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False, "pad_token_id": 0}),
    "StableLM-2": ("stablelm", "StableLmForCausalLM", WIDE | {
        "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "hidden_size": 64, "rope_theta": 10000, "tie_word_embeddings": False,
        "use_qkv_bias": True, "num_key_value_heads": 4}),
    "GPT-2": ("gpt2", "GPT2LMHeadModel", BERT_LIKE | {
        "n_ctx": 512, "n_embd": 32, "n_head": 4, "n_layer": 4, "n_positions": 512, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}),
    "Falcon-7B": ("falcon", "FalconForCausalLM", SIZE | {
        "alibi": False, "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"}, "bias": False, "multi_query": True,
        "new_decoder_architecture": False, "parallel_attn": True, "layer_norm_epsilon": 1e-5, "torch_dtype": "bfloat16"}),
    "Command-R": ("cohere", "CohereForCausalLM", WIDE | {
        "attention_bias": False, "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "rope_theta": 8000000.0, "use_qk_norm": False, "pad_token_id": 0}),
    "SmolLM3": ("smollm3", "SmolLM3ForCausalLM", WIDE | {
        "attention_bias": False, "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "rms_norm_eps": 1e-6,
        "rope_theta": 5000000.0, "tie_word_embeddings": True, "pad_token_id": 0, "layer_types": ["full_attention"] * 4}),
    "Granite-3": ("granite", "GraniteForCausalLM", WIDE | {
        "attention_bias": False, "attention_multiplier": 0.125, "embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22,
        "mlp_bias": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "pad_token_id": 0}),
    "LFM2 (hybrid)": ("lfm2", "Lfm2ForCausalLM", WIDE | {
        "block_auto_adjust_ff_dim": True, "block_ff_dim": 64, "block_multiple_of": 16, "conv_L_cache": 3, "conv_bias": False, "norm_eps": 1e-5,
        "full_attn_idxs": [1, 3], "rope_theta": 1000000.0, "pad_token_id": 0}),
    "Qwen3.5 (hybrid)": ("qwen3_5_text", "Qwen3_5ForCausalLM", WIDE | {
        "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4, "layer_types": ["linear_attention", "full_attention"] * 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}),
    "Mixtral": ("mixtral", "MixtralForCausalLM", WIDE | {
        "num_experts_per_tok": 2, "num_local_experts": 4, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False}),
    "Qwen3-MoE": ("qwen3_moe", "Qwen3MoeForCausalLM", WIDE | {
        "head_dim": 16, "decoder_sparse_step": 1, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-6,
        "norm_topk_prob": True, "rope_theta": 1000000.0, "tie_word_embeddings": False}),
    "OPT": ("opt", "OPTForCausalLM", SIZE | {
        "ffn_dim": 64, "max_position_embeddings": 512, "word_embed_proj_dim": 32, "do_layer_norm_before": True, "pad_token_id": 0}),
    "BLOOM": ("bloom", "BloomForCausalLM", {
        "vocab_size": 300, "n_embed": 32, "hidden_size": 32, "n_layer": 4, "num_attention_heads": 4, "n_inner": None, "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0, "layer_norm_epsilon": 1e-5}),
    "Mamba": ("mamba", "MambaForCausalLM", {
        "vocab_size": 300, "hidden_size": 32, "d_model": 32, "num_hidden_layers": 4, "n_layer": 4, "state_size": 8, "layer_norm_epsilon": 1e-5,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}),
}  # fmt: skip
METHODS = ("ties", "linear")


def left_out(folder: Path, names: Iterable[str]) -> list[str]:
    """The tensors of a model that MergeKit's table of architectures lacks: ``mergekit-yaml`` leaves them out."""
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    tables = [file.read_text(encoding="utf-8") for file in files("mergekit._data.architectures").iterdir() if file.suffix == ".json"]
    listed = {name for table in tables if f'"{architecture}"' in table for name in re.findall(r'"name": *"([^"]+)"', table)}
    return [name for name in names if LAYER.sub(lambda found: found[0].replace(found[1], "${layer_index}"), name, count=1) not in listed]


def siblings(root: Path, kind: str, architecture: str, about: dict) -> dict[str, Path]:
    """An ancestor and two fine-tunes of random weights, with the config as the hub has it."""
    root.mkdir()
    given = {"model_type": kind, "architectures": [architecture], **about}
    (root / "config.json").write_text(json.dumps(given), encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(root)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    folders = {}
    for name in ("ancestor", "japanese", "expert"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.004 * torch.randn(parameter.shape))
        model.save_pretrained(root / name)
        pico_tokenizer().save_pretrained(root / name)
        (root / name / "config.json").write_text(json.dumps(given), encoding="utf-8")
        folders[name] = root / name
    return folders


def look(scratch: Scratch, kind: str, architecture: str, about: dict) -> dict[str, str]:
    """One row of the table."""
    folders = siblings(scratch.folder / "models", kind, architecture, about)
    study = scratch.study(weights=folders, methods=list(METHODS), generation={"max_new_tokens": 12, "dtype": "float32"})
    if sentence := refused(study, ("03_merge", "04_generate")):
        return {"outcome": sentence}
    table = merge.check_parents(study)
    differ = [fact for fact, same in table["same"].items() if not same]
    expert = Tensors(folders["expert"]).shapes
    found = {"tensors in": len(expert)}
    for method in METHODS:
        merged = Tensors(merge.merge(study, method))
        found[f"{method} out"] = f"{len(merged.shapes)}" + ("" if merged.shapes == expert else ", other names")
        found[f"{method} in memory"] = "equal" if in_memory_as_on_disk(study, method) else "other"
    unlisted = len(left_out(folders["expert"], expert))
    rows = define(study, "ties")
    model, tokenizer, _ = models.load(study, "ties", dtype="float32")
    alone = [decoding.complete(model, tokenizer, [text], 12)[0] for text in TEXTS]
    found["batch"] = "as alone" if decoding.complete(model, tokenizer, TEXTS, 12) == alone else "other texts"
    asked = options(TEXTS[:2])
    ours = SharedPromptLM(model, tokenizer, 512).loglikelihood(asked)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=512).loglikelihood(asked, disable_tqdm=True)
    found["06 off by"] = f"{max(abs(one[0] - other[0]) for one, other in zip(ours, stock, strict=True)):.0e}"
    found |= {"by MergeKit": len(expert) - unlisted, "by ourselves": unlisted}
    found |= {"definitions": f"{len(rows)}, {max(row['tokens'] for row in rows)} tokens"}
    return found | {"outcome": f"parents differ in {', '.join(differ)}" if differ else "merged"}


def main() -> None:
    """Look at every family, print the table."""
    libraries.quiet()
    wanted = [name for name in FAMILIES if not sys.argv[1:] or any(word.lower() in name.lower() for word in sys.argv[1:])]
    rows = {}
    with tempfile.TemporaryDirectory(prefix="families-") as folder:
        for number, name in enumerate(wanted):
            scratch = Scratch(Path(folder) / str(number), {"llama": Path(folder)})
            scratch.folder.mkdir()
            os.environ |= {"XLM_HOME": str(scratch.folder / "home"), "XLM_CACHE": str(scratch.folder / "cache")}
            with ThreadPoolExecutor(1) as pool, redirect_stdout(StringIO()):
                future = pool.submit(look, scratch, *FAMILIES[name])
                error = future.exception()
            rows[name] = {"outcome": f"TRACEBACK {type(error).__name__}: {error}"} if error else future.result()
            rows[name]["outcome"] = " ".join(rows[name]["outcome"].replace(f"{scratch.folder}/", "").split())
            print(f"{name}: {rows[name]['outcome']}", flush=True)
    table = pd.DataFrame(rows).T.fillna("")
    table = table[[column for column in table if column != "outcome"] + ["outcome"]]
    print("| family | " + " | ".join(table.columns) + " |\n|" + "---|" * (len(table.columns) + 1))
    for name, row in table.iterrows():
        print(f"| {name} | " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
