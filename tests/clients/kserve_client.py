"""What users of the kserve package do with its inference clients. Run in an environment of its own:

    python kserve_client.py http://ADDRESS GRPC-ADDRESS MODEL

Prints what the clients gave, as one JSON object.
"""

import asyncio
import json
import sys
import time

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

PROMPTS = ["The capital of France is", "Two plus two is"]
PARAMETERS = {"max_new_tokens": 8}


def as_lists(model):
    tensor = InferInput(name="input-0", shape=[2], datatype="BYTES", data=list(PROMPTS))
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="lists", parameters=dict(PARAMETERS))


def as_numpy(model):
    prompts = np.array([[prompt.encode()] for prompt in PROMPTS], dtype=np.object_)
    texts = InferInput(name="text_input", shape=[2, 1], datatype="BYTES")
    texts.set_data_from_numpy(prompts)
    limit = InferInput(name="max_new_tokens", shape=[1], datatype="INT32")
    limit.set_data_from_numpy(np.array([8], dtype=np.int32))
    return InferRequest(model_name=model, infer_inputs=[texts, limit], request_id="numpy")


def told(response):
    texts = response.get_output_by_name("text_output")
    counts = response.get_output_by_name("num_output_tokens").as_numpy()
    values = [text.decode() if isinstance(text, bytes) else text for text in texts.as_numpy().flatten()]
    return {
        "id": response.id,
        "model": response.model_name,
        "texts": values,
        "shape": list(texts.shape),
        "tokens": counts.flatten().tolist(),
    }


async def over_rest_v2(url, model):
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=120)) as client:
        result = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, model),
            "other_ready": await client.is_model_ready(url, "other"),
            "lists": told(await client.infer(url, as_lists(model), model_name=model)),
            "numpy": told(await client.infer(url, as_numpy(model), model_name=model)),
        }
        wrong = as_lists(model)
        wrong.parameters = {"top_k": 0}
        try:
            await client.infer(url, wrong, model_name=model)
        except httpx.HTTPStatusError as error:
            result["error"] = str(error)
    return result


async def over_rest_v1(url, model):
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=120)) as client:
        return {
            "live": await client.is_server_live(url),
            "model_ready": await client.is_model_ready(url, model),
            "predict": await client.infer(url, {"instances": PROMPTS, "parameters": PARAMETERS}, model_name=model),
        }


async def over_grpc(address, model):
    async with InferenceGRPCClient(address, timeout=120) as client:
        result = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "lists": told(await client.infer(as_lists(model))),
            "numpy": told(await client.infer(as_numpy(model))),
        }
        wrong = as_lists(model)
        wrong.parameters = {"top_k": 0}
        try:
            await client.infer(wrong)
        except grpc.RpcError as error:
            result["error"] = [error.code().name, error.details()]
    return result


async def main(url, address, model):
    started = time.monotonic()
    results = {
        "v2": await over_rest_v2(url, model),
        "v1": await over_rest_v1(url, model),
        "grpc": await over_grpc(address, model),
        "seconds": time.monotonic() - started,
    }
    print(json.dumps(results))


asyncio.run(main(*sys.argv[1:]))
