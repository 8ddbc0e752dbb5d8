"""KServe's protocols over HTTP: health, metadata, infer, generate, and the first protocol's predict."""

import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from front import Front, events, until

TEXT = "deep learning is the fox"
MODEL = "/v2/models/test-model"
BINARY = "inference-header-content-length"


def tensor(*prompts: Any, name: str = "text_input", datatype: str = "BYTES", **fields: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(prompts)], "data": list(prompts)} | fields


def body(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": list(inputs) or [tensor("hello")], **fields}


async def infer(front: Front, *inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    response = await front.post(f"{MODEL}/infer", body(*inputs, **fields))
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def data(reply: dict[str, Any], name: str = "text_output") -> list[Any]:
    (output,) = [output for output in reply["outputs"] if output["name"] == name]
    values: list[Any] = output["data"]
    return values


# --- health and metadata ----------------------------------------------------------------------------------------------


async def test_readiness_is_the_engines_and_liveness_is_not(front: Front) -> None:
    assert (await front.get("/v2/health/ready")).json() == {"ready": True}
    assert (await front.get(f"{MODEL}/ready")).json() == {"name": "test-model", "ready": True}
    front.engine.healthy = False
    for path in ("/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        response = await front.get(path)
        assert (response.status_code, response.json()) == (503, {"error": "unhealthy"})
    assert (await front.get("/v2/health/live")).json() == {"live": True}


async def test_draining_is_not_ready_and_takes_nothing_new(front: Front) -> None:
    front.context.lifecycle.draining = True
    assert (await front.get("/v2/health/ready")).status_code == 503
    for path, asked in (
        (f"{MODEL}/infer", body()),
        (f"{MODEL}/generate", {"text_input": "hello"}),
        (f"{MODEL}/generate_stream", {"text_input": "hello"}),
        ("/v1/models/test-model:predict", {"instances": ["hello"]}),
    ):
        response = await front.post(path, asked)
        assert (response.status_code, response.json()) == (503, {"error": "The server is shutting down"})
    assert front.engine.requests == []


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_the_server_tells_what_it_speaks(front: Front, path: str) -> None:
    told = (await front.get(path)).json()
    assert told["name"] == "textgen"
    assert told["extensions"] == ["generate", "binary_tensor_data"]


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/anything"])
async def test_the_model_tells_its_tensors(front: Front, path: str) -> None:
    told = (await front.get(path)).json()
    assert told["name"] == "test-model"
    assert told["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
    reply = await infer(front)
    given = [(output["name"], output["datatype"]) for output in reply["outputs"]]
    assert given == [(output["name"], output["datatype"]) for output in told["outputs"]]


async def test_names_of_models_may_have_slashes(make_front: Callable[..., Front]) -> None:
    front = make_front(TEXT, served_model_name="org/model")
    assert (await front.get("/v2/models")).json() == {"models": ["org/model"]}
    for path in ("/v2/models/org/model", "/v2/models/org%2Fmodel", "/v2/models/org/model/versions/1"):
        assert (await front.get(path)).json()["name"] == "org/model"
        assert (await front.get(f"{path}/ready")).status_code == 200
        assert (await front.post(f"{path}/infer", body())).status_code == 200
    assert (await front.post("/v1/models/org/model:predict", {"instances": ["hello"]})).status_code == 200


# --- infer ------------------------------------------------------------------------------------------------------------


async def test_infer_continues_a_prompt_and_tells_how_it_went(front: Front) -> None:
    reply = await infer(front, id="42")
    assert (reply["id"], reply["model_name"]) == ("42", "test-model")
    tokens = len(front.engine.script) + 1
    assert reply["outputs"] == [
        {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": [TEXT]},
        {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["eos_token"]},
        {"name": "cumulative_logprob", "datatype": "FP32", "shape": [1], "data": [-0.5 * tokens]},
        {"name": "num_input_tokens", "datatype": "UINT32", "shape": [1], "data": [2]},
        {"name": "num_output_tokens", "datatype": "UINT32", "shape": [1], "data": [tokens]},
    ]


async def test_infer_without_an_id_gives_none(front: Front) -> None:
    assert "id" not in await infer(front)


@pytest.mark.parametrize(("shape", "values"), [([2], ["hello", "the fox"]), ([2, 1], [["hello"], ["the fox"]])])
async def test_a_batch_comes_back_in_its_order_and_shape(front: Front, shape: list[int], values: list[Any]) -> None:
    reply = await infer(front, tensor(shape=shape, data=values), parameters={"return_full_text": True})
    assert data(reply) == ["hello" + TEXT, "the fox" + TEXT]
    assert {tuple(output["shape"]) for output in reply["outputs"]} == {tuple(shape)}


async def test_only_the_outputs_that_are_asked_for_come(front: Front) -> None:
    reply = await infer(front, outputs=[{"name": "num_output_tokens"}, {"name": "text_output"}])
    assert [output["name"] for output in reply["outputs"]] == ["num_output_tokens", "text_output"]


async def test_an_output_may_be_given_a_name(front: Front) -> None:
    reply = await infer(front, tensor("hello", "world"), outputs=[{"name": "output-0"}])
    assert data(reply, "output-0") == [TEXT, TEXT]


async def test_tgis_form_is_answered_in_kind(front: Front) -> None:
    """A tensor of bytes for each prompt, an output named by the client for each tensor."""
    inputs = [tensor(*b"hello", name="a", datatype="UINT8"), tensor(*"für".encode(), name="b", shape=[1, 4])]
    reply = await infer(front, *inputs, id="1", outputs=[{"name": "text_output"}, {"name": "y"}])
    expected = list(TEXT.encode())
    assert [(output["name"], output["shape"]) for output in reply["outputs"]] == [
        ("text_output", [1, len(expected)]),
        ("y", [1, len(expected)]),
    ]
    assert all(output["datatype"] == "BYTES" and output["data"] == expected for output in reply["outputs"])
    prompts = [front.tokenizer.decode(request.prompt) for request in front.engine.requests]
    assert [prompt.removeprefix("<bos>") for prompt in prompts] == ["hello", "für"]


@pytest.mark.parametrize(
    ("inputs", "parameters"),
    [
        ([], {"max_new_tokens": 2, "temperature": 0.5, "seed": 7}),
        ([], {"max_tokens": "2", "temperature": "0.5", "seed": "7"}),
        (
            [tensor(2, name="max_tokens", datatype="INT32"), tensor(0.5, name="temperature", datatype="FP32")],
            {"seed": 7},
        ),
        ([tensor('{"max_tokens": 2, "temperature": 0.5, "seed": 7}', name="sampling_parameters")], {"seed": 8}),
        ([tensor('{"max_tokens": 2, "temperature": 0.5, "seed": 7}', name="parameters")], {}),
    ],
)
async def test_parameters_may_stand_beside_the_tensors_or_be_some(
    front: Front, inputs: list[dict[str, Any]], parameters: dict[str, Any]
) -> None:
    reply = await infer(front, tensor("hello"), *inputs, parameters=parameters)
    assert data(reply, "num_output_tokens") == [2]
    sampling = front.engine.requests[0].sampling
    assert (sampling.temperature, sampling.seed, sampling.greedy) == (0.5, 7, False)


@pytest.mark.parametrize("stop", [["learning"], "learning", '["learning"]'])
async def test_stop_may_be_a_text_a_list_or_a_list_as_json(front: Front, stop: Any) -> None:
    assert data(await infer(front, parameters={"stop": stop})) == ["deep learning"]
    as_tensor = tensor(*([stop] if isinstance(stop, str) else stop), name="stop")
    if stop != '["learning"]':
        assert data(await infer(front, tensor("hello"), as_tensor)) == ["deep learning"]


async def test_temperature_zero_takes_the_likeliest(front: Front) -> None:
    await infer(front, parameters={"temperature": 0, "top_p": 0.5})
    assert front.engine.requests[0].sampling.greedy


async def test_without_parameters_tokens_are_drawn_as_in_tgi(front: Front) -> None:
    await infer(front)
    await infer(front, parameters={"max_new_tokens": 3})
    assert [request.sampling.greedy for request in front.engine.requests] == [False, True]


async def test_best_of_gives_one_text_for_each_prompt(front: Front) -> None:
    reply = await infer(front, tensor("hello", "world"), parameters={"best_of": 2, "do_sample": True})
    assert data(reply) == [TEXT, TEXT]
    assert len(front.engine.requests) == 4


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (body(tensor("hello", shape=[2])), "shape"),
        (body(tensor("hello", shape=[-1, -1])), "shape"),
        (body(tensor("hello", shape=[1] * 50_000)), "shape"),
        (body(tensor("hello", datatype="INT32")), "datatype"),
        (body(tensor(1.5)), "data"),
        (body(tensor(256, 1)), "data"),
        (body(tensor(None)), "data"),
        (body(tensor(255)), "UTF-8"),
        (body(tensor(data=json.loads("[" * 20 + "]" * 20))), "data"),
        (body(tensor()), "inputs"),
        (body(tensor("")), "inputs"),
        (body(tensor("1", name="seed")), "inputs"),
        (body(tensor("hello"), tensor(1, 2, name="max_tokens", datatype="INT32")), "max_tokens"),
        (body(tensor("hello"), tensor("no", name="parameters")), "parameters"),
        (body(tensor("hello"), tensor("[]", name="parameters")), "parameters"),
        (body(tensor("a", "b", "c", "d", "e")), "4 prompts"),
        (body(parameters={"top_k": 0}), "top_k"),
        (body(parameters={"top_k": "many"}), "top_k"),
        (body(parameters={"stream": "perhaps"}), "stream"),
        (body(parameters={"best_of": 10**12, "do_sample": True}), "best_of"),
        (body(parameters={"grammar": {"type": "poem"}}), "grammar"),
        (body(outputs=[{"name": "logits"}, {"name": "text_output"}]), "outputs[0].name"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "text_input"}]}, "inputs[0].shape"),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(front: Front, asked: dict[str, Any], field: str) -> None:
    response = await front.post(f"{MODEL}/infer", asked)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert field in response.json()["error"]
    assert front.engine.requests == []


async def test_another_model_is_not_found(front: Front) -> None:
    for path, asked in (("infer", body()), ("generate", {"text_input": "hello"})):
        response = await front.post(f"/v2/models/other/{path}", asked)
        assert response.status_code == 404
        assert "`other` does not exist" in response.json()["error"]
    assert (await front.get("/v2/models/other/ready")).status_code == 404
    assert (await front.post("/v2/models/tgi/infer", body())).status_code == 200


async def test_a_wrong_method_is_told_as_such(front: Front) -> None:
    for path in (f"{MODEL}/infer", f"{MODEL}/versions/1/generate", f"{MODEL}/generate_stream"):
        response = await front.get(path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert (await front.post(f"{MODEL}/ready", {})).status_code == 405


async def test_failures_of_the_engine_have_kserves_statuses(front: Front) -> None:
    front.engine.fail_after = 0
    assert (await front.post(f"{MODEL}/infer", body())).status_code == 503
    front.engine.error = RuntimeError("password")
    response = await front.post(f"{MODEL}/infer", body())
    assert response.status_code == 500
    assert "password" not in response.text


# --- infer with binary tensors ----------------------------------------------------------------------------------------


def raw_texts(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


async def infer_binary(front: Front, raw: bytes, asked: dict[str, Any], **headers: str) -> httpx.Response:
    head = json.dumps(asked).encode()
    given = {"content-type": "application/octet-stream", BINARY: str(len(head)), **headers}
    return await front.post(f"{MODEL}/infer", content=head + raw, headers=given)


def described(raw: bytes, **fields: Any) -> dict[str, Any]:
    named = {"name": "text_input", "datatype": "BYTES", "shape": [1]} | fields
    return {**named, "parameters": {"binary_data_size": len(raw)}}


async def test_tensors_may_follow_the_json_in_binary(front: Front) -> None:
    prompts, limit = raw_texts("hello", "für"), struct.pack("<i", 2)
    inputs = [described(prompts, shape=[2]), described(limit, name="max_tokens", datatype="INT32")]
    response = await infer_binary(front, prompts + limit, {"inputs": inputs})
    assert data(response.json(), "num_output_tokens") == [2, 2]
    assert response.headers["content-type"] == "application/json"


async def test_outputs_may_follow_the_json_in_binary(front: Front) -> None:
    wanted = [{"name": "num_input_tokens", "parameters": {"binary_data": False}}, {"name": "text_output"}]
    asked = body(parameters={"binary_data_output": True}, outputs=[*wanted, {"name": "num_output_tokens"}])
    response = await front.post(f"{MODEL}/infer", asked)
    length = int(response.headers[BINARY])
    outputs = json.loads(response.content[:length])["outputs"]
    assert outputs[0]["data"] == [2]
    assert ["data" in output for output in outputs] == [True, False, False]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs[1:]]
    assert sum(sizes) == len(response.content) - length
    tokens = len(front.engine.script) + 1
    assert response.content[length:] == raw_texts(TEXT) + struct.pack("<I", tokens)


@pytest.mark.parametrize(
    ("raw", "size"), [(raw_texts("hello"), 10), (raw_texts("hello") + b"x", 9), (raw_texts("hello")[:-1], 8), (b"", 0)]
)
async def test_binary_tensors_of_the_wrong_length_are_refused(front: Front, raw: bytes, size: int) -> None:
    asked = {"inputs": [{**described(raw), "parameters": {"binary_data_size": size}}]}
    response = await infer_binary(front, raw, asked)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("length", ["-1", "1e9", "99999", "9" * 5000, ""])
async def test_a_wrong_length_of_the_json_is_refused(front: Front, length: str) -> None:
    response = await infer_binary(front, b"", body(), **{BINARY: length})
    assert response.status_code == 400
    assert BINARY in response.json()["error"]


# --- generate ---------------------------------------------------------------------------------------------------------


async def test_generate_gives_the_text(front: Front) -> None:
    response = await front.post(f"{MODEL}/generate", {"text_input": "hello", "parameters": {"max_tokens": 50}})
    assert response.json() == {"model_name": "test-model", "text_output": TEXT}
    assert int(response.headers["x-generated-tokens"]) == len(front.engine.script) + 1


async def test_generate_gives_details_where_asked(front: Front) -> None:
    asked = {"id": "z", "text_input": "hello", "parameters": {"details": True, "max_tokens": 3}}
    reply = (await front.post(f"{MODEL}/generate", asked)).json()
    assert reply["id"] == "z"
    assert reply["details"]["finish_reason"] == "length"
    assert "".join(token["text"] for token in reply["details"]["logprobs"]) == reply["text_output"]
    assert set(reply["details"]["logprobs"][0]) == {"id", "text", "logprob", "special"}


async def test_parameters_of_generate_may_stand_beside_the_text(front: Front) -> None:
    asked = {"text_input": "hello", "max_tokens": 2, "seed": 3, "parameters": {"max_tokens": 4}}
    await front.post(f"{MODEL}/generate", asked)
    request = front.engine.requests[0]
    assert (request.max_new_tokens, request.sampling.seed) == (4, 3)


@pytest.mark.parametrize("asked", [{"return_full_text": True}, {"exclude_input_in_output": False}])
async def test_the_prompt_comes_back_only_where_asked(front: Front, asked: dict[str, bool]) -> None:
    full = {"text_input": "hello", "parameters": asked}
    assert (await front.post(f"{MODEL}/generate", full)).json()["text_output"] == "hello" + TEXT
    streamed = events(await front.post(f"{MODEL}/generate_stream", full))
    assert "".join(event["text_output"] for event in streamed) == "hello" + TEXT


async def test_a_stream_adds_up_to_the_text(front: Front) -> None:
    response = await front.post(f"{MODEL}/generate_stream", {"text_input": "hello", "id": "1"})
    assert response.headers["content-type"].startswith("text/event-stream")
    streamed = events(response)
    assert "".join(event["text_output"] for event in streamed) == TEXT
    assert len(streamed) > 2
    assert {(event["id"], event["model_name"]) for event in streamed} == {("1", "test-model")}
    assert all("details" not in event for event in streamed)


async def test_a_stream_with_details_has_every_token(front: Front) -> None:
    asked = {"text_input": "hello", "parameters": {"details": True}}
    streamed = events(await front.post(f"{MODEL}/generate_stream", asked))
    assert [event["details"]["token"]["id"] for event in streamed[:-1]] == front.engine.script
    reasons = [event["details"]["finish_reason"] for event in streamed]
    assert reasons == [None] * len(front.engine.script) + ["eos_token"]


async def test_a_stream_that_fails_before_its_first_token_has_a_status(front: Front) -> None:
    response = await front.post(f"{MODEL}/generate_stream", {"text_input": "hello", "parameters": {"top_k": -1}})
    assert response.status_code == 422
    assert "top_k" in response.json()["error"]
    front.engine.fail_after = 2
    streamed = events(await front.post(f"{MODEL}/generate_stream", {"text_input": "hello"}))
    assert streamed[-1] == {"error": "the engine died"}


async def test_generate_reads_what_curl_sends(front: Front) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await front.post(f"{MODEL}/generate", content=b'{"text_input": "hello"}', headers=headers)
    assert response.json()["text_output"] == TEXT


async def test_generate_names_its_own_fields(front: Front) -> None:
    response = await front.post(f"{MODEL}/generate", {"text_input": ""})
    assert "`text_input` cannot be empty" in response.json()["error"]
    response = await front.post(f"{MODEL}/generate", {"text_input": "hello", "max_tokens": 0})
    assert "`max_tokens` must be strictly positive" in response.json()["error"]


# --- the first protocol -----------------------------------------------------------------------------------------------


async def test_predict_answers_every_instance_in_order(make_front: Callable[..., Front]) -> None:
    front = make_front("hello world, what")  # of four tokens
    short = {"inputs": "world", "parameters": {"max_new_tokens": 1}}
    asked = {"instances": ["hello", short, {"inputs": "hi"}], "parameters": {"max_new_tokens": 2}}
    response = await front.post("/v1/models/test-model:predict", asked)
    assert response.json() == {"predictions": ["hello world", "hello", "hello world"]}


@pytest.mark.parametrize("instances", [[], [1], [{"text": "hello"}], ["a"] * 5, [""]])
async def test_predict_refuses_in_kserves_shape(front: Front, instances: list[Any]) -> None:
    response = await front.post("/v1/models/test-model:predict", {"instances": instances})
    assert response.status_code == 400
    assert "instances" in response.json()["error"]


async def test_the_card_of_a_model_is_also_its_readiness(front: Front) -> None:
    card = (await front.get("/v1/models/test-model")).json()
    assert (card["name"], card["ready"], card["object"]) == ("test-model", True, "model")
    front.engine.healthy = False
    response = await front.get("/v1/models/test-model")
    assert (response.status_code, response.json()["ready"]) == (200, False)


async def test_a_client_that_leaves_ends_the_work(make_front: Callable[..., Front]) -> None:
    front = make_front(TEXT)
    front.engine.pace = 0.02
    for path, asked in (
        (f"{MODEL}/infer", body()),
        (f"{MODEL}/generate", {"text_input": "hello"}),
        ("/v1/models/test-model:predict", {"instances": ["hello"]}),
    ):
        aborted = front.engine.aborted
        await call_and_leave(front, path, asked)
        await until(lambda before=aborted: front.engine.aborted == before + 1)
    assert front.engine.running == front.context.in_flight == 0


async def call_and_leave(front: Front, path: str, asked: dict[str, Any]) -> None:
    """The ASGI messages of a client that sends its request and closes the connection."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "headers": [(b"content-type", b"application/json")],
    }
    sent = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await until(lambda: front.engine.running)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        """Nobody reads it."""

    await front.app(scope, receive, send)
