"""A checkpoint of the smallest network, hardly trained, that tests of export share."""

import pytest

from hffnet.runtime.dataset import Dataset, open_dataset
from hffnet.runtime.split import split_dataset
from hffnet.train.checkpoint import Checkpoint, open_checkpoint
from hffnet.train.loop import train
from hffnet.train.plan import Plan
from hffnet.train.recipes import altered, recipe_by_name
from hffnet.train.synthetic import write_dataset


@pytest.fixture(scope="package")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, frames_per_class=6, seed=0)
    return split_dataset(open_dataset(folder), 0, (0.5, 0.25, 0.25))


@pytest.fixture(scope="package")
def checkpoint(drawn: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trained")
    recipe = altered(recipe_by_name("nano", drawn.taxonomy.num_classes), epochs=1)
    return open_checkpoint(train(Plan(dataset=drawn, recipe=recipe), folder / "checkpoint", threads=1))
