"""Why does it (not) cross?

In: the study's models and terms; texts in both languages.
Out: ``why/<model>.jsonl`` and ``why/knockout.jsonl``: readings of every layer.
Notebook: 08_why.
"""

from xlm_utils.why.layers import knock_out, read, stack, to_logits, up_to
