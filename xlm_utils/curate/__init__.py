"""Which terms are rare?

In: a terminology (HPO, SNOMED CT, a CSV list).
Out: ``vocabulary.csv`` and ``funnel.csv``.
Notebook: 01_curate.
"""

from xlm_utils.curate.vocabulary import PAPER_TERMS, compare_rules, curate, frequency, groups, labels, part_of_speech, read_terms
