"""One step of a training: the batch in parts, mixed precision, the loss, gradients over processes, the update."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.distributed import World
from hffnet.train.feed import Feed, Inputs
from hffnet.train.loss import distillation_loss, hierarchical_loss
from hffnet.train.network import Network
from hffnet.train.optimise import learning_parameters
from hffnet.train.recipes import Recipe
from hffnet.train.seeds import Indices, seed_from

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True, kw_only=True)
class Stepper:
    """Takes steps with one network.

    Attributes:
        entry: what inputs go through: the network, wrapped for several processes and compiled as the recipe says.
        labels: (N, depth) of the train frames.
        scaler: of the loss, for fp16; does nothing otherwise.
        average: running average of the weights by name; empty without.
    """

    model: Network
    entry: nn.Module
    optimizer: torch.optim.Optimizer
    feed: Feed
    labels: Tensor
    taxonomy: Taxonomy
    recipe: Recipe
    seed: int
    world: World
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor] = field(default_factory=dict)

    def losses(
        self, indices: Indices, epoch: int, step: int, following: Indices | None
    ) -> Iterator[tuple[Tensor, float]]:
        """Each part's loss, and its share of the whole batch; gradients are to be taken part by part."""
        parts = self.recipe.compute.accumulate
        for part in range(parts):
            rows = self.world.rows(len(indices), parts, part)
            place = (part, self.world.rank) if parts * self.world.size > 1 else ()
            torch.manual_seed(seed_from(self.seed, "dropout", epoch, step, *place))
            device = self.model.device
            generator = torch.Generator(device).manual_seed(seed_from(self.seed, "variants", epoch, step))
            inputs = self.feed.inputs(indices, generator, device, rows)
            if part < parts - 1:
                self.feed.expect(indices[self.world.rows(len(indices), parts, part + 1)], device)
            elif following is not None:
                self.feed.expect(following[self.world.rows(len(following), parts, 0)], device)
            labels = self.labels[torch.from_numpy(indices[rows])].to(device)
            with self._summed_only_at(last=part == parts - 1):
                yield self._loss(inputs, labels), len(labels) / len(indices)

    def take(self, indices: Indices, epoch: int, step: int, rate: float, following: Indices | None = None) -> float:
        """Update the weights; returns the loss over the whole batch, or what is not finite without an update.

        Args:
            indices: the step's frames.
            epoch: where the training is, from 0.
            step: of the epoch, from 0.
            rate: learning rate.
            following: the next step's frames, fetched meanwhile.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_share"]
        self.optimizer.zero_grad(set_to_none=True)
        value = 0.0
        for loss, share in self.losses(indices, epoch, step, following):
            value += float(loss.detach()) * share
            # Processes' gradients are averaged, not summed: hence the factor.
            self.scaler.scale(loss * (share * self.world.size)).backward()  # type: ignore[no-untyped-call]
        value = self.world.total(value, self.model.device)
        if value - value == 0:
            self._update()
        return value

    def _loss(self, inputs: Inputs, labels: Tensor) -> Tensor:
        compute, distill = self.recipe.compute, self.recipe.distill
        with torch.autocast(
            self.model.device.type, _DTYPES.get(compute.precision), enabled=compute.precision != "fp32"
        ):
            logits = self.entry(inputs.batch)
        loss = hierarchical_loss(logits, labels, self.taxonomy, self.recipe.loss)
        if distill is None or inputs.teacher is None:
            return loss
        soft = distillation_loss(
            logits, inputs.teacher, self.taxonomy, self.recipe.loss.level_factor, distill.temperature
        )
        return (1 - distill.weight) * loss + distill.weight * soft

    def _summed_only_at(self, *, last: bool) -> AbstractContextManager[None]:
        if isinstance(self.entry, DistributedDataParallel) and not last:
            return self.entry.no_sync()
        return nullcontext()

    def _update(self) -> None:
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_([p for _, p in learning_parameters(self.model)], self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            with torch.no_grad():
                self._follow()

    def _follow(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if name not in self.average:
                continue
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.recipe.ema)
            else:
                self.average[name].copy_(tensor)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the network has the running average as its weights, where there is one."""
        if not self.average:
            yield
            return
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if name in self.average}
        self.model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(own, strict=False)


def entry_of(model: Network, feed: Feed, recipe: Recipe, world: World) -> nn.Module:
    """What a step's inputs go through."""
    entry = feed.entry(model)
    if world.size > 1:
        gpu = [model.device.index] if model.device.type == "cuda" else None
        entry = DistributedDataParallel(entry, device_ids=gpu)
    if recipe.compute.compile:
        entry.compile()
    return entry
