"""Decoding: greedy text does not depend on the batch, finished rows leave it, every model stops where its own template says."""

import json
import shutil
import weakref

import pytest
import torch
import transformers

from tests.conftest import pico_tokenizer
from xlm_utils import models
from xlm_utils.generate import decoding
from xlm_utils.models import loading
from xlm_utils.study import StudyError, open_study

TEXTS = ["用語：喘息\n定義：", "Term: asthma\nDefinition:", "yes", "はい いいえ no", "Term: wheezing\nDefinition:", "用語：気道", "a", "no"]
MOST = 80  # new tokens
GEMMA = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
LLAMA = "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"


def one_by_one(model, tokenizer, text, most):
    """Plain ``generate`` for one prompt: its new tokens, up to the first stop token."""
    batch = tokenizer([text], return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return output[0, batch["input_ids"].shape[1] :].tolist()


@pytest.fixture(params=["llama", "gemma"])
def writing(request, pico_study):
    """A pico model in float32 that really stops: its stop tokens are two that it says at different places for different prompts."""
    study = pico_study(request.param)
    model, tokenizer, _ = models.load(study, "japanese", dtype="float32")
    wander = torch.Generator().manual_seed(3)  # a head tied to the embedding repeats one token for ever
    model.lm_head.weight = torch.nn.Parameter(torch.randn(model.lm_head.weight.shape, generator=wander))
    model.generation_config.eos_token_id = []
    said = [one_by_one(model, tokenizer, text, MOST) for text in TEXTS]
    places = {token: [row.index(token) for row in said if token in row] for row in said for token in row}
    stop = max(places, key=lambda token: (min(len(set(places[token])), 3), max(places[token])))
    assert len(set(places[stop])) >= 3, "the test needs rows that end at different steps"
    longest = len(tokenizer(TEXTS[1])["input_ids"])
    assert longest + max(places[stop]) > 64, "and that outlast the pico Gemma's sliding window"
    model.generation_config.eos_token_id = [stop, 1]
    return model, tokenizer


def test_a_model_that_holds_on_to_itself_is_gone_before_the_next_is_loaded(pico_study, monkeypatch):
    """As one whose hooks hold it, over several devices, or whose first imports' frames do: two of 8B would not fit."""
    study = pico_study("llama")
    before, *_ = models.load(study, "japanese")
    before.__dict__["hook"] = [before]
    there = weakref.ref(before)
    del before
    assert there() is not None, "or nothing is tested"
    gone = []
    whole = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: gone.append(there() is None) or whole(*a, **k))
    models.load(study, "expert")
    assert gone == [True]


def test_a_row_s_text_is_the_same_alone_and_in_any_batch(writing):
    model, tokenizer = writing
    alone = [decoding._row(tokenizer, one_by_one(model, tokenizer, text, MOST), model.generation_config.eos_token_id) for text in TEXTS]
    assert len({row["tokens"] for row in alone}) >= 3
    assert decoding.complete(model, tokenizer, TEXTS, MOST) == alone
    assert decoding.complete(model, tokenizer, TEXTS[::-1], MOST) == alone[::-1]
    assert decoding.complete(model, tokenizer, TEXTS[2:4], MOST) == alone[2:4]


def test_finished_rows_are_not_computed_any_further(writing, monkeypatch):
    model, tokenizer = writing
    sizes = []
    generate = model.generate

    def watched(**options):
        sizes.append(len(options["input_ids"]))
        return generate(**options)

    monkeypatch.setattr(model, "generate", watched)
    rows = decoding.complete(model, tokenizer, TEXTS, MOST)
    unfinished = [sum(row["tokens"] >= done for row in rows) for done in range(0, MOST, loading.SEGMENT["cpu"])]
    assert sizes == [count for count in unfinished if count]
    assert sizes[-1] < sizes[0]


def test_every_row_says_how_it_ended(writing):
    model, tokenizer = writing
    for most in (3, MOST):
        for row, text in zip(decoding.complete(model, tokenizer, TEXTS, most), TEXTS, strict=True):
            said = one_by_one(model, tokenizer, text, most)
            stopped = said[-1] in model.generation_config.eos_token_id
            assert row["tokens"] == len(said) - stopped
            assert row["finish"] == ("empty" if not row["definition"] else "stop" if stopped else "length")


def test_the_demo_s_model_writes_the_same_alone_and_in_a_batch_in_float32():
    study = open_study("demo")
    model, tokenizer, _ = models.load(study, "japanese", dtype="float32")
    texts = [study.prompt(study.target, term) for term in ("徐脈", "小頭症", "光過敏性", "過多月経")]
    alone = [decoding._row(tokenizer, one_by_one(model, tokenizer, text, 40), model.generation_config.eos_token_id) for text in texts]
    assert len({row["tokens"] for row in alone}) > 1, "rows must leave at different steps"
    assert decoding.complete(model, tokenizer, texts, 40) == alone


def chatty(template, *special):
    tokenizer = pico_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "special", "end"),
    [
        (LLAMA, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
        (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
        (pico_tokenizer().chat_template, (), "<|im_end|>"),
    ],
    ids=["llama-3", "gemma", "chatml"],
)
def test_the_template_s_end_of_turn_stops_a_model_whose_config_forgot_it(template, special, end):
    tokenizer = chatty(template, *special)
    stops = models.stop_tokens(1, tokenizer)
    assert set(tokenizer.convert_ids_to_tokens(stops)) == {"<eos>", end}


def test_stop_tokens_are_the_union_and_plain_text_behind_an_answer_is_none():
    tokenizer = chatty("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    assert models.stop_tokens([7, 9], tokenizer) == [1, 7, 9]
    tokenizer.chat_template = None
    assert models.stop_tokens(None, tokenizer) == [1]


def test_loading_prints_the_stop_tokens_and_generation_uses_them(pico_study):
    model, _, how = models.load(pico_study("llama"), "japanese")
    assert how.endswith("stops at <eos> <|im_end|>")
    assert model.generation_config.eos_token_id == [1, 4]


def test_the_batch_size_is_what_half_of_the_free_memory_holds(pico_study, monkeypatch):
    study = pico_study("llama", generation={"max_new_tokens": 100})
    model, tokenizer, _ = models.load(study, "japanese", dtype="float32")
    texts = TEXTS * 50
    longest = max(len(ids) for ids in tokenizer(texts)["input_ids"])
    row = decoding.row_bytes(model, longest, 100)
    keys_values = 2 * 2 * 2 * 8 * (longest + 100) * 4  # key and value, 2 layers, 2 heads of 8, float32
    assert row >= keys_values
    monkeypatch.setattr(decoding, "free_memory", lambda device: 2 * 13 * row)
    size, why = decoding.pick_batch_size(study, model, tokenizer, texts)
    assert size == 8  # 13 fit; a power of two, so that a little more or less memory changes nothing
    assert "free on cpu" in why
    monkeypatch.setattr(decoding, "free_memory", lambda device: 1)
    assert decoding.pick_batch_size(study, model, tokenizer, texts)[0] == 1
    monkeypatch.setattr(decoding, "free_memory", lambda device: 2**50)
    assert decoding.pick_batch_size(study, model, tokenizer, texts)[0] == decoding.MOST_ROWS["cpu"]
    assert decoding.pick_batch_size(study, model, tokenizer, TEXTS)[0] == len(TEXTS)
    own = pico_study("llama", generation={"batch_size": 3})
    assert decoding.pick_batch_size(own, model, tokenizer, TEXTS) == (3, "set by the study")


def test_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert decoding.out_of_memory(refused.value)
    assert decoding.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not decoding.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(("quantization", "error"), [("int8", 0.01), ("nf4", 0.074)])  # mean, in standard deviations of normal weights
def test_a_quantised_model_is_smaller_holds_nearly_the_same_numbers_and_still_writes(pico_study, tmp_path, quantization, error):
    from bitsandbytes.functional import dequantize_4bit
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(**size, vocab_size=300, eos_token_id=[1, 4])).to(torch.bfloat16).save_pretrained(tmp_path / "blocks")
    pico_tokenizer().save_pretrained(tmp_path / "blocks")
    weights = {"japanese": tmp_path / "blocks"}
    settings = {"max_new_tokens": 8, "quantization": quantization}
    plain, tokenizer, _ = models.load(pico_study("llama", weights=weights), "japanese")
    study = pico_study("llama", weights=weights, generation=settings)
    quantised, _, _ = models.load(study, "japanese")
    layer, original = (model.model.layers[0].mlp.down_proj.requires_grad_(False) for model in (quantised, plain))
    assert type(layer).__name__ == {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[quantization]
    assert layer.weight.dtype == {"int8": torch.int8, "nf4": torch.uint8}[quantization]
    if quantization == "nf4":
        restored = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        restored = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
    off = float((restored.float() - original.weight.float()).abs().mean() / original.weight.float().std())
    assert off == pytest.approx(error, abs=0.005)
    with torch.inference_mode():
        ids = tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
        near = torch.nn.functional.cosine_similarity(quantised(ids).logits.float().flatten(), plain(ids).logits.float().flatten(), dim=0)
    assert near > 0.98
    written = decoding.writer(study, "japanese")
    answers = written.complete(TEXTS[:3])
    assert f"quantization {quantization}" in written.how
    assert written.facts["quantization"] == quantization
    assert all(answer["tokens"] <= 8 for answer in answers)


def test_nf4_of_broken_blocks_is_refused_on_a_cpu_before_a_weight_is_read(pico_study, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(StudyError, match=r"'nf4'.*whole blocks of 64.*japanese's model\.layers\.0\.mlp\.down_proj\.weight have 48; take int8"):
        models.load(pico_study("llama", generation={"quantization": "nf4"}), "japanese")
    loading.check_blocks("japanese", {"model.layers.0.mlp.down_proj.weight": (32, 48)}, "cuda")


def test_a_model_that_overflows_in_float16_is_loaded_in_float32_or_refused(pico_study, pico_siblings, tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM

    loud = AutoModelForCausalLM.from_pretrained(pico_siblings["llama"] / "japanese", dtype=torch.float32)
    with torch.no_grad():
        loud.model.layers[0].mlp.down_proj.weight.mul_(1e9)
    loud.save_pretrained(tmp_path / "loud")
    pico_tokenizer().save_pretrained(tmp_path / "loud")
    monkeypatch.setattr(loading, "pick_dtype", lambda study, device: ("float16", "as on a T4"))
    model, _, how = models.load(pico_study("llama", weights={"japanese": tmp_path / "loud"}), "japanese")
    assert model.dtype == torch.float32
    assert "float32" in how
    assert "overflows in float16" in capsys.readouterr().out
    assert models.load(pico_study("llama"), "japanese")[0].dtype == torch.float16  # the quiet one stays
    with pytest.raises(StudyError, match=r"float16.*japanese overflows"):
        models.load(pico_study("llama", weights={"japanese": tmp_path / "loud"}, generation={"dtype": "float16"}), "japanese")


def test_a_model_that_names_a_cache_of_its_own_is_decoded_in_segments_all_the_same(pico_study, pico_siblings, tmp_path):
    shutil.copytree(pico_siblings["llama"] / "japanese", tmp_path / "own")
    config = tmp_path / "own" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cache_implementation": "static"}))
    plain = models.load(pico_study("llama"), "japanese", dtype="float32")[:2]
    own = models.load(pico_study("llama", weights={"japanese": tmp_path / "own"}), "japanese", dtype="float32")[:2]
    assert decoding.complete(*own, TEXTS, 20) == decoding.complete(*plain, TEXTS, 20)


@pytest.mark.parametrize("words", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", "CUDA error: out of memory", "can't allocate memory"])
def test_memory_that_ran_out_is_known_by_its_words_too(words):
    assert decoding.out_of_memory(RuntimeError(words))
    assert not decoding.out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_what_bends_greedy_decoding_is_left_out_and_named(pico_study, pico_siblings, tmp_path, capsys):
    """Qwen's instruct models, for one, ship a repetition penalty."""
    shutil.copytree(pico_siblings["llama"] / "japanese", tmp_path / "bent")
    plain = models.load(pico_study("llama"), "japanese", dtype="float32")[:2]
    assert "left out" not in capsys.readouterr().out
    config = tmp_path / "bent" / "generation_config.json"
    bends = {
        "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "stop_strings": ["a"], "num_return_sequences": 2, "penalty_alpha": 0.6,
        "prompt_lookup_num_tokens": 3, "dola_layers": "low", "forced_eos_token_id": 1, "temperature": 0.6, "max_length": 3,
    }  # fmt: skip
    config.write_text(json.dumps(json.loads(config.read_text()) | bends))
    bent = models.load(pico_study("llama", weights={"japanese": tmp_path / "bent"}), "japanese", dtype="float32")[:2]
    told = capsys.readouterr().out
    assert "japanese: left out of its generation config, since decoding is plain greedy: " in told
    assert all(f"{key} = {value}" in told for key, value in bends.items() if key not in ("temperature", "max_length"))
    assert decoding.complete(*bent, TEXTS, 40) == decoding.complete(*plain, TEXTS, 40)


def test_a_row_that_repeats_eight_tokens_stops_there_alone_and_in_any_batch(writing):
    model, tokenizer = writing
    plain = [one_by_one(model, tokenizer, text, MOST) for text in TEXTS]
    stops = model.generation_config.eos_token_id
    rows = decoding.complete(model, tokenizer, TEXTS, MOST, stop_at_loop=True)
    assert rows == [decoding._row(tokenizer, said, stops, stop_at_loop=True) for said in plain]
    assert rows == [decoding.complete(model, tokenizer, [text], MOST, stop_at_loop=True)[0] for text in TEXTS]
    tied = model.lm_head.weight
    model.lm_head.weight = model.get_input_embeddings().weight  # tied, it repeats one token for ever
    sizes, generate = [], model.generate
    model.generate = lambda **options: sizes.append(1) or generate(**options)
    (row,) = decoding.complete(model, tokenizer, ["a"], MOST, stop_at_loop=True)
    assert row["finish"] in ("loop", "empty", "stop")
    assert len(sizes) < MOST / loading.SEGMENT["cpu"]
    model.lm_head.weight = tied


def test_what_a_loop_says_again_is_cut_off_and_said(writing):
    _, tokenizer = writing
    words = list(range(40, 52))
    once, again = decoding._row(tokenizer, words, [1], stop_at_loop=True), decoding._row(tokenizer, [*words, *words], [1], stop_at_loop=True)
    assert again == once | {"finish": "loop"}
    assert decoding._row(tokenizer, [*words, *words[:7], 1, *words], [1], stop_at_loop=True)["finish"] == "stop"  # seven, and behind the end
    assert decoding._row(tokenizer, [*words, *words], [1])["tokens"] == 24  # as published


def test_a_closed_thought_is_cut_off_and_an_open_one_is_a_cut_off_empty_definition():
    tokenizer = pico_tokenizer()

    def row(text):
        answer = decoding._row(tokenizer, [*tokenizer(text)["input_ids"], 1], [1])
        return answer["definition"], answer["finish"]

    assert row("<think>\nhm\n</think>\n\nyes") == ("yes", "stop")
    assert row("<think>\nhm") == ("", "length")
    assert row("<think>hm</think>") == ("", "empty")
