"""From a name to weights: where are they, and how are they loaded?

In: a constituent of the study, or a merge.
Out: a checkpoint folder; a model in memory.
Notebook: 00, 04, 07.
"""

from xlm_utils.models.constituents import as_parent, locate, source
from xlm_utils.models.libraries import quiet
from xlm_utils.models.loading import can_drop_rows, continuations, load, pick_dtype
from xlm_utils.models.turns import DATE, chat, leave_open, said, stop_tokens
from xlm_utils.models.vocabularies import report_bytes
from xlm_utils.models.weights import as_list
