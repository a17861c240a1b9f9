"""One function per SDK: a card, its key and address → ``ask(prompt, schema)``, which returns a reply or raises.

The SDKs' own retries are off: they are ``calls``' work. What is raised is :class:`Retry` (worth another try) or :class:`Fatal`
(stop all), in one line without tags and without the key.
"""

import email.utils
import importlib
import inspect
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from xlm_utils.ask.cards import Card, address, find_key
from xlm_utils.study import StudyError
from xlm_utils.study.inputs import shown

# errors 400 that concern one prompt, not the run: they are outcomes, like a blocked reply
PROMPT_ERRORS = {"content_filter": "blocked", "invalid_prompt": "blocked", "context_length_exceeded": "too_long"}
TOO_LONG = re.compile("context (?:length|size|window)|n_ctx|too long", re.IGNORECASE)  # how vLLM and llama.cpp say it
BLOCKED = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "model_armor")
STOPPED = ("", "eos", "eos_token", "end", "end_turn", "stop_sequence")
FINISHES = {"max_tokens": "length"} | dict.fromkeys(BLOCKED, "blocked") | dict.fromkeys(STOPPED, "stop")


@dataclass(frozen=True)
class Reply:
    """What came back, before any parsing; ``finish`` is ``stop`` or the reason why there is no whole answer."""

    text: str | None
    finish: str
    served_model: str | None
    tokens_in: int
    tokens_out: int


class Fatal(Exception):
    """No retry cures this (key, model, quota, request): the whole run stops."""


class Retry(Exception):
    """Worth another try; ``limited`` if the server asked for fewer requests, ``after`` seconds if it said when."""

    def __init__(self, message: str, after: float | None = None, limited: bool = False):
        super().__init__(message)
        self.after, self.limited = after, limited or after is not None


ELSEWHERE = "the server sends on to another address, which is not followed; put the final one into base_url"
Ask = Callable[[str, dict], Reply]


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


def openai(card: Card, key: str, url: str) -> Ask:
    """OpenAI's SDK, and every server that speaks its protocol."""
    import openai as sdk

    create = openai_sdk(key, url, card.timeout).chat.completions.create
    _check_params(card, inspect.signature(create).parameters)

    def ask(prompt: str, schema: dict) -> Reply:
        shape = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
        try:  # not `parse`: it drops the raw text of a reply that breaks the schema
            answer = create(model=card.model, messages=[{"role": "user", "content": prompt}], response_format=shape, **card.params)
        except sdk.APIStatusError as error:
            if error.code in PROMPT_ERRORS or (error.status_code == 400 and TOO_LONG.search(error.message)):
                return Reply(None, PROMPT_ERRORS.get(error.code, "too_long"), None, 0, 0)
            told = error.body.get("detail", "") if isinstance(error.body, dict) else ""  # FastAPI's
            raise _failure(card, key, error.status_code, f"{error.code or ''} {error.message} {told}", error.response.headers, url) from None
        except (sdk.APIError, json.JSONDecodeError) as error:
            raise Retry(_clean(f"{type(error).__name__}: {error}", key)) from None
        if not getattr(answer, "choices", None):  # the SDK hands over a page of HTML as a string
            said = _clean(str(getattr(answer, "error", answer)), key)
            raise Retry(f"no chat completion from {shown(url) or 'the server'} (is the address right? most end in /v1); it says: {said}")
        choice, usage = answer.choices[0], answer.usage
        tokens = ((usage and usage.prompt_tokens) or 0, (usage and usage.completion_tokens) or 0)
        if choice.message is None or choice.message.refusal:
            return Reply(choice.message and choice.message.refusal, "refusal" if choice.message else "empty", answer.model, *tokens)
        finish = (choice.finish_reason or "").lower()
        return Reply(_content(choice.message), FINISHES.get(finish, finish), answer.model, *tokens)

    return ask


def _content(message: Any) -> str | None:
    """An answer's text, its parts put together; a thought that stands in a field of its own is kept before it, as a thought."""
    parts = message.content if isinstance(message.content, list) else [{"text": message.content}]
    text = "".join(part.get("text") or "" for part in parts) or None
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return f"<think>{thought}</think>{text or ''}" if isinstance(thought, str) else text


def generativeai(card: Card, key: str, url: str) -> Ask:
    """Google's SDK of the published study, over REST."""
    with warnings.catch_warnings():  # its end of life (the card says it) and the Python versions it will drop
        for notice in (r"\s*All support for the `google\.generativeai`", "You are using a Python version"):
            warnings.filterwarnings("ignore", notice, FutureWarning)
        import google.generativeai as sdk
        from google.generativeai.client import get_default_generative_client
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import TransportError
    from google.protobuf.json_format import ParseError

    _check_params(card, inspect.signature(sdk.GenerationConfig).parameters)
    sdk.configure(api_key=key, transport="rest", client_options={"api_endpoint": url} if url else None)
    model = sdk.GenerativeModel(card.model)
    model._client = get_default_generative_client()  # `configure` is global: bind now, before another judge opens
    model._client.transport._session.max_redirects = 0  # it would take the key along to another address

    def ask(prompt: str, schema: dict) -> Reply:
        shape = {name: value for name, value in schema.items() if name != "additionalProperties"}  # unknown to this SDK
        config = {"response_mime_type": "application/json", "response_schema": shape, **card.params}
        try:
            answer = model.generate_content(prompt, generation_config=config, request_options={"timeout": card.timeout, "retry": None})
        except GoogleAPICallError as error:
            raise _failure(card, key, error.code, f"{error.message} {error.details}", error.response.headers) from None
        except requests.TooManyRedirects:
            raise Fatal(ELSEWHERE) from None
        except (requests.RequestException, TransportError, ParseError, ValueError) as error:
            raise Retry(_clean(f"{type(error).__name__}: {error}", key)) from None
        return _gemini_reply(answer._result)  # `.text` raises where there is none

    return ask


def genai(card: Card, key: str, url: str) -> Ask:
    """Google's present SDK."""
    from google.genai import errors, types

    _check_params(card, types.GenerateContentConfig.model_fields)
    client = genai_sdk(key, url, card.timeout)
    transport = tuple(importlib.import_module(name).HTTPError for name in ("httpx", "httpx2") if find_spec(name))  # the SDK moved to the fork

    def ask(prompt: str, schema: dict) -> Reply:
        config = {"response_mime_type": "application/json", "response_json_schema": schema, **card.params}
        try:
            answer = client.models.generate_content(model=card.model, contents=prompt, config=config)
        except errors.APIError as error:
            raise _failure(card, key, error.code, str(error.details), getattr(error.response, "headers", {})) from None
        except (*transport, errors.UnknownApiResponseError, json.JSONDecodeError) as error:
            raise Retry(_clean(f"{type(error).__name__}: {error}", key)) from None
        return _gemini_reply(answer)

    return ask


def _gemini_reply(answer: Any) -> Reply:
    """Either Google SDK's answer: no candidates means that the prompt was blocked."""
    usage = answer.usage_metadata
    tokens_in = (usage and usage.prompt_token_count) or 0
    tokens_out = ((usage and usage.total_token_count) or tokens_in) - tokens_in  # hidden reasoning is paid for too
    if not answer.candidates:
        if not answer.prompt_feedback:
            raise Retry("neither an answer nor a reason for having none")
        return Reply(None, "blocked", answer.model_version or None, tokens_in, tokens_out)
    candidate = answer.candidates[0]
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text or "" for part in parts if not getattr(part, "thought", False)) or None
    reason = getattr(candidate.finish_reason, "name", str(candidate.finish_reason)).lower()
    return Reply(text, FINISHES.get(reason, reason), answer.model_version or None, tokens_in, tokens_out)


def _check_params(card: Card, valid: Iterable[str]) -> None:
    if unknown := sorted(set(card.params) - set(valid)):
        raise StudyError(f"{card.name}.yaml: params.{unknown[0]} is not one of {card.client}'s parameters: {', '.join(sorted(valid))}")


def _clean(text: str, key: str) -> str:
    """A server's message as one short line, without tags, passwords and the key, whole, cut short or masked."""
    text = shown(text if key == "none" else text.replace(key, "<key>"))
    text = re.sub(r"\S*\*{3,}\S*", "<key>", re.sub(r"<(?!key>)[^>]*>", " ", text))
    if len(key) >= 12:  # cut short or masked with dots: its beginning or end alone
        text = " ".join("<key>" if key[:4] in word or key[-4:] in word else word for word in text.split())
    return " ".join(text.split())[:200]


def _failure(card: Card, key: str, status: int, text: str, headers: Any, url: str = "") -> Exception:
    """What an HTTP error means: another try, or the end of the run."""
    keys = " or ".join(card.key_env) or "the key"
    if 300 <= status < 400:
        return Fatal(f"{ELSEWHERE} (HTTP {status})")
    if status == 401 or re.search("API_KEY_INVALID|invalid_api_key|API key not valid", text):
        return Fatal(f"the server refuses the key in {keys} (HTTP {status})")
    if status == 404:
        there = f" at {shown(url)}, or the address is wrong: does it end in /v1?" if url and not url.rstrip("/").endswith("/v1") else ""
        return Fatal(f"the server knows no model {card.model!r}{there} (HTTP 404)")
    if re.search("insufficient_quota|billing_hard_limit|PerDay", text):
        return Fatal(f"the quota of this key is used up (HTTP {status})")
    message = f"HTTP {status}: {_clean(text, key)}"
    if status in (408, 409, 425, 429) or status >= 500:
        return Retry(message, _retry_after(headers, text), limited=status == 429)
    return Fatal(message)


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


def open_client(card: Card, base_url: str = "") -> Ask:
    """The card's ``ask(prompt, schema)`` with a flat JSON schema; a StudyError: no key, or a sampling parameter that the SDK does not know."""
    url = address(card, base_url)
    return {"openai": openai, "google-generativeai": generativeai, "google-genai": genai}[card.client](card, find_key(card, url), url)


def shutdown_date(card: Card, base_url: str = "") -> str:
    """When the server will drop the model: a date, ``none announced``, or that this server does not say (only OpenAI's do)."""
    if card.client != "openai":
        return "not told by this API"
    import openai as sdk

    url = address(card, base_url)
    try:
        model = openai_sdk(find_key(card, url), url, card.timeout).models.retrieve(card.model)
    except sdk.APIError as error:  # the first call will tell what is wrong, if anything is
        return f"not told by this server ({type(error).__name__})"
    return getattr(model, "shutdown_date", None) or "none announced"
