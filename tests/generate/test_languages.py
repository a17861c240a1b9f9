"""Languages: Japanese by its script and grammar, whatever English it quotes; Chinese is not Japanese; no evidence is no language."""

import pytest

from xlm_utils.generate.languages import language_of
from xlm_utils.study import StudyError

TEXTS = {
    "ja": [
        "脈が遅いこと。", "徐脈（bradycardia）のこと。", "ACTH, TSH, FSH, LH, GH, PRLの分泌低下", "Systemic lupus erythematosus の略。",
        "「Systemic lupus erythematosus」の略。", "Out of hospital cardiac arrestの略。", "徐脈とは、心拍数が遅いこと (a slow heart rate)。",
        "高血圧、糖尿病、脂質異常症。", "血小板減少症", "ｱﾚﾙｷﾞｰ性鼻炎", "アナフィラキシー", "アレルギー性鼻炎（allergic rhinitis）", "COVID-19感染症",
        "Wolff-Parkinson-White症候群", "ビタミンB12", "抗HLA-A", "剝離、瘦せ、頰部の腫れ", "脊柱側彎症", "pyruvate carboxylase 活性の減少",
    ],
    "en": [
        "A slow heart rate.", "アナフィラキシーショック is a severe allergic reaction.", "めまい (dizziness) is a sensation of spinning.",
        "徐脈 (bradycardia) is a slow heart rate.", "The term 頭痛 refers to pain in the head.", "徐脈 bradycardia", "The patient had めまい.",
    ],
    "other": [
        "", "123 …", "・", "ー", "心臟疾病ー", "小頭症是指小頭的長度。", "心脏病是一种疾病", "血小板减少症", "甲状腺功能亢进", "高血壓、糖尿病",
        "心電圖檢查", "アレルギー是一种过敏性疾病。", "ALS是一种神经系统疾病", "心脏病 (heart disease) 是一种疾病", "갑상선 기능", "Сердце",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "language"), [(text, language) for language, texts in TEXTS.items() for text in texts])
def test_japanese_is_told_by_its_script_and_grammar(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("text", "languages", "language"),
    [
        ("Entzündung der Bauchspeicheldrüse.", ("en", "de"), "de"), ("Inflammation of the pancreas.", ("en", "de"), "en"),
        ("", ("en", "de"), "other"),
        ("The", ("de", "fr"), "other"), ("123", ("de", "fr"), "other"), ("Inflammation of the pancreas.", ("de", "fr"), "other"),
        ("脈が遅いこと。", ("de", "fr"), "other"), ("心脏病", ("de", "fr"), "other"), ("Une maladie.", ("de", "fr"), "fr"),
        ("脈が遅いこと。", ("de", "ja"), "ja"), ("Eine Krankheit des Herzens", ("de", "ja"), "de"), ("心脏病", ("ja", "zh"), "zh"),
    ],
)  # fmt: skip
def test_other_languages_are_told_apart_and_a_text_in_none_of_them_is_in_none(text, languages, language):
    assert language_of(text, languages) == language


def test_a_language_that_can_t_be_told_is_named_before_a_model_is_loaded():
    with pytest.raises(StudyError, match=r"language code 'xx': not one of .*de"):
        language_of("a", ("en", "xx"))
