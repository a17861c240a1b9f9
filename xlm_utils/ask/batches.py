"""Prompts → replies at half the price, each batch within a day: OpenAI's and Gemini's batch modes.

A batch's id is in the file of replies before anybody waits for it: a killed run, the next day or another machine with the file goes
on with it. One that was sent and not written down is found on the server by its name. What has no reply at the end is sent again.

Sources: platform.openai.com/docs/guides/batch; ai.google.dev/gemini-api/docs/batch-api.
"""

import io
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from time import sleep
from typing import Any, NamedTuple

from xlm_utils.ask.cards import Card, address, find_key
from xlm_utils.ask.clients import Reply, gemini_reply, genai_config, openai_body, openai_reply
from xlm_utils.ask.replies import told
from xlm_utils.ask.servers import Fatal, Retry, Void, clean, failure, genai_sdk, genai_told, openai_sdk, openai_told, tokens_of
from xlm_utils.study import Progress, fingerprint

DAY = 24  # h that both servers promise a batch in
FIRST, LONGEST = 5.0, 300.0  # s between two looks at the server, growing from one to the other
TIMES = 3  # that a prompt is sent
TROUBLES = 30  # looks in a row that fail end the run, after two hours
REQUESTS, BYTES = 50_000, 190_000_000  # of one file: OpenAI takes 50,000 and 200 MB, Gemini 2 GB
RECENT = 300  # batches of an account that are looked through for one's own
KEPT = 30 * 86_400  # s that OpenAI keeps a batch's files
ENDS = ("completed", "succeeded", "partially_succeeded", "expired", "cancelled", "failed")


class Road(NamedTuple):
    """One server's batch mode; what these raise is ``servers``'."""

    line: Callable[[str, str, dict], dict]  # key, prompt, schema → a line of the file that is sent
    send: Callable[[str, bytes], str]  # name, file → id; what is there already under this name is not sent again
    look: Callable[[str], tuple[str, str, list[dict]]]  # id → state, the server's words, lines that it has brought
    read: Callable[[dict], Reply]  # such a line


def _lines(file: str) -> list[dict]:
    return [json.loads(line) for line in file.split("\n") if line.strip()]  # an answer may hold other ends of lines


def _openai(card: Card, key: str, url: str) -> Road:
    client, endpoint = openai_sdk(key, url, card.timeout), "/v1/chat/completions"

    def line(name: str, prompt: str, schema: dict) -> dict:
        body = openai_body(card, prompt, schema)
        return {"custom_id": name, "method": "POST", "url": endpoint, "body": body | body.pop("extra_body", {})}

    def send(name: str, file: bytes) -> str:
        with openai_told(card, key, url):
            for batch in islice(client.batches.list(limit=100), RECENT):
                if (batch.metadata or {}).get("name") == name:
                    return batch.id
            sent = client.files.create(file=(f"{name}.jsonl", file), purpose="batch")
            return client.batches.create(input_file_id=sent.id, endpoint=endpoint, completion_window="24h", metadata={"name": name}).id

    def look(name: str) -> tuple[str, str, list[str]]:
        with openai_told(card, key, url):
            batch = client.batches.retrieve(name)
            words = "; ".join(error.message or "" for error in (batch.errors and batch.errors.data) or ())
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file and batch.status in ENDS]
            return batch.status, words, [line for file in files for line in _lines(client.files.content(file).text)]

    def read(one: dict) -> Reply:
        answer = one.get("response") or {"status_code": 503, "body": one}  # not asked, for the batch has ended before
        if answer["status_code"] == 200:
            return openai_reply(answer["body"], key, url)
        error = answer["body"].get("error") if isinstance(answer["body"], dict) else answer["body"]
        error = error if isinstance(error, dict) else {"message": error}
        raise failure(card, key, answer["status_code"], f"{error.get('code')} {error.get('message')}", {}, url, error.get("code"))

    return Road(line, send, look, read)


def _gemini(card: Card, key: str, url: str) -> Road:
    """By files, whose lines carry a key: answers to requests in line come back in any order, and without it."""
    from google.genai import types

    client = genai_sdk(key, url, card.timeout)

    def line(name: str, prompt: str, schema: dict) -> dict:
        config = types.GenerationConfig(**genai_config(card, schema)).model_dump(mode="json", by_alias=True, exclude_none=True)
        return {"key": name, "request": {"contents": [{"parts": [{"text": prompt}], "role": "user"}], "generationConfig": config}}

    def send(name: str, file: bytes) -> str:
        with genai_told(card, key):
            for job in islice(client.batches.list(config={"page_size": 100}), RECENT):
                if job.display_name == name:
                    return job.name
            sent = client.files.upload(file=io.BytesIO(file), config={"display_name": name, "mime_type": "jsonl"})
            return client.batches.create(model=card.model, src=sent.name, config={"display_name": name}).name

    def look(name: str) -> tuple[str, str, list[str]]:
        with genai_told(card, key):
            job = client.batches.get(name=name)
            file = job.dest and job.dest.file_name
            words = (job.error and job.error.message) or "Google's SDK hands no reason on"
            return job.state.name.removeprefix("JOB_STATE_").lower(), words, _lines(client.files.download(file=file).decode()) if file else []

    def read(one: dict) -> Reply:
        if answer := one.get("response"):
            return gemini_reply(types.GenerateContentResponse.model_validate(answer, extra="ignore"))
        error = one.get("error") or one
        raise (Fatal if error.get("code") == 3 else Retry)(clean(str(error.get("message")), key))  # 3: INVALID_ARGUMENT

    return Road(line, send, look, read)


def collect(run: Any, asked: list[tuple[str, int]], progress: Progress) -> None:
    """Ask by batches until every prompt (with its ``repeat``) has a reply or was sent ``TIMES`` times.

    ``run``: the state of ``calls``; its ``keep`` stores a reply, ``stop`` ends the run, and ``kept`` tells at the end how many there are.
    """
    url = address(run.card, run.base_url)
    road = (_openai if run.card.client == "openai" else _gemini)(run.card, find_key(run.card, url), url)
    left = {run.key(*call): call for call in asked}
    ended, pause, troubles = Counter(), FIRST, 0  # ended: key → batches that had it
    while not run.reason:
        moved = False
        flying = run.database.execute("select * from batches where identity = ? and state = ''", (run.identity,)).fetchall()
        aloft = {key for batch in flying for key in json.loads(batch["asked"])}
        waiting = {key: call for key, call in left.items() if key not in aloft and ended[key] < TIMES}
        if not waiting and not aloft & left.keys():
            break
        try:
            moved = any([_look(run, road, batch, left, ended, progress) for batch in flying])
            moved = moved or _send(run, road, waiting, sum(batch["tokens"] for batch in flying))
            troubles = 0
        except Fatal as error:
            run.stop(str(error))
        except Retry as error:
            troubles, run.trouble = troubles + 1, str(error)
            if troubles > TROUBLES:
                run.stop(f"the server is in trouble ({error})")
        if not moved and not run.reason:
            sleep(pause)
        pause = FIRST if moved else min(LONGEST, pause * 1.5)
    run.kept = len(asked) - len(left)


def _send(run: Any, road: Road, waiting: dict[str, tuple[str, int]], enqueued: float) -> bool:
    """Send as much of what waits as may be enqueued, in one file; False if there is no room for any."""
    room, schema = (run.card.batch_tokens or math.inf) - enqueued, tokens_of(json.dumps(run.schema))
    asked, file, tokens = {}, io.BytesIO(), 0.0
    for key, call in islice(waiting.items(), REQUESTS):
        line, more = json.dumps(road.line(key, call[0], run.schema)).encode() + b"\n", tokens_of(call[0]) + schema
        if (tokens + more > room and (asked or enqueued)) or file.tell() + len(line) > BYTES:
            break
        tokens += more
        file.write(line)
        asked[key] = call
    if asked:
        count = run.database.execute("select count(*) from batches where identity = ?", (run.identity,)).fetchone()[0]
        name, at = road.send(fingerprint([run.identity, sorted(asked), count]), file.getvalue()), int(time.time())
        with told(run.store), run.database:
            run.database.execute("insert or ignore into batches values (?,?,?,?,?,'')", (name, run.identity, json.dumps(asked), tokens, at))
    return bool(asked)


def _look(run: Any, road: Road, batch: Any, left: dict[str, tuple[str, int]], ended: Counter, progress: Progress) -> bool:
    """Keep what a batch has brought; False while it runs."""
    state, words, brought = road.look(batch["id"]) if time.time() - batch["at"] < KEPT else ("gone", "", [])
    asked = json.loads(batch["asked"])
    if state not in (*ENDS, "gone"):
        progress.update(0, f"{batch['id']} is {state}, promised by {time.strftime('%d %b %H:%M', time.localtime(batch['at'] + DAY * 3600))}")
        return False
    if state == "failed" and not brought:
        run.stop(f"the server refuses {batch['id']}: {words}")
    run.trouble, refused = f"the batch is {state}", 0
    lines = {line.get("custom_id") or line.get("key"): line for line in brought}
    if strange := state in ENDS[:2] and not asked.keys() & lines.keys():
        run.stop(f"{batch['id']} is {state} and answers none of what was sent")
    for key, call in asked.items():
        if key not in lines:
            continue
        try:
            reply = road.read(lines[key])
        except Void as error:
            reply = Reply(None, str(error), None, 0, 0)
        except (Fatal, Retry) as error:  # of one prompt, which cost nothing: the others are kept, and it is sent again
            run.trouble, refused = str(error), refused + isinstance(error, Fatal)
            continue
        if not run.keep(*call, reply):
            strange = True  # another model's replies are paid for, too: the card may come to know its name
        elif left.pop(key, None) is not None:
            progress.update(1, f"{run.usd:.2f} USD")
    if refused == len(asked):  # such as a parameter that the model doesn't take: they would be refused again
        run.stop(f"the server refuses every prompt of {batch['id']}: {run.trouble}")
    ended.update(list(asked))
    if not strange:
        with told(run.store), run.database:
            run.database.execute("update batches set state = ?, asked = '' where id = ?", (state, batch["id"]))
    return True
