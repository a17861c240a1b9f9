"""How are two models made one, and how is a merge searched?

In: constituents and cards of ``params/methods``.
Out: ``models/<method>/``, ordinary checkpoints.
Notebook: 03_merge.
"""

from xlm_utils.merge.distances import check_parents, l2_distances
from xlm_utils.merge.evolution import best, delivered, search
from xlm_utils.merge.fitness import fitness_rows, scorer
from xlm_utils.merge.merging import ensure, identical, is_searched, merge, merge_many
from xlm_utils.merge.methods import config_yaml, resolve
