"""The SDKs' clients, whether a server has a card's model, its errors in one line without tags and the key; one pacer for all threads that ask it."""

import email.utils
import importlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from xlm_utils.ask.cards import Card, address, find_key
from xlm_utils.ask.replies import same_model
from xlm_utils.study import StudyError, shown

PATIENCE = 20  # s; a question about a model is no work
# errors 400 that concern one prompt, not the run: they are outcomes, like a blocked reply
PROMPT_ERRORS = {"content_filter": "blocked", "invalid_prompt": "blocked", "context_length_exceeded": "too_long"}
TOO_LONG = re.compile("context (?:length|size|window)|n_ctx|too long", re.IGNORECASE)  # how vLLM and llama.cpp say it
ELSEWHERE = "the server sends on to another address, which is not followed; put the final one into base_url"
HEADROOM = 0.94  # share of the stated rate that is used: arrivals jitter, and limits count sliding windows
LATENESS = 0.02  # s that a late start may be made up for; more would crowd a sliding second
EASE = 10.0  # s without a complaint before the rate is raised again, by 5 %


class Fatal(Exception):
    """No retry cures this (key, model, quota, request): the whole run stops."""


class Void(Exception):
    """This one prompt never gets an answer; the text is its status."""


class Retry(Exception):
    """Worth another try; ``limited`` if the server asked for fewer requests, ``after`` seconds if it said when."""

    def __init__(self, message: str, after: float | None = None, limited: bool = False):
        super().__init__(message)
        self.after, self.limited = after, limited or after is not None


def openai_sdk(key: str, url: str, timeout: float) -> Any:
    """OpenAI's client without retries, and without redirects: another address would get the prompts, and perhaps the key."""
    from openai import DefaultHttpxClient, OpenAI

    try:  # no proxy stands between this machine and itself
        http = DefaultHttpxClient(follow_redirects=False, trust_env=not re.match(r"https?://(localhost|127\.|\[::1\])", url))
        return OpenAI(api_key=key, base_url=url or None, max_retries=0, timeout=timeout, http_client=http)
    except (ImportError, ValueError) as error:  # a proxy that httpx can't use, an address that is none
        raise StudyError(f"no client for {shown(url) or 'the server'}: {error} (look at ALL_PROXY, HTTP_PROXY and HTTPS_PROXY)") from None


def genai_sdk(key: str, url: str, timeout: float) -> Any:
    """Google's present client, without redirects."""
    from google.genai import Client, types

    http = types.HttpOptions(base_url=url or None, api_version="v1beta", timeout=int(timeout * 1000), client_args={"follow_redirects": False})
    return Client(api_key=key, http_options=http)


def transport_errors() -> tuple[type[Exception], ...]:
    """What goes wrong below both SDKs, which are moving to a fork of httpx."""
    return tuple(importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name))


@contextmanager
def openai_told(card: Card, key: str, url: str) -> Iterator[None]:
    """The SDK's errors as ours."""
    import openai as sdk

    try:
        yield
    except sdk.APIStatusError as error:
        told = error.body.get("detail", "") if isinstance(error.body, dict) else ""  # FastAPI's
        raise failure(card, key, error.status_code, f"{error.code or ''} {error.message} {told}", error.response.headers, url, error.code) from None
    except (sdk.APIError, json.JSONDecodeError, *transport_errors()) as error:
        raise Retry(clean(f"{type(error).__name__}: {error}", key)) from None


@contextmanager
def genai_told(card: Card, key: str) -> Iterator[None]:
    """The SDK's errors as ours."""
    from google.genai import errors

    try:
        yield
    except errors.APIError as error:
        raise failure(card, key, error.code, str(error.details), getattr(error.response, "headers", {})) from None
    except (*transport_errors(), errors.UnknownApiResponseError, json.JSONDecodeError) as error:
        raise Retry(clean(f"{type(error).__name__}: {error}", key)) from None


def clean(text: str, key: str) -> str:
    """A server's message as one short line, without tags, passwords and the key, whole, cut short or masked."""
    text = shown(text if key == "none" else text.replace(key, "<key>"))
    text = re.sub(r"\S*\*{3,}\S*", "<key>", re.sub(r"<(?!key>)[^>]*>", " ", text))
    if len(key) >= 12:  # cut short or masked with dots: its beginning or end alone
        text = " ".join("<key>" if key[:4] in word or key[-4:] in word else word for word in text.split())
    return " ".join(text.split())[:200]


def failure(card: Card, key: str, status: int, text: str, headers: Any, url: str = "", code: str | None = None) -> Exception:
    """What an HTTP error means, with the server's own ``code`` for it: another try, no answer to this prompt, or the end of the run."""
    if code in PROMPT_ERRORS or (status == 400 and TOO_LONG.search(text)):
        return Void(PROMPT_ERRORS.get(code or "", "too_long"))
    keys = " or ".join(card.key_env) or "the key"
    if 300 <= status < 400:
        return Fatal(f"{ELSEWHERE} (HTTP {status})")
    if status == 401 or re.search("API_KEY_INVALID|invalid_api_key|API key not valid", text):
        return Fatal(f"the server refuses the key in {keys} (HTTP {status})")
    if status == 404:
        there = f" at {shown(url)}, or the address is wrong: does it end in /v1?" if url and not url.rstrip("/").endswith("/v1") else ""
        return Fatal(f"the server has no model {card.model}{there} (HTTP 404: {clean(text, key)})")
    if re.search("insufficient_quota|billing_hard_limit|PerDay", text):
        return Fatal(f"the quota of this key is used up (HTTP {status})")
    message, passing = f"HTTP {status}: {clean(text, key)}", status in (408, 409, 425, 429) or status >= 500
    return Retry(message, _retry_after(headers, text), limited=status == 429) if passing else Fatal(message)


def _retry_after(headers: Any, text: str) -> float | None:
    """Seconds to wait, where the server says so: OpenAI in a header, Gemini in the error's details; no wait at all says nothing."""
    if re.fullmatch(r"\d+(\.\d+)?", said := headers.get("retry-after-ms") or ""):
        return float(said) / 1000 or None
    if delay := re.search(r"retryDelay\W+(\d+(?:\.\d+)?)s", text):
        return float(delay[1])
    if re.fullmatch(r"\d+(\.\d+)?", said := headers.get("retry-after") or ""):
        return float(said) or None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time()) or None
    except ValueError:  # neither seconds nor a date: as if nothing had been said
        return None


def served(card: Card, key: str, url: str) -> str:
    """Ask a server, unpaid, for the card's model: the date of its shutdown, ``none announced``, or that Gemini's API does not tell.

    A StudyError: no server, no such model, or it refuses the key.
    """
    where = shown(url) or "its usual address"
    try:
        if card.client != "openai":  # both Google clients speak to the same server; the living one asks
            client = genai_sdk(key, url, PATIENCE)
            with genai_told(card, key):
                client.models.get(model=card.model)
            return "not told by this API"
        models, found = openai_sdk(key, url, PATIENCE).models, []
        with openai_told(card, key, url), suppress(importlib.import_module("openai").NotFoundError):
            found = [models.retrieve(card.model)]
        if not found:  # vLLM and llama.cpp have the list alone
            with openai_told(card, key, url):
                found = list(models.list())
            if found and not any(same_model(card, str(getattr(model, "id", "")), card.model) for model in found):
                raise Fatal(f"the server has no model {card.model}; it has {', '.join(str(model.id) for model in found[:8])}")
    except Fatal as error:
        raise StudyError(f"judge {card.name}: {error} ({card.note})") from None
    except Retry as error:
        raise StudyError(f"judge {card.name}: no server answers at {where} ({error})") from None
    if not found or not all(getattr(model, "id", None) for model in found):
        raise StudyError(f"judge {card.name}: no OpenAI-compatible server at {where} (most addresses end in /v1)")
    return getattr(found[0], "shutdown_date", None) or "none announced"


def shutdown_date(card: Card, base_url: str = "") -> str:
    """When the server will drop the model, as ``served``, or that this server does not say: only OpenAI's do."""
    url = address(card, base_url)
    key = find_key(card, url) if card.client == "openai" else ""
    try:
        return served(card, key, url) if key else "not told by this API"
    except StudyError:  # the first call will tell what is wrong, if anything is
        return "not told by this server"


def tokens_of(text: str) -> float:
    """Rough number of tokens, for estimates: four Latin letters or one Japanese character each."""
    latin = sum(character.isascii() for character in text)
    return latin / 4 + len(text) - latin


class Pacer:
    """Spaces the starts of all threads' requests by the tighter of two limits, and slows down when told to."""

    def __init__(self, requests_per_minute: float, tokens_per_minute: float):
        self.seconds_per_request = 60 / requests_per_minute / HEADROOM
        self.seconds_per_token = 60 / tokens_per_minute / HEADROOM if tokens_per_minute else 0.0
        self.slowdown = 1.0
        self.stopped = threading.Event()  # set: every waiting thread wakes, and none starts again
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._next = self._cut = self._eased = time.monotonic()

    def wait(self, tokens: float) -> bool:
        """Wait for this request's turn; False if the run has been stopped meanwhile."""
        gap = max(self.seconds_per_request, tokens * self.seconds_per_token)
        with self._turn:  # one at a time, so that a thread that wakes late delays the next instead of crowding it
            while not self.stopped.is_set():
                with self._lock:
                    now = time.monotonic()
                    delay = self._next - now
                    if delay <= 0:
                        self._next = max(self._next, now - LATENESS) + gap * self.slowdown
                        return True
                self.stopped.wait(delay)
        return False

    def hold(self, seconds: float, started: float) -> None:
        """Nobody starts for so long; the rate drops by a quarter, once for all requests that were already under way."""
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now + seconds)
            if started > self._cut:
                self.slowdown *= 4 / 3
                self._cut = now

    def ease(self) -> None:
        """A request went well: after a while without complaints, approach the stated rate again."""
        with self._lock:
            now = time.monotonic()
            if self.slowdown > 1 and now - max(self._cut, self._eased) > EASE:
                self.slowdown, self._eased = max(1.0, self.slowdown / 1.05), now
