"""Judges: one card each, which says what to ask, where, with which key and at what price.

A card (``params/judges/<name>.yaml``) names its client (``clients.py``), the model, the variable under
which its key is found, and what a call costs. The same cards serve the translator.
"""

import importlib
import os
import re
import sys
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from xlm_utils.study import PARAMS, StudyError
from xlm_utils.study.inputs import Number, Once, Part, Text, Whole, checked, listed, read_yaml, short

BASE_URL_VARIABLES = {"openai": "OPENAI_BASE_URL", "google-generativeai": "GOOGLE_GEMINI_BASE_URL", "google-genai": "GOOGLE_GEMINI_BASE_URL"}
# parameters that the kit sets itself, or counts on what they are by default
OURS = {"model", "messages", "stream", "n", "response_format", "timeout", "tools", "candidate_count", "response_mime_type", "response_schema"}
OFFLINE = ("proxy", "people")  # clients that ask no server
BATCH_HOURS = {"openai": 24, "google-genai": 48}  # client → after which a batch expires; Gemini's target is 24, too
BATCH_PRICE = 0.5  # both providers' discount, as their price lists say


class Card(Part):
    """One judge (or translator), as its YAML file describes it."""

    name: str
    label: Text
    client: Literal["openai", "google-generativeai", "google-genai", "proxy", "people"]
    model: Text
    same_as: Annotated[tuple[Text, ...], Once] = ()  # other names under which servers answer as this model
    base_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""  # "": the SDK's own address
    key_env: Annotated[tuple[Text, ...], Once] = ()  # variables (or Colab secrets) to look for the key in, in this order
    params: dict[str, Any] = Field({})  # sampling parameters, passed as they are; reasoning models take none
    requests_per_minute: Number | None = Field(None, gt=0, le=10**6)  # None: 60, and what it answers of a server on this machine
    tokens_per_minute: Number = Field(0, ge=0)  # 0: the server has no such limit
    batch: bool = False  # asked in batches, for half the price and within a day each
    batch_tokens: Whole = Field(0, ge=0)  # of prompts that may be enqueued at once, as the account's tier says; 0: no bound
    price_in: Number = Field(0, ge=0)  # USD per million tokens
    price_out: Number = Field(0, ge=0)
    reply_tokens: Whole = Field(20, ge=1, le=10**6)  # expected per reply, hidden reasoning included; for the estimate only
    timeout: Number = Field(60, gt=0, le=86_400)  # seconds
    note: str = ""  # what a reader of this judge's scores must know
    kind: Literal["people", "written"] = "people"  # this and the next six: client people only; written: this repository's list, in ``sheet``
    sheet: str = ""
    round: Annotated[str, Field(pattern=r"^[A-Za-z]\w{0,39}$")] = "round1"  # drawn once; another name draws further terms
    sample: Whole = Field(200, ge=1, le=10**6)  # texts in a round, about: concepts are drawn, with the texts of all models
    raters: Whole = Field(1, ge=1, le=10)
    overlap: Number = Field(0.2, ge=0, le=0.9)  # share of the concepts that all raters get; the rest is split
    rubric: Text = "data/rubric.md"  # {target}, {domain} and {by} are filled in

    @property
    def proxy(self) -> bool:
        """True if the scores come from an encoder: never to be shown as an LLM judge's."""
        return self.client == "proxy"

    def usd(self, tokens_in: float, tokens_out: float) -> float:
        """Price of so many tokens, as the card asks: directly, or in batches."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6 * (BATCH_PRICE if self.batch else 1)


def load_card(name: str) -> Card:
    """``params/judges/<name>.yaml``; a StudyError if there is none, or says what is wrong there."""
    path = PARAMS / "judges" / f"{name}.yaml"
    if not path.is_file():
        raise StudyError(f"judge {short(name)} is not one of {', '.join(listed('judges'))}")
    if "name" in (found := read_yaml(path)):
        raise StudyError(f"{path.name}: unknown key name; the file's name is the judge's")
    card = checked(Card, found | {"name": name}, path.name)
    if taken := OURS & {*card.params, *card.params.get("extra_body", ())}:
        raise StudyError(f"{path.name}: params.{min(taken)} is no sampling parameter; the kit sets it itself, so leave it out")
    if card.batch and card.client not in BATCH_HOURS:
        raise StudyError(f"{path.name}: batch = true: {card.client} has no batch mode; leave it out, or ask through {' or '.join(BATCH_HOURS)}")
    return card


def address(card: Card, base_url: str = "") -> str:
    """Where the judge is asked: the notebook's ``judge_base_url``, the card's, the SDK's variable, or "" for its default."""
    return base_url or card.base_url or os.environ.get(BASE_URL_VARIABLES.get(card.client, ""), "")


def rate(card: Card, base_url: str = "") -> float:
    """Requests a minute that the judge's server is asked at."""
    return card.requests_per_minute or (10**6 if urlsplit(address(card, base_url)).hostname in ("localhost", "127.0.0.1", "::1") else 60)


def find_key(card: Card, url: str) -> str:
    """The key, from the environment or Colab's secrets; a server named by URL may do without. A StudyError never shows a key's text."""
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
