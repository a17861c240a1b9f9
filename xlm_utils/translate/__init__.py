"""What are the terms called in the target language?

In: ``vocabulary.csv``.
Out: ``translated.csv``, and ``terms.csv`` with the terms that the study runs.
Notebook: 02_translate.
"""

from xlm_utils.translate.translation import draw_terms, plan, preview, terms, translate
