"""What training on the benchmarks' answer formats alone bought: the demo's columns with the adapters of an earlier build, which never saw them.

    python measure/formats.py            # some minutes on two CPU cores; needs the git history

Writes ``data/demo/benchmarks/before_formats.csv``, which notebook 06 shows beside Table 2. The earlier adapters lie on the
same base, with its whole vocabulary; items and prompts are those of today.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
COMMIT = "778d583fc6a933b9602ffffb48f3c856d96efe9d"
ADAPTERS = "data/demo/adapters"


def earlier(scratch: Path) -> Path:
    """A copy of the demo's study whose adapters are those of the commit."""
    preset = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text(encoding="utf-8"))
    for constituent in preset["constituents"].values():
        constituent.pop("tokens", None)
        if name := Path(constituent.pop("adapter", "")).name:
            folder = scratch / name
            folder.mkdir()
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                blob = subprocess.run(["git", "show", f"{COMMIT}:{ADAPTERS}/{name}/{file}"], cwd=ROOT, check=True, capture_output=True).stdout
                (folder / file).write_bytes(blob)
            constituent["adapter"] = str(folder)
    file = scratch / "before_formats.yaml"
    file.write_text(yaml.safe_dump(preset, allow_unicode=True), encoding="utf-8")
    return file


def main() -> None:
    """Ask the two constituents every item, and write their columns beside the items."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLM_HOME"] = folder
        from xlm_utils import benchmark
        from xlm_utils.study import open_study

        study = open_study(str(earlier(Path(folder))))
        prepared, rows = benchmark.prepare(study), []
        for model in (study.by_role("expert"), study.by_role("general")):
            columns = benchmark.evaluate(study, prepared, model)["columns"]
            rows += [{"model": model, "column": column, **{key: found[key] for key in ("value", "low", "high", "n", "chance")}}
                     for column, found in columns.items()]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(ROOT / "data" / "demo" / "benchmarks" / "before_formats.csv", index=False, float_format="%.4f")
    print(table.pivot(index="column", columns="model", values="value").round(3))


if __name__ == "__main__":
    main()
