"""The Open Inference Protocol over gRPC, as its clients call it: through a real channel."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from front import Front, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from textgen_server.api.predictor import open_inference_pb2 as pb
from textgen_server.api.predictor.open_inference_pb2_grpc import GRPCInferenceServiceStub
from textgen_server.api.predictor.server import serving
from textgen_server.errors import StartupError
from textgen_server.settings import ServerOptions
from textgen_server.tls import Certificate

TEXT = "hello world, what"  # of four tokens
SERVICE = "inference.GRPCInferenceService"
HEALTH = health_pb2.HealthCheckResponse


@asynccontextmanager
async def channel_to(front: Front) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        serving(front.context, "127.0.0.1", 0, None) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@pytest.fixture
async def channel(front: Front) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(front) as channel:
        yield channel


@pytest.fixture
def front(make_front: Callable[..., Front]) -> Front:
    return make_front(TEXT)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)


def tensor(*values: Any, name: str = "text_input", datatype: str = "BYTES", field: str = "bytes_contents") -> Any:
    contents = {field: [value.encode() if isinstance(value, str) else value for value in values]}
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=[len(values)], contents=contents)


def request(*inputs: Any, model_name: str = "test-model", **fields: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=model_name, inputs=inputs or [tensor("hello")], **fields)


def parameters(**values: Any) -> dict[str, pb.InferParameter]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: pb.InferParameter(**{fields[type(value)]: value}) for name, value in values.items()}


def texts(response: pb.ModelInferResponse) -> list[str]:
    return [text.decode() for text in response.outputs[0].contents.bytes_contents]


async def refused(call: Any) -> tuple[str, str]:
    """The status that a call ends with: the code's name, and the message."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


# --- health and metadata ----------------------------------------------------------------------------------------------


async def test_readiness_is_the_engines_and_liveness_is_not(front: Front, stub: Any) -> None:
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="test-model"))).ready
    front.engine.healthy = False
    assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="test-model"))).ready
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live


async def test_metadata_is_that_of_http(front: Front, stub: Any) -> None:
    server = await stub.ServerMetadata(pb.ServerMetadataRequest())
    over_http = (await front.get("/v2")).json()
    assert (server.name, server.version, list(server.extensions)) == tuple(over_http.values())
    model = await stub.ModelMetadata(pb.ModelMetadataRequest(name="test-model"))
    over_http = (await front.get("/v2/models/test-model")).json()
    assert [output.name for output in model.outputs] == [output["name"] for output in over_http["outputs"]]
    assert [list(each.shape) for each in model.inputs] == [[-1]]


async def test_another_model_is_not_found(stub: Any) -> None:
    for call in (
        stub.ModelReady(pb.ModelReadyRequest(name="other")),
        stub.ModelMetadata(pb.ModelMetadataRequest(name="other")),
        stub.ModelInfer(request(model_name="other")),
    ):
        code, message = await refused(call)
        assert code == "NOT_FOUND"
        assert "`other` does not exist" in message


async def test_grpcs_own_health_is_the_readiness(front: Front, channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        asked = health_pb2.HealthCheckRequest(service=service)
        assert (await health.Check(asked)).status == HEALTH.SERVING
    assert (await refused(health.Check(health_pb2.HealthCheckRequest(service="other"))))[0] == "NOT_FOUND"
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == HEALTH.SERVING
    front.context.lifecycle.draining = True
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == HEALTH.NOT_SERVING
    assert (await watch.read()).status == HEALTH.NOT_SERVING
    watch.cancel()


async def test_reflection_tells_the_services(front: Front) -> None:
    async with serving(front.context, "127.0.0.1", 0, None) as port:

        def ask() -> tuple[set[str], bytes]:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                file = database.FindFileContainingSymbol(SERVICE)
                return set(database.get_services()), file.SerializeToString()

        services, file = await asyncio.to_thread(ask)
    assert services == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert file == pb.DESCRIPTOR.serialized_pb


# --- infer ------------------------------------------------------------------------------------------------------------


async def test_a_batch_comes_back_in_its_order(stub: Any) -> None:
    asked = request(tensor("hello", "the fox"), id="7", parameters=parameters(return_full_text=True))
    response = await stub.ModelInfer(asked)
    assert (response.id, response.model_name) == ("7", "test-model")
    assert texts(response) == ["hello" + TEXT, "the fox" + TEXT]
    by_name = {output.name: output for output in response.outputs}
    assert list(by_name["finish_reason"].contents.bytes_contents) == [b"eos_token"] * 2
    assert list(by_name["cumulative_logprob"].contents.fp32_contents) == [-2.5] * 2
    assert list(by_name["num_output_tokens"].contents.uint_contents) == [5, 5]
    assert all(list(output.shape) == [2] for output in response.outputs)


async def test_raw_inputs_get_raw_outputs(front: Front, stub: Any) -> None:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(name="text_input", datatype="BYTES", shape=[2, 1]),
        pb.ModelInferRequest.InferInputTensor(name="temperature", datatype="FP16", shape=[1]),
    ]
    prompts = b"".join(struct.pack("<I", len(text)) + text for text in (b"hello", "für".encode()))
    response = await stub.ModelInfer(request(*inputs, raw_input_contents=[prompts, struct.pack("<e", 0.5)]))
    assert [output.HasField("contents") for output in response.outputs] == [False] * 5
    length = struct.pack("<I", len(TEXT))
    assert response.raw_output_contents[0] == (length + TEXT.encode()) * 2
    assert response.raw_output_contents[2] == struct.pack("<2f", -2.5, -2.5)
    assert list(response.outputs[0].shape) == [2, 1]
    assert [each.sampling.temperature for each in front.engine.requests] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("inputs", "beside"),
    [
        ([], {"max_tokens": 2, "temperature": 0.5, "seed": 7, "stop": "x"}),
        ([], {"max_new_tokens": "2", "temperature": "0.5", "seed": "7", "stop": '["x"]'}),
        ([tensor(2, name="max_tokens", datatype="INT32", field="int_contents")], {"temperature": 0.5, "seed": 7}),
        ([tensor('{"max_tokens": 2, "temperature": 0.5, "seed": 7}', name="sampling_parameters")], {}),
    ],
)
async def test_parameters_come_in_every_form(
    front: Front, stub: Any, inputs: list[Any], beside: dict[str, Any]
) -> None:
    response = await stub.ModelInfer(request(tensor("hello"), *inputs, parameters=parameters(**beside)))
    assert texts(response) == ["hello world"]
    sampling = front.engine.requests[0].sampling
    assert (sampling.temperature, sampling.seed) == (0.5, 7)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(parameters=parameters(top_k=0)), "top_k"),
        (request(parameters=parameters(top_k="many")), "top_k"),
        (request(tensor("")), "inputs"),
        (request(tensor(b"\xff")), "UTF-8"),
        (request(tensor("a", datatype="TEXT")), "datatype"),
        (request(tensor("a", datatype="FP16")), "raw_input_contents"),
        (request(tensor(*"abcde")), "4 prompts"),
        (request(raw_input_contents=[b""]), "raw_input_contents"),
        (request(raw_input_contents=[b"", b""]), "raw_input_contents"),
        (request(pb.ModelInferRequest.InferInputTensor(name="t", datatype="BYTES", shape=[1] * 100_000)), "shape"),
        (
            request(pb.ModelInferRequest.InferInputTensor(name="t", datatype="BYTES"), raw_input_contents=[b"abc"]),
            "`t`",
        ),
        (pb.ModelInferRequest(model_name="test-model"), "inputs"),
    ],
)
async def test_what_is_wrong_is_told_by_its_field(
    front: Front, stub: Any, asked: pb.ModelInferRequest, field: str
) -> None:
    code, message = await refused(stub.ModelInfer(asked))
    assert code == "INVALID_ARGUMENT"
    assert field in message
    assert front.engine.requests == []


async def test_failures_have_the_codes_of_the_error_tree(make_front: Callable[..., Front]) -> None:
    front = make_front(TEXT, max_concurrent_requests=1)
    front.engine.fail_after = 0
    async with channel_to(front) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        assert await refused(stub.ModelInfer(request())) == ("UNAVAILABLE", "the engine died")
        front.engine.error = RuntimeError("password")
        code, message = await refused(stub.ModelInfer(request()))
        assert code == "INTERNAL"
        assert "password" not in message
        assert (await refused(stub.ModelInfer(request(tensor("a", "b")))))[0] == "RESOURCE_EXHAUSTED"
        front.context.lifecycle.draining = True
        assert await refused(stub.ModelInfer(request())) == ("UNAVAILABLE", "The server is shutting down")
    assert front.context.in_flight == front.engine.running == 0


async def test_a_message_over_the_payload_limit_is_refused(make_front: Callable[..., Front]) -> None:
    async with channel_to(make_front(TEXT, payload_limit=1000)) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        assert (await refused(stub.ModelInfer(request(tensor("a" * 1000)))))[0] == "RESOURCE_EXHAUSTED"
        assert texts(await stub.ModelInfer(request())) == [TEXT]


async def test_a_client_that_cancels_or_gives_up_ends_the_work(front: Front, stub: Any) -> None:
    front.engine.hang_after = 1
    call = stub.ModelInfer(request())
    waiting = asyncio.ensure_future(call)
    await until(lambda: front.engine.running)
    call.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await until(lambda: front.engine.aborted == 1)
    assert (await refused(stub.ModelInfer(request(), timeout=2)))[0] == "DEADLINE_EXCEEDED"
    await until(lambda: front.engine.aborted == 2)
    stream = stub.ModelStreamInfer(iter([request()]))
    assert (await stream.read()).error_message == ""
    stream.cancel()
    await until(lambda: front.engine.aborted == 3)
    await until(lambda: front.context.in_flight == 0)


# --- streams ----------------------------------------------------------------------------------------------------------


async def streamed(stub: Any, *requests: pb.ModelInferRequest) -> list[pb.ModelStreamInferResponse]:
    return [message async for message in stub.ModelStreamInfer(iter(requests))]


def is_final(message: pb.ModelStreamInferResponse) -> bool:
    return message.infer_response.parameters["triton_final_response"].bool_param


async def test_a_stream_adds_up_to_the_text(stub: Any) -> None:
    messages = await streamed(stub, request(id="9", parameters=parameters(return_full_text=True)))
    assert all(message.error_message == "" for message in messages)
    assert "".join(text for message in messages for text in texts(message.infer_response)) == "hello" + TEXT
    assert [is_final(message) for message in messages] == [False] * 4 + [True]
    assert {message.infer_response.id for message in messages} == {"9"}
    names = [[output.name for output in message.infer_response.outputs] for message in messages]
    assert names[0] == ["text_output"]
    assert names[-1][1:] == ["finish_reason", "cumulative_logprob", "num_input_tokens", "num_output_tokens"]


async def test_a_stream_has_the_outputs_that_are_asked_for(stub: Any) -> None:
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor
    counted = await streamed(stub, request(outputs=[wanted(name="num_output_tokens")]))
    assert [[output.name for output in message.infer_response.outputs] for message in counted] == [
        ["num_output_tokens"]
    ]
    named = await streamed(stub, request(outputs=[wanted(name="mine")]))
    assert {output.name for message in named for output in message.infer_response.outputs} == {"mine"}
    assert "".join(text for message in named for text in texts(message.infer_response)) == TEXT


async def test_requests_of_a_stream_are_answered_side_by_side(front: Front, stub: Any) -> None:
    front.engine.pace = 0.1
    wrong = request(id="wrong", parameters=parameters(top_k=0))
    several = request(tensor("a", "b"), id="several")
    messages = await streamed(stub, request(id="1"), wrong, request(id="2"), several)
    told = {message.infer_response.id: message.error_message for message in messages if message.error_message}
    assert "top_k" in told["wrong"]
    assert "stream" in told["several"]
    assert set(told) == {"wrong", "several"}
    order = [message.infer_response.id for message in messages if message.infer_response.id in "12"]
    assert sorted(order) == ["1"] * 5 + ["2"] * 5
    assert order != sorted(order)


async def test_a_stream_may_ask_for_whole_replies(stub: Any) -> None:
    switch = tensor(False, name="stream", datatype="BOOL", field="bool_contents")
    (message,) = await streamed(stub, request(tensor("hello", "world"), switch))
    assert texts(message.infer_response) == [TEXT, TEXT]
    assert is_final(message)


async def test_a_stream_that_fails_says_so_and_goes_on(front: Front, stub: Any) -> None:
    front.engine.fail_after = 2
    messages = await streamed(stub, request(id="1"))
    assert [message.error_message for message in messages] == ["", "", "the engine died"]
    assert messages[-1].infer_response.id == "1"


# --- keys, TLS, records -----------------------------------------------------------------------------------------------


async def test_keys_are_those_of_http(make_front: Callable[..., Front]) -> None:
    front = make_front(TEXT, api_key=("secret",))
    right, wrong = (("authorization", "Bearer secret"),), (("authorization", "Bearer other"),)
    async with channel_to(front) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        for metadata in (None, wrong, right * 2):
            assert (await refused(stub.ModelInfer(request(), metadata=metadata)))[0] == "UNAUTHENTICATED"
            assert (await refused(stub.ServerMetadata(pb.ServerMetadataRequest(), metadata=metadata)))[
                0
            ] == "UNAUTHENTICATED"
            # Refused before anything is written: grpc.aio takes a write that comes too late for an INTERNAL error.
            assert (await refused(stub.ModelStreamInfer(metadata=metadata).read()))[0] == "UNAUTHENTICATED"
        assert front.engine.requests == []
        assert texts(await stub.ModelInfer(request(), metadata=right)) == [TEXT]
        assert [message async for message in stub.ModelStreamInfer(iter([request()]), metadata=right)]


async def test_probes_need_no_key(make_front: Callable[..., Front]) -> None:
    async with channel_to(make_front(TEXT, api_key=("secret",))) as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await stub.ModelReady(pb.ModelReadyRequest(name="test-model"))).ready
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == HEALTH.SERVING


async def test_every_call_returns_its_request_id(stub: Any) -> None:
    call = stub.ModelInfer(request(), metadata=(("x-request-id", "abc"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "abc"
    failing = stub.ModelInfer(request(model_name="other"))
    await refused(failing)
    assert len(dict(await failing.trailing_metadata())["x-request-id"]) == 32


async def test_tls_is_that_of_http(front: Front, tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(tmp_path / "key")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    files = {"ssl_certfile": str(tmp_path / "certificate"), "ssl_keyfile": str(tmp_path / "key")}
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with (
        serving(front.context, "127.0.0.1", 0, Certificate.load(ServerOptions(**files))) as port,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", trusted) as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain,
    ):
        assert texts(await GRPCInferenceServiceStub(channel).ModelInfer(request())) == [TEXT]
        assert (await refused(GRPCInferenceServiceStub(plain).ModelInfer(request())))[0] == "UNAVAILABLE"


async def test_a_port_that_is_taken_is_refused(front: Front) -> None:
    async with serving(front.context, "127.0.0.1", 0, None) as port:
        with pytest.raises(StartupError, match=f"127.0.0.1:{port}; choose another --grpc-port"):
            async with serving(front.context, "127.0.0.1", port, None):
                pass
