"""Variants keep scale, range and determinism; nothing black comes in from outside."""

import pytest
import torch

from hffnet.train.augment import AugmentConfig, augment

STILL = AugmentConfig(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, degrees=0.0, erase=0.0)


def _frames(num: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (num, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _variant(frames: torch.Tensor, config: AugmentConfig, seed: int = 0) -> torch.Tensor:
    return augment(frames, config, 114.0, torch.Generator().manual_seed(seed))


def test_nothing_asked_nothing_changed() -> None:
    torch.testing.assert_close(_variant(_frames(), STILL), _frames().float(), atol=0.05, rtol=0)


def test_a_flip_is_horizontal() -> None:
    mirrored = _variant(_frames(), STILL.model_copy(update={"flip": 1.0}))
    torch.testing.assert_close(mirrored, _frames().float().flip(2), atol=0.05, rtol=0)


def test_a_quarter_turn_is_seen_whole() -> None:
    turned = _variant(_frames(64), STILL.model_copy(update={"degrees": 180.0}))
    # Uniform noise has its mean everywhere; zeros from outside would pull the corners down.
    assert turned[:, :4, :4].mean() == pytest.approx(127.5, abs=8)


def test_the_seed_decides() -> None:
    config = AugmentConfig()
    torch.testing.assert_close(_variant(_frames(), config, 3), _variant(_frames(), config, 3), rtol=0, atol=0)
    assert not torch.equal(_variant(_frames(), config, 3), _variant(_frames(), config, 4))


def test_values_stay_on_the_scale() -> None:
    out = _variant(_frames(32), AugmentConfig(degrees=45.0))
    assert out.dtype == torch.float32
    assert float(out.min()) >= 0
    assert float(out.max()) <= 255.001


def test_a_crop_enlarges() -> None:
    frames = torch.arange(40, dtype=torch.uint8).repeat(1, 40, 1)
    out = _variant(frames, STILL.model_copy(update={"crop_area": (0.25, 0.25)}))
    steps = out[0, 20, 1:] - out[0, 20, :-1]
    assert steps.median() == pytest.approx(0.5, abs=0.01)


def test_erasing_puts_the_mean_in_a_rectangle() -> None:
    config = STILL.model_copy(update={"erase": 1.0, "erase_area": (0.1, 0.1)})
    erased = _variant(torch.zeros(16, 40, 40, dtype=torch.uint8), config) == 114.0
    assert erased.float().mean() == pytest.approx(0.1, abs=0.03)
