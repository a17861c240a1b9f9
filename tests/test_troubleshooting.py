"""docs/troubleshooting.md quotes sentences that the code prints."""

import ast
import re

from xlm_utils.study import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def sentences():
    """The first cell of each row, without its back-ticks."""
    return re.findall(r"^\| `(.*?)` \|", PAGE, flags=re.MULTILINE)


def texts():
    """Every string of the package, its blanks to be filled in as ``…``."""
    for path in (ROOT / "xlm_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_ten_sentences_are_the_code_s_own():
    assert len(sentences()) == 10
    printed = list(texts())
    for sentence in sentences():
        parts = [re.escape(part) for part in sentence.split("…")]
        assert any(re.fullmatch(".*".join(parts), text, flags=re.DOTALL) for text in printed), sentence
        assert sum(len(part) for part in sentence.split("…")) > 15, f"{sentence}: its fixed part would fit anything"
