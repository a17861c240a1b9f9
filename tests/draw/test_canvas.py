"""A figure in a notebook: one size, no upload in its menu, and words for who can't see it."""

import IPython.display
import plotly.graph_objects as go
import plotly.io as pio

from xlm_utils.draw import canvas


def test_a_figure_has_a_fixed_size_that_fits_a_notebook():
    plain, wide = canvas.finish(go.Figure(), "t", "words"), canvas.finish(go.Figure(), "t", "words", width=2000)
    assert (plain.layout.width, plain.layout.height) == (800, 450)
    assert wide.layout.width == canvas.WIDEST


def test_the_style_comes_with_the_import():
    assert pio.templates.default == "xlm"
    assert "sendChartToCloud" in pio.renderers["plotly_mimetype"].config["modeBarButtonsToRemove"]


def test_a_saved_figure_is_shown_with_its_picture_and_in_words(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, **more: shown.append((data, more)))
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    fig, picture = canvas.finish(go.Figure(), "t", "two <words>"), tmp_path / "t.png"
    picture.write_bytes(b"png")
    monkeypatch.setitem(canvas.pictures, fig.to_json(), picture)
    canvas._show(fig)
    (bundle, more), (words, _) = shown
    assert bundle["image/png"] == "cG5n"
    assert more["metadata"] == {"image/png": {"alt": "two <words>"}}
    assert "two &lt;words&gt;" in words.data
