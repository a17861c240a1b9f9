"""Which language is a text in? Japanese is told by its script and grammar, all else by py3langid, which by itself always picks one."""

import re
from collections.abc import Iterable
from functools import cache
from unicodedata import normalize

from xlm_utils.study import StudyError

HIRAGANA = re.compile("[ぁ-ゖ]")
KATAKANA = re.compile("[ァ-ヺ]")  # without ・ and ー, which stand in Chinese texts, too
KANJI = re.compile("[々㐀-鿿\U00020000-\U0003ffff]")
LATIN = re.compile("[A-Za-zÀ-ɏ]")
BRACKETS = re.compile(r"[(\[][^)\]]*[)\]]")
PARTICLE = re.compile(r"[A-Za-z0-9][\s」』\"”]*[のはがをにでとも]")  # behind a foreign word: it is a noun in a Japanese sentence
ENGLISH = re.compile(r"\b(?:an?|[Tt]he|of|in|is|are|and|or|with|by|to|that|which|for|from|as)\b|[a-z]{4,}\W*$")
CHINESE = re.compile("[你您她它這很們]|(?<![国如])是(?![正非認])|引起|由於|或者")  # words that no Japanese text has
# Kanji of either Chinese script that JIS X 0213 has, too, though Japanese writes them another way today
OLD = frozenset(
    "臟發變體氣藥經關對營單圍實專惡戰據攝數斷會樣樂歸殘爲濕滿獨畫當盡腦膽狀產溫黃靜內說癥檢顯傳續繼雜齒鐵鹽壞壓圖團圓勞劑蟲裝觸覺觀證譯讀轉輕邊醫釋險隨隱雙靈顏"
    "驗髮點齡亂來價兒處參嚴屬帶廢彈從戲插搖擊擔擇歐歷沒淚淺滯濟爭獸癡盜稱穩絕絲綠總縱纖聲聽腳舊萬號虛豐賣踐遞閱餘驅麥寫晝曉條橫恆种兩两从众养减听园圣卧却丽么吴关"
)
LONGEST_TERM = 20  # kanji in a row; Japanese that goes on needs kana
ELSEWHERE = {"en", "ja", "zh"}  # languages that models fall into, and that the classifier must be able to name instead


def language_of(text: str, languages: Iterable[str] = ("en", "ja")) -> str:
    """Code of the language a text is in, of those it may be in; ``other`` where it is in none that can be told.

    A Japanese text may quote any amount of English as long as Japanese particles hold it together, and a term may be kanji alone; characters that
    only Chinese writes speak against it. English beside Japanese alone is told by its script. A StudyError: a language that it doesn't know.
    """
    text, allowed = normalize("NFKC", text), set(languages)  # half-width katakana, full-width letters
    classifier = None if allowed <= {"en", "ja"} else _classifier(tuple(sorted(allowed | ELSEWHERE)))
    if "ja" in allowed and _is_japanese(text):
        return "ja"
    if classifier is None:
        hiragana, _, kanji, latin = _counts(text)
        foreign = sum(map(str.isalpha, re.sub("[・ー]", "", text))) - latin - hiragana - kanji
        return "en" if "en" in allowed and latin > max(3 * (hiragana + kanji), foreign) else "other"
    (first, best), *_, (_, last) = classifier.rank(text)
    return first if best > last and first in allowed else "other"  # without a feature, all languages rank the same


def _is_japanese(text: str) -> bool:
    without = BRACKETS.sub("", text)
    text = without if any(_counts(without)) else text
    hiragana, katakana, kanji, latin = _counts(text)
    chinese = sum(char in OLD or not char.encode("euc_jis_2004", "ignore") for char in KANJI.findall(text)) + len(CHINESE.findall(text))
    long = re.search(f"(?:{KANJI.pattern}){{{LONGEST_TERM + 1}}}", text)
    if not hiragana + katakana + kanji or chinese > hiragana or (long and not hiragana):
        return False
    mostly = 3 * (hiragana + katakana + kanji) >= latin  # a kanji or kana carries about as much as three Latin letters
    own = hiragana and (mostly or PARTICLE.search(text))
    return bool(own) or (not ENGLISH.search(text) and (mostly or not re.search(r"[a-z]\W*$", text)))


def _counts(text: str) -> list[int]:
    return [len(script.findall(text)) for script in (HIRAGANA, KATAKANA, KANJI, LATIN)]


@cache
def _classifier(languages: tuple[str, ...]):
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    classifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    if unknown := set(languages) - set(classifier.labels):
        raise StudyError(f"language code {min(unknown)!r}: not one of {', '.join(sorted(classifier.labels))}")
    classifier.set_languages(list(languages))
    return classifier
