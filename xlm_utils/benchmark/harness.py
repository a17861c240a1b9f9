"""The harness's task and its Hugging Face model, with the repeated work left out.

Imported inside functions only: it loads torch and lm_eval.
"""

import contextlib
import copy
import io
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Iterator

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from xlm_utils import models
from xlm_utils.study import Progress

FEWSHOT_SEED = 1234  # the harness's own default, so that a whole `lm-eval run` draws the same examples
LOGITS_AT_ONCE = 2**25  # an eighth of a GiB in fp32
CALL = 40  # tokens that cost as much as one batch more: padding is computed like text, a batch reads the weights once (two CPU cores, 0.3B)
BEGINNING = 3  # tokens; prompts that begin with the same are read together, and what more they share
KEPT = 4  # times as many tokens in a batch that writes, where most are only kept

# notices about how the harness is called, which a reader of a notebook can't act on
for _name in ("evaluator", "api.task", "config.task", "models.huggingface"):
    logging.getLogger(f"lm_eval.{_name}").setLevel(logging.ERROR)

Tokens, Answer = tuple[int, ...], tuple[float, bool]


def batches(rows: list, lengths: list[int], budget: int) -> Iterator[list]:
    """Consecutive rows, longest first, cut where padding and calls cost least; a batch fits a budget of tokens when padded to its longest."""
    best, ends = [0] * (len(rows) + 1), [0] * len(rows)
    for start in reversed(range(len(rows))):
        most = min(len(rows), start + max(1, budget // lengths[start]))
        best[start], ends[start] = min((CALL + (end - start) * lengths[start] + best[end], end) for end in range(start + 1, most + 1))
    start = 0
    while start < len(rows):
        yield rows[start : ends[start]]
        start = ends[start]


class PreparedTask(ConfigurableTask):
    """A task whose requests are built once and then put to many models.

    Few-shot examples are drawn row by row from one generator. So where a task has any, the requests of all rows are built and those of the chosen
    ones kept: they get the examples that they have in a whole run.
    """

    _instances = None

    def build_all_requests(self, samples: list[int] | None = None, **options: object) -> None:
        if self._instances is None or options.get("apply_chat_template"):  # templates differ between models
            drawn = samples and self.config.num_fewshot
            self.set_fewshot_seed(FEWSHOT_SEED)
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar per data set, done in an instant
                super().build_all_requests(samples=None if drawn else samples, **options)
            if drawn:
                number = {row: place for place, row in enumerate(sorted(samples))}  # as the harness numbers a selection
                self._instances = [instance for instance in self._instances if instance.doc_id in number]
                for instance in self._instances:
                    instance.doc_id = number[instance.doc_id]
        for instance in self._instances:
            instance.resps.clear()
            instance.filtered_resps.clear()

    def gold_index(self, doc: dict) -> int:
        """Position of the gold answer among the choices (some tasks name it by its text)."""
        gold = self.doc_to_target(doc)
        return gold if isinstance(gold, int) else self.doc_to_choice(doc).index(gold)


class SharedPromptLM(HFLM):
    """``HFLM`` that reads a prompt once for all its options and computes no logits of the prompt itself.

    The stock class runs prompt + option through the model for each option and keeps logits of every position. Here prompts are read in batches of
    ``batch_tokens`` tokens, the beginning that a batch shares only once; each option then goes on from the prompt's key-value cache. The
    log-likelihoods are the same up to floating point; they are summed in float32, where the stock class rounds each one to the model's dtype.

    ``truncated`` collects the prompts that were cut to the model's context length. ``pairs`` keeps tokenised requests, for models of one tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int, pairs: dict | None = None):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=1)
        self.batch_tokens = batch_tokens
        self.truncated: set[str] = set()
        self._pairs = {} if pairs is None else pairs
        layers = DynamicCache(config=model.config).layers
        self._window = min((layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)), default=sys.maxsize)
        if not models.can_drop_rows(model):
            print("prompts are read whole, once an option: this model's state can't be handed from a prompt to its options")

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        return models.chat(self.tokenizer, chat_history, add_generation_prompt)

    def tok_batch_encode(self, strings: list[str], left_truncate_len: int | None = None, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask; each prompt has the beginning-of-text token that it has alone, whatever the first of the batch begins with."""
        return self._lay([tuple(self.tok_encode(string, left_truncate_len=left_truncate_len)) for string in strings])

    def tok_decode(self, tokens: list[int] | int, skip_special_tokens: bool = True) -> str:
        if skip_special_tokens and not isinstance(tokens, int):
            return models.said(self.tokenizer, tokens)[0]
        return super().tok_decode(tokens, skip_special_tokens)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **settings: object) -> torch.Tensor:
        if settings["do_sample"]:
            raise ValueError("a task that samples is none of Table 2's")

        def done(tokens: list[int]) -> bool:
            text, thought = models.said(self.tokenizer, tokens)
            return thought != "open" and any(end in text for end in stop)  # a stop string ends no thought

        rows = [tuple(ids[real].tolist()) for ids, real in zip(context, settings["attention_mask"].bool(), strict=True)]
        cache, same = self._begin(rows, max_length)
        written = models.continuations(self.model, *self._lay(rows, same), max_length - context.shape[1], done, cache)
        return torch.cat([context, self._pad(list(map(tuple, written)))], 1)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        key = context, continuation
        if key not in self._pairs:
            prompt, option = super()._encode_pair(context, continuation)
            self._pairs[key] = self._pairs.setdefault(context, prompt), option  # one list for all options
        return self._pairs[key]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def likelihoods(self, pairs: list[tuple[str, str]]) -> list[tuple[float, int]]:
        """Log-likelihood of each continuation behind its prompt, and the continuation's tokens."""
        encoded = [(pair, *self._encode_pair(*pair)) for pair in pairs]
        return [(answer[0], len(option)) for answer, (_, _, option) in zip(self._loglikelihood_tokens(encoded), encoded, strict=True)]

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None) -> list[Answer]:
        if not models.can_drop_rows(self.model):  # then a prompt's state can't be handed to each of its options
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        wanted: dict[Tokens, dict[Tokens, Answer | None]] = defaultdict(dict)
        keys = []
        for (context, _), prompt, option in requests:
            room = self.max_length + 1 - len(option)  # the last token is predicted, not read
            if len(prompt) > room:
                self.truncated.add(context)
            keys.append((tuple(prompt[-room:]), tuple(option)))
            wanted[keys[-1][0]][keys[-1][1]] = None
        alike: dict[Tokens, list[Tokens]] = defaultdict(list)
        for prompt in sorted(wanted, key=len, reverse=True):
            alike[prompt[:BEGINNING]].append(prompt)
        progress = Progress("benchmark", len(wanted), "prompts", delay=60)
        for prompts in alike.values():
            for batch in batches(prompts, [len(p) for p in prompts], self.batch_tokens):
                self._score(batch, wanted)
                progress.update(len(batch))
        return [wanted[prompt][option] for prompt, option in keys]

    @torch.inference_mode()
    def _score(self, prompts: list[Tokens], wanted: dict[Tokens, dict[Tokens, Answer | None]]) -> None:
        """Fill in the answers of a batch of prompts."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        cache, same = self._begin(prompts, len(prompts[0]) + max(len(option) for prompt in prompts for option in wanted[prompt]))
        inputs, mask = self._lay(prompts, same)
        read = self.model(
            input_ids=inputs[:, same:], attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, same:],
            past_key_values=cache, use_cache=True, logits_to_keep=1)  # fmt: skip
        first = read.logits[:, -1].float()
        normaliser, best = first.logsumexp(-1), first.argmax(-1)
        longer = []
        for row, prompt in enumerate(prompts):
            for option in wanted[prompt]:
                wanted[prompt][option] = float(first[row, option[0]] - normaliser[row]), bool(best[row] == option[0])
                if len(option) > 1:
                    longer.append((row, option))
        longer.sort(key=lambda pair: len(pair[1]), reverse=True)
        for now in batches(longer, [len(option) - 1 for _, option in longer], LOGITS_AT_ONCE // first.shape[-1]):
            rows = torch.tensor([row for row, _ in now], device=self.device)
            scores = self._continue(read.past_key_values, mask, lengths, rows, [option for _, option in now])
            for (row, option), (likelihood, greedy) in zip(now, scores, strict=True):
                before, also_greedy = wanted[prompts[row]][option]
                wanted[prompts[row]][option] = before + likelihood, also_greedy and greedy

    def _continue(self, cache: "DynamicCache", mask: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor, options: list[Tokens]) -> list[Answer]:
        """Log-likelihood of each option after its first token, given the prompt of its row in the cache."""
        inputs, targets = self._pad([option[:-1] for option in options]), self._pad([option[1:] for option in options])
        steps = torch.arange(inputs.shape[1], device=self.device)
        real = steps < torch.tensor([[len(option) - 1] for option in options], device=self.device)
        own = copy.copy(cache)  # selecting rows makes new tensors, so the original stays as it is
        own.layers = [copy.copy(layer) for layer in cache.layers]
        own.batch_select_indices(rows)
        logits = self.model(
            input_ids=inputs, attention_mask=torch.cat([mask[rows], real.long()], 1), position_ids=lengths[rows, None] + steps,
            past_key_values=own, use_cache=True).logits.float()  # fmt: skip
        own = logits.gather(-1, targets[..., None])[..., 0]
        likelihoods, greedy = own - logits.logsumexp(-1), (own == logits.amax(-1)) | ~real  # argmax takes four times as long
        return list(zip((likelihoods * real).sum(1).tolist(), greedy.all(1).tolist(), strict=True))

    def _begin(self, rows: list[Tokens], longest: int) -> tuple[DynamicCache | None, int]:
        """Keys and values of what all rows begin with, read once, and its length; none where that saves no time.

        Padding then stands behind the beginning, where a sliding window would count it: so only what fits one.
        """
        first, last = min(rows), max(rows)  # in the order of their tokens, so what these two share all do
        same = min(next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)), min(map(len, rows)) - 1)
        if (len(rows) - 1) * same < CALL or longest > self._window or not models.can_drop_rows(self.model):
            return None, 0
        with torch.inference_mode():
            cache = self.model(input_ids=torch.tensor([rows[0][:same]], device=self.device), use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(rows))
        return cache, same

    def _lay(self, rows: list[Tokens], same: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask of rows that end together, padded behind the tokens that they share."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        ids = [[*row[:same], *[pad] * (width - len(row)), *row[same:]] for row in rows]
        mask = [[1] * same + [0] * (width - len(row)) + [1] * (len(row) - same) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _pad(self, rows: list[Tokens]) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + (self.tokenizer.pad_token_id or 0,) * (width - len(row)) for row in rows], device=self.device)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The harness's generation, an identical request once; a row leaves its batch when it has finished."""
        keys = [(request.args[0], json.dumps(request.args[1], sort_keys=True)) for request in requests]
        distinct = dict(zip(keys, requests, strict=True))
        answers: dict[tuple[str, str], str] = {}
        for settings in dict.fromkeys(settings for _, settings in keys):
            new = json.loads(settings).get("max_gen_toks", self.max_gen_toks)
            lengths = {key: len(self.tok_encode(key[0])) for key in distinct if key[1] == settings}
            self.truncated.update(prompt for (prompt, _), length in lengths.items() if length > self.max_length - new)
            ordered = sorted(lengths, key=lengths.__getitem__, reverse=True)
            longest = max(lengths.values()) + new  # as large as the memory holds: the steps are one row's, however many rows there are
            for batch in batches(ordered, [longest] * len(ordered), KEPT * self.batch_tokens):
                self.batch_size_per_gpu = len(batch)
                answers.update(zip(batch, super().generate_until([distinct[key] for key in batch], disable_tqdm=True), strict=True))
        return [answers[key] for key in keys]
