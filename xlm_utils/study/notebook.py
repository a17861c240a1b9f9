"""What the package needs to know of the notebook that it runs in; outside a notebook, nothing.

Papermill only warns of a parameter that a notebook does not have and then runs with the defaults, so
the notebooks look for themselves.
"""

from __future__ import annotations

import ast
import logging
import sys
from pathlib import Path

from xlm_utils.study.settings import StudyError

DRIVE = Path("/content/drive")  # where Colab mounts a person's Google Drive


def parameter_cells() -> list[set[str]]:
    """Names assigned by each of the literal-only cells run just before the current one, newest first.

    The oldest of them is the notebook's own parameters cell; Papermill's injected one comes after it.
    """
    shell = _shell()
    cells = []
    for source in reversed(shell.user_ns["In"][:-1] if shell else []):
        try:
            body = ast.parse(source).body
        except SyntaxError:
            break
        if not body or not all(isinstance(s, ast.Assign) and _literal(s.value) for s in body):
            break
        cells.append({t.id for s in body for t in s.targets if isinstance(t, ast.Name)})
    return cells


def _literal(node: object) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, (ast.Constant, ast.List, ast.Dict, ast.Tuple))


def mount_drive(folder: str) -> None:
    """Mount Google Drive if ``folder`` is on it and it is not mounted yet (Colab asks for consent); else nothing.

    Raises:
        StudyError: this is not Colab.
    """
    if not Path(folder).is_relative_to(DRIVE) or (DRIVE / "MyDrive").is_dir():
        return
    try:
        from google.colab import drive
    except ImportError:
        raise StudyError(f"drive_dir = {folder!r}: only Colab can mount Google Drive; name a folder of this machine, or leave it empty") from None
    drive.mount(str(DRIVE))


def hush_kernel() -> None:
    """Drop the kernel's notice of the interrupt that Papermill shuts it down with; nobody pressed a key."""
    kernel = getattr(_shell(), "kernel", None)
    if kernel is not None:
        logger = getattr(kernel.log, "logger", kernel.log)  # traitlets may wrap it in an adapter
        logger.addFilter(_not_an_interrupt)


def _not_an_interrupt(record: logging.LogRecord) -> bool:
    return "KeyboardInterrupt caught in kernel" not in record.getMessage()


def _shell() -> object | None:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None
