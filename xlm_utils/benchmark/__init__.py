"""What else can a model do?

In: data sets of the hub or a folder, through the LM Evaluation Harness.
Out: ``benchmarks/<model>.json`` and a row an item.
Notebook: 06_benchmark.
"""

from xlm_utils.benchmark.benchmarks import datasets_table, evaluate
from xlm_utils.benchmark.prepared import COLUMNS, prepare
from xlm_utils.benchmark.transfer import CONTROLS, ask_transfer, transfer_rows
