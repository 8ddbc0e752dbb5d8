"""Steps and caches that do not fit are tried smaller, and said so; a step that does not fit later ends few requests."""

import logging
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from harness import make_request, make_runner, run
from shapes import SHAPES, save_checkpoint

from textgen_server import host_memory
from textgen_server.attention.cpu import CpuAttention
from textgen_server.engine.blocks import BlockManager
from textgen_server.engine.scheduler import Limits, Scheduler
from textgen_server.errors import GenerationError, OutOfMemory
from textgen_server.models.base import CacheSpec
from textgen_server.parallel import Group
from textgen_server.runner.kv_cache import CacheLayout
from textgen_server.runner.runner import Runner
from textgen_server.runner.sizing import Caches, Sizer
from textgen_server.settings import ServerOptions

CPU = torch.device("cpu")
# Blocks of 4096 bytes.
LAYOUT = CacheLayout(CacheSpec(num_layers=1, num_kv_heads=1, head_dim=16), 32, torch.float32, CpuAttention)
MIB = 1 << 20


def sizer(longest: int = 256, fits: int = 1 << 30, **options: object) -> Sizer:
    """Of a device on which steps of up to `fits` prompt tokens fit."""

    def rehearse(caches: Caches, tokens: int) -> None:
        assert len(caches[0].keys) * LAYOUT.block_size >= tokens
        if tokens > fits:
            raise torch.OutOfMemoryError

    return Sizer(ServerOptions(**options), LAYOUT, CPU, Group(), longest, rehearse)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> object:
    """Says how much main memory is free, beside steps that take none."""
    monkeypatch.setattr(host_memory, "peak_bytes", lambda: 0)
    return lambda num_bytes: monkeypatch.setattr(host_memory, "free_bytes", lambda: num_bytes)


def test_a_step_that_does_not_fit_is_halved_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert sizer(fits=100).largest_step(512).tokens == 64
    assert [record.args for record in caplog.records] == [(512, 256), (256, 128), (128, 64)]


def test_a_device_without_room_for_any_step_is_refused() -> None:
    with pytest.raises(OutOfMemory, match=r"^a step of 16 prompt tokens does not fit on cpu .* --num-shard"):
        sizer(fits=10).largest_step(512)


@pytest.mark.parametrize(
    ("gib", "free_bytes", "longest", "expected"),
    [
        (0.001, None, 256, MIB // 1000 * 1024),
        (0.001, 100 * MIB, 256, MIB // 1000 * 1024),
        (0.1, 10 * MIB, 256, 9 * MIB),
        (None, 20 * MIB, 256, 18 * MIB),
        (None, None, 256, 1 << 30),
        (None, 6 << 30, 1 << 30, 6 << 28),
    ],
    ids=["as asked", "as asked, with a limit", "less than asked", "less than default", "default", "longest sequence"],
)
def test_main_memory_is_taken_as_asked_and_as_there_is(
    free: object, gib: float | None, free_bytes: int | None, longest: int, expected: int
) -> None:
    free(free_bytes)
    sized = sizer(longest, cpu_kv_cache_gib=gib)
    blocks = len(sized.cache(sized.largest_step(64))[0].keys)
    assert blocks * LAYOUT.block_bytes == pytest.approx(expected, rel=0.04)


class Crowded(CacheLayout):
    """For a device that holds 100 blocks."""

    def allocate(self, num_blocks: int, device: torch.device) -> Caches:
        if num_blocks > 100:
            raise torch.OutOfMemoryError
        return super().allocate(num_blocks, device)


def test_a_cache_that_turns_out_not_to_fit_is_tried_smaller(free: object, caplog: pytest.LogCaptureFixture) -> None:
    free(100 * MIB)
    crowded = replace(
        sizer(cpu_kv_cache_gib=0.001), layout=Crowded(*(getattr(LAYOUT, field.name) for field in fields(LAYOUT)))
    )
    caches = crowded.cache(crowded.largest_step(64))
    assert 90 <= len(caches[0].keys) <= 100
    assert "262 blocks of KV cache would fit, and did not" in caplog.text


def test_a_container_that_is_full_gets_no_cache(free: object) -> None:
    free(5000)
    with pytest.raises(OutOfMemory, match=r"^no room for a KV cache: .* 0\.0 MB are left .* the container's memory"):
        sizer().cache(sizer().largest_step(64))


def test_ranks_that_rehearse_wait_for_nobody() -> None:
    group = Group(0, 3)
    with group.rehearsal():
        assert group.all_reduce(torch.ones(2)).tolist() == [1, 1]
        assert group.all_gather(torch.ones(2, 5)).shape == (2, 15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(SHAPES["llama"]["grouped-query"], tmp_path_factory.mktemp("model"))


class TestInService:
    @pytest.fixture
    def runner(self, folder: Path) -> Runner:
        return make_runner(folder, block_size=8)

    @staticmethod
    def limit(runner: Runner, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        """Have steps of more than `tokens` tokens not fit."""
        forward = runner.loaded.model.forward

        def limited(ids: torch.Tensor, *args: object) -> torch.Tensor:
            if len(ids) > tokens:
                raise torch.OutOfMemoryError
            return forward(ids, *args)

        monkeypatch.setattr(runner.loaded.model, "forward", limited)

    def test_a_step_that_does_not_fit_is_run_in_parts(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        prompts = [[5, 9, 17], [7] * 20, [11, 3, 4, 8], [30] * 9]
        requests = [[make_request(runner, key, p, 6, wants_prompt_logprobs=key == 1) for key, p in enumerate(prompts)]
                    for _ in range(2)]  # fmt: skip
        expected = run(runner, requests[0])
        self.limit(runner, monkeypatch, tokens=20)
        parts = run(runner, requests[1])
        assert parts.texts == expected.texts
        scores, others = (r.requests[1].prompt_scores.logprobs for r in (parts, expected))
        assert scores == pytest.approx(others, abs=1e-4)

    def test_only_the_request_that_does_not_fit_alone_fails(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(runner, monkeypatch, tokens=10)
        scheduler = Scheduler(BlockManager(64, 8), Limits(8, 64, 200))
        for key, length in enumerate((4, 20, 5)):
            scheduler.add(make_request(runner, key, [9] * length, 3))
        plan = scheduler.plan()
        events = scheduler.commit(plan, runner.launch(plan).result())
        assert [(failure.key, str(failure.error)[:26]) for failure in events.failures] == [
            (1, "the GPU ran out of memory;")
        ]
        assert [output.request.key for output in events.outputs] == [0, 2]
        scheduler.blocks.check_integrity(scheduler)

    def test_a_step_in_which_nothing_fits_fails(self, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit(runner, monkeypatch, tokens=0)
        with pytest.raises(GenerationError, match="ran out of memory"):
            run(runner, [make_request(runner, 0, [4, 5], 3)])


def test_a_model_that_cannot_fit_is_refused_before_its_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda: 300_000)
    monkeypatch.setattr("textgen_server.runner.load.MergingLoader", None)  # would read them
    with pytest.raises(OutOfMemory) as caught:
        make_runner(folder, max_total_tokens=200)
    assert re.fullmatch(
        r"the model needs 0\.0003 GB of weights and 0\.0001 GB of KV cache for 200 tokens, and 0\.0003 GB are free on "
        r"cpu: 0\.\d+ GB are missing; it would fit with --max-total-tokens \d+ or --dtype bfloat16 or --quantize \S+",
        str(caught.value),
    )
