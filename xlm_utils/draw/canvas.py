"""The house style of figures, and how they become files: small to commit, readable with and without a network.

``layout.meta["alt"]`` tells in words what a figure shows. To import this is to have the style.
"""

import asyncio
import atexit
import base64
import logging
import threading
from collections.abc import Coroutine
from contextlib import suppress
from functools import cache
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from xlm_utils.draw.pages import page
from xlm_utils.study import shell, write_text

# a Latin font first: Japanese ones draw ’ as wide as a kanji; each kanji still comes from the first font that has it
FONTS = 'Arial,"Liberation Sans","DejaVu Sans","IPAexGothic","BIZ UDGothic","Noto Sans CJK JP","Noto Sans JP","Hiragino Sans","Yu Gothic",sans-serif'
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud", "lasso2d", "select2d"]}
# Okabe & Ito's palette: told apart with every common colour blindness, and by lightness in grey
INK, GREY, BLUE, ORANGE, RED = "#222222", "#8A8A8A", "#0072B2", "#E69F00", "#D55E00"
TEMPLATE = go.layout.Template(pio.templates["plotly_white"])
TEMPLATE.layout.update(
    font={"family": FONTS, "size": 14, "color": INK}, title={"x": 0.015, "xref": "container", "y": 0.985, "yanchor": "top", "font_size": 17},
    width=800, height=450, margin={"l": 70, "r": 20, "t": 70, "b": 60}, colorway=[BLUE, ORANGE, RED, GREY],
    hoverlabel={"font_family": FONTS, "align": "left"})  # fmt: skip
WIDEST = 1220  # pixels that a notebook's output has room for, in JupyterLab and on the web
PATIENCE = 60  # seconds for one figure's pictures
SMALL = {"font_size": 12}
BELOW = {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"}  # a legend under everything


@cache
def chrome() -> str | None:
    """Path of a Chrome that kaleido can drive, or None."""
    from choreographer.browsers.chromium import Chromium

    path = Chromium.find_browser(skip_local=False)
    return str(path) if path and Path(path).exists() else None


pictures: dict[str, Path] = {}  # JSON of a saved figure → its picture, as large as the figure


def _show(fig: go.Figure) -> None:
    """A figure in a notebook: interactive, with its saved picture for where no script runs, and in words."""
    from IPython.display import HTML, display

    bundle, picture = fig._repr_mimebundle_(), pictures.get(fig.to_json())
    if not bundle:
        pio.show(fig)  # a renderer that opens a window
        return
    alt = (fig.layout.meta or {}).get("alt", "")
    if picture and pio.renderers.default == "plotly_mimetype":
        bundle["image/png"] = base64.b64encode(picture.read_bytes()).decode()
    display(bundle, raw=True, metadata={"image/png": {"alt": alt}} if "image/png" in bundle else {})
    if alt:
        display(HTML(f"<details><summary><small>In words</small></summary><small>{escape(alt)}</small></details>"))


def save(fig: go.Figure, name: str, folder: Path) -> go.Figure:
    """Write ``name.json`` and ``name.html`` always, ``.svg`` and ``.png`` where there is a Chrome; returns the figure.

    The page is small enough to commit because it holds no plotly.js (4.6 MB): it looks for ``plotly.min.js`` in the folder above, which is written
    here once and ignored by git, so the page works offline where it was made, and falls back on Plotly's CDN, so it works in a fresh clone. Pictures
    of a figure that has not changed are kept. A notebook that ends a cell with this shows the figure: interactive in JupyterLab and, where there is a
    Chrome, as a picture on GitHub too. PLOTLY_RENDERER, where set, decides instead.
    """
    data, text = folder / f"{name}.json", fig.to_json()
    files = [folder / f"{name}.svg", folder / f"{name}.png", folder / "shown" / f"{name}.png"]
    kept = data.exists() and data.read_text(encoding="utf-8") == text + "\n" and all(file.exists() for file in files)
    library = folder.parent / "plotly.min.js"
    if not library.exists() or get_plotlyjs_version() not in library.read_text(encoding="utf-8")[:300]:
        write_text(library, get_plotlyjs())
    cdn = f"https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js"
    head = (
        f'<script charset="utf-8" src="../{library.name}"></script>\n'
        f"<script>window.Plotly || document.write('<script charset=\"utf-8\" src=\"{cdn}\"><\\/script>')</script>\n")  # fmt: skip
    drawing, alt = fig.to_html(full_html=False, include_plotlyjs=False, config=CONFIG, div_id=name), (fig.layout.meta or {}).get("alt", name)
    write_text(folder / f"{name}.html", page(name, f'<div role="img" aria-label="{escape(alt)}">\n{drawing}\n</div>', head))
    if not kept and (reason := _export(fig, files)):
        print(f"{name}: html and json are written, svg and png are not ({reason})")
    else:
        pictures[text] = files[-1]
    write_text(data, text + "\n")  # last: it says that the pictures are of this figure
    return fig


def _export(fig: go.Figure, files: list[Path]) -> str:
    """Write pictures, the last of them as large as the figure and the others twice; the reason if that is not possible."""
    if not chrome():
        return "no Chrome: install chromium, or run plotly_get_chrome"
    from kaleido.errors import KaleidoError

    files[-1].parent.mkdir(parents=True, exist_ok=True)
    size = {"width": fig.layout.width, "height": fig.layout.height}
    asked = [{"fig": fig, "path": file, "opts": {"scale": 1 if file == files[-1] else 2, **size}} for file in files]
    try:
        _in_loop(_chrome_open().write_fig_from_object(asked, cancel_on_error=True))
    except (KaleidoError, RuntimeError, OSError) as error:  # Chrome is there and does not start, hangs or dies
        _chrome_open.cache_clear()  # the next picture tries another
        return f"Chrome failed with {type(error).__name__}"
    return ""


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: a notebook's is busy."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def end() -> None:  # a thread that still runs when the interpreter goes can take it down
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    atexit.register(end)
    return loop


def _in_loop(coroutine: Coroutine, patience: float = 0) -> object:
    """What a coroutine gives; a TimeoutError after ``PATIENCE``: kaleido bounds the drawing, not its waits for Chrome before and after it."""
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, patience or PATIENCE), _loop()).result()


@cache
def _chrome_open():
    """One Chrome for all pictures of this process, where kaleido would start another for each, which takes seconds."""
    from kaleido import Kaleido

    logging.getLogger("choreographer").setLevel(logging.ERROR)  # "Wait expired, Browser is being closed": nothing to act on
    drawing = Kaleido(mathjax=False)  # else every picture fetches it from its CDN, or waits seconds for that where there is no network
    _in_loop(drawing.open())

    def close() -> None:
        with suppress(TimeoutError, OSError, RuntimeError):  # one that hangs or has died is left to the system
            _in_loop(drawing.close(), 5)

    atexit.register(close)
    return drawing


def finish(fig: go.Figure, title: str | dict, alt: str, under: str = "", **layout: object) -> go.Figure:
    """Give a figure the house style, its title (with a line under it) and the words that stand for it where it can't be seen."""
    if under:
        title, alt = {"text": title, "subtitle": {"text": under, "font_size": 12}}, f"{alt} {under}"
    size = {side: layout.pop(side, None) or TEMPLATE.layout[side] for side in ("width", "height")}  # fixed: a page does not jump when it is drawn
    size["width"] = min(size["width"], WIDEST)
    return fig.update_layout(template=TEMPLATE, title=title, meta={"alt": alt}, **size, **layout)


def empty(message: str) -> go.Figure:
    """A figure that says why it is empty."""
    fig = finish(go.Figure(), "", message, height=200)
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return fig.add_annotation(text=escape(message), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_size=15)


# the house style is the default, no renderer's menu has *Share chart* (an upload), figures are shown with words
pio.templates["xlm"] = TEMPLATE
pio.templates.default = "xlm"
for _name in ("plotly_mimetype", "jupyterlab", "colab"):
    pio.renderers[_name].config = dict(CONFIG)
if _ipython := shell():
    _ipython.display_formatter.ipython_display_formatter.for_type(go.Figure, _show)
