"""A server in good times: many clients at once, each with the text it would have had alone."""

import asyncio
import json

import httpx
import pytest

METHODS, PARTS = ("prefill", "decode"), ("inference", "forward", "decode", "filter")
QUESTIONS = [f"Tell me {n} things about the number {n * 7}." for n in range(32)]


async def stream(client: httpx.AsyncClient, inputs: str, **parameters) -> str:
    """The generated text of a stream, put together from its tokens and checked against its last event."""
    pieces, last = [], {}
    body = {"inputs": inputs, "parameters": parameters}
    async with client.stream("POST", "/generate_stream", json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if line.startswith("data:"):
                last = json.loads(line[5:])
                if not last["token"]["special"]:
                    pieces.append(last["token"]["text"])
    assert last["generated_text"] == "".join(pieces)
    return last["generated_text"]


async def together(url: str, prompts: list[str], **parameters) -> list[str]:
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(base_url=url, timeout=240, limits=limits) as client:
        return await asyncio.gather(*(stream(client, prompt, **parameters) for prompt in prompts))


def test_the_readme_s_question_is_answered(server):
    reply = server.generate("What is Deep Learning?", max_new_tokens=20)
    assert reply.status_code == 200
    assert "artificial intelligence" in reply.json()["generated_text"]


async def test_32_streams_each_have_the_text_they_would_have_alone(server):
    alone = [server.generate(q, max_new_tokens=12).json()["generated_text"] for q in QUESTIONS]
    assert await together(server.url, QUESTIONS, max_new_tokens=12) == alone


async def test_the_same_seed_gives_the_same_text_in_any_company(server):
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 42}
    story = "Once upon a time, there was a"
    alone = server.generate(story, **settings).json()["generated_text"]
    assert (await together(server.url, [story, *QUESTIONS[:15]], **settings))[0] == alone
    assert server.generate(story, **{**settings, "seed": 43}).json()["generated_text"] != alone


def test_openai_chat_and_completions_agree_with_tgi(server):
    text = server.generate("The capital of France is", max_new_tokens=8).json()["generated_text"]
    body = {"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    completion = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    assert completion["choices"][0]["text"] == text
    assert completion["usage"]["completion_tokens"] == 8
    body = {"messages": [{"role": "user", "content": "What is 2+2?"}], "max_tokens": 12, "temperature": 0}
    chat = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    assert "4" in chat["choices"][0]["message"]["content"]


def test_a_repeated_prompt_is_found_in_the_prefix_cache(server):
    prompt = "A long story about a lighthouse keeper and his cat. " * 12
    server.generate(prompt, max_new_tokens=1)
    before = server.metric("textgen_prefix_cached_tokens_total")
    server.generate(prompt, max_new_tokens=1)
    assert server.metric("textgen_prefix_cached_tokens_total") > before + 64


def test_the_engines_steps_show_in_tgis_metrics(server):
    counts = [f'tgi_batch_inference_{what}{{method="{method}"}}' for what in ("count", "success") for method in METHODS]
    times = [f'tgi_batch_{part}_duration_sum{{method="{method}"}}' for part in PARTS for method in METHODS]
    before = {name: server.metric(name) for name in (*counts, *times, "tgi_batch_next_size_sum")}
    server.generate("Count: one, two, three,", max_new_tokens=8)
    after = {name: server.metric(name) - before[name] for name in before}
    assert [after[name] for name in counts] == [1, 7, 1, 7]
    assert after["tgi_batch_next_size_sum"] == 1
    assert all(after[name] > 0 for name in times)
    forward, whole = (after[f'tgi_batch_{part}_duration_sum{{method="decode"}}'] for part in ("forward", "inference"))
    assert 0.5 * whole < forward < whole
    assert server.metric("tgi_batch_current_max_tokens") == server.metric("tgi_batch_current_size") == 0


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        (b"{]", 400, "JSON"),
        (b"\xff\xfe\x00", 400, ""),
        (b"{}", 422, "inputs"),
        (b'{"inputs": 5}', 422, "inputs"),
        (b'{"inputs": "x", "parameters": {"temperature": -1}}', 422, "temperature"),
        (b'{"inputs": "x", "parameters": {"max_new_tokens": 0}}', 422, "max_new_tokens"),
        (json.dumps({"inputs": "word " * 9000}).encode(), 422, "8192"),
        (b'{"inputs": "' + b"x" * 2_100_000 + b'"}', 413, ""),
    ],
    ids=["no JSON", "no UTF-8", "nothing", "wrong type", "bad value", "no new tokens", "too long", "too large"],
)
def test_a_bad_request_is_refused_at_once_with_the_reason(server, body, status, names):
    reply = httpx.post(f"{server.url}/generate", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert names in reply.json()["error"]
    assert server.generate("Still there?", max_new_tokens=1).status_code == 200
