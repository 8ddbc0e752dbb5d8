"""Which attention backend runs: the user's choice, or the first in the registry that can. Called by the runner."""

import torch

from textgen_server.attention.base import Attention
from textgen_server.errors import StartupError
from textgen_server.registry import ATTENTION_BACKENDS

FLOAT8_CAPABILITY = (8, 9)


def choose(
    name: str | None,
    device_type: str,
    dtype: torch.dtype,
    head_dim: int,
    relative: bool = False,
    cache_dtype: torch.dtype | None = None,
) -> type[Attention]:
    """The backend called `name`, or with None the first that runs on `device_type` ("cpu", "cuda") in `dtype`, with
    heads of `head_dim` features, for encoder-decoders with `relative`, and a cache of `cache_dtype` if it is another.

    Raises:
        StartupError: the named one cannot run here, or none can; the sentence says why and what can run.
    """
    cached = cache_dtype or dtype
    if cached.itemsize == 1 and device_type == "cuda" and torch.cuda.is_available():
        _check_gpu_has(cached)
    obstacles = {
        known: _obstacle(known, device_type, dtype, head_dim, relative, cached) for known in ATTENTION_BACKENDS
    }
    runnable = [known for known, obstacle in obstacles.items() if obstacle is None]
    if name is None and not runnable:
        reasons = "; ".join(f"{known} {obstacle}" for known, obstacle in obstacles.items())
        kept = "" if cached == dtype else f" with --kv-cache-dtype {cache_name(cached)}"
        raise StartupError(f"No attention backend runs on {device_type} in {_short(dtype)}{kept}: {reasons}")
    wanted = runnable[0] if name is None else name
    if obstacles.get(wanted, "is not known") is not None:
        alternatives = f"choose among {', '.join(runnable)}" if runnable else "no other can either"
        reason = obstacles.get(wanted, "is not known")
        raise StartupError(f"--attention-backend {wanted} {reason}; on this device {alternatives}")
    return _load(wanted)


def block_size_for(backend: type[Attention], wanted: int | None) -> int:
    """Tokens per KV block: `wanted` if `backend` can use it, what it prefers if None.

    Raises:
        StartupError: `wanted` does not fit; the sentence names sizes that do.
    """
    if wanted is None:
        return backend.preferred_block_size
    step = backend.block_size_multiple
    if wanted % step:
        nearest = max(step, wanted // step * step)
        raise StartupError(
            f"--block-size {wanted} does not fit {backend.__name__}, which needs a multiple of {step}; try {nearest}"
        )
    return wanted


def _check_gpu_has(dtype: torch.dtype) -> None:
    capability = torch.cuda.get_device_capability()
    if capability < FLOAT8_CAPABILITY:
        raise StartupError(
            f"--kv-cache-dtype {cache_name(dtype)} needs a GPU of compute capability 8.9 or later, and this one has "
            f"{capability[0]}.{capability[1]}; leave the flag out"
        )


def cache_name(dtype: torch.dtype) -> str:
    """What --kv-cache-dtype calls it."""
    return _short(dtype).replace("float8", "fp8")


def _obstacle(
    name: str, device_type: str, dtype: torch.dtype, head_dim: int, relative: bool, cached: torch.dtype
) -> str | None:
    """Why the backend cannot run here, as the rest of a sentence that starts with its name; None when it can."""
    entry = ATTENTION_BACKENDS[name]
    if device_type not in entry.devices:
        return f"runs on {' and '.join(entry.devices)} only, not on {device_type}"
    try:
        backend = _load(name)
    except ImportError as error:
        return f"needs {', '.join(entry.requires)}, which cannot be imported here ({error})"
    if dtype not in backend.dtypes:
        return f"does not compute in {_short(dtype)}"
    if cached not in (dtype, *backend.cache_dtypes):
        return f"keeps no KV cache in {cache_name(cached)}"
    if relative and not backend.relative:
        return "has no relative position bias, which this model's attention needs"
    return backend.obstacle(head_dim)


def _load(name: str) -> type[Attention]:
    backend: type[Attention] = ATTENTION_BACKENDS[name].load()
    return backend


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
