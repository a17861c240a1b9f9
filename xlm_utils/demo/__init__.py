"""How were the demo's two models made?

In: the ancestor and training pairs.
Out: two LoRA adapters.
Notebook: 00_demo_models.
"""

from xlm_utils.demo.training import finetune, general_pairs, medical_pairs, question_pairs
