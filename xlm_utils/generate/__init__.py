"""What does a model say?

In: the terms, the study's prompts and a model.
Out: ``definitions/<run>.jsonl``.
Notebook: 04_generate.
"""

from xlm_utils.generate.decoding import complete
from xlm_utils.generate.definitions import identity, rows, side_by_side, summary
from xlm_utils.generate.generation import define, language_of, load, prompts, runs

__all__ = [
    "complete",
    "define",
    "identity",
    "language_of",
    "load",
    "prompts",
    "rows",
    "runs",
    "side_by_side",
    "summary",
]
