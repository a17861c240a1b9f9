"""What does a model say?

In: the terms, the study's prompts and a model.
Out: ``definitions/<run>.jsonl``.
Notebook: 04_generate.
"""

from xlm_utils.generate.decoding import complete
from xlm_utils.generate.generation import define, load, prompts, rows, runs, side_by_side, summary, usable
from xlm_utils.generate.languages import language_of
