"""Models from the hub: downloaded once, whole or not at all, at one commit that manifests name."""

import shutil
from pathlib import Path

import pytest

from tests.support import published
from tests.support.hub import TOKEN, Hub
from xlm_utils.benchmark.tasks import data
from xlm_utils.models import constituents
from xlm_utils.models import hub as model_hub
from xlm_utils.models.hub import from_hub, is_on_hub, whole_copy
from xlm_utils.run import preflight
from xlm_utils.study import StudyError, records
from xlm_utils.study.records import digest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that the client in this process takes for the real one, with an empty cache."""
    from huggingface_hub import constants

    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XLM_CACHE", str(tmp_path / "cache"))
        from_hub.cache_clear()
        yield server
    from_hub.cache_clear()


FILES = {
    "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}',
    "a.safetensors": b"\x02\0\0\0\0\0\0\0{}", "b.safetensors": b"\x02\0\0\0\0\0\0\0{}", "pytorch_model.bin": b"the same in another format",
}  # fmt: skip


def test_a_second_use_asks_the_hub_nothing_even_in_another_process(hub, capsys):
    commit = hub.add("someone/model", FILES).commit
    folder = from_hub("someone/model", None)
    assert folder.name == commit
    assert not (folder / "pytorch_model.bin").exists()
    hub.requests.clear()
    from_hub.cache_clear()  # as a new process
    assert from_hub("someone/model", None) == folder
    assert hub.requests == []
    assert capsys.readouterr().out.count("downloading") == 1


def test_a_study_stays_at_its_commit_when_the_repository_moves_on(hub):
    first = from_hub("someone/model", None) if hub.add("someone/model", FILES) else None
    hub.add("someone/model", {**FILES, "config.json": b'{"vocab_size": 1}'})
    from_hub.cache_clear()
    assert from_hub("someone/model", None) == first


def test_an_interrupted_download_is_completed(hub):
    hub.add("someone/model", FILES)
    folder = from_hub("someone/model", None)
    (folder / "b.safetensors").unlink()
    from_hub.cache_clear()
    assert whole_copy("someone/model", None) is None
    assert (from_hub("someone/model", None) / "b.safetensors").exists()


def test_a_gated_model_is_fetched_with_the_token_and_refused_without(hub, monkeypatch):
    hub.add("someone/gated", FILES, gated=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(StudyError, match="someone/gated: it is gated and there is no token; accept its licence on the hub and set HF_TOKEN"):
        from_hub("someone/gated", None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (from_hub("someone/gated", None) / "a.safetensors").read_bytes() == FILES["a.safetensors"]


def test_an_unknown_model_is_named(hub):
    with pytest.raises(StudyError, match="someone/nothing: neither a folder nor a repository that the hub knows"):
        from_hub("someone/nothing", None)


def test_weights_are_read_once_to_know_their_hash_and_again_when_they_change(hub, monkeypatch):
    hub.add("someone/model", FILES)
    folder = from_hub("someone/model", None)
    copy = shutil.copytree(folder, Path(folder.parent.parent / "copy"))
    first = digest(copy)
    with monkeypatch.context() as patch:
        patch.setattr(records, "sha256", lambda path: pytest.fail("read again"))
        assert digest(copy) == first
    (copy / "config.json").write_text('{"changed": true}')
    assert digest(copy) != first


def test_the_pico_repositories_are_llama_3_in_everything_but_size(tmp_path):
    """Special tokens, chat template, two stop tokens, several shards; only the ancestor is gated."""
    from transformers import AutoConfig, AutoTokenizer

    from xlm_utils.models.weights import Tensors, eos_ids

    for repository, files in published.models(trained=False).items():
        folder = tmp_path / repository
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "喘息?"}], tokenize=False, add_generation_prompt=True)
        assert text == (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n喘息?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        assert tokenizer.convert_ids_to_tokens(eos_ids(folder)) == ["<|end_of_text|>", "<|eot_id|>"]
        assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        assert AutoConfig.from_pretrained(folder).architectures == ["LlamaForCausalLM"]
        assert len(list(folder.glob("*.safetensors"))) > 1
        assert len(Tensors(folder).shapes) == 2 * 9 + 3


@pytest.fixture
def data_hub(hub, tmp_path, monkeypatch):
    """The same hub for ``datasets``, with the published data sets."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for id, files in published.data_sets().items():
        hub.add(id, files, kind="datasets")
    return hub


def kwargs_of(name):
    from lm_eval.tasks._yaml_loader import load_yaml

    from xlm_utils.benchmark.prepared import TASKS

    return load_yaml(TASKS / f"{name}.yaml", resolve_func=False)["dataset_kwargs"]


@pytest.mark.parametrize("name", ["pubmedqa", "jaqket_v2", "xwinograd_ja", "xlsum_ja", "jsquad", "crade"])
def test_rows_come_from_the_upstream_files_as_from_the_demo_s(data_hub, name):
    """Parquet, a raw JSON list, JSON Lines and CSV; each with its upstream path."""
    splits = data.load(**kwargs_of(name))
    assert preflight.first_rows(**kwargs_of(name)) == ""
    if name == "pubmedqa":
        assert (len(splits["test"]), len(splits["train"])) == (500, 10)
        return
    for split in kwargs_of(name)["needs"]:
        local = data.load(**kwargs_of(name), data_dir=str(published.ITEMS))[split]
        assert splits[split].to_list() == local.to_list()[: published.FEW]


def test_a_split_that_only_a_search_looks_at_is_thinned_evenly(data_hub):
    splits = data.load(**kwargs_of("medmcqa_jp"))
    there = len(published._rows("medmcqa_jp"))
    assert len(splits["test"]) == there
    assert data.SEARCHED <= len(splits["train"]) < 2 * data.SEARCHED < there * 400


def test_an_adapter_comes_from_the_hub_and_is_no_model(hub):
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"\x02\0\0\0\0\0\0\0{}", "README.md": b"-"}
    hub.add("someone/lora", files)
    folder = constituents.find_adapter("someone/lora")
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(StudyError, match="model someone/lora: an adapter, not a model: give it as adapter: beside"):
        model_hub.about("someone/lora", None)
    with pytest.raises(StudyError, match="nobody/lora"):
        constituents.find_adapter("nobody/lora")


def test_what_stands_beside_a_model_s_own_weights_is_neither_counted_nor_fetched(hub):
    header = b"\x02\0\0\0\0\0\0\0{}"
    beside = {"consolidated.safetensors": header, "original/x.safetensors": header, "adapter_model.safetensors": header}
    hub.add("someone/twice", {"config.json": b"{}", "model.safetensors": header, **beside})
    assert model_hub.about("someone/twice", None)["to_download"] == 2 + len(header)
    folder = from_hub("someone/twice", None)
    assert {file.name for file in folder.rglob("*") if file.is_file()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("path", ["/none/there", "./mine", "~/mine", "models/mine/last"])
def test_a_path_to_no_folder_is_told_as_such_and_asks_no_hub(path):
    with pytest.raises(StudyError, match=f"^{path}: no such folder$"):
        is_on_hub(path)
    assert is_on_hub("someone/model")
