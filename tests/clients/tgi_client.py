"""What users of TGI's own client, text-generation, do with it. Run in an environment of its own:

    python tgi_client.py http://ADDRESS PROMPT SCHEMA

Prints what the clients gave, as one JSON object.
"""

import asyncio
import json
import sys

from text_generation import AsyncClient, Client
from text_generation.errors import NotFoundError, ValidationError
from text_generation.types import Grammar, GrammarType, Message

SAMPLED = {
    "do_sample": True,
    "max_new_tokens": 8,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "return_full_text": True,
    "stop_sequences": ["\n\n"],
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
    "typical_p": 0.95,
    "truncate": 100,
    "watermark": True,
    "top_n_tokens": 2,
}
HELLO = [Message(role="user", content="Say hello.")]


def plain(response):
    return json.loads(response.model_dump_json())


def raised(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def blocking(url, prompt, schema):
    client = Client(url, timeout=120)
    regex = Grammar(type=GrammarType.Regex, value="[A-Z][a-z]{2,8}!")
    return {
        "greedy": plain(client.generate(prompt, max_new_tokens=6)),
        "sampled": plain(client.generate(prompt, seed=7, decoder_input_details=True, **SAMPLED)),
        "again": plain(client.generate(prompt, seed=7, decoder_input_details=True, **SAMPLED)),
        "best": plain(client.generate(prompt, best_of=2, **SAMPLED)),
        "json": plain(client.generate(prompt, max_new_tokens=60, grammar=Grammar(type=GrammarType.Json, value=schema))),
        "regex": plain(client.generate(prompt, max_new_tokens=20, grammar=regex)),
        "stream": [plain(each) for each in client.generate_stream(prompt, max_new_tokens=6, top_n_tokens=1)],
        "chat": plain(client.chat(HELLO, max_tokens=8, seed=1, temperature=0.5)),
        "logprobs": plain(client.chat(HELLO, max_tokens=3, logprobs=True, top_logprobs=2)),
        "too_long": raised(client.generate, "word " * 9000),
        "stop_too_often": raised(client.generate, prompt, stop_sequences=["a", "b", "c", "d", "e"]),
        "nowhere": raised(Client(f"{url}/nowhere").generate, prompt),
        "in_stream": raised(lambda: list(client.generate_stream(prompt, truncate=100_000))),
    }


async def waiting(url, prompt):
    client = AsyncClient(url, timeout=120)
    stream = client.generate_stream(prompt, max_new_tokens=6, top_n_tokens=1)
    result = {
        "greedy": plain(await client.generate(prompt, max_new_tokens=6)),
        "sampled": plain(await client.generate(prompt, seed=7, decoder_input_details=True, **SAMPLED)),
        "stream": [plain(each) async for each in stream],
        "chat": plain(await client.chat(HELLO, max_tokens=8, seed=1, temperature=0.5)),
    }
    try:
        await client.generate("word " * 9000)
    except ValidationError as error:
        result["too_long"] = str(error)
    try:
        await AsyncClient(f"{url}/nowhere").generate(prompt)
    except NotFoundError as error:
        result["nowhere"] = str(error)
    return result


if __name__ == "__main__":
    address, prompt, schema = sys.argv[1:]
    results = {
        "blocking": blocking(address, prompt, json.loads(schema)),
        "waiting": asyncio.run(waiting(address, prompt)),
    }
    print(json.dumps(results))
