"""One function per SDK: a card, its key and address → ``ask(prompt, schema)``, which returns a reply or raises.

The SDKs' own retries are off: they are ``calls``' work. What is raised is ``failures``': Retry (worth another try) or Fatal (stop all).
"""

import inspect
import json
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from xlm_utils.ask.cards import Card, address, find_key
from xlm_utils.ask.servers import ELSEWHERE, Fatal, Retry, clean, failure, genai_sdk, genai_told, openai_sdk, openai_told
from xlm_utils.study import StudyError, shown

BLOCKED = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "model_armor")
STOPPED = ("", "eos", "eos_token", "end", "end_turn", "stop_sequence")
FINISHES = {"max_tokens": "length"} | dict.fromkeys(BLOCKED, "blocked") | dict.fromkeys(STOPPED, "stop")


class Reply(NamedTuple):
    """What came back, before any parsing; ``finish`` is ``stop`` or the reason why there is no whole answer."""

    text: str | None
    finish: str
    served_model: str | None
    tokens_in: int
    tokens_out: int


Ask = Callable[[str, dict], Reply]


def openai(card: Card, key: str, url: str) -> Ask:
    """OpenAI's SDK, and every server that speaks its protocol."""
    chat = openai_sdk(key, url, card.timeout).chat.completions
    _check_params(card, inspect.signature(chat.create).parameters)

    def ask(prompt: str, schema: dict) -> Reply:
        raw, end = b"", time.monotonic() + 2 * card.timeout
        # in pieces, because the SDK's timeout is between two of them; and not `parse`: it drops the raw text of a reply that breaks the schema
        with openai_told(card, key, url), chat.with_streaming_response.create(**openai_body(card, prompt, schema)) as answer:
            for piece in answer.iter_bytes():
                raw += piece
                if time.monotonic() > end:
                    raise Retry(f"a reply that drips: not whole after {2 * card.timeout:g} s")
        try:
            return openai_reply(json.loads(raw), key, url)
        except (ValueError, RecursionError):  # a page of HTML, a thousand brackets
            return openai_reply(raw.decode(errors="replace"), key, url)

    return ask


def openai_body(card: Card, prompt: str, schema: dict) -> dict:
    """What is sent for one prompt, directly or in a batch's file."""
    shape = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema}}
    return {"model": card.model, "messages": [{"role": "user", "content": prompt}], "response_format": shape, **card.params}


def openai_reply(answer: Any, key: str, url: str) -> Reply:
    """The server's answer, read as JSON where it is; a Retry if it is no chat completion."""
    from openai.types.chat import ChatCompletion

    if not isinstance(answer, dict) or not answer.get("choices"):
        said = clean(str(answer.get("error", answer) if isinstance(answer, dict) else answer), key)
        raise Retry(f"no chat completion from {shown(url) or 'the server'} (is the address right? most end in /v1); it says: {said}")
    answer = ChatCompletion.construct(**answer)  # as the SDK reads it, whatever is missing
    choice, usage = answer.choices[0], answer.usage
    tokens = ((usage and usage.prompt_tokens) or 0, (usage and usage.completion_tokens) or 0)
    if choice.message is None or choice.message.refusal:
        return Reply(choice.message and choice.message.refusal, "refusal" if choice.message else "empty", answer.model, *tokens)
    finish = (choice.finish_reason or "").lower()
    return Reply(_content(choice.message), FINISHES.get(finish, finish), answer.model, *tokens)


def _content(message: Any) -> str | None:
    """An answer's text, its parts put together; a thought that stands in a field of its own is kept before it, as a thought."""
    text = "".join(part.get("text") or "" for part in (message.content if isinstance(message.content, list) else [{"text": message.content}])) or None
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
            raise failure(card, key, error.code, f"{error.message} {error.details}", error.response.headers) from None
        except requests.TooManyRedirects:
            raise Fatal(ELSEWHERE) from None
        except (requests.RequestException, TransportError, ParseError, ValueError) as error:
            raise Retry(clean(f"{type(error).__name__}: {error}", key)) from None
        return gemini_reply(answer._result)  # `.text` raises where there is none

    return ask


def genai(card: Card, key: str, url: str) -> Ask:
    """Google's present SDK."""
    from google.genai import types

    _check_params(card, (types.GenerationConfig if card.batch else types.GenerateContentConfig).model_fields)  # a batch's file knows fewer
    client = genai_sdk(key, url, card.timeout)

    def ask(prompt: str, schema: dict) -> Reply:
        with genai_told(card, key):
            return gemini_reply(client.models.generate_content(model=card.model, contents=prompt, config=genai_config(card, schema)))

    return ask


def genai_config(card: Card, schema: dict) -> dict:
    """What goes with every prompt, directly or in a batch's file."""
    return {"response_mime_type": "application/json", "response_json_schema": schema, **card.params}


def gemini_reply(answer: Any) -> Reply:
    """Either Google SDK's answer: no candidates means that the prompt was blocked."""
    usage = answer.usage_metadata
    tokens_in = (usage and usage.prompt_token_count) or 0
    tokens_out = ((usage and usage.total_token_count) or tokens_in) - tokens_in  # hidden reasoning is paid for too
    if not answer.candidates:
        if not answer.prompt_feedback:
            raise Retry("neither an answer nor a reason for having none")
        return Reply(None, "blocked", answer.model_version or None, tokens_in, tokens_out)
    candidate = answer.candidates[0]
    text = "".join(part.text or "" for part in (candidate.content and candidate.content.parts) or [] if not getattr(part, "thought", False)) or None
    reason = getattr(candidate.finish_reason, "name", str(candidate.finish_reason)).lower()
    return Reply(text, FINISHES.get(reason, reason), answer.model_version or None, tokens_in, tokens_out)


def _check_params(card: Card, valid: Iterable[str]) -> None:
    if unknown := sorted(set(card.params) - set(valid)):
        raise StudyError(f"{card.name}.yaml: params.{unknown[0]} is not one of {card.client}'s parameters: {', '.join(sorted(valid))}")


def open_client(card: Card, base_url: str = "") -> Ask:
    """The card's ``ask(prompt, schema)`` with a flat JSON schema; a StudyError: no key, or a sampling parameter that the SDK does not know."""
    url = address(card, base_url)
    return {"openai": openai, "google-generativeai": generativeai, "google-genai": genai}[card.client](card, find_key(card, url), url)
