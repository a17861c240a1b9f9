"""How many terms a study will run is known before its first call is paid for."""

import yaml

from xlm_utils.run import checks, preflight
from xlm_utils.study import PARAMS, open_study


def test_the_check_translates_the_list_of_a_study_without_a_sample_to_count_what_the_judges_will_be_paid_for(tmp_path):
    (tmp_path / "mine.csv").write_text("term,definition,translation\nxanthinuria,x,キサンチン尿\nalkaptonuria,y,アルカプトン尿\npica,z,\n")
    preset = yaml.safe_load((PARAMS / "demo.yaml").read_text(encoding="utf-8"))
    preset["vocabulary"] = {"source": "csv", "path": str(tmp_path / "mine.csv")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset | {"sweep": None, "translation": {}}), encoding="utf-8")
    study = open_study(str(tmp_path / "mine.yaml"), drive_dir=str(tmp_path))
    assert checks._terms(study)[1] == " (as many as the paper's)"
    assert "3 different terms of the list → 2 translated → 2 run" in preflight._terminology(study)
    assert checks._terms(study) == (2, "")
