"""Judges: one card each, which says what to ask, where, with which key and at what price.

A card (``params/judges/<name>.yaml``) names its client (``clients.py``), the model, the variable under
which its key is found, and what a call costs. The same cards serve the translator.
"""

import importlib
import os
import re
import sys
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xlm_utils.study import PARAMS, StudyError

BASE_URL_VARIABLES = {"openai": "OPENAI_BASE_URL", "google-generativeai": "GOOGLE_GEMINI_BASE_URL", "google-genai": "GOOGLE_GEMINI_BASE_URL"}


class Card(BaseModel):
    """One judge (or translator), as its YAML file describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    label: str
    client: Literal["openai", "google-generativeai", "google-genai", "proxy"]
    model: str
    base_url: str = ""  # "": the SDK's own address
    key_env: tuple[str, ...] = ()  # variables (or Colab secrets) to look for the key in, in this order
    params: dict[str, Any] = {}  # sampling parameters, passed as they are; reasoning models take none
    requests_per_minute: float = Field(60, gt=0)
    tokens_per_minute: float = Field(0, ge=0)  # 0: the server has no such limit
    price_in: float = Field(0, ge=0)  # USD per million tokens
    price_out: float = Field(0, ge=0)
    reply_tokens: int = Field(20, ge=1)  # expected per reply, hidden reasoning included; for the estimate only
    timeout: float = Field(60, gt=0)  # seconds
    note: str = ""  # what a reader of this judge's scores must know

    @property
    def proxy(self) -> bool:
        """True if the scores come from an encoder: never to be shown as an LLM judge's."""
        return self.client == "proxy"

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Price of so many tokens."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


def load_card(name: str) -> Card:
    """Read and validate ``params/judges/<name>.yaml``.

    Raises:
        StudyError: no such card, an unknown key, or an impossible value.
    """
    path = PARAMS / "judges" / f"{name}.yaml"
    if not path.is_file():
        raise StudyError(f"judge {name!r} is not one of {', '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))}")
    try:
        return Card(name=name, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise StudyError(f"{path.name}: unknown key {key}; valid are {', '.join(Card.model_fields)}") from None
        raise StudyError(f"{path.name}: {key} = {first['input']!r}: {first['msg'].lower()}") from None


def address(card: Card, base_url: str = "") -> str:
    """Where the judge is asked: the notebook's ``judge_base_url``, the card's, the SDK's variable, or "" for its default."""
    return base_url or card.base_url or os.environ.get(BASE_URL_VARIABLES.get(card.client, ""), "")


def find_key(card: Card, url: str) -> str:
    """The key, from the environment or Colab's secrets; a server named by URL may do without.

    Raises:
        StudyError: no key, or one that can't be a key (its text is not shown).
    """
    for variable in card.key_env:
        key = (os.environ.get(variable) or _colab_secret(variable) or "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):  # an SDK would quote the bad header, key and all
            raise StudyError(f"judge {card.name}: the value of {variable} has blanks or characters that no key has")
        if key:
            return key
    if url:
        return "none"
    raise StudyError(f"judge {card.name}: no key; set {' or '.join(card.key_env)} in the environment or in Colab's secrets")


def _colab_secret(name: str) -> str | None:
    if "google.colab" not in sys.modules:
        return None
    userdata = importlib.import_module("google.colab.userdata")
    try:
        return userdata.get(name)
    except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
        return None
