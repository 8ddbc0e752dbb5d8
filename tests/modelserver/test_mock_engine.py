"""The mock engine's executor: what a step takes, and what it brings."""

from pathlib import Path

import pytest
from front import write_model_folder

from textgen_server import mock_engine
from textgen_server.engine.plan import Item, Sample, StepPlan
from textgen_server.errors import CheckpointError
from textgen_server.mock_engine import LOGPROB, MockExecutor
from textgen_server.sampling import SamplingParams
from textgen_server.settings import ServerOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "vocab_size": 330, "max_position_embeddings": 512}')
    return tmp_path


def executor(folder: Path, **options) -> MockExecutor:
    return MockExecutor(ServerOptions(mock_engine=True, **options), folder)


def decode(*samples: Sample) -> StepPlan:
    return StepPlan([Item([5], 9, [0], sample) for sample in samples], num_decodes=len(samples))


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(mock_engine, "time", clock)
    return clock


def seconds(clock: Clock, mock: MockExecutor, plan: StepPlan) -> float:
    started = clock.now
    mock.launch(plan).result()
    return clock.now - started


def test_steps_keep_the_beat_and_the_first_after_a_rest_comes_at_once(folder, clock: Clock):
    mock = executor(folder, mock_engine_tokens_per_second=20)
    plan = decode(Sample(SamplingParams(), 0))
    assert seconds(clock, mock, plan) == 0
    assert [seconds(clock, mock, plan) for _ in range(3)] == pytest.approx([0.05] * 3)
    clock.sleep(0.03)
    assert seconds(clock, mock, plan) == pytest.approx(0.02)
    clock.sleep(0.2)
    assert seconds(clock, mock, plan) == 0
    assert seconds(clock, mock, plan) == pytest.approx(0.05)


def test_prompts_take_time_where_their_rate_is_set(folder, clock: Clock):
    mock = executor(folder, mock_engine_tokens_per_second=1e6, mock_engine_prefill_tokens_per_second=1000)
    prompt = StepPlan([Item([5] * 100, 0, [0], Sample(SamplingParams(), 0))], num_decodes=0)
    assert seconds(clock, mock, prompt) == pytest.approx(0.1)
    assert mock.longest_step_seconds == pytest.approx(0.512, abs=0.001)  # max_prefill_tokens is the model's 512


def test_tops_and_scores_come_where_they_are_asked_for(folder):
    mock = executor(folder, mock_engine_tokens_per_second=1e6)
    item = Item([5, 6, 7], 0, [0], Sample(SamplingParams(top_tokens=2), 0), targets=[6, 329], top_targets=2)
    result = mock.launch(StepPlan([item], num_decodes=0)).result()
    assert [id for id, _ in result.tops[0]] == [result.tokens[0], result.tokens[0] + 1]
    assert result.scores[0].logprobs == [LOGPROB, LOGPROB]
    assert [id for id, _ in result.scores[0].tops[1]] == [329, 0]
    assert mock.launch(decode(Sample(SamplingParams(), 0))).result().tops == []


class Digits:
    """A grammar of two tokens."""

    finished = False

    @staticmethod
    def fill_masks(constraints, masks) -> None:
        masks[:, 100 // 32] |= 1 << 100 % 32
        masks[:, 200 // 32] |= 1 << 200 % 32

    def accept(self, token: int) -> None:
        raise NotImplementedError


def test_a_grammar_is_kept(folder):
    mock = executor(folder, mock_engine_tokens_per_second=1e6)
    assert mock.launch(decode(Sample(SamplingParams(), 0, constraint=Digits()))).result().tokens == [100]


def test_a_config_without_a_vocabulary_is_refused(folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="vocab_size"):
        executor(folder)
