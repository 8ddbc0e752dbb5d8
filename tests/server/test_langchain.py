"""LangChain's ChatOpenAI, unmodified, against a running server."""

from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What is the weather in Paris?"


@tool
def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Get the current weather of a city."""
    return f"25 degrees {unit} in {city}"


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)


@pytest.fixture(scope="module")
def chat(server) -> ChatOpenAI:
    settings: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "none", "model": "smollm2", "max_retries": 0}
    return ChatOpenAI(**settings, temperature=1, seed=5, max_tokens=40)


def test_invoke_and_stream_give_the_same_text(chat):
    whole = chat.invoke(QUESTION)
    assert whole.content
    assert whole.usage_metadata["total_tokens"] == sum(
        whole.usage_metadata[name] for name in ("input_tokens", "output_tokens")
    )
    chunks = list(chat.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert len(chunks) > 5


async def test_batches_run_side_by_side(chat):
    replies = await chat.abatch([QUESTION, QUESTION, "Who are you?"])
    assert replies[0].content == replies[1].content != replies[2].content


def test_bound_tools_are_called_and_their_results_used(chat):
    bound = chat.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    reply = bound.invoke(QUESTION)
    (call,) = reply.tool_calls
    assert call["name"] == "get_weather"
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = chat.invoke([HumanMessage(QUESTION), reply, result])
    assert isinstance(answer, AIMessage)
    assert answer.content
    streamed = None
    for chunk in bound.stream(QUESTION):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(each["name"], each["args"]) for each in streamed.tool_calls] == [(call["name"], call["args"])]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_valid(chat, method):
    structured = chat.with_structured_output(Person, method=method, include_raw=True)
    found = structured.invoke("Make up a person.")
    assert found["parsing_error"] is None
    assert isinstance(found["parsed"], Person)
