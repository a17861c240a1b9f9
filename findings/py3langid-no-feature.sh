#!/usr/bin/env bash
# py3langid 0.4.0 calls a text in which it finds nothing Afrikaans, and with languages set, the first of them, though it has a label for no language.
#
# Expected: abbreviations such as ATP, HIV or PTSD, or "?!", which hold none of the model's features, are nothing it can tell: an empty answer, or its
#   own label zxx (no linguistic content), which it gives to "12345".
# Happens:  classify("ATP") is ("af", -3.4e+38). With set_languages(["de", "en", "ja"]) it is German, with ["ja", "en"] English: whichever comes
#   first by the alphabet. A table that counts the languages of short answers counts these for one of them.
# Where:    py3langid/langid.py: without features all labels get one floor (RAW_FLOOR), and classify takes the first maximum.
# So:       rank(text): where its first and last score are the same, nothing was told.
#
# bash findings/py3langid-no-feature.sh: exit 0 while it is so, 1 when it no longer is.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check py3langid==0.4.0
env/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version

from py3langid.langid import MODEL_FILE, LanguageIdentifier

print("py3langid", version("py3langid"))
identifier, first = LanguageIdentifier.from_model_file(MODEL_FILE), {}
for languages in (None, ["de", "en", "ja"], ["ja", "en"]):
    identifier.set_languages(languages)
    for text in ("ATP", "HIV", "PTSD", "?!", "12345"):
        (best, high), *_, (_, low) = identifier.rank(text)
        first[text, str(languages)] = identifier.classify(text)[0]
        print(f"{'all' if languages is None else languages}: {text} is {best}; first and last score {'the same' if high == low else 'differ'}")
sys.exit([first[text, languages] for languages in ("None", "['de', 'en', 'ja']", "['ja', 'en']") for text in ("ATP", "HIV", "PTSD", "?!")]
         != ["af"] * 4 + ["de"] * 4 + ["en"] * 4 or first["12345", "None"] != "zxx")
PYTHON
# Seen: ATP, HIV, PTSD and ?! are af of all languages, de of de, en and ja, en of en and ja, first and last score the same; 12345 is zxx
