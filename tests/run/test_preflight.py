"""What would stop a study is told before anything is downloaded or paid for: all of it at once, a sentence each."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple

import psutil
import pytest
import yaml

from tests.support import published
from tests.support.hub import TOKEN, Hub
from tests.support.loopback import Loopback
from xlm_utils.ask.cards import load_card
from xlm_utils.run import checks, pipeline, preflight
from xlm_utils.study import PARAMS, ROOT, StudyError, open_study

STAGES = ["01_curate", "02_translate", "03_merge", "04_generate", "05_judge", "06_benchmark", "07_figures", "08_why"]


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield published.fill(server, trained=False)


@pytest.fixture
def run(tmp_path):
    """`python -m xlm_utils.run.pipeline paper` as a user without a release and without keys, in scratch folders."""

    def start(**settings: str) -> subprocess.CompletedProcess:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OPENAI_", "GEMINI_", "GOOGLE_", "XLM_"))}
        folders = {"HF_HOME": str(tmp_path / "hub"), "XLM_CACHE": str(tmp_path / "cache"), "XLM_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "xlm_utils.run.pipeline", "paper"]
        return subprocess.run(command, cwd=ROOT, env={**plain, **folders, **settings}, capture_output=True, text=True, timeout=250)

    return start


def sentences(done: subprocess.CompletedProcess) -> list[str]:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "running" not in done.stdout, "no notebook was started"
    return done.stderr.splitlines()


def test_everything_that_is_wrong_is_told_at_once_before_any_weights_are_read(hub, run):
    expert, jsquad = hub.repositories["models", published.EXPERT], hub.repositories["datasets", "sbintuitions/JSQuAD"]
    config = json.loads(expert.files["config.json"]) | {"hidden_size": 128}
    rows = [{"id": row["id"], "passage": row["context"], "question": row["question"]} for row in published._rows("jsquad_train")]
    hub.add(expert.id, {**expert.files, "config.json": json.dumps(config).encode()})
    changed = {path: published._parquet(rows) if path.endswith(".parquet") else file for path, file in jsquad.files.items()}
    hub.add(jsquad.id, changed, kind="datasets")
    hub.requests.clear()
    with Loopback() as gemini:
        told = sentences(run(HF_ENDPOINT=hub.url, GOOGLE_GEMINI_BASE_URL=gemini.root))
    hub.add(expert.id, expert.files)
    hub.add(jsquad.id, jsquad.files, kind="datasets")
    for words in (
        ["vocabulary.path = 'data/raw/snomed'", "no such file"],
        ["judge gpt-4o: no key", "OPENAI_API_KEY"],
        [f"model {published.ANCESTOR}: it is gated and there is no token", "HF_TOKEN"],
        [f"model {published.EXPERT}: hidden_size is 128", f"{published.JAPANESE} has 64"],
        ["data set jsquad:", "context: is missing", "sbintuitions/JSQuAD"],
    ):
        assert len([line for line in told if all(word in line for word in words)]) == 1, (words, told)
    assert told[0] == "error: 5 of the checks failed; nothing was downloaded or paid for"
    assert len(told) == 6
    assert not [path for _, path in hub.requests if "safetensors" in path and "/api/" not in path]


def test_a_hub_that_does_not_answer_is_one_sentence_that_says_what_is_needed_from_it(run):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        told = sentences(run(HF_ENDPOINT=address))
    about = [line for line in told if address in line]
    assert len(about) == 1
    for word in ("can't be reached", published.JAPANESE, published.EXPERT, published.ANCESTOR, "the benchmark data sets"):
        assert word in about[0]
    assert not [line for line in told if line.startswith("data set")]


def test_a_token_without_access_is_told_apart_from_none(hub, run):
    told = sentences(run(HF_ENDPOINT=hub.url, HF_TOKEN=f"{TOKEN}_of_another"))
    assert [line for line in told if published.ANCESTOR in line and "your token has no access" in line]


def test_a_disk_too_small_for_the_merges_is_told_in_one_sentence(pico_study, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    with pytest.raises(StudyError, match=r"disk: 0\.0 GiB are free at .*, and downloads and 6 merges need 2\.\d GiB"):
        preflight.preflight(pico_study(), ["03_merge"])


@pytest.mark.parametrize(("settings", "size"), [
    ({"dtype": "bfloat16"}, 2), ({"dtype": "float32"}, 4), ({"dtype": "bfloat16", "quantization": "nf4"}, 0.75),
])  # fmt: skip
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_memory_that_is_needed_follows_the_dtype(pico_study, monkeypatch, device, settings, size):
    monkeypatch.setattr(preflight, "pick_device", lambda: (device, ""))
    monkeypatch.setattr(preflight, "FREE", "print(64 * 2**30)")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(64 * 2**30))
    said = preflight._memory(pico_study("llama", generation=settings), {"expert": {"parameters": 8e9}})
    assert float(re.search(r"([\d.]+) GiB needed", said)[1]) == pytest.approx(8e9 * size / 2**30 + 2, abs=0.1)


def test_memory_too_small_is_told_in_one_sentence(pico_study, monkeypatch):
    monkeypatch.setattr(preflight, "pick_device", lambda: ("cpu", ""))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: namedtuple("memory", "available")(2**20))
    with pytest.raises(StudyError, match="memory"):
        preflight.preflight(pico_study(), ["04_generate"])


def test_the_demo_s_checks_pass_without_a_hub_or_a_key(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    monkeypatch.setattr(preflight.hub, "check_reachable", lambda *_: pytest.fail("the demo needs no hub"))
    preflight.preflight(open_study("demo"), STAGES)
    assert re.search(r"ok  terminology hpo: .*hp\.obo: [\d,]+ names and exact synonyms → .* → 361 translated → 160 run\n", capsys.readouterr().out)


def test_the_last_stage_alone_needs_neither_hub_nor_judges(monkeypatch, capsys):
    monkeypatch.setattr(preflight.hub, "check_reachable", lambda *_: pytest.fail("tables need no hub"))
    preflight.preflight(open_study("paper"), ["07_figures"])
    assert capsys.readouterr().out.count("  ok  ") == 1


def test_a_finished_study_is_not_checked_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    monkeypatch.setattr(pipeline, "is_done", lambda *_: True)
    monkeypatch.setattr(pipeline, "outputs", lambda study: {"01_curate": []})
    monkeypatch.setattr(pipeline, "preflight", lambda *_: pytest.fail("nothing is to be done"))
    pipeline.run("demo")


@pytest.mark.parametrize(("card", "variable", "words"), [
    ("gpt-4o", "OPENAI_BASE_URL", "judge gpt-4o: the server has no model gpt-4o-2024-08-06"),
    ("gemini-1.5-pro", "GOOGLE_GEMINI_BASE_URL", "judge gemini-1.5-pro: the server refuses the key in GEMINI_API_KEY or GOOGLE_API_KEY"),
])  # fmt: skip
def test_a_judge_that_is_gone_or_a_refused_key_is_told_before_any_call(monkeypatch, card, variable, words):
    """An empty hub stands for the judge's server: 404 to who brings a bearer token, 401 to others."""
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "some-key")
    with Hub() as server:
        monkeypatch.setenv(variable, server.url)
        with pytest.raises(StudyError, match=words):
            checks.answers(load_card(card))


def test_a_living_judge_s_shutdown_is_a_warning(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "some-key")
    with Loopback(shutdown_date="2027-01-14") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai)
        assert "warning: to be shut down on 2027-01-14" in checks.answers(load_card("gpt-4o"))
        assert server.prompts == [], "asking whether it lives costs nothing"


def test_a_study_dearer_than_its_limit_stops_with_the_sum(monkeypatch, tmp_path):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    study = open_study("paper")
    assert "1,782 terms (as many as the paper's), about 2" in checks.cost(study, STAGES)
    study.settings = study.settings.model_copy(update={"judging": study.judging.model_copy(update={"max_cost_usd": 5})})
    with pytest.raises(StudyError, match=r"cost: about 2\d\.\d\d USD for 1,782 terms \(0.00 spent\), above judging.max_cost_usd = 5"):
        checks.cost(study, STAGES)


def test_the_presets_fit_their_own_limits(monkeypatch, tmp_path):
    monkeypatch.setenv("XLM_HOME", str(tmp_path))
    for name in ("demo", "open", "paper"):
        checks.cost(open_study(name), STAGES)


def test_a_misspelt_arm_and_a_column_without_choices_are_told_before_anything_is_paid(tmp_path):
    wrong = [({"methods": ["ties@ancester"]}, "there is no base 'ancester'"), ({"evolution": {"columns": ["jsquad"]}}, "'jsquad' has no choices")]
    for changes, words in wrong:
        preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
        for key, value in changes.items():
            preset[key] = preset[key] | value if isinstance(value, dict) else value
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
        with pytest.raises(StudyError, match=words):
            preflight.preflight(open_study(str(tmp_path / "mine.yaml")), ["02_translate", "03_merge"])


def test_the_check_says_in_one_line_what_each_filter_left_and_how_many_terms_are_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XLM_HOME", str(tmp_path / "home"))
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8")) | {"translation": {}, "benchmarks": "none"}
    preset |= {"vocabulary": {"source": "csv", "path": str(tmp_path / "stars.csv"), "filter": "paper"}, "judging": {"judges": ["proxy"]}}
    del preset["sweep"]
    (tmp_path / "stars.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    (tmp_path / "stars.csv").write_text("term,translation\nred dwarf,x\nfever,y\nApoastron,z\nQuasar,\nMagnetar,w\n", encoding="utf-8")
    preflight.preflight(open_study(str(tmp_path / "stars.yaml"), limit=2), ["01_curate"])
    told = capsys.readouterr().out
    assert "checks before stars+limit=2 runs:" in told
    assert "5 different terms of the list → 4 single words → 3 at most once in the Brown corpus → 2 translated → 2 run" in told
    for text, words in {
        "Term,Definition\nQuasar,x\n": "line 1: one column must be 'term'; the columns are 'Term', 'Definition'",
        "term;translation\nQuasar;x\n": "line 1: one column must be 'term'; the columns are 'term;translation'",
        "term,translation\nQu\xe4sar,x\n": "line 2: not UTF-8 text; save the file as UTF-8",
        "term\nQuasar\n": "translation.translator: no term has a translation of its own",
        "term,translation\nQuasar,x\n": "vocabulary.sample = 2: only 1 translated terms can be drawn",
    }.items():
        (tmp_path / "stars.csv").write_text(text, encoding="latin-1")
        with pytest.raises(StudyError) as error:
            preflight.preflight(open_study(str(tmp_path / "stars.yaml"), limit=2), ["01_curate"])
        assert words in str(error.value)
