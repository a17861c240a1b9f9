"""Titles and captions of tables: prose of ``captions.yaml``, its blanks filled in."""

from pathlib import Path

import pandas as pd
import yaml

TEXTS = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))


def text(name: str, part: str = "caption", **blanks: object) -> str:
    """One of a table's texts."""
    return TEXTS[name][part].format(**blanks)


def captioned(frame: pd.DataFrame, name: str, **blanks: object) -> pd.DataFrame:
    """The table with its title and caption."""
    frame.attrs |= {part: text(name, part, **blanks) for part in ("title", "caption")}
    return frame
