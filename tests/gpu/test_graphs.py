"""On a real GPU: decode steps as CUDA graphs choose what steps built anew choose, and nothing waits for the device."""

from pathlib import Path

import pytest
import torch
from harness import Run, make_request, make_runner, run
from shapes import SHAPES, save_checkpoint

from textgen_server.runner.runner import Runner
from textgen_server.sampling import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: CUDA graphs are NOT tested here"),
]

SAMPLING = [
    SamplingParams(),
    SamplingParams(greedy=False, seed=7),
    SamplingParams(greedy=False, temperature=1.5, seed=3, raw_logprobs=True),
    SamplingParams(),
    SamplingParams(greedy=False, top_k=9, top_p=0.9, seed=2),
]


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2", "phi3", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(next(iter(SHAPES[request.param].values())), tmp_path_factory.mktemp(request.param))


def on_gpu(folder: Path, **options: object) -> Runner:
    return make_runner(
        folder, device="cuda", dtype="float32", attention_backend="triton", block_size=16, cuda_memory_fraction=0.3,
        max_batch_size=8, **options,
    )  # fmt: skip


def results(runner: Runner, sampling: list[SamplingParams]) -> Run:
    requests = [
        make_request(runner, key, [3 + key, 9, 17] * (1 + key), 6 + 3 * key, params)
        for key, params in enumerate(sampling)
    ]
    return run(runner, requests, num_blocks=40, prefill=16, ahead=runner.ahead)


def seen(runs: Run) -> list[list[tuple[int, float]]]:
    return [[(output.token, pytest.approx(output.logprob, abs=1e-3)) for output in outputs] for outputs in runs.outputs]


@pytest.mark.parametrize("sampling", [SAMPLING[:1] * 5, SAMPLING[:4], SAMPLING], ids=["greedy", "drawn", "filtered"])
def test_replayed_steps_choose_what_steps_built_anew_choose(folder: Path, sampling: list[SamplingParams]) -> None:
    replayed = on_gpu(folder)
    assert replayed.ahead == 1
    assert replayed.decodes is not None
    assert replayed.decodes.sizes == [1, 2, 4, 8]
    first = seen(results(replayed, sampling))
    del replayed
    anew = on_gpu(folder, cuda_graphs=(0,))
    assert anew.decodes is None
    assert first == seen(results(anew, sampling))


def test_no_launch_waits_for_the_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = on_gpu(folder)
    results(runner, SAMPLING)  # kernels are compiled, memory is there
    launch = runner.launch

    def strict(plan: object) -> object:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(runner, "launch", strict)
    results(runner, SAMPLING)


def test_a_model_that_cannot_be_captured_runs_without_graphs_after_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_checkpoint(SHAPES["llama"]["tied"], tmp_path)
    expected = seen(results(on_gpu(folder, cuda_graphs=(0,)), SAMPLING))

    from textgen_server.models.decoder import Decoder

    logits = Decoder.logits

    def waiting(self: Decoder, hidden: torch.Tensor) -> torch.Tensor:
        hidden.sum().item()
        return logits(self, hidden)

    monkeypatch.setattr(Decoder, "logits", waiting)
    runner = on_gpu(folder)
    assert seen(results(runner, SAMPLING)) == expected
    assert any("without CUDA graphs" in record.getMessage() for record in caplog.records)
