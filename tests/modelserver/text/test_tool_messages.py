"""Tools reach the prompt: by templates that know them, and by messages where a template does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import tool_templates as templates
from front import TEMPLATE, write_model_folder

from textgen_server.errors import TemplateError
from textgen_server.settings import ServerOptions
from textgen_server.text.chat_template import ChatTemplate
from textgen_server.text.prompt import Chat, PromptEncoder
from textgen_server.text.tools.calls import Tool
from textgen_server.text.tools.formats import GENERIC, HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, CallFormat, format_of

FUNCTION = templates.WEATHER["function"]
WEATHER = Tool(FUNCTION["name"], FUNCTION["description"], FUNCTION["parameters"])
ASK: dict[str, Any] = {"role": "user", "content": "How is Paris?"}
ID = "call_0123456789abcdef01234567"


def called(arguments: Any = '{"city": "Paris"}', id: str = ID, content: str = "") -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": id, "type": "function", "function": function}],
    }


def result(content: str = "sunny", id: str = ID) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


@pytest.mark.parametrize(
    ("template", "format"),
    [
        (templates.HERMES, HERMES),
        (templates.LLAMA, LLAMA),
        (templates.MISTRAL, MISTRAL),
        (templates.MISTRAL_ARGS, MISTRAL_ARGS),
        (TEMPLATE, GENERIC),
        (None, GENERIC),
        ("{{ tools }} <tool_call><function=NAME>", GENERIC),
        ("{{ tools }} some other markup", GENERIC),
        ("[TOOL_CALLS] of a template that does not write functions", GENERIC),
    ],
)
def test_the_template_tells_the_format(template: str | None, format: CallFormat) -> None:
    assert format_of(template) is format


def prompt(tmp_path: Path, template: str, *messages: dict[str, Any], **fields: Any) -> str:
    """The prompt that the encoder makes, read back from its tokens."""
    encoder = PromptEncoder.load(write_model_folder(tmp_path, template), ServerOptions())
    try:
        return encoder.tokenizer.decode(encoder._encode(Chat(list(messages), **fields), None).ids)
    finally:
        encoder.close()


@pytest.mark.parametrize("template", [templates.HERMES, templates.LLAMA, templates.MISTRAL, templates.MISTRAL_ARGS])
def test_a_template_that_knows_tools_gets_them_whole(tmp_path: Path, template: str) -> None:
    text = prompt(tmp_path, template, ASK, tools=(WEATHER,))
    assert json.dumps(templates.WEATHER) in text
    assert json.dumps({"type": "object", "properties": {}}) in prompt(tmp_path, template, ASK, tools=(Tool("now"),))


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
@pytest.mark.parametrize("template", [templates.HERMES, templates.LLAMA, templates.MISTRAL, templates.MISTRAL_ARGS])
def test_arguments_of_earlier_calls_are_objects(tmp_path: Path, template: str, arguments: Any) -> None:
    text = prompt(tmp_path, template, ASK, called(arguments), result(), tools=(WEATHER,))
    assert ': {"city": "Paris"}' in text or '[ARGS]{"city": "Paris"}' in text


@pytest.mark.parametrize(("arguments", "written"), [("", "{}"), ("cut {", '"cut {"'), ("[1]", '"[1]"')])
def test_arguments_that_are_no_object_stay_as_they_are(tmp_path: Path, arguments: str, written: str) -> None:
    assert f'"arguments": {written}' in prompt(tmp_path, templates.HERMES, ASK, called(arguments), result())


def test_ids_fit_templates_that_insist_on_their_length(tmp_path: Path) -> None:
    text = prompt(tmp_path, templates.MISTRAL, ASK, called(), result("sunny"), called(id="1"), result("rainy", id="1"))
    assert '"id": "901234567"' not in text
    assert f'"id": "{ID[-9:]}"' in text
    assert f"[TOOL_RESULTS]sunny {ID[-9:]}[/TOOL_RESULTS]" in text
    assert '"id": "000000001"' in text
    assert "rainy 000000001" in text


def test_results_have_the_name_of_what_was_called(tmp_path: Path) -> None:
    template = "{{ tools }}<tool_call>{% for m in messages %}{{ m.role }}={{ m.name }};{% endfor %}"
    named = {**result(id="other"), "name": "mine"}
    text = prompt(tmp_path, template, ASK, called(), result(), named, called("{}"))
    assert "tool=get_weather;tool=mine;" in text


def test_tools_are_described_to_a_template_that_does_not_know_them(tmp_path: Path) -> None:
    text = prompt(tmp_path, TEMPLATE, ASK, tools=(WEATHER, Tool("now")))
    system, user, _ = text.split("<eos>\n")
    assert system.startswith("<bos><turn>system\nYou have functions")
    assert json.dumps(FUNCTION) in system
    assert '"name": "now"' in system
    assert '<tool_call>\n{"name": "NAME", "arguments": {"PARAMETER": "VALUE"}}\n</tool_call>' in system
    assert user == "<turn>user\nHow is Paris?"


def test_the_description_joins_a_system_message(tmp_path: Path) -> None:
    text = prompt(tmp_path, TEMPLATE, {"role": "system", "content": "Be brief."}, ASK, tools=(WEATHER,))
    assert text.count("<turn>system") == 1
    assert "<turn>system\nBe brief.\n\nYou have functions" in text


def test_the_introduction_may_be_the_clients(tmp_path: Path) -> None:
    text = prompt(tmp_path, TEMPLATE, ASK, tools=(WEATHER,), tool_prompt="Use these:")
    assert "<turn>system\nUse these:\n{" in text


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}",
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}",
    ],
)
def test_where_there_is_no_system_role_the_user_says_it(tmp_path: Path, template: str) -> None:
    text = prompt(tmp_path, template, ASK, tools=(WEATHER,))
    assert text.startswith("[user]You have functions")
    assert text.endswith("\n\nHow is Paris?")


def test_calls_and_results_are_written_out_for_other_templates(tmp_path: Path) -> None:
    messages = [
        ASK,
        called(content="I look."),
        result("sunny"),
        result("warm"),
        {"role": "assistant", "content": "So."},
    ]
    turns = prompt(tmp_path, TEMPLATE, *messages, ASK).split("<eos>\n")
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert turns[1] == f"<turn>assistant\nI look.\n{call}"
    sunny, warm = (f"<tool_response>\n{text}\n</tool_response>" for text in ("sunny", "warm"))
    assert turns[2] == f"<turn>user\n{sunny}\n{warm}"
    assert turns[3] == "<turn>assistant\nSo."


def test_there_may_be_a_template_for_tools_alone(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": templates.HERMES}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    template = ChatTemplate.load(folder)
    assert template is not None
    assert template.call_format is HERMES
    assert template.render([ASK]) == "plain"
    assert json.dumps(templates.WEATHER) in template.render([ASK], [WEATHER.for_template()])


def test_named_templates_may_lie_beside_the_default(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(templates.HERMES)
    template = ChatTemplate.load(folder)
    assert template is not None
    assert template.call_format is HERMES
    assert template.render([ASK]) == "plain"


def test_arguments_nested_too_deeply_are_a_template_error(tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(3000):
        deep = {"x": deep}
    for template in (TEMPLATE, templates.HERMES):
        with pytest.raises(TemplateError):
            prompt(tmp_path, template, ASK, called(deep), result())
