"""Figures are checked through what they hold (traces, ranges, words) and, once, as the picture that Chrome makes of one."""

import json
import os
import re
import stat
import struct
import warnings
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd
import plotly.io as pio
import psutil
import pytest

from tests.support.synthetic import make_study
from xlm_utils.draw import canvas
from xlm_utils.report import figures, planned, results

FUNNEL = pd.DataFrame({"step": ["labels", "single words"], "rows": [39065, 1951]})


@pytest.fixture(autouse=True)
def _no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield make_study(tmp_path_factory.mktemp("home"), patch, judges=("proxy", "gpt-4o"))


@pytest.fixture
def without_chrome(monkeypatch):
    monkeypatch.setattr(canvas, "chrome", lambda: None)


def words(fig) -> str:
    return " ".join(note.text for note in fig.layout.annotations)


def test_histograms_have_one_bin_per_score_and_count_every_scored_term(study):
    fig = figures.histograms(study)
    assert len(fig.data) == 10 * 4
    assert all(list(bars.x) == list(range(11)) for bars in fig.data)
    scores = results.load_scores(study)
    block = scores[(scores["judge"] == "gpt-4o") & (scores["reference"] == "expert") & (scores["run"] == "ties")]["score"]
    axis = f"x{results.row_order(study).index('ties') * 4 + 3}"  # rows of four panels; GPT-4o against the expert's is the third
    drawn = next(bars for bars in fig.data if bars.xaxis == axis)
    assert list(drawn.customdata) == [int((block == score).sum()) for score in range(11)]
    assert sum(drawn.y) == pytest.approx(100)


def test_a_proxys_scores_are_counted_in_the_nearest_bin(study):
    scores = results.load_scores(study)
    block = scores[(scores["judge"] == "proxy") & (scores["reference"] == "expert") & (scores["run"] == "expert")]["score"]
    assert figures.histograms(study).data[0].customdata[9] == ((block > 8.5) & (block < 9.5)).sum() > 0


def test_histograms_share_their_axes_and_mark_each_median(study):
    fig = figures.histograms(study)
    assert len({tuple(axis.range) for axis in fig.select_yaxes()}) == len({tuple(axis.range) for axis in fig.select_xaxes()}) == 1
    scores = results.load_scores(study)
    first = scores[(scores["judge"] == "proxy") & (scores["reference"] == "expert") & (scores["run"] == "expert")]["score"]
    assert fig.layout.shapes[0].x0 == first.median()
    assert fig.layout.shapes[0].xref == "x"
    assert len(fig.layout.shapes) == 10 * 4


def test_histograms_say_n_missing_control_and_proxy(study):
    said = words(figures.histograms(study))
    assert "1 missing" in said
    assert said.count("control") == 3
    assert "Proxy (sentence encoder)" in said
    assert "against the clinicians’ definition" in said


def test_forest_draws_difference_interval_and_zero_line(study):
    fig, found = figures.forest(study), planned.differences(study)
    assert list(fig.layout.yaxis.ticktext) == [study.label(m) for m in study.methods]
    ends = {round(x + up, 6) for trace in fig.data if trace.error_x.array is not None for x, up in zip(trace.x, trace.error_x.array, strict=True)}
    assert {round(high, 6) for high in found["high"]} <= ends
    assert [line.x0 for line in fig.layout.shapes] == [0] * 8  # two judges, two references, two that are subtracted


def test_the_forest_fills_what_holds_after_holm_and_leaves_the_rest_open(study):
    found = planned.differences(study)
    drawn = [trace for trace in figures.forest(study).data if trace.name.startswith("mean of the scores")]
    filled = sum(len(trace.x) for trace in drawn if trace.marker.symbol == "circle")
    assert 0 < filled == (found["p_holm"] < 0.05).sum() < len(found) == sum(len(trace.x) for trace in drawn)


def test_benchmark_gaps_are_from_each_parent_here_and_from_the_published_one(study):
    fig = figures.benchmark_gaps(study)
    path = study.folder / "benchmarks"
    dc = {m: json.loads((path / f"{m}.json").read_text(encoding="utf-8"))["columns"]["dc"]["value"] for m in study.models}
    assert [trace.y[0] for trace in fig.data] == ["Baseline (English expert)", "Base Japanese", "Baseline (English expert)"]
    assert fig.data[0].z[-1][7] == pytest.approx(dc["evo_dare_ties"] - dc["japanese"])
    assert fig.data[1].z[-1][7] == pytest.approx(dc["evo_dare_ties"] - dc["expert"])
    assert fig.data[2].z[-1][8] == pytest.approx(0.405 - 0.559)  # STS of Evo. DARE TIES and of the Japanese model, as printed
    assert fig.data[0].x[7] == "DC<br>n = 100"
    assert fig.data[2].x[7] == "DC"
    known = pd.read_csv(results.PUBLISHED / "table2.csv", index_col="model")
    largest = (known - known.loc["general"]).abs().max().max()
    assert all(trace.zmax == -trace.zmin == pytest.approx(largest) for trace in fig.data)  # the published panel's largest


def test_published_differences_stand_beside_those_against_the_expert_s_definition_only(study):
    diamonds = [trace for trace in figures.forest(study).data if trace.name.startswith("published")]
    assert [trace.name for trace in diamonds] == ["published (GPT-4o)"] * 2  # the proxy's and GPT-4o's own panel
    assert diamonds[0].x[0] == pytest.approx(5.64 - 5.46)  # SLERP


def test_a_control_s_tall_bar_leaves_the_shared_axis_and_says_its_height(study):
    fig = figures.histograms(study)
    tallest = max(max(bars.y) for bars in fig.data if bars.marker.color != canvas.GREY)
    assert fig.layout.yaxis.range[1] == pytest.approx(1.05 * tallest)
    cut = [share for bars in fig.data for share in bars.y if share > 1.05 * tallest]
    assert len(cut) == words(fig).count("↑") > 0


def test_figures_with_nothing_to_show_say_so(tmp_path, monkeypatch):
    study = make_study(tmp_path, monkeypatch, terms=4)
    table = pd.read_csv(study.folder / "terms.csv")
    table.assign(seen=False).to_csv(study.folder / "terms.csv", index=False)
    for run in ("japanese", "expert.ja"):
        (study.folder / "scores" / "proxy" / f"{run}.jsonl").unlink()
    assert "No merge" in words(figures.forest(study))


def test_funnel_prints_counts_and_what_is_left():
    assert list(figures.funnel(FUNNEL).data[0].text) == ["39,065", "1,951 (5.0 %)"]


@pytest.mark.usefixtures("without_chrome")
def test_without_chrome_one_line_says_so_and_page_and_json_are_there(tmp_path, capsys):
    canvas.save(figures.funnel(FUNNEL), "funnel", tmp_path / "demo")
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["funnel.html", "funnel.json"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no Chrome" in said


@pytest.mark.usefixtures("without_chrome")
def test_a_page_is_small_repeats_its_bytes_and_finds_plotly_beside_it_or_on_the_cdn(tmp_path):
    canvas.save(figures.funnel(FUNNEL), "funnel", tmp_path / "demo")
    page = tmp_path / "demo" / "funnel.html"
    first = page.read_bytes()
    canvas.save(figures.funnel(FUNNEL), "funnel", tmp_path / "demo")
    assert page.read_bytes() == first
    assert len(first) < 30_000
    assert b'src="../plotly.min.js"' in first
    assert b"cdn.plot.ly" in first
    assert b"39,065; single words" in first  # the words for the picture
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6


@pytest.mark.usefixtures("without_chrome")
def test_no_menu_offers_to_upload_a_figure(tmp_path):
    canvas.save(figures.funnel(FUNNEL), "funnel", tmp_path / "demo")
    assert '"sendChartToCloud"' in (tmp_path / "demo" / "funnel.html").read_text(encoding="utf-8")
    assert "sendChartToCloud" in pio.renderers["plotly_mimetype"].config["modeBarButtonsToRemove"]


@pytest.mark.parametrize("does", ["exit 1", "exec sleep 60"])
def test_a_chrome_that_does_not_start_costs_one_line_and_no_figure(tmp_path, monkeypatch, capsys, does):
    broken = tmp_path / "chrome"
    broken.write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(canvas, "PATIENCE", 1)
    canvas.chrome.cache_clear()
    canvas._chrome_open.cache_clear()  # an earlier test's
    before = pio.renderers.default
    canvas.save(figures.funnel(FUNNEL), "funnel", tmp_path / "demo")
    canvas.chrome.cache_clear()
    assert "Chrome failed" in capsys.readouterr().out
    assert (tmp_path / "demo" / "funnel.html").exists()
    assert pio.renderers.default == before


@pytest.mark.skipif(canvas.chrome() is None, reason="no Chrome to draw with")
def test_a_chrome_that_hangs_midway_costs_one_line_and_the_next_figure_has_another(tmp_path, monkeypatch, capsys):
    canvas.save(figures.funnel(FUNNEL), "first", tmp_path / "demo")
    browsers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "--headless" in process.cmdline() and not any("--type" in part for part in process.cmdline()) and "python" not in process.name()
    ]
    chromium = max(browsers, key=psutil.Process.create_time)  # an earlier test's may still be open
    chromium.suspend()
    monkeypatch.setattr(canvas, "PATIENCE", 1)
    canvas.save(figures.funnel(FUNNEL), "second", tmp_path / "demo")
    assert "second: html and json are written, svg and png are not (Chrome failed with TimeoutError)" in capsys.readouterr().out
    monkeypatch.undo()
    canvas.save(figures.funnel(FUNNEL), "third", tmp_path / "demo")
    chromium.kill()
    assert (tmp_path / "demo" / "third.png").exists()


@pytest.mark.skipif(canvas.chrome() is None, reason="no Chrome to draw with")
def test_with_chrome_pictures_have_the_figures_own_size_twice(tmp_path):
    fig = figures.funnel(FUNNEL)
    canvas.save(fig, "funnel", tmp_path / "demo")
    picture = (tmp_path / "demo" / "funnel.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (2 * 800, 2 * fig.layout.height)
    assert "39,065" in (tmp_path / "demo" / "funnel.svg").read_text(encoding="utf-8")
    page = Path(url2pathname(urlsplit(canvas._chrome_open()._index).path)).read_text(encoding="utf-8")
    assert not re.search(r"src=.https?:", page), "kaleido would wait for the network before each picture"
