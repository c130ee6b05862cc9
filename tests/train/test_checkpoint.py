"""A checkpoint is opened only when it is whole and its files fit each other."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import CheckpointError, DatasetError
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.checkpoint import checkpoint_sha256, model_from_checkpoint, open_checkpoint
from hffnet.train.evaluate import evaluate_checkpoint
from hffnet.train.loop import train
from hffnet.train.plan import Plan
from hffnet.train.recipes import Recipe, altered


@pytest.fixture
def folder(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> Path:
    return train(Plan(dataset=dataset, recipe=altered(recipe, epochs=1)), tmp_path / "checkpoint")


def _edit(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return damage


def _cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _other_tree(folder: Path) -> None:
    (folder / "taxonomy.json").write_text(Taxonomy.from_paths([("a", "x"), ("b", "y")]).model_dump_json())


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(lambda f: (f / "metrics.json").unlink(), "has no metrics.json", id="file missing"),
        pytest.param(lambda f: (f / "config.json").write_text("{"), "config.json is not what", id="no JSON"),
        pytest.param(_edit("config.json", lambda d: d.update(surprise=1)), "surprise", id="unknown key"),
        pytest.param(_edit("config.json", lambda d: d.update(format_version=2)), "format_version", id="version"),
        pytest.param(_edit("config.json", lambda d: d["preprocess"].update(size=64)), "must agree", id="size"),  # type: ignore[attr-defined]
        pytest.param(_edit("config.json", lambda d: d["recipe"]["model"].update(dim=16)), "does not fit", id="shapes"),  # type: ignore[index]
        pytest.param(_other_tree, "not of one training", id="other taxonomy"),
        pytest.param(lambda f: (f / "taxonomy.json").write_text("[]"), "not a readable taxonomy", id="no taxonomy"),
        pytest.param(_cut, "not a whole safetensors file", id="truncated"),
    ],
)
def test_damage_is_found(folder: Path, damage: Callable[[Path], None], sentence: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        open_checkpoint(folder)


def test_identity_follows_every_file(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert checkpoint_sha256(copy) == checkpoint_sha256(folder)
    (copy / "taxonomy.json").write_text((copy / "taxonomy.json").read_text() + " ")
    assert checkpoint_sha256(copy) != checkpoint_sha256(folder)


def test_weights_that_are_no_numbers(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = b"\xff\xff\xff\x7f"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="infinities or NaN"):
        model_from_checkpoint(open_checkpoint(folder))


def test_frames_of_another_tree_are_not_scored(folder: Path, dataset: Dataset) -> None:
    other = replace(dataset, taxonomy=Taxonomy.from_paths([("a", "x"), ("b", "y")]))
    with pytest.raises(DatasetError, match="open the data set with the checkpoint's taxonomy"):
        evaluate_checkpoint(open_checkpoint(folder), other)
