"""What the package needs to know of the notebook that it runs in; outside a notebook, nothing.

Papermill only warns of a parameter that a notebook does not have and then runs with the defaults, so the notebooks look for themselves.
"""

import ast
import json
import sys
import time
from pathlib import Path

from xlm_utils.study.inputs import ROOT, StudyError

DRIVE = Path("/content/drive")  # where Colab mounts a person's Google Drive
STOPPED = "Stopped. What was finished is kept: run this cell again to go on."


class Progress:
    """A line of text that counts what is done: no widget, because a saved notebook can't show one.

    It appears with the first count, so there is none where nothing is left to do; it tells the time left while there is some, and ends as
    ``ties: 24 of 24 terms``, the same after every run. Outside a notebook it is silent. ``total``: how many there are; ``done``: how many of them
    were done before; ``delay``: seconds before it first appears.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0, delay: float = 0.0):
        self.name, self.total, self.unit, self.done, self.before = name, total, unit, done, done
        self.started, self.delay, self.shown, self.handle = time.monotonic(), delay, 0.0, None

    def update(self, count: int = 1, remark: str = "") -> None:
        """Count so many more; drawn at most twice a second, and at the end."""
        self.done += count
        now, last = time.monotonic(), self.done >= self.total
        if not in_notebook() or now - self.started < self.delay or (now - self.shown < 0.5 and not last):
            return
        left = (now - self.started) / max(self.done - self.before, 1) * (self.total - self.done)
        text = f"{self.name}: {self.done:,} of {self.total:,} {self.unit}" + (f", {remark}" if remark else "")
        self._draw(text if last or self.done == self.before else f"{text}, about {left:.0f} s left")
        self.shown = now

    def _draw(self, text: str) -> None:
        from IPython.display import display

        bundle = {"text/plain": text}
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


def in_notebook() -> bool:
    """Whether this runs in a kernel, whose displays somebody sees."""
    return hasattr(shell(), "kernel")


def parameters_of(notebook: str) -> list[str]:
    """Names of a notebook's parameters, in their order."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return [statement.targets[0].id for statement in ast.parse(source).body]


def parameter_cells() -> list[set[str]]:
    """Names assigned by each of the literal-only cells run just before the current one, newest first.

    The oldest of them is the notebook's own parameters cell; Papermill's injected one comes after it.
    """
    ipython, cells = shell(), []
    for source in reversed(ipython.user_ns["In"][:-1] if ipython else []):
        try:
            named = [(statement.targets, ast.literal_eval(statement.value)) for statement in ast.parse(source).body]
        except (SyntaxError, ValueError, AttributeError):  # no Python, or not only assignments of literals
            break
        if not named:
            break
        cells.append({target.id for targets, _ in named for target in targets if isinstance(target, ast.Name)})
    return cells


def mount_drive(folder: str) -> None:
    """Mount Google Drive if ``folder`` is on it and it is not mounted yet (Colab asks for consent); else nothing. A StudyError: this is not Colab."""
    if not Path(folder).is_relative_to(DRIVE) or (DRIVE / "MyDrive").is_dir():
        return
    try:
        from google.colab import drive
    except ImportError:
        raise StudyError(f"drive_dir = {folder!r}: only Colab can mount Google Drive; name a folder of this machine, or leave it empty") from None
    drive.mount(str(DRIVE))


def tidy_kernel() -> None:
    """Stop is one line instead of a traceback, and the interrupt that Papermill shuts the kernel down with, none."""
    if in_notebook():
        log = shell().kernel.log
        getattr(log, "logger", log).addFilter(lambda record: "KeyboardInterrupt caught in kernel" not in record.getMessage())  # traitlets may wrap it
        # still an error to the front end, so that Run All does not go on
        shell().set_custom_exc((KeyboardInterrupt,), lambda ipython, kind, error, *_, **__: ipython._showtraceback(kind, error, [STOPPED]))


def shell() -> object | None:
    """The IPython that this runs in, if any."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None
