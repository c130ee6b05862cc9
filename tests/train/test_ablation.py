"""One command trains all five networks and compares them on the same frames."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import ConfigError
from hffnet.train.ablation import Ablation, train_ablation
from hffnet.train.checkpoint import open_checkpoint
from hffnet.train.comparison import JSON, MARKDOWN, PICTURE, Comparison, comparison_from_checkpoints
from hffnet.train.loop import train
from hffnet.train.network import MODEL_NAMES, ModelName
from hffnet.train.plan import Plan
from hffnet.train.recipes import Recipe, altered


def _recipes(recipe: Recipe) -> dict[ModelName, Recipe]:
    short = altered(recipe, epochs=1)
    return {
        name: short.model_copy(update={"model": short.model.model_copy(update={"name": name})}) for name in MODEL_NAMES
    }


@pytest.fixture
def ablation(dataset: Dataset, recipe: Recipe) -> Ablation:
    return Ablation(plan=Plan(dataset=dataset, recipe=altered(recipe, epochs=1)), recipes=_recipes(recipe), num_seeds=2)


def test_one_table_and_one_picture(ablation: Ablation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    comparison = train_ablation(ablation, out, threads=1)
    assert [row.network for row in comparison.rows] == list(MODEL_NAMES)
    assert {row.seeds for row in comparison.rows} == {(0, 1)}
    assert Comparison.model_validate_json((out / JSON).read_text()) == comparison
    table = (out / MARKDOWN).read_text()
    assert all(f"| {name} |" in table for name in MODEL_NAMES)
    assert "Mean ± 95 % interval over 2 seeds" in table
    picture = (out / PICTURE).read_text()
    ET.fromstring(picture)
    assert all(name in picture for name in (*MODEL_NAMES, "HF1", "FPA"))
    checkpoints = {f"{name}-seed{seed}" for name in MODEL_NAMES for seed in (0, 1)}
    assert {path.name for path in out.iterdir()} == {JSON, MARKDOWN, PICTURE, *checkpoints}


def test_finished_trainings_are_kept(ablation: Ablation, tmp_path: Path) -> None:
    once = replace(ablation, num_seeds=1)
    first = train_ablation(once, tmp_path / "out", threads=1)
    before = (tmp_path / "out" / "HFFVT" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="already exists"):
        train_ablation(once, tmp_path / "out")
    again = train_ablation(once, tmp_path / "out", threads=1, resume=True)
    assert (tmp_path / "out" / "HFFVT" / "model.safetensors").stat().st_mtime_ns == before
    assert [row.runs for row in again.rows] == [row.runs for row in first.rows]
    other = replace(once, plan=replace(once.plan, seed=7))
    with pytest.raises(ConfigError, match="another recipe, seed, data or split"):
        train_ablation(other, tmp_path / "out", resume=True)


def test_other_frames_cannot_stand_in_one_table(dataset: Dataset, recipe: Recipe, tmp_path: Path) -> None:
    short = altered(recipe, epochs=1)
    train(Plan(dataset=dataset, recipe=short), tmp_path / "one")
    fewer = replace(dataset, frames=dataset.frames[1:])
    train(Plan(dataset=fewer, recipe=short), tmp_path / "two")
    entries = {name: [open_checkpoint(tmp_path / name)] for name in ("one", "two")}
    with pytest.raises(ConfigError, match="cannot stand in one table"):
        comparison_from_checkpoints("both", entries)


def test_the_json_says_its_version(ablation: Ablation, tmp_path: Path) -> None:
    train_ablation(replace(ablation, num_seeds=1), tmp_path / "out", threads=1)
    assert json.loads((tmp_path / "out" / JSON).read_text())["schema_version"] == 1
