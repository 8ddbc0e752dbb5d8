"""Encoder-decoders and adapters as their users have them: command line, HTTP, restarts."""

import os
import signal
from pathlib import Path

import httpx
import peft
import pytest
import torch
from server.running import Server, running, wait_for
from shapes import SHAPES, make_model
from tiny_tokenizer import write_tokenizer

NEW_TOKENS = 8
PROMPT = [5, 9, 17, 80, 3]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def generated(server: Server, **parameters) -> list[int]:
    reply = server.generate(words(PROMPT), max_new_tokens=NEW_TOKENS, details=True, **parameters)
    assert reply.status_code == 200, reply.text
    return [token["id"] for token in reply.json()["details"]["tokens"]]


def theirs(model, tokens: list[int]) -> list[int]:
    """transformers' greedy tokens, its end included."""
    model.generation_config.eos_token_id = 1 if model.config.is_encoder_decoder else 2
    tokens = torch.tensor([tokens])
    whole = model.generate(input_ids=tokens, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)[0].tolist()
    return whole[1:] if model.config.is_encoder_decoder else whole[tokens.shape[1] :]


def test_an_encoder_decoder_answers(tmp_path: Path):
    model = make_model(SHAPES["t5"]["1.0, relu, scaled"])
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, end=1)
    with running(tmp_path / "log", "--model-id", str(tmp_path)) as server:
        assert generated(server) == theirs(model, [*PROMPT, 1])
        reply = server.generate(words(PROMPT), max_new_tokens=2, details=True, decoder_input_details=True)
        # As TGI: the decoder's input is its start token.
        assert [token["id"] for token in reply.json()["details"]["prefill"]] == [0]
        reply = server.generate(words([5] * 600), max_new_tokens=2)
        assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base model with a tokenizer, two adapters, and the tokens that transformers generates with each."""
    folder, shape = tmp_path_factory.mktemp("adapted"), SHAPES["llama"]["grouped-query"]
    base = make_model(shape)
    base.save_pretrained(folder / "base")
    write_tokenizer(folder / "base", end=2)
    expected = {"": theirs(base, [*PROMPT, 2])}
    for seed, name in enumerate(("first", "second")):
        model = peft.get_peft_model(make_model(shape), peft.LoraConfig(r=4, lora_alpha=64, task_type="CAUSAL_LM"))
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter, weight in model.named_parameters():
                if "lora_" in parameter:
                    weight.normal_(0, 0.3)
        model.save_pretrained(folder / name)
        expected[name] = theirs(model.merge_and_unload(), [*PROMPT, 2])
    assert expected["first"] != expected[""] != expected["second"] != expected["first"]
    return folder, expected


def test_adapters_are_served_beside_the_model_come_and_go_and_outlive_the_engine(adapted, tmp_path: Path):
    folder, expected = adapted
    flags = ("--model-id", str(folder / "base"), "--lora-adapters", f"first={folder / 'first'}", "--lora-loading")
    with running(tmp_path / "log", *flags) as server:
        assert {name: generated(server, adapter_id=name) for name in ("", "first")} == {
            name: expected[name] for name in ("", "first")
        }
        assert server.generate("w5", adapter_id="second").status_code == 404
        body = {"lora_name": "second", "lora_path": str(folder / "second")}
        assert httpx.post(f"{server.url}/v1/load_lora_adapter", json=body).status_code == 200
        assert generated(server, adapter_id="second") == expected["second"]
        names = [card["id"] for card in httpx.get(f"{server.url}/v1/models").json()["data"]]
        assert names[1:] == ["first", "second"]
        for pid in server.ranks():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.health() == 503, "the loss is noticed")
        wait_for(lambda: server.health() == 200, "the engine is back")
        assert generated(server, adapter_id="second") == expected["second"]
        reply = httpx.post(f"{server.url}/v1/unload_lora_adapter", json={"lora_name": "first"})
        assert reply.status_code == 200
        assert server.generate("w5", adapter_id="first").status_code == 404
        assert generated(server) == expected[""]


def test_an_adapter_for_another_model_keeps_the_server_from_starting(adapted, tmp_path: Path):
    folder, _ = adapted
    model = peft.get_peft_model(make_model(SHAPES["llama"]["multi-head"]), peft.LoraConfig(task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "stranger")
    server = Server(tmp_path / "log", "--model-id", str(folder / "base"), "--lora-adapters", str(tmp_path / "stranger"))
    assert server.process.wait(60) == 1
    assert "was it made for another model?" in server.log.read_text()
