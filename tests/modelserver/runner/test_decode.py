"""Decode steps on tensors that stay where they are choose what steps that are built anew choose, also when the next
one is launched before the host knows their tokens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import Run, make_request, make_runner, run
from shapes import SHAPES, save_checkpoint

from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.runner.decode import Decodes, default_sizes
from textgen_server.runner.graphs import Graphs
from textgen_server.runner.runner import Runner
from textgen_server.runner.transfer import ToHost, pack
from textgen_server.sampling import SamplingParams

PLAIN = [
    SamplingParams(),
    SamplingParams(greedy=False, seed=7),
    SamplingParams(greedy=False, temperature=1.5, seed=1 << 63, raw_logprobs=True),
    SamplingParams(temperature=0.3),
    SamplingParams(greedy=False, temperature=0.9, seed=5),
]
SHAPED = [
    SamplingParams(greedy=False, top_k=9, top_p=0.9, seed=2),
    SamplingParams(top_tokens=3, repetition_penalty=1.3),
    SamplingParams(greedy=False, typical_p=0.8, watermark=True),
]


@pytest.fixture(scope="module", params=["mistral", "phi3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of models with a window, and with rows of angles for short and for long sequences."""
    shape = {"mistral": "window", "phi3": "longrope, partial rotary"}[request.param]
    return save_checkpoint(SHAPES[request.param][shape], tmp_path_factory.mktemp(request.param))


def results(runner: Runner, sampling: list[SamplingParams], **how: object) -> Run:
    """Of requests that start together and end one after another, some of them with a prompt of several chunks."""
    requests = [
        make_request(runner, key, [3 + key, 9, 17][: 1 + key % 3] * (1 + key), 6 + 3 * key, params)
        for key, params in enumerate(sampling)
    ]
    return run(runner, requests, **{"num_blocks": 40, "prefill": 8, **how})


def seen(runs: Run) -> list[list[tuple[int, float]]]:
    return [[(output.token, pytest.approx(output.logprob, abs=1e-4)) for output in outputs] for outputs in runs.outputs]


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("sampling", [PLAIN[:1] * 5, PLAIN, PLAIN + SHAPED], ids=["greedy", "drawn", "shaped"])
def test_padded_steps_choose_what_plain_ones_choose(
    folder: Path, sampling: list[SamplingParams], ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(folder, block_size=8)
    plain = results(runner, sampling)
    runner.decodes = runner.make_decodes(runner.caches, [3, 8])
    launched = []
    launch = runner.decodes.launch
    monkeypatch.setattr(runner.decodes, "launch", lambda items, *rest: launched.append(items) or launch(items, *rest))
    assert seen(results(runner, sampling, ahead=ahead)) == seen(plain)
    assert {len(items) for items in launched} > {1, 2, 4}
    assert any(item.follows >= 0 for items in launched for item in items) == (ahead == 1 and sampling[-1] in PLAIN)


@pytest.mark.parametrize("padded", [False, True])
def test_a_step_run_in_halves_follows_the_step_before(
    folder: Path, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(folder, block_size=8)
    expected = results(runner, PLAIN).texts
    if padded:
        runner.decodes = runner.make_decodes(runner.caches, [1, 2, 8])
    forward = runner.loaded.model.forward
    calls = 0

    def limited(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        """Two in three steps do not fit."""
        nonlocal calls
        calls += len(tokens) > 2
        if len(tokens) > 2 and calls % 3:
            raise torch.OutOfMemoryError
        return forward(tokens, *rest)

    monkeypatch.setattr(runner.loaded.model, "forward", limited)
    assert results(runner, PLAIN, ahead=1, prefill=2).texts == expected


def test_sizes_go_up_to_the_largest_batch() -> None:
    assert default_sizes(1) == [1]
    assert default_sizes(30) == [1, 2, 4, 8, 16, 24, 30]
    assert default_sizes(400)[-3:] == [320, 384, 400]


def test_arrays_of_any_type_travel_in_one_piece() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randint(0, 2, shape, generator=generator).to(dtype)
        for shape, dtype in (((3,), torch.bool), ((5, 2), torch.int64), ((0, 2), torch.int32), ((7,), torch.float32))
    ]
    arrays = [tensor.numpy() for tensor in tensors]
    packed, places = pack(arrays, torch.device("cpu"))
    for tensor, returned in zip(tensors, ToHost([packed], places).wait(), strict=True):
        assert torch.equal(tensor, returned)
        assert tensor.dtype == returned.dtype


class TestCapturing:
    """What becomes of steps when some cannot be captured, with a stand-in for the capture itself."""

    @pytest.fixture
    def decodes(self, folder: Path) -> Decodes:
        runner = make_runner(folder, block_size=8)
        return runner.make_decodes(runner.caches, [1, 2, 4])

    @staticmethod
    def taken(decodes: Decodes) -> list[int]:
        """Sizes of the batches that it takes."""
        item = Item([5], 3, [0], Sample(SamplingParams(), 0))
        return [count for count in range(1, 6) if decodes.takes(StepPlan([item] * count, count))]

    def test_the_largest_is_captured_first_and_smaller_ones_fill_it_up_where_memory_ends(
        self, decodes: Decodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        captured: list[int] = []

        def capture(self: Graphs, key: tuple[object, int], work: object) -> None:
            if key[1] == 1:
                raise torch.OutOfMemoryError
            captured.append(key[1])

        monkeypatch.setattr(Graphs, "capture", capture)
        decodes.capture()
        assert captured == sorted(captured, reverse=True)
        assert self.taken(decodes) == [1, 2, 3, 4]
        assert "fewer than 2 sequences" in caplog.text

    def test_what_cannot_be_captured_is_built_anew_after_one_warning(
        self, decodes: Decodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def capture(*args: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(Graphs, "capture", capture)
        decodes.capture()
        assert self.taken(decodes) == []
        (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
        assert "not permitted" in warning.getMessage()


def test_prompts_guesses_and_adapters_are_not_for_padded_steps(folder: Path) -> None:
    runner = make_runner(folder, block_size=8)
    decodes = runner.make_decodes(runner.caches, [2])
    plain = Item([5], 3, [0], Sample(SamplingParams(), 0))
    assert decodes.takes(StepPlan([plain, plain], 2))
    assert not decodes.takes(StepPlan([plain] * 3, 3))
    assert not decodes.takes(StepPlan([plain, replace(plain, tokens=[5, 6])], 1))
    assert not decodes.takes(StepPlan([replace(plain, adapter="a")], 1))
    assert not decodes.takes(StepPlan([replace(plain, targets=[4])], 1))
