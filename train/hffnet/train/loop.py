"""Labelled, split frames to a checkpoint: the training loop, resumable at any step.

An unfinished training lives in ``<out>.training`` beside the checkpoint-to-be: decoded pixels, the state, the best
weights so far. The folder goes when the checkpoint is there.
"""

import hashlib
import importlib.metadata
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor

from hffnet.runtime.dataset import Dataset, LabelledFrame, Split, dataset_sha256
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import CheckpointError, ConfigError, DatasetError, GateError
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.train.checkpoint import CheckpointConfig, EpochRecord, Seeds, SplitFrame, TrainingMetrics, write_checkpoint
from hffnet.train.durable import save_tensors
from hffnet.train.evaluate import score, temperatures_from_logits
from hffnet.train.features import open_features
from hffnet.train.feed import FeatureFeed, Feed, PixelFeed, all_logits, labels_of
from hffnet.train.interrupt import interrupts_held
from hffnet.train.loss import hierarchical_loss
from hffnet.train.model import HFFNet2D, build_model
from hffnet.train.optimise import (
    build_optimizer,
    frozen_modules,
    learning_parameters,
    learning_rate,
    restore_optimizer,
    set_learning_rate,
    set_training,
    tensors_from_optimizer,
)
from hffnet.train.pixels import open_pixels
from hffnet.train.progress import Silence, Watcher
from hffnet.train.recipes import Recipe
from hffnet.train.resnet import load_trunk_weights
from hffnet.train.seeds import batches_of, seed_from
from hffnet.train.state import Position, read_position, save_state

_log = logging.getLogger(__name__)

STATE, BEST = "state.safetensors", "best.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What decides a training's result.

    Attributes:
        dataset: every frame with its split.
        recipe: the complete configuration.
        weights: public weights for the trunk, or None for a random start.
        seed: of first weights, order, variants, dropout.
        split_seed: which the split was made with, for the record; None where it was given.
    """

    dataset: Dataset
    recipe: Recipe
    weights: Path | None = None
    seed: int = 0
    split_seed: int | None = None


def train(
    plan: Plan,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Path:
    """Train, keep the epoch that is best on val, score it on test, write the checkpoint.

    Args:
        plan: data, recipe, weights, seeds.
        out: the checkpoint folder, which must not exist.
        device: ``auto``, ``cpu``, ``cuda`` or another torch device.
        threads: of torch and of the decoders; None leaves torch's choice.
        resume: go on with an unfinished training of the same plan.
        watcher: is told how far the work is.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` exists, an unfinished training is in the way, or is of another plan.
        DatasetError: a frame without split, an empty split, an unreadable frame.
        CheckpointError: the weights do not fit.
        GateError: the loss is not finite any more.
        KeyboardInterrupt: Ctrl-C, after the state was saved.
    """
    work = out.with_name(f"{out.name}.training")
    _check_folders(out, work, resume=resume)
    _check_splits(plan)
    work.mkdir(parents=True, exist_ok=True)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        # Seeds are set before each step; the caller's generators are given back as they were.
        with FileLock(work / "lock", timeout=0), torch.random.fork_rng(), interrupts_held() as asked:
            training = _prepare(plan, work, torch_device(device), threads or 2, watcher or Silence())
            training.run(asked)
            _finish(training, out)
    except Timeout as error:
        raise ConfigError(f"{work} is in use by another training; choose another output folder") from error
    shutil.rmtree(work)
    return out


def torch_device(name: str) -> torch.device:
    """The device a name means; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: torch has no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}; choose cpu or auto") from error


@dataclass(slots=True, kw_only=True)
class _Training:
    """A training on its way: what does not change, and where it is."""

    plan: Plan
    work: Path
    model: HFFNet2D
    optimizer: torch.optim.Optimizer
    feeds: dict[Split, Feed]
    frames: dict[Split, tuple[LabelledFrame, ...]]
    labels: dict[Split, Tensor]
    fixed: frozenset[str]
    position: Position
    watcher: Watcher
    history: list[EpochRecord] = field(default_factory=list)

    def run(self, asked: threading.Event) -> None:
        recipe = self.plan.recipe
        while self.position.epoch < recipe.epochs:
            rate = self._train_epoch(asked)
            self._end_epoch(rate)
            self.watcher.epoch(self.position.epoch, recipe.epochs, self.position.history[-1])

    def _train_epoch(self, asked: threading.Event) -> float:
        """All steps of an epoch that are left; returns frames per second."""
        recipe, epoch = self.plan.recipe, self.position.epoch
        batches = batches_of(len(self.labels["train"]), recipe.batch_size, self.plan.seed, epoch)
        self.watcher.stage(f"epoch {epoch + 1}/{recipe.epochs}", len(batches), self.position.step)
        set_training(self.model, frozen_modules(self.model, recipe.freeze))
        started, num_seen = time.monotonic(), 0
        for step in range(self.position.step, len(batches)):
            if asked.is_set():
                self._save()
                _log.info("interrupted at epoch %d step %d; the state is saved", epoch + 1, step)
                raise KeyboardInterrupt
            loss = self._step(batches[step], step, len(batches))
            num_seen += len(batches[step])
            self.position = self.position.model_copy(
                update={"step": step + 1, "loss_sum": self.position.loss_sum + loss * len(batches[step])}
            )
            note = f"loss {loss:.3f}  {num_seen / (time.monotonic() - started):.0f} frames/s  {self._best_note()}"
            self.watcher.advance(step + 1, note)
        return num_seen / max(time.monotonic() - started, 1e-9)

    def _step(self, indices: npt.NDArray[np.int64], step: int, num_steps: int) -> float:
        recipe, epoch = self.plan.recipe, self.position.epoch
        device = self.model.pos_embedding.device
        torch.manual_seed(seed_from(self.plan.seed, "dropout", epoch, step))
        generator = torch.Generator(device).manual_seed(seed_from(self.plan.seed, "variants", epoch, step))
        set_learning_rate(self.optimizer, learning_rate(recipe, epoch + step / num_steps))
        logits = self.feeds["train"].logits(self.model, indices, generator)
        labels = self.labels["train"][torch.from_numpy(indices)].to(device)
        loss = hierarchical_loss(logits, labels, self.plan.dataset.taxonomy, recipe.loss)
        value = float(loss.detach())
        if not np.isfinite(value):
            names = ", ".join(str(self.frames["train"][i].path) for i in indices)
            raise GateError(
                f"the loss is {value} at epoch {epoch + 1}, step {step + 1}, on the frames {names}; expected a finite "
                f"number. Lower the learning rate ({recipe.lr:g}) or look at these frames; {self.work} still holds "
                "the state after the last whole epoch, remove it to start anew"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for _, p in learning_parameters(self.model)], recipe.clip)
        self.optimizer.step()
        return value

    def _end_epoch(self, frames_per_second: float) -> None:
        position, taxonomy = self.position, self.plan.dataset.taxonomy
        logits = all_logits(self.model, self.feeds["val"], len(self.labels["val"]))
        val_loss = hierarchical_loss(torch.from_numpy(logits), self.labels["val"], taxonomy, self.plan.recipe.loss)
        metrics, _ = score(logits, self.frames["val"], taxonomy, DecodeSpec.plain(taxonomy))
        record = EpochRecord(
            loss=position.loss_sum / len(self.labels["train"]),
            val_loss=float(val_loss),
            val_hf1=metrics.hf1,
            frames_per_second=round(frames_per_second, 1),
        )
        best = position.best_epoch
        # Few val frames make equal HF1 likely; the smaller loss then is the better guess.
        if best is None or _rank(record) > _rank(position.history[best]):
            best = position.epoch
            save_tensors(self.work / BEST, self._tensors())
        self.position = position.model_copy(
            update={
                "epoch": position.epoch + 1,
                "step": 0,
                "loss_sum": 0.0,
                "best_epoch": best,
                "history": (*position.history, record),
            }
        )
        self._save()

    def _tensors(self) -> dict[str, Tensor]:
        """The model without what is frozen, which its seed and weights file give back."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name not in self.fixed}

    def _save(self) -> None:
        memory = tensors_from_optimizer(self.model, self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self._tensors().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in memory.items()}
        save_state(self.work / STATE, self.position, tensors)

    def restore(self, position: Position) -> None:
        """Put the model and the optimizer where the state file has them."""
        tensors = load_file(self.work / STATE)
        self.load({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
        memory = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}
        restore_optimizer(self.model, self.optimizer, memory)
        self.position = position

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Weights of everything that is not frozen."""
        missing, unexpected = self.model.load_state_dict(tensors, strict=False)
        if unexpected or set(missing) - self.fixed:
            odd = sorted({*unexpected, *(set(missing) - self.fixed)})
            raise CheckpointError(f"{self.work} does not fit the network, first at {odd[0]}; remove it to start anew")

    def _best_note(self) -> str:
        best = self.position.best_epoch
        return "" if best is None else f"best HF1 {self.position.history[best].val_hf1:.4f}"


def _rank(record: EpochRecord) -> tuple[float, float]:
    return record.val_hf1, -record.val_loss


def _check_folders(out: Path, work: Path, *, resume: bool) -> None:
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another output folder or remove it")
    if resume and not (work / STATE).is_file():
        _log.warning("there is nothing to resume in %s; the training starts anew", work)
    if not resume and (work / STATE).is_file():
        raise ConfigError(f"an unfinished training lies in {work}; go on with --resume, or remove it to start anew")


def _check_splits(plan: Plan) -> None:
    frames = plan.dataset.frames
    if loose := [frame for frame in frames if frame.split is None]:
        raise DatasetError(f"{loose[0].path} is in no split; divide the data set first (split_dataset)")
    for split in ("train", "val"):
        if not plan.dataset.frames_of(split):
            raise DatasetError(f"no frame is in {split}; training needs train frames, and val frames to choose an epoch")
    if plan.dataset.taxonomy.num_classes != plan.recipe.model.num_classes:
        raise ConfigError(
            f"the recipe's network has {plan.recipe.model.num_classes} classes per level, the data set "
            f"{plan.dataset.taxonomy.num_classes}; make the recipe for the data set's taxonomy"
        )


def _identity(plan: Plan, weights_sha256: str | None) -> str:
    """One line per thing that decides the result, so that a difference can be named."""
    splits = sorted(f"{plan.dataset.relative(frame)} {frame.split}" for frame in plan.dataset.frames)
    lines = {
        "data": dataset_sha256(plan.dataset),
        "split": hashlib.sha256("\n".join(splits).encode()).hexdigest(),
        "recipe": plan.recipe.model_dump_json(),
        "seed": plan.seed,
        "weights": weights_sha256,
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _check_same(work: Path, found: str, expected: str) -> None:
    different = [
        new.split(":")[0] for old, new in zip(found.splitlines(), expected.splitlines(), strict=False) if old != new
    ]
    if found != expected:
        raise ConfigError(
            f"the unfinished training in {work} has another {' and '.join(different) or 'form'} than is asked for now; "
            "give the same options and data as before, or remove it to start anew"
        )


def _prepare(plan: Plan, work: Path, device: torch.device, threads: int, watcher: Watcher) -> _Training:
    identity = _identity(plan, None if plan.weights is None else _weights_sha256(plan.weights))
    position = read_position(work / STATE) if (work / STATE).is_file() else Position(identity=identity)
    _check_same(work, position.identity, identity)
    torch.manual_seed(seed_from(plan.seed, "first weights"))
    model = build_model(plan.recipe.model)
    if plan.weights is not None:
        load_trunk_weights(model.trunk, plan.weights)
    elif plan.recipe.freeze != "none":
        _log.warning("the trunk is frozen (%s) but has random weights; --weights is missing", plan.recipe.freeze)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = frozen_modules(model, plan.recipe.freeze)
    set_training(model, frozen)
    frozen_tensors = {id(t) for module in frozen for t in module.state_dict(keep_vars=True).values()}
    frames = {split: plan.dataset.frames_of(split) for split in ("train", "val", "test")}
    training = _Training(
        plan=plan,
        work=work,
        model=model,
        optimizer=build_optimizer(model, plan.recipe),
        feeds={split: _feed(plan, model, work, split, threads, watcher) for split in frames if frames[split]},
        frames=frames,
        labels={split: labels_of(frames[split], plan.dataset.taxonomy) for split in frames},
        fixed=frozenset(n for n, t in model.state_dict(keep_vars=True).items() if id(t) in frozen_tensors),
        position=position,
        watcher=watcher,
    )
    if (work / STATE).is_file():
        training.restore(position)
    return training


def _feed(plan: Plan, model: HFFNet2D, work: Path, split: Split, threads: int, watcher: Watcher) -> Feed:
    frames, recipe = plan.dataset.frames_of(split), plan.recipe
    spec = PreprocessSpec(size=recipe.model.img_size)
    watcher.stage(f"decoding {split} frames", len(frames))
    pixels = open_pixels(frames, spec, work, threads=threads, advance=watcher.advance)
    if recipe.freeze != "trunk" or not recipe.feature_views:
        return PixelFeed(pixels, recipe)
    views = recipe.feature_views if split == "train" else 1
    watcher.stage(f"{split} frames through the trunk", len(frames) * views)
    advance = watcher.advance
    path = work / f"features-{split}"
    return FeatureFeed(open_features(model, pixels, recipe, plan.seed, path, num_views=views, advance=advance))


def _finish(training: _Training, out: Path) -> None:
    plan, position = training.plan, training.position
    taxonomy = plan.dataset.taxonomy
    training.load(load_file(training.work / BEST))
    val_logits = all_logits(training.model, training.feeds["val"], len(training.frames["val"]))
    temperatures = temperatures_from_logits(val_logits, training.labels["val"].numpy(), taxonomy)
    decode_spec = DecodeSpec(temperatures=temperatures)
    config = CheckpointConfig(
        recipe=plan.recipe,
        preprocess=PreprocessSpec(size=plan.recipe.model.img_size),
        decode=decode_spec,
        seeds=Seeds(training=plan.seed, split=plan.split_seed),
        data_sha256=dataset_sha256(plan.dataset),
        weights_sha256=None if plan.weights is None else _weights_sha256(plan.weights),
        frames=_split_list(plan.dataset),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        tools={name: importlib.metadata.version(name) for name in ("torch", "numpy", "opencv-python-headless")},
    )
    assert position.best_epoch is not None, "run() ends after at least one epoch"
    metrics = TrainingMetrics(
        best_epoch=position.best_epoch,
        val=score(val_logits, training.frames["val"], taxonomy, decode_spec)[0],
        test=_test_metrics(training, decode_spec),
        history=position.history,
    )
    write_checkpoint(out, training.model.state_dict(), config, taxonomy, metrics)


def _test_metrics(training: _Training, spec: DecodeSpec) -> Metrics | None:
    frames = training.frames["test"]
    if not frames:
        return None
    logits = all_logits(training.model, training.feeds["test"], len(frames))
    return score(logits, frames, training.plan.dataset.taxonomy, spec)[0]


def _split_list(dataset: Dataset) -> tuple[SplitFrame, ...]:
    return tuple(
        SplitFrame(path=dataset.relative(frame), sha256=frame.sha256, classes=frame.classes, split=frame.split)
        for frame in dataset.frames
        if frame.split is not None
    )


def _weights_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; a weights file is expected") from error
