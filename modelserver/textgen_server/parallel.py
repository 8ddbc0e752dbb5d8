"""The process group of tensor parallelism, passed as an argument to whoever needs it.

Collectives sit behind this one small interface (gloo on CPU, NCCL on GPUs). A group of one rank does nothing and
costs nothing. Plans and results do not travel here: they have their own pipes (runner/worker.py), because a
collective that waits for hours between requests would run into its time-out.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist


@dataclass
class _Connection:
    """Whether tensors travel."""

    open: bool = True


@dataclass(frozen=True)
class Group:
    """`size` ranks that hold one model together; this process is number `rank`. They are on several machines where this
    one has only `here` of them; None for all."""

    rank: int = 0
    size: int = 1
    here: int | None = None
    _connection: _Connection = field(default_factory=_Connection, repr=False, compare=False, kw_only=True)

    @contextlib.contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Within, tensors of ranks have their right sizes and wrong values, and no rank waits for another: a step may
        fail on one of them alone, as when its memory is measured."""
        self._connection.open = False
        try:
            yield
        finally:
            self._connection.open = True

    @property
    def size_here(self) -> int:
        """Ranks that share this machine's memory and cores."""
        return self.here or self.size

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place. Returns `tensor`."""
        if self.size > 1 and self._connection.open:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Concatenate the ranks' equally shaped tensors along the last dimension: [..., n] -> [..., n * size]."""
        if self.size == 1:
            return tensor
        parts = [torch.zeros_like(tensor) for _ in range(self.size)]
        if self._connection.open:
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim=-1)

    def min(self, value: int) -> int:
        """The smallest of the ranks' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64, device=_device_of_backend())
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
        return int(tensor.item())


def _device_of_backend() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def join(rank: int, size: int, address: str, device: torch.device, here: int | None = None) -> Group:
    """Rendezvous with the other ranks at `address` ("tcp://host:port"); returns when all are there. `here` as in
    Group."""
    if size > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=size)
    return Group(rank, size, here)


def leave(group: Group) -> None:
    """Take this process out of the group; harmless where there is none."""
    if group.size > 1 and dist.is_initialized():
        dist.destroy_process_group()
