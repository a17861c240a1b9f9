"""Tokens per second: the study's way of generating against a one-by-one ``generate`` loop, side by side in one run.

    python measure/generate.py                            # the demo's Japanese model, every translated term
    python measure/generate.py --dtype bfloat16           # the same in a dtype of your choice
    python measure/generate.py --shape llama-3-8b         # with CUDA: random weights, 1,782 prompts of 256 tokens, bf16 and nf4
    python measure/generate.py --shape pico --prompts 24 --tokens 16 --rows 4 8    # the same code at a size for any machine

The ratio is the claim, the absolute numbers are this machine's. CPU seconds stand beside wall seconds,
because they say something on a busy machine, too. Random weights never stop by themselves, so every
row is 256 tokens long and early leaving gains nothing there.

A line of the second kind:  bf16, 256 rows   812.4 tokens/s   0.53 of the bound   41.0x one by one
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from xlm_utils import models
from xlm_utils.curate.vocabulary import read_terms
from xlm_utils.generate import decoding, generation
from xlm_utils.study import Study, open_study, pick_device
from xlm_utils.translate import translation

SHAPES = {  # hidden, layers, heads, key-value heads, intermediate, vocabulary
    "llama-3-8b": (4096, 32, 32, 8, 14336, 128256),
    "pico": (64, 2, 4, 2, 128, 512),
}


@dataclass
class Rate:
    """Tokens of one pass, and the seconds it took by the wall and of CPU time."""

    tokens: int
    wall: float
    cpu: float


def timed(way: Callable[[], list[dict]]) -> tuple[list[dict], Rate]:
    """One pass: its rows and its rate."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = way()
    return rows, Rate(sum(row["tokens"] for row in rows), time.perf_counter() - wall, time.process_time() - cpu)


def one_by_one(model, tokenizer, texts: list[str], most: int) -> list[dict]:
    """What one would write first: ``generate`` for each prompt."""
    rows = []
    for text in texts:
        batch = tokenizer([text], return_tensors="pt", padding=True).to(model.device)
        with torch.inference_mode():
            output = model.generate(**batch, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        said = output[0, batch["input_ids"].shape[1] :].tolist()
        rows.append(decoding._row(tokenizer, said, models.as_list(model.generation_config.eos_token_id)))
    return rows


def batched(model, tokenizer, texts: list[str], most: int, size: int) -> list[dict]:
    """The study's way."""
    parts = [texts[i : i + size] for i in range(0, len(texts), size)]
    return [row for part in parts for row in decoding.complete(model, tokenizer, part, most)]


def demo(options: argparse.Namespace) -> None:
    """The demo's Japanese model on translated terms, both ways alternately, so that a busy machine disturbs both."""
    study = open_study("demo")
    settings = study.settings
    study.settings = settings.model_copy(update={"generation": settings.generation.model_copy(update={"batch_size": 0})})
    table = _terms(study).head(options.prompts)
    run = next(run for run in generation.runs(study) if run.name == "japanese")
    model, tokenizer, how = models.load(study, "japanese", dtype=options.dtype)
    texts = sorted(generation.prompts(study, run, table, tokenizer), key=len, reverse=True)
    sample = texts[:: max(1, len(texts) // options.loop)]
    size, why = decoding.pick_batch_size(study, model, tokenizer, texts)
    size = options.rows[0] if options.rows else size
    most = options.tokens or 64
    print(f"{how}\n{torch.get_num_threads()} threads; {len(texts)} prompts, at most {most} tokens; batches of {size} ({why})")
    found: dict[str, list[Rate]] = {}
    for _ in range(options.repeats):
        alone, rate = timed(lambda: one_by_one(model, tokenizer, sample, most))
        found.setdefault(f"one by one ({len(sample)} of them)", []).append(rate)
        together, rate = timed(lambda: batched(model, tokenizer, texts, most, size))
        found.setdefault("the study's way", []).append(rate)
    by_text = dict(zip(texts, together, strict=True))
    same = sum(by_text[text]["definition"] == row["definition"] for text, row in zip(sample, alone, strict=True))
    wall, cpu = ({name: statistics.median(r.tokens / getattr(r, kind) for r in rates) for name, rates in found.items()} for kind in ("wall", "cpu"))
    first = next(iter(found))
    for name in found:
        print(f"{name:<24} {wall[name]:8.1f} tokens/s {wall[name] / wall[first]:5.1f}x   "
              f"{cpu[name]:8.1f} tokens/CPU s {cpu[name] / cpu[first]:5.1f}x")  # fmt: skip
    print(f"same text alone and in its batch: {same} of {len(sample)} ({model.dtype})")


def _terms(study: Study) -> pd.DataFrame:
    translation.terms(study)  # makes what is missing
    table = read_terms(study.folder / "translated.csv")
    return table[table["translation"] != ""].drop_duplicates("translation")


class Numbers:
    """Stands in for a tokenizer where weights are random: a prompt is a length, its tokens are drawn."""

    pad_token_id = 0

    def __init__(self, vocabulary: int):
        self.vocabulary = vocabulary

    def __call__(self, texts: list[str], **_: object):
        from transformers import BatchEncoding

        draw, width = random.Random(0), max(map(int, texts))
        ids = [[0] * (width - int(n)) + [draw.randrange(1, self.vocabulary) for _ in range(int(n))] for n in texts]
        return BatchEncoding({"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) != 0).long()})

    def decode(self, tokens: list[int], **_: object) -> str:
        return " ".join(map(str, tokens))


def random_llama(shape: str, device: str, folder: str | None = None):
    """A Llama of this shape with random bf16 weights, made on the device; in nf4 by way of a scratch folder."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

    hidden, layers, heads, pairs, inner, vocabulary = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=pairs,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=8192, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    if folder:
        model.save_pretrained(folder)
        del model
        decoding.release()
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=nf4, dtype=torch.bfloat16, device_map=device).eval()
    model.generation_config.eos_token_id = None
    return model


def synchronised(device: str) -> float:
    """The time, once the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of the best of ten large copies."""
    source = torch.empty(2**30 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        start = synchronised(device)
        target.copy_(source)
        best = min(best, synchronised(device) - start)
    return 2 * source.numel() / best


def bound(model, rows: int, length: float, bandwidth: float) -> float:
    """Tokens a second if a step did nothing but read every weight it needs, and its rows' keys and values of ``length`` tokens, once."""
    config = model.config
    weights = sum(p.numel() * p.itemsize for name, p in model.named_parameters() if "embed_tokens" not in name)  # looked up, not read
    head = config.hidden_size // config.num_attention_heads
    keys_values = 2 * config.num_hidden_layers * config.num_key_value_heads * head * length * 2
    return rows * bandwidth / (weights + rows * keys_values)


def shaped(options: argparse.Namespace) -> None:
    """Random weights in bf16 and nf4, at several batch sizes, against the memory-bandwidth bound."""
    device, reason = pick_device()
    models.quiet()
    bandwidth, most = copy_bandwidth(device), options.tokens or 256
    count = options.prompts or 1782
    draw = random.Random(1)
    texts = sorted((str(draw.randint(40, 80)) for _ in range(count)), key=int, reverse=True)
    print(f"{options.shape} with random weights on {device} ({reason}), {bandwidth / 1e9:.0f} GB/s; {count} prompts, {most} tokens each")
    for name in ("bf16", "nf4"):
        with tempfile.TemporaryDirectory() as folder:
            model, tokenizer = random_llama(options.shape, device, folder if name == "nf4" else None), Numbers(SHAPES[options.shape][5])
        batched(model, tokenizer, texts[:2], 4, 2)  # kernels are chosen and compiled at first use
        _, rate = timed(lambda model=model, tokenizer=tokenizer: one_by_one(model, tokenizer, texts[:: max(1, count // options.loop)], most))
        alone = rate.tokens / rate.wall
        print(f"{name}, one by one   {alone:8.1f} tokens/s   {alone / bound(model, 1, 60 + most / 2, bandwidth):.2f} of the bound")
        for size in options.rows or (64, 128, 256, 512):
            own = texts[: max(size, count // size * size)]  # whole batches
            try:
                _, rate = timed(lambda model=model, tokenizer=tokenizer, own=own, size=size: batched(model, tokenizer, own, most, size))
            except RuntimeError as error:
                if not decoding.out_of_memory(error):
                    raise
                print(f"{name}, {size} rows: out of memory")
                continue
            speed = rate.tokens / rate.wall
            limit = bound(model, min(size, len(own)), 60 + most / 2, bandwidth)
            print(f"{name}, {size} rows   {speed:8.1f} tokens/s   {speed / limit:.2f} of the bound   {speed / alone:.1f}x one by one", flush=True)
        del model
        decoding.release()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=["demo", *SHAPES], default="demo")
    parser.add_argument("--dtype", default="", choices=["", "float32", "bfloat16"], help="demo only; what the hardware suggests if left out")
    parser.add_argument("--prompts", type=int, help="all that there are if left out")
    parser.add_argument("--tokens", type=int, help="most new tokens: 64 in the demo, 256 otherwise")
    parser.add_argument("--rows", type=int, nargs="*", help="batch sizes")
    parser.add_argument("--loop", type=int, default=16, help="prompts of the one-by-one loop, spread over all")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    demo(options) if options.shape == "demo" else shaped(options)


if __name__ == "__main__":
    main()
