"""Templates work as in transformers, and what they refuse is told."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from front import TEMPLATE, write_model_folder

from textgen_server.errors import StartupError, TemplateError
from textgen_server.text.chat_template import ChatTemplate

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


def render(source: str, messages: list[dict[str, Any]] | None = None) -> str:
    return ChatTemplate(source, "<bos>", "<eos>").render(messages or HELLO)


def test_a_conversation_opens_the_assistants_turn() -> None:
    assert render(TEMPLATE) == "<bos><turn>user\nhello<eos>\n<turn>assistant\n"


@pytest.mark.parametrize("content", ["Sure, ", "", "<eos>", "hello"])
def test_a_last_message_of_the_assistant_stays_open(content: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": content}]
    assert render(TEMPLATE, messages) == f"<bos><turn>user\nhello<eos>\n<turn>assistant\n{content}"


def test_a_template_that_drops_the_last_message_cannot_continue_it() -> None:
    with pytest.raises(TemplateError, match="cannot be continued"):
        render("{{ messages[0].content }}", [*HELLO, {"role": "assistant", "content": "Sure"}])


def test_blocks_are_trimmed_and_loops_controlled() -> None:
    source = (
        "{% for m in messages %}\n  {% if loop.index > 1 %}\n{% break %}\n  {% endif %}\n{{ m.content }}\n{% endfor %}"
    )
    assert render(source, [*HELLO, *HELLO]) == "hello\n"


def test_generation_marks_are_only_wrappers() -> None:
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahellob"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ messages[0] | tojson }}", [{"role": "user", "content": "<é>'"}]) == (
        '{"role": "user", "content": "<é>\'"}'
    )
    assert render("{{ messages[0] | tojson(indent=1) }}") == json.dumps(HELLO[0], indent=1)


def test_the_date_is_todays() -> None:
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<bos>", "<eos>")


def test_any_last_message_may_be_continued_or_closed() -> None:
    chat, last = template(TEMPLATE), {"role": "assistant", "content": "Sure"}
    assert chat.render([*HELLO, last], continue_final_message=False).endswith("Sure<eos>\n<turn>assistant\n")
    assert chat.render(HELLO, continue_final_message=True) == "<bos><turn>user\nhello"
    assert chat.render(HELLO, add_generation_prompt=False) == "<bos><turn>user\nhello<eos>\n"


def test_a_message_that_calls_is_complete() -> None:
    last = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert template(TEMPLATE).render([*HELLO, last]).endswith("<eos>\n<turn>assistant\n")


def test_a_template_may_have_variables_of_its_own_but_not_ours_under_their_names() -> None:
    variables = {"enable_thinking": False, "messages": [], "bos_token": "x", "add_generation_prompt": 5}
    source = "{{ enable_thinking }} {{ messages | length }} {{ bos_token }} {{ add_generation_prompt }}"
    assert template(source).render(HELLO, variables=variables) == "False 1 <bos> True"


def test_developers_are_the_system_where_the_template_does_not_know_them() -> None:
    messages = [{"role": "developer", "content": "be brief"}]
    source = "{{ messages[0].role }}"
    assert template(source).render(messages) == "system"
    assert template(source + "{% if messages[0].role == 'developer' %}!{% endif %}").render(messages) == "developer!"


def test_tools_are_none() -> None:
    assert render("{{ tools is none }}{{ 'x' if tools else 'y' }}") == "Truey"


def test_a_refusing_template_is_quoted() -> None:
    with pytest.raises(TemplateError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.message == "Template error: roles must alternate"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[5].content }}",
        "{{ 1 / 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ range(10000000) | list }}",
    ],
)
def test_whatever_fails_in_a_template_is_a_template_error(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_a_template_with_wrong_syntax_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="chat template is damaged"):
        ChatTemplate.load(write_model_folder(tmp_path, "{% if %}"))


def test_a_template_that_is_no_text_stops_the_start(tmp_path: Path) -> None:
    (write_model_folder(tmp_path, None) / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match=r"chat_template\.jinja is not text in UTF-8"):
        ChatTemplate.load(tmp_path)


def load(folder: Path, override: Path | None = None) -> str:
    template = ChatTemplate.load(folder, str(override) if override else None)
    assert template is not None
    return template.render(HELLO)


def test_sources_in_order(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "model", "config {{ bos_token }}")
    assert load(folder) == "config <bos>"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert load(folder) == "json"
    (folder / "chat_template.jinja").write_text("jinja")
    assert load(folder) == "jinja"
    override = tmp_path / "other.json"
    override.write_text(json.dumps({"chat_template": "override {{ bos_token }}", "bos_token": "<s>"}))
    assert load(folder, override) == "override <s>"
    override.write_text(json.dumps({"bos_token": "<s>"}))
    assert load(folder, override) == "jinja"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert load(folder) == "plain"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named[:1]}))
    with pytest.raises(StartupError, match="default"):
        load(folder)


def test_a_model_may_have_no_template(tmp_path: Path) -> None:
    assert ChatTemplate.load(write_model_folder(tmp_path, template=None)) is None
