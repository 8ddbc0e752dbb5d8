"""What parity with transformers does not show of rotary embeddings."""

import torch

from textgen_server.layers.rotary import LongRope, RopeConfig, Rotary, rotate

FACTORS = {"short_factor": [1.0, 2.0], "long_factor": [4.0, 8.0], "original_max_position_embeddings": 16}


def longrope(kind: str, positions: int = 32) -> Rotary:
    rope = RopeConfig(4, 100.0, positions, {"rope_type": kind, **FACTORS})
    return Rotary(rope, torch.device("cpu"), torch.float32)


def test_longrope_turns_positions_beyond_the_original_length_by_the_long_factors() -> None:
    _, sin = longrope("longrope").at(torch.tensor([15, 16]))
    expected = torch.tensor([[15.0, 15 / (2 * 10)], [16 / 4, 16 / (8 * 10)]]).sin()
    torch.testing.assert_close(sin[:, 0, :2], expected * (1 + 1 / 4) ** 0.5)  # log 2 / log 16 = 1/4


def test_longrope_is_known_by_the_names_of_its_first_releases() -> None:
    for kind in ("su", "yarn"):
        assert torch.equal(longrope(kind).cos, longrope("longrope").cos)


def test_the_angles_of_long_sequences_below_the_original_length_lie_behind_the_others() -> None:
    rotary = longrope("longrope")
    assert RopeConfig(4, 100.0, 32, {"rope_type": "longrope", **FACTORS}).long == LongRope(original=16, shift=32)
    _, sin = rotary.at(torch.tensor([15 + 32]))
    torch.testing.assert_close(sin[0, 0, :2], torch.tensor([15 / 4, 15 / (8 * 10)]).sin() * (1 + 1 / 4) ** 0.5)


def test_dynamic_scaling_changes_nothing_up_to_the_longest_sequence() -> None:
    plain, dynamic = (
        Rotary(RopeConfig(4, 100.0, 8, scaling), torch.device("cpu"), torch.float32)
        for scaling in ({}, {"rope_type": "dynamic", "factor": 4.0})
    )
    assert torch.equal(plain.cos, dynamic.cos)


def test_a_short_model_never_turns_by_the_long_factors() -> None:
    assert len(longrope("longrope", positions=8).cos) == 8


def test_features_beyond_the_rotated_ones_stay() -> None:
    x, (cos, sin) = torch.randn(2, 3, 10), longrope("longrope").at(torch.tensor([3, 20]))
    turned = rotate(x.clone(), cos, sin)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4].clone(), cos, sin))
