"""A training on its way: epochs and steps, the best weights so far, and a state from which it can go on."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from hffnet.runtime.dataset import LabelledFrame, Split
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import CheckpointError, ConfigError, GateError
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.split import SPLITS
from hffnet.train.checkpoint import EpochRecord
from hffnet.train.evaluate import score
from hffnet.train.features import open_features
from hffnet.train.feed import FeatureFeed, Feed, PixelFeed, all_logits, labels_of
from hffnet.train.loss import hierarchical_loss
from hffnet.train.model import build_model
from hffnet.train.network import Network, TrunkNetwork
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
from hffnet.train.plan import Plan, check_same, identity, weights_sha256
from hffnet.train.progress import Watcher
from hffnet.train.resnet import ResNetTrunk, load_trunk_weights
from hffnet.train.seeds import batches_of, seed_from
from hffnet.train.state import Position, read_position, save_state
from hffnet.train.tensor_file import save_tensors

_log = logging.getLogger(__name__)

STATE, BEST = "state.safetensors", "best.safetensors"


@dataclass(slots=True, kw_only=True)
class Training:
    """A training on its way: what does not change, and where it is."""

    plan: Plan
    work: Path
    model: Network
    optimizer: torch.optim.Optimizer
    feeds: dict[Split, Feed]
    frames: dict[Split, tuple[LabelledFrame, ...]]
    labels: dict[Split, Tensor]
    fixed: frozenset[str]
    position: Position
    watcher: Watcher

    def run(self, asked: threading.Event) -> None:
        """Train from where it is to the last epoch; stops between two steps once ``asked`` is set.

        Raises:
            GateError: the loss is not finite any more.
            KeyboardInterrupt: ``asked`` was set; the state is saved.
        """
        recipe, position = self.plan.recipe, self.position
        num_steps = -(-len(self.labels["train"]) // recipe.batch_size)
        self.watcher.stage("training", recipe.epochs * num_steps, position.epoch * num_steps + position.step)
        while self.position.epoch < recipe.epochs:
            rate = self._train_epoch(asked)
            self._end_epoch(rate)
            self.watcher.epoch(self.position.epoch, recipe.epochs, self.position.history[-1])

    def _train_epoch(self, asked: threading.Event) -> float:
        """All steps of an epoch that are left; returns frames per second."""
        recipe, epoch = self.plan.recipe, self.position.epoch
        batches = batches_of(len(self.labels["train"]), recipe.batch_size, self.plan.seed, epoch)
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
            speed = num_seen / (time.monotonic() - started)
            note = f"loss {loss:.3f}  epoch {epoch + 1}/{recipe.epochs}  {speed:.0f} frames/s  {self._best_note()}"
            self.watcher.advance(epoch * len(batches) + step + 1, note)
        return num_seen / max(time.monotonic() - started, 1e-9)

    def _step(self, indices: npt.NDArray[np.int64], step: int, num_steps: int) -> float:
        recipe, epoch = self.plan.recipe, self.position.epoch
        device = self.model.device
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


def prepare(plan: Plan, work: Path, device: torch.device, threads: int, watcher: Watcher, cache: Path) -> Training:
    """Decode the frames, build the network and put both where an unfinished training left them."""
    whole = identity(plan, None if plan.weights is None else weights_sha256(plan.weights))
    position = read_position(work / STATE) if (work / STATE).is_file() else Position(identity=whole)
    check_same(work, position.identity, whole)
    torch.manual_seed(seed_from(plan.seed, "first weights"))
    model = build_model(plan.recipe.model)
    if plan.weights is not None:
        load_trunk_weights(_trunk_of(model), plan.weights)
    elif plan.recipe.freeze != "none":
        _log.warning("the trunk is frozen (%s) but has random weights; --weights is missing", plan.recipe.freeze)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen = frozen_modules(model, plan.recipe.freeze)
    set_training(model, frozen)
    frozen_tensors = {id(t) for module in frozen for t in module.state_dict(keep_vars=True).values()}
    frames = {split: plan.dataset.frames_of(split) for split in SPLITS}
    training = Training(
        plan=plan,
        work=work,
        model=model,
        optimizer=build_optimizer(model, plan.recipe),
        feeds={split: _feed(plan, model, cache, split, threads, watcher) for split in SPLITS if frames[split]},
        frames=frames,
        labels={split: labels_of(frames[split], plan.dataset.taxonomy) for split in SPLITS},
        fixed=frozenset(n for n, t in model.state_dict(keep_vars=True).items() if id(t) in frozen_tensors),
        position=position,
        watcher=watcher,
    )
    if (work / STATE).is_file():
        training.restore(position)
    return training


def _trunk_of(model: Network) -> ResNetTrunk:
    if isinstance(model, TrunkNetwork):
        return model.trunk
    raise ConfigError(f"{model.config.name} has no ResNet trunk, so no public weights fit it; leave --weights out")


def _feed(plan: Plan, model: Network, cache: Path, split: Split, threads: int, watcher: Watcher) -> Feed:
    frames, recipe = plan.dataset.frames_of(split), plan.recipe
    spec = PreprocessSpec(size=recipe.model.img_size)
    watcher.stage(f"decoding {split} frames", len(frames))
    pixels = open_pixels(frames, spec, cache, threads=threads, advance=watcher.advance)
    if recipe.freeze != "trunk" or not recipe.feature_views or not isinstance(model, TrunkNetwork):
        return PixelFeed(pixels, recipe)
    views = recipe.feature_views if split == "train" else 1
    watcher.stage(f"{split} frames through the trunk", len(frames) * views)
    advance = watcher.advance
    path = cache / f"features-{split}"
    return FeatureFeed(open_features(model, pixels, recipe, plan.seed, path, num_views=views, advance=advance))
