"""A data set and a network small enough that a whole training takes a second."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.split import split_dataset
from hffnet.train.augment import AugmentConfig
from hffnet.train.model import ModelConfig
from hffnet.train.recipes import Recipe


def _picture(kind: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:48, :48]
    phase = rng.uniform(0, 6)
    wave = {"fine": np.sin(x + phase), "coarse": np.sin(x / 3 + phase), "dots": np.sin(x / 2) * np.sin(y / 2 + phase)}
    noisy = 127 + 90 * wave[kind] + rng.normal(0, 8, x.shape)
    picture: npt.NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return picture


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders stripes/fine, stripes/coarse and round/dots with 12 drawn pictures each."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for parent, kind in (("stripes", "fine"), ("stripes", "coarse"), ("round", "dots")):
        (root / parent / kind).mkdir(parents=True)
        for n in range(12):
            assert cv2.imwrite(str(root / parent / kind / f"{n:02}.png"), _picture(kind, rng))
    return root


@pytest.fixture(scope="session")
def dataset(pictures: Path) -> Dataset:
    """The pictures, divided."""
    return split_dataset(open_dataset(pictures), 0, (0.5, 0.25, 0.25))


@pytest.fixture
def recipe() -> Recipe:
    """A few steps of a network with some thousand parameters; dropout on, so that its seeds matter."""
    model = ModelConfig(
        num_classes=(2, 3),
        img_size=32,
        dim=8,
        depth=1,
        heads=2,
        mlp_dim=16,
        level_dim=8,
        trunk_blocks=(1, 1, 1, 1),
        trunk_width=4,
        dropout=0.1,
    )
    return Recipe(
        name="tiny",
        model=model,
        augment=AugmentConfig(degrees=2.0),
        optimizer="adamw",
        lr=1e-2,
        momentum=0.9,
        weight_decay=0.01,
        batch_size=6,
        epochs=3,
        warmup_epochs=1.0,
        clip=1.0,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
