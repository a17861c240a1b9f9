"""What are the terms called in the target language?

In: ``vocabulary.csv``.
Out: ``translated.csv``, and ``terms.csv`` with the terms that the study runs.
Notebook: 02_translate.
"""

from xlm_utils.translate.dictionary import jmdict
from xlm_utils.translate.drawing import draw_terms, terms
from xlm_utils.translate.translation import plan, preview, translate
