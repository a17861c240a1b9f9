"""How good is what a model said, and is the judge to be believed?

In: ``definitions/`` and a judge's card.
Out: ``scores/<judge>/<run>.jsonl``, and the judge's own controls.
Notebook: 05_judge.
"""

from xlm_utils.judge.controls import ask_controls, control_questions, repeated, retest
from xlm_utils.judge.judging import judge, plan, preview, prompt_for, questions, score, send
