"""What users of Triton's client library do, with the inputs of Triton's vLLM backend. Run in an environment of its own:

    python triton_client.py HTTP-ADDRESS GRPC-ADDRESS MODEL PROMPT

Prints what the clients gave, as one JSON object.
"""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

SAMPLING = json.dumps({"max_tokens": 8, "temperature": 0})


def inputs(library, prompt, stream):
    def tensor(name, datatype, value):
        made = library.InferInput(name, [1], datatype)
        made.set_data_from_numpy(np.array([value], dtype={"BYTES": np.object_, "BOOL": np.bool_}[datatype]))
        return made

    return [
        tensor("text_input", "BYTES", prompt.encode()),
        tensor("sampling_parameters", "BYTES", SAMPLING.encode()),
        tensor("exclude_input_in_output", "BOOL", True),
        tensor("return_finish_reason", "BOOL", True),
        tensor("stream", "BOOL", stream),
    ]


def one_call(library, client, model, prompt):
    reply = client.infer(model, inputs(library, prompt, False), request_id="7")
    try:
        client.infer("other", inputs(library, prompt, False))
        error = ""
    except InferenceServerException as refused:
        error = refused.message()
    return {
        "health": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "text": reply.as_numpy("text_output")[0].decode(),
        "finish_reason": reply.as_numpy("finish_reason")[0].decode(),
        "tokens": int(reply.as_numpy("num_output_tokens")[0]),
        "error": error,
    }


def streamed(client, model, prompt):
    replies = queue.Queue()
    client.start_stream(callback=lambda result, error: replies.put((result, error)))
    wanted = [tritonclient.grpc.InferRequestedOutput("text_output")]
    client.async_stream_infer(model, inputs(tritonclient.grpc, prompt, True), request_id="8", outputs=wanted)
    texts, final = [], False
    while not final:
        result, error = replies.get(timeout=60)
        if error:
            raise error
        texts.append(result.as_numpy("text_output")[0].decode())
        final = result.get_response().parameters["triton_final_response"].bool_param
    client.async_stream_infer("other", inputs(tritonclient.grpc, prompt, True), request_id="9")
    _, error = replies.get(timeout=60)
    client.stop_stream()
    return {"texts": texts, "error": error.message()}


def main(http_address, grpc_address, model, prompt):
    over_http = tritonclient.http.InferenceServerClient(http_address)
    over_grpc = tritonclient.grpc.InferenceServerClient(grpc_address)
    results = {
        "http": one_call(tritonclient.http, over_http, model, prompt),
        "grpc": one_call(tritonclient.grpc, over_grpc, model, prompt),
        "stream": streamed(over_grpc, model, prompt),
    }
    print(json.dumps(results))


main(*sys.argv[1:])
