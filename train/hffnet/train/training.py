"""A training on its way: epochs and steps, the best weights so far, and a state from which it can go on."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hffnet.runtime.dataset import LabelledFrame, Split
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import CheckpointError, GateError
from hffnet.train.checkpoint import EpochRecord
from hffnet.train.curves import Curves
from hffnet.train.distributed import World
from hffnet.train.evaluate import score
from hffnet.train.feed import Feed, all_logits
from hffnet.train.loss import hierarchical_loss
from hffnet.train.network import Network
from hffnet.train.optimise import (
    frozen_modules,
    learning_rate,
    restore_optimizer,
    set_training,
    tensors_from_optimizer,
)
from hffnet.train.plan import Plan
from hffnet.train.progress import Watcher
from hffnet.train.seeds import Indices, balanced_batches_of, batches_of
from hffnet.train.state import Position, save_state
from hffnet.train.step import Stepper
from hffnet.train.tensor_file import save_tensors

_log = logging.getLogger(__name__)

STATE, BEST = "state.safetensors", "best.safetensors"


@dataclass(slots=True, kw_only=True)
class Training:
    """A training on its way: what does not change, and where it is; no ``curves`` where another process leads.

    Attributes:
        pixel_size_um: smallest and largest micrometres per pixel of the train frames, as far as their files tell.
    """

    plan: Plan
    work: Path
    model: Network
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    feeds: dict[Split, Feed]
    frames: dict[Split, tuple[LabelledFrame, ...]]
    labels: dict[Split, Tensor]
    pixel_size_um: tuple[float, float] | None
    fixed: frozenset[str]
    position: Position
    watcher: Watcher
    world: World
    curves: tuple[Curves, ...]

    def run(self, asked: threading.Event) -> None:
        """Train from where it is to the last epoch, or until patience ends; stops between two steps once asked.

        Raises:
            GateError: the loss is not finite any more.
            KeyboardInterrupt: ``asked`` was set; the state is saved.
        """
        recipe, position = self.plan.recipe, self.position
        num_steps = len(self._batches(0))
        self.watcher.stage("training", recipe.epochs * num_steps, position.epoch * num_steps + position.step)
        while self.position.epoch < recipe.epochs and not self._out_of_patience():
            rate = self._train_epoch(asked)
            self._end_epoch(rate)
            self.watcher.epoch(self.position.epoch, recipe.epochs, self.position.history[-1])
            for curves in self.curves:
                curves.epoch(self.position.epoch * num_steps, self.position.history[-1])

    def _out_of_patience(self) -> bool:
        best, patience = self.position.best_epoch, self.plan.recipe.patience
        if best is None or patience is None or self.position.epoch - best <= patience:
            return False
        _log.info("no better epoch than %d in the last %d: training ends early", best + 1, patience)
        return True

    def _batches(self, epoch: int) -> list[Indices]:
        recipe, labels = self.plan.recipe, self.labels["train"]
        if recipe.sampling == "balanced":
            return balanced_batches_of(labels[:, -1].tolist(), recipe.batch_size, self.plan.seed, epoch)
        return batches_of(len(labels), recipe.batch_size, self.plan.seed, epoch)

    def _train_epoch(self, asked: threading.Event) -> float:
        """All steps of an epoch that are left; returns frames per second."""
        recipe, epoch = self.plan.recipe, self.position.epoch
        batches = self._batches(epoch)
        set_training(self.model, frozen_modules(self.model, recipe.freeze))
        started, num_seen = time.monotonic(), 0
        for step in range(self.position.step, len(batches)):
            if self.world.total(float(asked.is_set()), self.model.device):
                self._save()
                _log.info("interrupted at epoch %d step %d; the state is saved", epoch + 1, step)
                raise KeyboardInterrupt
            loss = self._step(batches, step)
            num_seen += len(batches[step])
            self.position = self.position.model_copy(
                update={"step": step + 1, "loss_sum": self.position.loss_sum + loss * len(batches[step])}
            )
            speed = num_seen / (time.monotonic() - started)
            note = f"loss {loss:.3f}  epoch {epoch + 1}/{recipe.epochs}  {speed:.0f} frames/s  {self._best_note()}"
            self.watcher.advance(epoch * len(batches) + step + 1, note)
        return num_seen / max(time.monotonic() - started, 1e-9)

    def _step(self, batches: list[Indices], step: int) -> float:
        recipe, epoch, num_steps = self.plan.recipe, self.position.epoch, len(batches)
        indices, following = batches[step], batches[step + 1] if step + 1 < num_steps else None
        rate = learning_rate(recipe, epoch + step / num_steps)
        value = self.stepper.take(indices, epoch, step, rate, following)
        if not np.isfinite(value):
            names = ", ".join(str(self.frames["train"][i].path) for i in indices)
            raise GateError(
                f"the loss is {value} at epoch {epoch + 1}, step {step + 1}, on the frames {names}; expected a finite "
                f"number. Lower the learning rate ({recipe.lr:g}) or look at these frames; {self.work} still holds "
                "the state after the last whole epoch, remove it to start anew"
            )
        for curves in self.curves:
            curves.step(epoch * num_steps + step + 1, value, rate)
        return value

    def _end_epoch(self, frames_per_second: float) -> None:
        position, taxonomy = self.position, self.plan.dataset.taxonomy
        with self.stepper.averaged():
            logits = all_logits(self.model, self.feeds["val"], len(self.labels["val"]))
            kept = {name: tensor.clone() for name, tensor in self._tensors().items()} if self.world.leads else {}
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
            if self.world.leads:
                save_tensors(self.work / BEST, kept)
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
        if not self.world.leads:
            return
        memory = tensors_from_optimizer(self.model, self.optimizer)
        tensors = {f"model.{name}": tensor for name, tensor in self._tensors().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in memory.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.stepper.average.items()}
        position = self.position.model_copy(update={"scaler": self.stepper.scaler.state_dict()})
        save_state(self.work / STATE, position, tensors)

    def restore(self, position: Position) -> None:
        """Put the model, its running average and the optimizer where the state file has them."""
        tensors = load_file(self.work / STATE)
        self.load(_below("model.", tensors))
        restore_optimizer(self.model, self.optimizer, _below("optimizer.", tensors))
        for name, tensor in _below("average.", tensors).items():
            self.stepper.average[name].copy_(tensor)
        if position.scaler:
            self.stepper.scaler.load_state_dict(position.scaler)
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


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _rank(record: EpochRecord) -> tuple[float, float]:
    return record.val_hf1, -record.val_loss
