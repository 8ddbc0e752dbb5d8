"""An executor for vLLM without a model, which does what textgen's mock engine does: same text, same beat.

vLLM loads it by its import path (`vllm serve MODEL --distributed-executor-backend vllm_mock_executor.MockExecutor`),
into its engine's process. All else is vLLM's own: HTTP, detokenization, the wire to the engine, scheduler. Written for
vLLM 0.32; bench/frontend.py starts it.
"""

import json
import os
import time
from concurrent.futures import Future

import torch
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

CACHE_BYTES = 2**30
BLOCK_SIZE = 16


class MockExecutor(Executor):
    """Answers every prompt with the token ids of MOCK_TOKENS (JSON), MOCK_TOKENS_PER_SECOND of them per second."""

    def _init_executor(self) -> None:
        self._text = json.loads(os.environ["MOCK_TOKENS"])
        self._step_seconds = 1 / float(os.environ["MOCK_TOKENS_PER_SECOND"])
        self._due = 0.0
        self._missing: dict[str, int] = {}  # tokens of each prompt that are still to be computed
        self._generated: dict[str, int] = {}

    def collective_rpc(self, method, timeout=None, args=(), kwargs=None, non_block=False):
        # A layer's worth of cache is enough for the scheduler to have blocks.
        spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        answers = {
            "get_kv_cache_spec": {"layers.0.attention": spec},
            "get_supported_kv_cache_layouts": ["LBNHC"],
            "determine_available_memory": CACHE_BYTES,
            "get_supported_tasks": ("generate",),
        }
        return [answers[method]] if method in answers else []

    def check_health(self) -> None:
        pass

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False):
        output = self._step(scheduler_output)
        if not non_block:
            return output
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(output)
        return future

    def _step(self, plan: SchedulerOutput) -> ModelRunnerOutput:
        for finished in plan.finished_req_ids:
            self._missing.pop(finished, None)
            self._generated.pop(finished, None)
        for new in plan.scheduled_new_reqs:
            self._missing[new.req_id] = len(new.prompt_token_ids or ()) - new.num_computed_tokens
            self._generated[new.req_id] = 0
        ids = list(plan.num_scheduled_tokens)
        if ids:
            self._wait()
        sampled = [self._next(id, plan.num_scheduled_tokens[id]) for id in ids]
        return ModelRunnerOutput(ids, {id: index for index, id in enumerate(ids)}, sampled)

    def _next(self, id: str, scheduled: int) -> list[int]:
        if self._missing[id] > 0:
            self._missing[id] -= scheduled
            if self._missing[id] > 0:
                return []
        place = self._generated[id]
        self._generated[id] = place + 1
        return [self._text[place % len(self._text)]]

    def _wait(self) -> None:
        """As textgen's: an even beat, and after a rest the first step ends at once."""
        now = time.monotonic()
        self._due = max(self._due + self._step_seconds, now)
        time.sleep(self._due - now)
