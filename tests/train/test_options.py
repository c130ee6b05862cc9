"""What a recipe may ask of the loop beyond the plain step: each does what it says and is resumed like the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.train.checkpoint import open_checkpoint
from hffnet.train.comparison import JSON, MARKDOWN
from hffnet.train.distillation import ALONE, DISTILLED, train_student
from hffnet.train.loop import train
from hffnet.train.loss import distillation_loss
from hffnet.train.model import build_model
from hffnet.train.optimise import build_optimizer
from hffnet.train.plan import Plan
from hffnet.train.recipes import ComputeConfig, DistillConfig, Recipe, altered, recipe_by_name
from hffnet.train.seeds import balanced_batches_of


def _without_chance(recipe: Recipe, **change: object) -> Recipe:
    model = recipe.model.model_copy(update={"dropout": 0.0, "name": "HFFVT"})
    return recipe.model_copy(update={"model": model, "optimizer": "sgd", "lr": 0.05, **change})


def _losses(folder: Path) -> list[float]:
    return [record.loss for record in open_checkpoint(folder).metrics.history]


def test_parts_of_a_step_are_the_step(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    for name, parts in (("whole", 1), ("parts", 3)):
        one = _without_chance(recipe, compute=ComputeConfig(accumulate=parts))
        train(Plan(dataset=dataset, recipe=one), tmp_path / name)
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-5)


@pytest.mark.parametrize(
    ("compute", "tolerance"),
    [
        pytest.param(ComputeConfig(precision="bf16"), 0.05, id="bf16"),
        pytest.param(ComputeConfig(precision="fp16"), 0.01, id="fp16"),
        pytest.param(ComputeConfig(channels_last=False), 1e-4, id="channels-first"),
    ],
)
def test_arithmetic_changes_the_loss_by_rounding_only(
    tmp_path: Path, dataset: Dataset, recipe: Recipe, compute: ComputeConfig, tolerance: float
) -> None:
    for name, chosen in (("plain", ComputeConfig()), ("other", compute)):
        train(Plan(dataset=dataset, recipe=_without_chance(recipe, compute=chosen, epochs=2)), tmp_path / name)
    assert _losses(tmp_path / "other") == pytest.approx(_losses(tmp_path / "plain"), rel=tolerance)


def test_more_parts_than_frames_are_refused(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="a step of 6 frames cannot be divided"):
        train(Plan(dataset=dataset, recipe=altered(recipe, accumulate=7)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_patience_ends_a_training_that_stands_still(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    still = recipe.model_copy(update={"lr": 1e-12, "epochs": 30, "patience": 2})
    train(Plan(dataset=dataset, recipe=still), tmp_path / "out")
    metrics = open_checkpoint(tmp_path / "out").metrics
    assert len(metrics.history) < 30
    assert len(metrics.history) == metrics.best_epoch + 1 + 2


def test_balanced_epochs_show_every_class_equally_often() -> None:
    leaves = [0] * 50 + [1] * 7 + [2] * 3
    shown = np.concatenate(balanced_batches_of(leaves, 8, seed=0, epoch=0))
    assert np.bincount(np.asarray(leaves)[shown]).tolist() == [20, 20, 20]
    assert set(np.bincount(shown[shown >= 57] - 57).tolist()) <= {6, 7}
    other = np.concatenate(balanced_batches_of(leaves, 8, seed=0, epoch=1))
    assert set(other[other < 50].tolist()) != set(shown[shown < 50].tolist())


def test_the_running_average_is_what_is_kept(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    # Averaged so slowly that it hardly leaves the first weights: its first epoch scores as they do.
    train(Plan(dataset=dataset, recipe=_without_chance(recipe, ema=0.999999, epochs=1)), tmp_path / "slow")
    train(Plan(dataset=dataset, recipe=_without_chance(recipe, lr=1e-12, epochs=1)), tmp_path / "still")
    slow, still = (open_checkpoint(tmp_path / name).metrics.history[0] for name in ("slow", "still"))
    assert slow.val_loss == pytest.approx(still.val_loss, rel=0.05)
    assert slow.loss != still.loss


def test_rates_rise_towards_the_head() -> None:
    recipe = recipe_by_name("modern", (2, 6))
    with torch.device("meta"):
        model = build_model(recipe.model)
    optimizer = build_optimizer(model, recipe)
    share = {id(p): group["lr_share"] for group in optimizer.param_groups for p in group["params"]}
    names = ["trunk.conv1.weight", "trunk.layer1.0.conv1.weight", "trunk.layer4.0.conv1.weight", "adapt.weight"]
    names += ["transformer.0.attention.qkv.weight", "transformer.3.attention.qkv.weight", "head.level_fc.0.weight"]
    shares = [share[id(model.get_parameter(name))] for name in names]
    assert shares == sorted(shares)
    assert len(set(shares)) == len(shares)
    assert shares[-1] == 1.0


def test_curves_are_written_for_tensorboard(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    train(Plan(dataset=dataset, recipe=altered(recipe, epochs=1)), tmp_path / "out")
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name in content for name in (b"step/loss", b"epoch/val_hf1", b"epoch/frames_per_second"))


def test_soft_targets_by_hand(dataset: Dataset) -> None:
    student, teacher = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0, 0.0, 0.0]])
    p = torch.softmax(torch.tensor([1.0, 0.0]), dim=0)
    by_hand = 4 * (p * (p.log() - torch.log(torch.tensor(0.5)))).sum()
    assert distillation_loss(student, teacher, dataset.taxonomy, 2.0, 2.0) == pytest.approx(float(by_hand))
    assert distillation_loss(teacher, teacher, dataset.taxonomy, 2.0, 2.0) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    "change",
    [pytest.param({}, id="pixels"), pytest.param({"freeze": "trunk", "feature_views": 2}, id="kept-features")],
)
def test_a_student_with_and_without_its_teacher(
    tmp_path: Path, dataset: Dataset, recipe: Recipe, change: dict[str, object]
) -> None:
    teacher = open_checkpoint(train(Plan(dataset=dataset, recipe=altered(recipe, epochs=10)), tmp_path / "teacher"))
    student = recipe.model_copy(update={"distill": DistillConfig(weight=1.0), "epochs": 2, **change})
    plan = Plan(dataset=dataset, recipe=student, teacher=teacher, seed=1)
    comparison = train_student(plan, tmp_path / "out", threads=1)
    assert [row.name for row in comparison.rows] == ["teacher", "student alone", "student distilled"]
    assert comparison.rows[0].runs == (teacher.metrics.test,)
    assert _losses(tmp_path / "out" / ALONE) != _losses(tmp_path / "out" / DISTILLED)
    assert "student distilled" in (tmp_path / "out" / MARKDOWN).read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {ALONE, DISTILLED, JSON, MARKDOWN}


def test_a_teacher_that_knows_the_test_frames_is_refused(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    teacher = open_checkpoint(train(Plan(dataset=dataset, recipe=altered(recipe, epochs=1)), tmp_path / "teacher"))
    student = recipe.model_copy(update={"distill": DistillConfig()})
    from dataclasses import replace

    moved = tuple(replace(f, split="test" if f.split == "train" else "train") for f in dataset.frames)
    moved = (*moved, replace(moved[0], split="val"))
    plan = Plan(dataset=replace(dataset, frames=moved), recipe=student, teacher=teacher)
    with pytest.raises(DatasetError, match="the student would be scored on frames it knows by hearsay"):
        train_student(plan, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not say how to learn from it"):
        train(Plan(dataset=dataset, recipe=recipe, teacher=teacher), tmp_path / "out")
