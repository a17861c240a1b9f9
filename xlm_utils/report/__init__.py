"""What does it all say?

In: scores and benchmark results of a study.
Out: Table 1, Table 2 and the figures, beside the published ones.
Notebook: 07_figures; 03, 05 and 06 show parts.
"""

from xlm_utils.report.figures import benchmark_gaps, forest, funnel, histograms
from xlm_utils.report.planned import claims, column_differences, differences, helped, remark, seen_unseen, table2, transfer
from xlm_utils.report.results import BENCHMARKS, kept_key, load_scores, means, measured, summary
from xlm_utils.report.tables import agreements, controls_table, extremes, missing_table, properties, rated, save_table, table1
