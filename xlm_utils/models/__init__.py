"""From a name to weights: where are they, and how are they loaded?

In: a constituent of the study, or a merge.
Out: a checkpoint folder; a model in memory.
Notebook: 00, 04, 07.
"""

from xlm_utils.models.constituents import locate, source
from xlm_utils.models.libraries import quiet
from xlm_utils.models.loading import as_list, check_backend, load, pick_dtype, stop_tokens

__all__ = [
    "as_list",
    "check_backend",
    "load",
    "locate",
    "pick_dtype",
    "quiet",
    "source",
    "stop_tokens",
]
