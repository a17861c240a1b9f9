#!/usr/bin/env bash
# LM Evaluation Harness 0.4.13 files the answers of chosen samples under each other's numbers, if they are not chosen in rising order.
#
# Expected: simple_evaluate(samples={"task": [5, 0]}) asks rows 5 and 0, and each logged sample has its row under that row's doc_id.
# Happens:  row 0 is logged as doc_id 5 and row 5 as doc_id 0, each with the other's document and answer. Joined to the data set by doc_id, or to
#   another run that asked all rows, every item is compared with a wrong one. The means are right, so nothing looks amiss.
# Where:    lm_eval/api/task.py, doc_iterator: rows are taken in the data set's order, whatever order they were asked in;
#   lm_eval/evaluator.py, evaluate: the n-th row taken gets the n-th number of the list.
# So:       sorted(samples).
#
# bash findings/lm-eval-samples-order.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 lm_eval==0.4.13
cat > rows.yaml <<'YAML'
task: rows
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
YAML
for row in 0 1 2 3 4 5; do echo "{\"question\": \"question $row\"}"; done > rows.jsonl
HF_HUB_OFFLINE=1 HF_HOME="$scratch/hf" env/bin/python - <<'PYTHON' 2> /dev/null
import sys
from importlib.metadata import version

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

print("lm_eval", version("lm_eval"))
found = {}
for asked in ([0, 5], [5, 0]):
    manager = TaskManager(include_path=".", include_defaults=False)
    results = simple_evaluate("dummy", tasks=["rows"], task_manager=manager, samples={"rows": asked}, bootstrap_iters=0)
    found[str(asked)] = {sample["doc_id"]: sample["doc"]["question"] for sample in results["samples"]["rows"]}
    print(f"samples={asked}: {found[str(asked)]}")
sys.exit(found != {"[0, 5]": {0: "question 0", 5: "question 5"}, "[5, 0]": {5: "question 0", 0: "question 5"}})
PYTHON
# Seen: samples=[0, 5]: {0: 'question 0', 5: 'question 5'}; samples=[5, 0]: {5: 'question 0', 0: 'question 5'}
