"""The measure without a judge: how far each model ties the clinicians' definitions to their terms (see ``benchmark.transfer``)."""

import pandas as pd

from xlm_utils.benchmark.transfer import CONTROLS, transfer_rows
from xlm_utils.report.captions import captioned
from xlm_utils.report.results import control_run, note, row_label, row_order
from xlm_utils.stats import statistics
from xlm_utils.study import Study


def transfer(study: Study) -> pd.DataFrame:
    """A row a run: note, n, margin (nats a token) with its interval, accuracy among the own and the rival terms, logp; then the merges' differences.

    ``minus …``: the paired difference in margin from the general model and from the expert asked in the target language, with
    low, high and p_holm (all of them one family). Index: model labels; empty where nothing was asked.
    """
    expert, *others = row_order(study)
    controls = {f"{expert}.{control}": f"control: {what}" for control, what in CONTROLS.items()}
    rows = transfer_rows(study, [expert, *controls, *others])
    table, bases = rows.pivot(index="term_id", columns="run", values="margin"), (study.by_role("general"), control_run(study))
    found, tested = {}, {}
    for run, block in rows.groupby("run", sort=False):
        interval = statistics.mean_interval(block["margin"], study.seed)
        what = f"control: asked in {study.source.name}" if run == expert else controls.get(run) or note(study, run)
        found[run] = {("", "note"): what, ("", "n"): len(block), ("", "margin"): block["margin"].mean(), ("", "low"): interval.low,
                      ("", "high"): interval.high, ("", "accuracy"): block["correct"].mean(), ("", "logp"): block["logp"].mean()}  # fmt: skip
        for base in bases if run in study.methods else ():
            if base in table:
                tested[run, base] = statistics.compare(table[run], table[base], seed=study.seed)
    adjusted = dict(zip(tested, statistics.holm([one["p"] for one in tested.values()]), strict=True))
    for (run, base), one in tested.items():
        group = f"minus {row_label(study, base)}"
        found[run] |= {(group, part): (one | {"p_holm": adjusted[run, base]})[part] for part in ("difference", "low", "high", "p_holm")}
    names = [f"{row_label(study, expert)}, {run.rpartition('.')[2]}" if run in controls else row_label(study, run) for run in found]
    frame = pd.DataFrame.from_dict(found, orient="index").set_axis(pd.Index(names, name="model"))
    frame.columns = pd.MultiIndex.from_tuples(frame.columns) if len(frame) else pd.MultiIndex.from_arrays([[], []])
    return captioned(frame, "transfer", rivals=study.transfer.rivals, chance=1 / (study.transfer.rivals + 1))
