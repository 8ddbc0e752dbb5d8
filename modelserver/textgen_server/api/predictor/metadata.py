"""What the server says of itself and its model in the Open Inference Protocol. The fields are those of the messages,
over HTTP (schemas/kserve.py) and gRPC (open_inference.proto) alike."""

from typing import Any

from textgen_server.api.predictor.inference import INPUT, OUTPUTS
from textgen_server.api.predictor.tensors import BYTES
from textgen_server.telemetry import VERSION

_ANY_SIZE = -1


def of_server() -> dict[str, Any]:
    """Of the server metadata reply."""
    return {"name": "textgen", "version": VERSION, "extensions": ["generate", "binary_tensor_data"]}


def of_model(name: str) -> dict[str, Any]:
    """Of the model metadata reply. There is one version, so none is listed; parameters may come as inputs, too."""
    return {
        "name": name,
        "platform": "textgen",
        "inputs": [_tensor(INPUT, BYTES)],
        "outputs": [_tensor(output, datatype) for output, datatype in OUTPUTS.items()],
    }


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [_ANY_SIZE]}
