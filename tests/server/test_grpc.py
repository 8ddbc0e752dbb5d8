"""gRPC of a running server: its life from the first probe to the end. The mock engine answers, at a set rate."""

import asyncio
import signal
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import Server, running

from textgen_server.api.predictor import open_inference_pb2 as pb
from textgen_server.api.predictor.open_inference_pb2_grpc import GRPCInferenceServiceStub
from textgen_server.mock_engine import TEXT

FLAGS = ("--mock-engine", "--mock-engine-tokens-per-second", "50", "--grpc-port", "0")


def request(tokens: int) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name="smollm2",
        inputs=[{"name": "text_input", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"Go."]}}],
        parameters={"max_tokens": pb.InferParameter(int64_param=tokens)},
    )


async def test_sigterm_lets_running_calls_finish_and_takes_no_new_ones(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags, *FLAGS) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stream = aiter(stub.ModelStreamInfer(iter([request(100)])))
            messages = [await anext(stream)]
            server.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
                await stub.ModelInfer(request(1))
            messages += [message async for message in stream]
        texts = [text.decode() for each in messages for text in each.infer_response.outputs[0].contents.bytes_contents]
        assert "".join(texts).startswith(TEXT)  # and then it begins anew
        (count,) = messages[-1].infer_response.outputs[-1].contents.uint_contents
        assert count == 100
        assert await asyncio.to_thread(server.process.wait, 20) == 0


async def test_a_client_that_cancels_frees_its_place(model_flags, tmp_path):
    with running(tmp_path / "log", *model_flags, *FLAGS, "--max-concurrent-requests", "1") as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            stream = stub.ModelStreamInfer(iter([request(4000)]))
            await stream.read()
            with pytest.raises(grpc.aio.AioRpcError, match="overloaded"):
                await stub.ModelInfer(request(1))
            stream.cancel()
            async with asyncio.timeout(60):
                while server.metric("tgi_batch_current_size"):  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.05)
            assert (await stub.ModelInfer(request(2))).outputs[-1].contents.uint_contents == [2]


def test_a_busy_port_is_known_before_the_model_is_loaded(model_flags, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(tmp_path / "log", *model_flags, "--mock-engine", "--grpc-port", str(port))
        assert server.process.wait(30) == 1
    log = server.log.read_text()
    assert (
        log.splitlines()[-1]
        == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --grpc-port"
    )
    assert "model " not in log
