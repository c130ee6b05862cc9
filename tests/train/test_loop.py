"""A training ends in a checkpoint, can be cut at any step, and refuses what cannot be trained."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hffnet.runtime.dataset import Dataset
from hffnet.runtime.errors import ConfigError, DatasetError, GateError
from hffnet.train.checkpoint import MODEL, EpochRecord, TrainingMetrics, model_from_checkpoint, open_checkpoint
from hffnet.train.evaluate import evaluate_checkpoint, temperatures_from_logits
from hffnet.train.loop import train
from hffnet.train.model import HFFNet2D, build_model
from hffnet.train.optimise import frozen_modules, set_training
from hffnet.train.plan import Plan
from hffnet.train.recipes import Recipe, altered
from hffnet.train.seeds import batches_of, seed_from


class _Watch:
    """Notes the loss of every step and acts when a step is reached."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.epochs: list[EpochRecord] = []
        self._interrupt_at = interrupt_at

    def stage(self, name: str, total: int, done: int = 0) -> None:
        assert total >= done
        assert name

    def advance(self, done: int, note: str = "") -> None:
        assert done > 0
        if note:
            self.notes.append(note.split("  ", maxsplit=1)[0])
            if len(self.notes) == self._interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, number: int, of: int, record: EpochRecord) -> None:
        assert 1 <= number <= of
        self.epochs.append(record)


def _metrics_without_time(metrics: TrainingMetrics) -> TrainingMetrics:
    timeless = tuple(record.model_copy(update={"frames_per_second": 0.0}) for record in metrics.history)
    return metrics.model_copy(update={"history": timeless})


def test_a_drawn_data_set_is_learnt(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    plan = Plan(dataset=dataset, recipe=altered(recipe, epochs=25), split_seed=0)
    checkpoint = open_checkpoint(train(plan, tmp_path / "out"))
    assert checkpoint.metrics.test is not None
    assert checkpoint.metrics.test.hf1 >= 0.8
    test = replace(dataset, frames=dataset.frames_of("test"))
    metrics, decisions = evaluate_checkpoint(checkpoint, test)
    assert metrics == checkpoint.metrics.test
    assert len(decisions) == len(test.frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert {frame.split for frame in checkpoint.config.frames} == {"train", "val", "test"}
    assert checkpoint.config.frames[0].sha256 == dataset.frames[0].sha256


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="adamw"),
        pytest.param({"optimizer": "sgd"}, id="sgd"),
        pytest.param({"freeze": "trunk", "feature_views": 2}, id="features kept"),
        pytest.param({"freeze": "stages:2"}, id="stages frozen"),
    ],
)
@pytest.mark.parametrize("interrupt_at", [1, 3, 5])
def test_a_resumed_training_is_the_same_training(
    tmp_path: Path, dataset: Dataset, recipe: Recipe, change: dict[str, object], interrupt_at: int
) -> None:
    plan = Plan(dataset=dataset, recipe=recipe.model_copy(update=change))
    whole, before, after = _Watch(), _Watch(interrupt_at), _Watch()
    train(plan, tmp_path / "whole", watcher=whole)
    with pytest.raises(KeyboardInterrupt):
        train(plan, tmp_path / "cut", watcher=before)
    assert not (tmp_path / "cut").exists()
    train(plan, tmp_path / "cut", watcher=after, resume=True)
    assert [*before.notes, *after.notes] == whole.notes
    assert (tmp_path / "cut" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    one, other = (open_checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert _metrics_without_time(one.metrics) == _metrics_without_time(other.metrics)


def test_a_killed_training_goes_on_from_its_last_epoch(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    class Killed(Exception):  # noqa: N818 (stands for SIGKILL, after which nothing is saved)
        pass

    class Kill(_Watch):
        def advance(self, done: int, note: str = "") -> None:
            super().advance(done, note)
            if len(self.notes) == 6:
                raise Killed

    plan, whole, before, after = Plan(dataset=dataset, recipe=recipe), _Watch(), Kill(), _Watch()
    train(plan, tmp_path / "whole", watcher=whole)
    with pytest.raises(Killed):
        train(plan, tmp_path / "cut", watcher=before)
    train(plan, tmp_path / "cut", watcher=after, resume=True)
    # Six frames per step of 18: the sixth step is the last of the second epoch, so that epoch is trained again.
    assert [*before.notes[:3], *after.notes] == whole.notes
    assert (tmp_path / "cut" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within MLflow and its database library
def test_mlflow_gets_the_same_curves_in_one_run_over_a_resume(
    tmp_path: Path, dataset: Dataset, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip(
        "mlflow.tracking", reason="MLflow is in no extra, too large for what it serves here: pip install mlflow"
    )
    pytest.importorskip("sqlalchemy", reason="MLflow is installed without its database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    plan, out = Plan(dataset=dataset, recipe=altered(recipe, epochs=2)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(plan, out, watcher=_Watch(1))
    train(plan, out, resume=True)
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("hffnet").experiment_id])
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "epoch/loss")]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "step/loss")]
    assert losses == [record.loss for record in open_checkpoint(out).metrics.history]
    assert steps == list(range(1, len(steps) + 1))
    assert (run.info.status, run.data.params["optimizer"]) == ("FINISHED", recipe.optimizer)


def test_the_callers_signal_handler_comes_back(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Plan(dataset=dataset, recipe=recipe), tmp_path / "out", watcher=_Watch(1))
    assert signal.getsignal(signal.SIGINT) is before


def test_it_trains_beside_the_main_thread(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    plan = Plan(dataset=dataset, recipe=altered(recipe, epochs=1))
    thread = threading.Thread(target=train, args=(plan, tmp_path / "out"))
    thread.start()
    thread.join()
    assert open_checkpoint(tmp_path / "out").metrics.best_epoch == 0


def test_another_plan_cannot_be_resumed(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Plan(dataset=dataset, recipe=recipe), tmp_path / "out", watcher=_Watch(2))
    with pytest.raises(ConfigError, match="has another recipe and seed than is asked for"):
        train(Plan(dataset=dataset, recipe=altered(recipe, epochs=9), seed=1), tmp_path / "out", resume=True)
    with pytest.raises(ConfigError, match="unfinished training lies in"):
        train(Plan(dataset=dataset, recipe=recipe), tmp_path / "out")


def test_a_good_checkpoint_is_not_written_over(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        train(Plan(dataset=dataset, recipe=recipe), tmp_path / "out")


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    wild = recipe.model_copy(update={"optimizer": "sgd", "lr": 1e30, "warmup_epochs": 0.0, "clip": None})
    with pytest.raises(GateError, match=r"the loss is (nan|inf) at epoch 1, step 2, on the frames .*\.png"):
        train(Plan(dataset=dataset, recipe=wild), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_frame_is_named(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    frames = (replace(dataset.frames[0], path=broken), *dataset.frames[1:])
    with pytest.raises(DatasetError, match=r"broken\.png"):
        train(Plan(dataset=replace(dataset, root=Path("/"), frames=frames), recipe=recipe), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.png"]


def test_a_frame_that_changed_is_named(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    frames = (replace(dataset.frames[0], sha256="0" * 64), *dataset.frames[1:])
    with pytest.raises(DatasetError, match="has changed since"):
        train(Plan(dataset=replace(dataset, frames=frames), recipe=recipe), tmp_path / "out")


def test_frames_without_split_are_refused(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    loose = replace(dataset, frames=tuple(replace(frame, split=None) for frame in dataset.frames))
    with pytest.raises(DatasetError, match="is in no split"):
        train(Plan(dataset=loose, recipe=recipe), tmp_path / "out")
    no_val = replace(dataset, frames=dataset.frames_of("train"))
    with pytest.raises(DatasetError, match="no frame is in val"):
        train(Plan(dataset=no_val, recipe=recipe), tmp_path / "out")


def test_an_unknown_device(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        train(Plan(dataset=dataset, recipe=recipe), tmp_path / "out", device="abacus")


def test_a_frozen_trunk_does_not_move(tmp_path: Path, dataset: Dataset, recipe: Recipe) -> None:
    plan = Plan(dataset=dataset, recipe=altered(recipe, freeze="trunk", epochs=2), seed=5)
    trained = model_from_checkpoint(open_checkpoint(train(plan, tmp_path / "out")))
    torch.manual_seed(seed_from(5, "first weights"))
    first = build_model(recipe.model)
    assert isinstance(trained, HFFNet2D)
    assert isinstance(first, HFFNet2D)
    for name, tensor in trained.trunk.state_dict().items():
        assert torch.equal(tensor, first.trunk.state_dict()[name]), name
    assert not torch.equal(trained.adapt.weight, first.adapt.weight)


def test_frozen_parts_stay_in_evaluation_mode(recipe: Recipe) -> None:
    model = HFFNet2D(recipe.model)
    set_training(model, frozen_modules(model, "stages:2"))
    modes = {name: getattr(model.trunk, name).training for name in ("bn1", "layer1", "layer2", "layer3", "layer4")}
    assert modes == {"bn1": False, "layer1": False, "layer2": False, "layer3": True, "layer4": True}
    assert {p.requires_grad for p in model.trunk.layer2.parameters()} == {False}


def test_every_frame_once_per_epoch_and_no_small_remainder() -> None:
    batches = batches_of(33, 16, seed=0, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))
    assert [len(batch) for batch in batches] == [11, 11, 11]


def test_temperatures_repair_overconfidence(dataset: Dataset) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 3))
    shares = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    leaves = np.array([rng.choice(3, p=p) for p in shares])
    labels = dataset.taxonomy.leaf_paths[leaves].astype(np.int64)
    logits = np.concatenate([np.zeros((4000, 2)), 3.0 * truth], axis=1).astype(np.float32)
    assert temperatures_from_logits(logits, labels, dataset.taxonomy)[1] == pytest.approx(3.0, rel=0.15)
