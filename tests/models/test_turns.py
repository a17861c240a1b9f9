"""Templates, end tokens and thoughts: what stands around a text does not become part of it."""

import pytest
from tokenizers.processors import TemplateProcessing

from tests.conftest import pico_tokenizer
from xlm_utils import models
from xlm_utils.study import StudyError

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
THINKS = CHATML + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ALWAYS = CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
NEEDS = "{% if messages[0].role != 'system' %}{{ raise_exception('A system message is needed') }}{% endif %}" + CHATML
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
DROPS = "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
USER = [{"role": "user", "content": "喘息"}]
TASK = [{"role": "system", "content": "Answer.\n\n"}, *USER]


def with_template(template, *special):
    tokenizer = pico_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def test_thinking_is_off_where_the_template_can_and_closed_where_it_opens_it():
    for template in (THINKS, ALWAYS):
        assert models.chat(with_template(template), USER) == "<|im_start|>user\n喘息<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_a_system_message_that_a_template_refuses_or_drops_stands_in_the_user_s_turn():
    assert models.chat(with_template(REFUSES), TASK) == "<|im_start|>user\nAnswer.\n\n喘息<|im_end|>\n"
    assert models.chat(with_template(DROPS), TASK) == "Answer.\n\n喘息<|im_end|>"
    assert models.chat(with_template(CHATML), TASK).startswith("<|im_start|>system\nAnswer.")


def test_a_template_that_can_t_be_rendered_stops_only_the_studies_that_use_it():
    tokenizer = with_template("{{ raise_exception('No turns') }}")
    assert models.stop_tokens(None, tokenizer) == [1]
    with pytest.raises(StudyError, match="the chat template of expert can't be used: No turns"):
        models.chat(tokenizer, USER, of="expert")
    assert models.stop_tokens(None, with_template(NEEDS)) == [1, 4]


def test_the_end_of_a_turn_stops_behind_a_newline_too_and_a_template_without_the_answer_tells_none():
    assert models.stop_tokens(None, with_template(CHATML.replace("<|im_end|>", "\n<|im_end|>"))) == [1, 4]
    dropped = "<bos>{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    assert models.stop_tokens(None, with_template(dropped)) == [1]


HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")


@pytest.mark.parametrize(
    ("reply", "text", "thought"),
    [
        ("A cough.", "A cough.", ""),
        ("<think>\nhm {x}\n</think>\n\nA cough.", "A cough.", "closed"),
        ("so, hm</think>A cough.<|im_end|>", "A cough.", "closed"),
        ("<think>hm</think>A cough. <think>or</think>Not.", "A cough. Not.", "closed"),
        ("<think>\nhm, a cou", "", "open"),
        ("A cough. <think>hm", "A cough.", "open"),
        ("[THINK]hm[/THINK]A cough.", "A cough.", "closed"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A cough.", "A cough.", "closed"),
        ("<|channel|>analysis<|message|>hm, a cou", "", "open"),
    ],
)
@pytest.mark.parametrize("special", [HARMONY, (*HARMONY, "<think>", "</think>", "[THINK]", "[/THINK]")], ids=["as text", "as special tokens"])
def test_a_thought_is_no_part_of_an_answer(reply, text, thought, special):
    tokenizer = with_template(CHATML, *special)
    assert models.said(tokenizer, tokenizer(reply, add_special_tokens=False)["input_ids"]) == (text, thought)


def test_a_tokenizer_that_appends_its_end_token_no_longer_does_and_keeps_its_beginning(capsys):
    tokenizer = pico_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    plain = tokenizer("喘息", add_special_tokens=False)["input_ids"]
    assert tokenizer("喘息")["input_ids"] == [2, *plain, 1]
    assert models.leave_open(tokenizer, "expert")("喘息")["input_ids"] == [2, *plain]
    assert "expert: its tokenizer appends <eos> to every text: left out" in capsys.readouterr().out
    assert models.leave_open(pico_tokenizer(), "expert")("喘息")["input_ids"] == plain
    assert not capsys.readouterr().out
