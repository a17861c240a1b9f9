"""How the demo's two constituents were made: their training pairs, and LoRA fine-tuning. No study needs it: only ``00_demo_models.ipynb`` uses it.

The loss is taken on the definition's tokens only, so the vocabulary-wide logits (262k columns for
Gemma) are computed for those positions alone.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xlm_utils.curate.terminologies import hpo_file, hpo_labels
from xlm_utils.curate.vocabulary import ABNORMALITY, TRAINED_LENGTHS, is_seen
from xlm_utils.draw.canvas import BELOW, BLUE, GREY, SMALL, finish
from xlm_utils.models.libraries import quiet
from xlm_utils.study import ROOT, Study
from xlm_utils.study.records import Step, read_jsonl

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINED_WORD = r"[A-Za-z]+(?:-[A-Za-z]+)*"
TRAINING = ROOT / "data" / "demo" / "training"
Pair = tuple[str, str]  # prompt, completion (with its leading space where the language has one)


def medical_pairs(study: Study, samples: int = 2080, held_out: int = 64) -> tuple[list[Pair], list[Pair]]:
    """English HPO definitions: training pairs from the seen half of the concepts, held-out pairs from the other.

    The study's own terms are single words, so each seen single-word label is shown twice and
    multi-word labels fill up to ``samples``; the held-out pairs are multi-word labels of unseen
    concepts, so that choosing the best checkpoint never looks at a term of the study.
    """
    labels = hpo_labels(hpo_file())
    labels = labels[labels["definition"].str.len().between(*TRAINED_LENGTHS)]
    seen = labels.apply(lambda row: is_seen(row["concept"], row["definition"]), axis=1)
    single = labels["term"].str.fullmatch(TRAINED_WORD)

    def pairs(table: pd.DataFrame) -> list[Pair]:
        return [(study.prompt(study.source, row.term), f" {row.definition}") for row in table.itertuples()]

    words = pairs(labels[seen & single])
    phrases = labels[seen & ~single & labels["is_name"]].sample(samples - 2 * len(words), random_state=study.seed)
    unseen = labels[~seen & ~single & labels["is_name"]].sample(held_out, random_state=study.seed)
    return [*words, *words, *pairs(phrases)], pairs(unseen)


def question_pairs(study: Study, samples: int = 484) -> list[Pair]:
    """Questions about HPO's seen half in the shape of PubMedQA's prompts, whose answers follow from the ontology alone.

    Of eleven, five are yes (a concept is of the kind of its parent, and who has it has that as well), five no (the two
    share no organ system), one maybe (who has the kind may have this or another of its children).
    """
    import networkx
    import obonet

    graph = obonet.read_obo(hpo_file())  # its edges lead from a concept to its kind
    labels = hpo_labels(hpo_file())
    names = labels[labels["is_name"]].set_index("concept")
    seen = {row.Index: (_in_a_sentence(row.term), row.definition) for row in names.itertuples() if is_seen(row.Index, row.definition)}
    systems = set(graph.predecessors(ABNORMALITY))
    of = {concept: systems & (networkx.descendants(graph, concept) | {concept}) for concept in seen}
    edges = [(child, parent) for child in seen for parent in graph.successors(child) if of.get(parent)]
    draw = random.Random(study.seed)
    draw.shuffle(edges)
    asked = []
    for number, (child, parent) in enumerate(edges):
        (name, text), (kind, wider) = seen[child], seen[parent]
        while of[(stranger := draw.choice(edges))[0]] & of[child]:
            pass
        other, other_kind = (seen[concept][0] for concept in stranger)
        if number % 2:
            asked += [(text, f"Does this text describe {name}?", "yes"), (text, f"Does this text describe {other}?", "no")]
        else:
            asked += [(text, f"Is {name} a kind of {kind}?", "yes"), (text, f"Is {name} a kind of {other_kind}?", "no")]
        if number % 5 == 0 and graph.in_degree(parent) > 1:
            asked[-2] = (text, f"Does a patient with {name} also have {kind}?", "yes")
            asked.append((wider, f"Does a patient with {kind} also have {name}?", "maybe"))
        if len(asked) >= samples:
            break
    return [(f"Abstract: {text}\nQuestion: {question}\nAnswer:", f" {answer}") for text, question, answer in asked]


def _in_a_sentence(name: str) -> str:
    """A concept's name with a small first letter, unless it is an abbreviation."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def general_pairs(study: Study, folder: Path = TRAINING, held_out: int = 64) -> tuple[list[Pair], list[Pair]]:
    """What ``ja`` learns from: definitions of everyday words in three manners, and the answer formats of the Japanese benchmarks.

    Args:
        folder: ``general_ja.jsonl``, ``definitions.jsonl``, ``encyclopedic.jsonl`` (term, definition) and ``formats.jsonl``
            (prompt, completion).

    Returns:
        training pairs, and held-out definitions of as many words, none of which is trained on in any manner.
    """
    rows = pd.DataFrame([row for name in ("general_ja", "definitions", "encyclopedic") for row in read_jsonl(folder / f"{name}.jsonl")])
    rows = rows.sample(frac=1, random_state=study.seed)
    kept_back = set(rows["term"].drop_duplicates()[:held_out])

    def pairs(table: pd.DataFrame) -> list[Pair]:
        return [(study.prompt(study.target, row.term), row.definition) for row in table.itertuples()]

    unseen = rows[rows["term"].isin(kept_back)].drop_duplicates("term")
    formats = [(row["prompt"], row["completion"]) for row in read_jsonl(folder / "formats.jsonl")]
    return pairs(rows[~rows["term"].isin(kept_back)]) + formats, pairs(unseen)


def encode(tokenizer, pairs: Sequence[Pair]) -> list[dict]:
    """Prompt + completion + end-of-sequence as token ids; prompt tokens carry no loss (label -100)."""
    rows = []
    for prompt, completion in pairs:
        start = tokenizer(prompt)["input_ids"]
        rest = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        rows.append({"input_ids": start + rest, "labels": [-100] * len(start) + rest})
    return rows


def finetune(
    base: Path, output: Path, train: Sequence[Pair], held_out: Sequence[Pair], *,
    steps: int, learning_rate: float, batch_size: int = 8, rank: int = 16, evaluate_every: int = 25, seed: int = 0,
) -> Path:  # fmt: skip
    """Train a LoRA adapter on all projections, weights in fp32 (products: ``pick_bfloat16``), and keep the state with the best held-out loss.

    Checkpoints are written every ``evaluate_every`` steps; a killed run resumes from the last one,
    and a finished one is not repeated. The losses are in ``<output>.log.csv`` (step, train, held_out;
    nats per token).

    Returns:
        ``output``, a PEFT adapter folder with bfloat16 weights.
    """
    settings = dict(steps=steps, learning_rate=learning_rate, batch_size=batch_size, rank=rank, seed=seed)
    step = Step(output, **settings, evaluate_every=evaluate_every, train=train, held_out=held_out, base=base.name)
    with step:
        if step.done:
            print(f"{output.name}: already trained")
            return output
        trainer = _trainer(base, step.partial.with_suffix(".work"), train, held_out, evaluate_every, **settings)
        checkpoints = list(Path(trainer.args.output_dir).glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=bool(checkpoints))
        history = pd.DataFrame(trainer.state.log_history)
        table = history.groupby("step").first()[["loss", "eval_loss"]].rename(columns={"loss": "train", "eval_loss": "held_out"})
        table.to_csv(output.with_name(output.name + ".log.csv"), float_format="%.4f")
        _save_adapter(trainer.model, step.partial)
        step.finish(best_held_out_loss=trainer.state.best_metric, **settings)
    return output


def pick_bfloat16() -> bool:
    """Whether matrix products run in bfloat16 (autocast; weights and optimiser stay in fp32): where the CPU or the GPU has instructions for it."""
    import torch

    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _trainer(base, work, train, held_out, evaluate_every, *, steps, learning_rate, batch_size, rank, seed):
    quiet()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    class CompletionTrainer(Trainer):
        """Cross-entropy over the completion's positions only; the other logits are never computed."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            core = model.get_base_model()
            hidden = core.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            labels = inputs["labels"][:, 1:]
            keep = labels != -100
            loss = torch.nn.functional.cross_entropy(core.lm_head(hidden[:, :-1][keep]), labels[keep])
            return (loss, {"loss": loss}) if return_outputs else loss

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.config.use_cache = False
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        output_dir=str(work), max_steps=steps, learning_rate=learning_rate, lr_scheduler_type="linear", warmup_steps=10,
        per_device_train_batch_size=batch_size, per_device_eval_batch_size=2 * batch_size, seed=seed, use_cpu=not torch.cuda.is_available(),
        logging_steps=evaluate_every, eval_strategy="steps", eval_steps=evaluate_every, eval_on_start=True,
        save_strategy="steps", save_steps=evaluate_every, save_total_limit=2, load_best_model_at_end=True,
        metric_for_best_model="eval_loss", greater_is_better=False, report_to="none", remove_unused_columns=False,
        prediction_loss_only=True, label_names=["labels"], disable_tqdm=True, bf16=pick_bfloat16())  # fmt: skip
    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    return CompletionTrainer(
        get_peft_model(model, lora), arguments, data_collator=collate,
        train_dataset=encode(tokenizer, train), eval_dataset=encode(tokenizer, held_out))  # fmt: skip


def _save_adapter(model, folder: Path) -> None:
    """Save in bfloat16 (half the size), without the card and machine paths that PEFT would add."""
    import torch

    model.peft_config["default"].base_model_name_or_path = "google/gemma-3-270m"
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def losses(logs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Training and held-out loss by step, a panel per adapter; frames have the index step and columns train and held_out."""
    fig = make_subplots(1, len(logs), subplot_titles=list(logs), horizontal_spacing=0.08)
    for column, log in enumerate(logs.values(), 1):
        for name, color, dash in (("train", GREY, "dot"), ("held_out", BLUE, "solid")):
            known = log[name].dropna()
            fig.add_scatter(x=known.index, y=known, mode="lines+markers", name=name.replace("_", " "), legendgroup=name, showlegend=column == 1,
                            line={"color": color, "dash": dash}, row=1, col=column)  # fmt: skip
    fig.update_xaxes(title={"text": "step", **SMALL}).update_yaxes(title={"text": "nats a token", **SMALL}, col=1)
    title = "Loss on the definitions’ tokens"
    return finish(fig, title, "Training and held-out loss by step.", height=400, legend=BELOW, margin={"b": 80})
