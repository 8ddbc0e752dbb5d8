"""Tools and formats of the reply in /v1/chat/completions: what is asked of the engine, and what clients see."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tool_templates as templates
from front import TEMPLATE, Front, events, write_model_folder

from textgen_server.text.grammars import GrammarChecker

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "How is Paris?"}]
TOOLS = [templates.WEATHER, templates.TIME]
PARIS, TIME = '{"city": "Paris"}', "{}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLS = f'I look.\n{CALL}\n<tool_call>\n{{"name": "get_time", "arguments": {{}}}}\n</tool_call>'


class LastingChecker(GrammarChecker):
    """Outlives the fronts that it checks for; its process takes longer to start than a test."""

    def close(self) -> None:
        """What a front calls."""

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarChecker]:
    checker = LastingChecker(1)
    yield checker
    checker.end()


@pytest.fixture
async def make(tmp_path: Path, checker: GrammarChecker) -> AsyncIterator[Callable[..., Front]]:
    """Call with the text that the engine generates, and the chat template."""
    fronts: list[Front] = []

    def front(text: str = CALLS, template: str = TEMPLATE, **options: Any) -> Front:
        fronts.append(Front(write_model_folder(tmp_path / str(len(fronts)), template), text, **options))
        fronts[-1].context.encoder.grammars = checker
        fronts[-1].engine.info.max_total_tokens = 4096
        fronts[-1].engine.info.max_input_tokens = 4095
        return fronts[-1]

    yield front
    for each in fronts:
        await each.close()


def request(**fields: Any) -> dict[str, Any]:
    return {"messages": ASK, "tools": TOOLS} | fields


async def chat(front: Front, **fields: Any) -> dict[str, Any]:
    response = await front.post(CHAT, request(**fields))
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


async def stream(front: Front, **fields: Any) -> list[dict[str, Any]]:
    response = await front.post(CHAT, request(stream=True, **fields))
    *chunks, done = events(response)
    assert done == "[DONE]"
    return [chunk["choices"][0] for chunk in chunks]


def called(message: dict[str, Any]) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]


async def test_a_reply_with_text_and_several_calls(make: Callable[..., Front]) -> None:
    choice = await chat(make())
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["role"], message["content"]) == ("assistant", "I look.")
    assert called(message) == [("get_weather", PARIS), ("get_time", TIME)]
    assert {call["type"] for call in message["tool_calls"]} == {"function"}
    first, second = (call["id"] for call in message["tool_calls"])
    assert first != second
    assert first.startswith("call_")


async def test_a_reply_of_calls_alone_has_no_content(make: Callable[..., Front]) -> None:
    assert (await chat(make(CALL)))["message"]["content"] is None


async def test_a_reply_without_calls_is_a_message(make: Callable[..., Front]) -> None:
    choice = await chat(make("It is sunny. \n"))
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {"role": "assistant", "content": "It is sunny. \n", "refusal": None}


async def test_arguments_are_streamed_token_by_token(make: Callable[..., Front]) -> None:
    front = make()
    choices = await stream(front)
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "I look."
    parts = [part for choice in choices for part in choice["delta"].get("tool_calls", [])]
    heads = [part for part in parts if "id" in part]
    assert [(part["index"], part["type"], part["function"]["name"]) for part in heads] == [
        (0, "function", "get_weather"),
        (1, "function", "get_time"),
    ]
    for index, arguments in enumerate((PARIS, TIME)):
        mine = [part["function"]["arguments"] for part in parts if part["index"] == index]
        assert mine[0] == ""
        assert "".join(mine) == arguments
    assert len([part for part in parts if part["index"] == 0]) > 4
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    assert choices[-1]["delta"] == {}


async def test_a_stream_of_calls_alone_has_no_content(make: Callable[..., Front]) -> None:
    choices = await stream(make(CALL))
    assert choices[0]["delta"] == {"role": "assistant", "content": None}
    assert all("content" not in choice["delta"] for choice in choices[1:])


async def test_a_stream_without_calls_is_a_message(make: Callable[..., Front]) -> None:
    choices = await stream(make("It is sunny. \n"))
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "It is sunny. \n"
    assert choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("template", [templates.HERMES, templates.LLAMA, templates.MISTRAL, templates.MISTRAL_ARGS])
async def test_every_format_is_read(make: Callable[..., Front], template: str) -> None:
    text = {
        templates.HERMES: CALL,
        templates.LLAMA: '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        templates.MISTRAL: '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        templates.MISTRAL_ARGS: '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}',
    }[template]
    front = make(text, template)
    choice = await chat(front)
    assert choice["finish_reason"] == "tool_calls"
    assert called(choice["message"]) == [("get_weather", PARIS)]


async def test_markup_of_special_tokens_is_read(tmp_path: Path) -> None:
    from tokenizers import AddedToken, Tokenizer

    folder = write_model_folder(tmp_path, templates.MISTRAL)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken("[TOOL_CALLS]", special=True, normalized=False)])
    backend.save(str(folder / "tokenizer.json"))
    front = Front(folder, '[TOOL_CALLS][{"name": "get_time", "arguments": {}}]', max_total_tokens=256)
    token = backend.token_to_id("[TOOL_CALLS]")
    assert front.engine.script[0] == token
    choice = await chat(front, tools=[templates.TIME])
    assert called(choice["message"]) == [("get_time", "{}")]
    assert (await chat(front, tools=None))["message"]["content"] == '[{"name": "get_time", "arguments": {}}]'
    await front.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cut_call_has_the_arguments_so_far(make: Callable[..., Front], streamed: bool) -> None:
    front = make(CALL)
    limit = len(front.tokenizer.encode(CALL[: CALL.index("ris")], add_special_tokens=False))
    if streamed:
        choices = await stream(front, max_tokens=limit)
        parts = [part for choice in choices for part in choice["delta"].get("tool_calls", [])]
        arguments, reason = "".join(part["function"]["arguments"] for part in parts), choices[-1]["finish_reason"]
    else:
        choice = await chat(front, max_tokens=limit)
        ((_, arguments),), reason = called(choice["message"]), choice["finish_reason"]
    assert reason == "length"
    assert arguments
    assert PARIS.startswith(arguments)
    assert arguments != PARIS


async def test_a_call_that_a_stop_string_cuts_is_no_call_to_make(make: Callable[..., Front]) -> None:
    choice = await chat(make(CALL), stop="aris")
    assert (choice["finish_reason"], called(choice["message"])) == ("stop", [("get_weather", '{"city": "P')])


async def test_each_choice_has_its_own_calls(make: Callable[..., Front]) -> None:
    reply = (await make().post(CHAT, request(n=2))).json()
    ids = [call["id"] for choice in reply["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4


async def test_logprobs_cover_the_calls(make: Callable[..., Front]) -> None:
    front = make()
    choice = await chat(front, logprobs=True)
    assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == CALLS
    choices = await stream(front, logprobs=True)
    entries = [entry for each in choices for entry in (each["logprobs"] or {"content": []})["content"]]
    assert entries == choice["logprobs"]["content"]


@pytest.mark.parametrize(
    ("choice", "functions"),
    [
        (None, {"get_weather", "get_time"}),
        ("auto", {"get_weather", "get_time"}),
        ("required", {"get_weather", "get_time"}),
        ("get_time", {"get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
        ({"function": {"name": "get_time"}}, {"get_time"}),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "get_weather"}}]},
            },
            {"get_weather"},
        ),
    ],
)
async def test_the_grammar_has_what_may_be_called(make: Callable[..., Front], choice: Any, functions: set[str]) -> None:
    front = make()
    await chat(front, tool_choice=choice)
    (asked,) = front.engine.requests
    assert asked.grammar is not None
    assert asked.grammar.kind == "lark"
    for name in ("get_weather", "get_time"):
        assert (f'"{name}\\"' in asked.grammar.source) == (name in functions)
    text = front.tokenizer.decode(asked.prompt)
    assert "get_weather" in text
    assert "get_time" in text


async def test_none_hides_the_tools(make: Callable[..., Front]) -> None:
    front = make()
    choice = await chat(front, tool_choice="none")
    assert choice["message"]["content"] == CALLS
    assert front.engine.requests[0].grammar is None
    assert "get_weather" not in front.tokenizer.decode(front.engine.requests[0].prompt)


async def test_a_conversation_goes_on_after_its_calls(make: Callable[..., Front]) -> None:
    front = make("It is sunny.", templates.HERMES)
    message = (await chat(make(CALL, templates.HERMES)))["message"]
    answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    choice = await chat(front, messages=[*ASK, message, answer])
    assert choice["message"]["content"] == "It is sunny."
    prompt = front.tokenizer.decode(front.engine.requests[0].prompt)
    assert f"{CALL}<eos>\n<turn>tool\nsunny<eos>\n<turn>assistant\n" in prompt


@pytest.mark.parametrize(
    ("format", "kind", "source"),
    [
        ({"type": "json_object"}, "json_schema", {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "array"}}},
            "json_schema",
            {"type": "array"},
        ),
        ({"type": "json_object", "value": {"type": "array"}}, "json_schema", {"type": "array"}),
        ({"type": "json", "value": {"type": "array"}}, "json_schema", {"type": "array"}),
        ({"type": "json", "value": '{"type": "array"}'}, "json_schema", {"type": "array"}),
        (
            {"type": "json_schema", "value": {"name": "x", "schema": {"type": "array"}}},
            "json_schema",
            {"type": "array"},
        ),
        ({"type": "regex", "value": "a+"}, "regex", "a+"),
    ],
)
async def test_response_formats(make: Callable[..., Front], format: Any, kind: str, source: Any) -> None:
    front = make("x")
    await chat(front, tools=None, response_format=format)
    grammar = front.engine.requests[0].grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert (json.loads(grammar.source) if kind == "json_schema" else grammar.source) == source


async def test_any_text_needs_no_grammar(make: Callable[..., Front]) -> None:
    front = make("x")
    await chat(front, tools=[], response_format={"type": "text"})
    assert front.engine.requests[0].grammar is None


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f"} | function}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "function"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tools": [tool(name="has blank")]}, "tools[0].function.name", "letters"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name", "twice"),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters", "object"),
        ({"tools": [tool(parameters=5)]}, "tools[0].function.parameters", "dictionary"),
        (
            {"tools": [*TOOLS, tool(parameters={"properties": {"x": {"not": {}}}})]},
            "tools[2].function.parameters",
            '"not" cannot be enforced',
        ),
        (
            {"tools": [tool(parameters={"properties": {"x": {"type": "text"}}})]},
            "tools[0].function.parameters",
            "Invalid type: text",
        ),
        ({"tool_choice": "get_rain"}, "tool_choice", "`get_weather`, `get_time`"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_rain"}}}, "tool_choice", "get_rain"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "must be"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}, "tool_choice", "must be"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": 5}}, "tool_choice", "must be"),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": 5}}},
            "tool_choice",
            "must be",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": ["get_time"]}}}, "tool_choice", "must be"),
        ({"tool_choice": []}, "tool_choice", "must be"),
        ({"tool_choice": 5}, "tool_choice", "must be"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "no `tools`"),
        ({"tool_choice": "get_rain", "tools": None}, "tool_choice", "get_rain"),
        ({"tools": None, "response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"tools": None, "response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "missing"),
        ({"tools": None, "response_format": {"type": "json"}}, "response_format.value", "schema"),
        ({"tools": None, "response_format": {"type": "json", "value": "{"}}, "response_format.value", "JSON"),
        ({"tools": None, "response_format": {"type": "regex", "value": 5}}, "response_format.value", "expression"),
        ({"tools": None, "response_format": {"type": "regex", "value": "(?=a)"}}, "response_format", "look-around"),
        (
            {"tools": None, "response_format": {"type": "json", "value": {"type": "strange"}}},
            "response_format",
            "strange",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, None, "name"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_cannot_be_is_refused(
    make: Callable[..., Front], fields: dict[str, Any], param: str | None, says: str, streamed: bool
) -> None:
    front = make()
    response = await front.post(CHAT, request(stream=streamed, **fields))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == (param or "messages[0].tool_calls[0].function.name")
    assert says in error["message"]
    assert front.engine.requests == []


@pytest.mark.parametrize("levels", [90, 150, 500])
@pytest.mark.parametrize("place", ["parameters", "response_format", "extra", "arguments"])
async def test_deep_nesting_does_no_harm(make: Callable[..., Front], place: str, levels: int) -> None:
    deep = '{"properties":{"x":' * levels + "{}" + "}}" * levels
    message = '{"role":"user","content":"x"}'
    fields = {
        "parameters": f'"tools":[{{"type":"function","function":{{"name":"f","parameters":{deep}}}}}]',
        "response_format": f'"response_format":{{"type":"json","value":{deep}}}',
        "extra": f'"chat_template_kwargs":{deep}',
        "arguments": '"user":"x"',
    }[place]
    called = f'{{"role":"assistant","tool_calls":[{{"function":{{"name":"f","arguments":{deep}}}}}]}}'
    messages = f"{message},{called},{message}" if place == "arguments" else message
    body = f'{{{fields},"messages":[{messages}]}}'
    response = await make("{}").post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_bare_calls_and_a_response_format_do_not_mix(make: Callable[..., Front]) -> None:
    front = make("x", templates.LLAMA)
    response = await front.post(CHAT, request(response_format={"type": "json_object"}))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format"
    assert (await front.post(CHAT, request(response_format={"type": "json_object"}, tool_choice="required"))).is_success
    assert (await front.post(CHAT, request(response_format={"type": "json_object"}, tool_choice="none"))).is_success


async def test_the_prompt_may_be_shaped(make: Callable[..., Front]) -> None:
    template = TEMPLATE + "{{ mood }}{% for d in documents or [] %}{{ d.text }}{% endfor %}"
    front = make("x", template)
    extra = {"chat_template_kwargs": {"mood": "happy"}, "documents": [{"text": "doc"}], "add_generation_prompt": False}
    await chat(front, tools=None, **extra)
    prompt = front.tokenizer.decode(front.engine.requests[0].prompt)
    assert prompt == "<bos><turn>user\nHow is Paris?<eos>\nhappydoc"


async def test_the_last_message_may_be_closed(make: Callable[..., Front]) -> None:
    front = make("x")
    messages = [*ASK, {"role": "assistant", "content": "It is"}]
    await chat(front, tools=None, messages=messages, continue_final_message=False)
    assert front.tokenizer.decode(front.engine.requests[0].prompt).endswith("It is<eos>\n<turn>assistant\n")
