"""Work that is captured once as CUDA graphs, and replayed. Called by decode.py.

A graph launches again what a function launched when it was captured, at the same addresses, without Python in between.
So such a function works on tensors that stay where they are, leaves its results in them, and what it launches depends
on shapes alone.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import nn

Work = Callable[[], None]


def capturable(model: object) -> bool:
    """False where a part of the model says that its work cannot be captured."""
    parts = model.modules() if isinstance(model, nn.Module) else []
    return all(getattr(part, "capturable", True) for part in parts)


class Graphs:
    """Graphs by key. They share one pool of memory for what they need while they run, of which nothing outlives them:
    the largest is captured first, and the others find room in what it took.

    Attributes:
        driver_bytes: what the driver took of the device's memory for them, beside that pool.
    """

    def __init__(self) -> None:
        self.driver_bytes = 0
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, work: Work) -> None:
        """Replay what was captured as `key`; what was not is run as it is."""
        graph = self._graphs.get(key)
        if graph is None:
            work()
        else:
            graph.replay()

    def capture(self, key: Hashable, work: Work) -> None:
        """Capture `work`, which is run before, to compile kernels and to make libraries ready.

        Raises:
            torch.OutOfMemoryError: there is no room for what it needs.
            RuntimeError: it does what cannot be captured, such as to wait for the device.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
            with _forbidden_to_wait():
                work()
        current.wait_stream(self._stream)
        taken = _taken_by_driver()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads of this process may call CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            self._clean_up(current)
            raise
        self._graphs[key] = graph
        self.driver_bytes += max(_taken_by_driver() - taken, 0)

    def _clean_up(self, stream: torch.cuda.Stream) -> None:
        """What torch before 2.12 leaves behind when it cannot end a capture (its pull request 180395): the stream of
        the capture, and an allocator that still serves it."""
        torch.cuda.set_stream(stream)
        with contextlib.suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)


@contextlib.contextmanager
def _forbidden_to_wait() -> Iterator[None]:
    """Within, torch's operators raise RuntimeError instead of waiting for the device: found out here, a capture need
    not fail of it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _taken_by_driver() -> int:
    """Bytes of the current device that torch's allocator knows nothing of."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()
