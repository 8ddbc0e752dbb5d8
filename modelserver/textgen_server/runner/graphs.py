"""Work that is captured once as CUDA graphs, and replayed. Called by decode.py.

A graph launches again what a function launched when it was captured, at the same addresses, without Python in between.
So such a function works on tensors that stay where they are, leaves its results in them, and what it launches depends
on shapes alone.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch

Work = Callable[[], None]


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
        """Capture `work`, which is run once before, to compile kernels and to make libraries ready.

        Raises:
            torch.OutOfMemoryError: there is no room for what it needs.
            RuntimeError: it does what cannot be captured, such as to wait for the device.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)
        taken = _taken_by_driver()
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        self._graphs[key] = graph
        self.driver_bytes += max(_taken_by_driver() - taken, 0)


def _taken_by_driver() -> int:
    """Bytes of the current device that torch's allocator knows nothing of."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()
