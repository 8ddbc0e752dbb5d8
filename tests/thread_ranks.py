"""Ranks that are threads of this process and sum and gather in memory, in place of processes and gloo."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from textgen_server.parallel import Group

Result = TypeVar("Result")


def on_ranks(size: int, run: Callable[[Group], Result]) -> list[Result]:
    """What `run` returns on each of `size` ranks."""
    ranks = Ranks(size)
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(lambda rank: run(ThreadGroup(rank, size, ranks=ranks)), range(size)))


class Ranks:
    """Groups of `size` threads that sum and gather in memory, in place of processes and gloo."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.tensors: list[torch.Tensor] = [torch.empty(0)] * size

    def exchange(self, rank: int, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.tensors[rank] = tensor.clone()
        self.barrier.wait(30)
        everyones = list(self.tensors)
        self.barrier.wait(30)
        return everyones


@dataclass(frozen=True)
class ThreadGroup(Group):
    ranks: Ranks = field(default_factory=lambda: Ranks(1))

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(sum(self.ranks.exchange(self.rank, tensor)))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.ranks.exchange(self.rank, tensor), dim=-1)

    def min(self, value: int) -> int:
        return int(min(self.ranks.exchange(self.rank, torch.tensor(value))))
