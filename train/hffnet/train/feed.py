"""Where a step's inputs come from: pixels, varied anew each time, or the kept features of a frozen trunk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hffnet.runtime.dataset import LabelledFrame
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.augment import augment
from hffnet.train.features import Features
from hffnet.train.network import Network, TrunkNetwork, normalise
from hffnet.train.pixels import Pixels
from hffnet.train.read_ahead import ReadAhead
from hffnet.train.recipes import Recipe
from hffnet.train.seeds import Indices

ALL = slice(None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What goes into a network, and what its teacher has said to the very same."""

    batch: Tensor
    teacher: Tensor | None = None


class Feed(Protocol):
    """Network inputs of frames by their index; with a generator, of random variants of them."""

    def entry(self, model: Network) -> nn.Module:
        """The part of a network that the inputs go through: a module from them to logits (N, ΣC)."""
        ...

    def inputs(
        self, indices: Indices, generator: torch.Generator | None, device: torch.device, rows: slice = ALL
    ) -> Inputs:
        """Inputs of ``indices[rows]``, each the variant it has in the whole batch, on ``device``."""
        ...

    def expect(self, indices: Indices, device: torch.device) -> None:
        """Say which rows are wanted next, so that they can be fetched meanwhile."""
        ...


class AfterTrunk(nn.Module):
    """A network from behind its trunk on."""

    def __init__(self, model: TrunkNetwork) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """(N, trunk channels, grid, grid) to logits (N, ΣC)."""
        return self.model.logits_from_features(features)


@dataclass(frozen=True, slots=True)
class PixelFeed:
    """Every step goes through the whole network, and through the whole teacher where there is one."""

    pixels: Pixels
    recipe: Recipe
    teacher: Network | None = None
    ahead: ReadAhead = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ahead", ReadAhead(self.pixels))

    def entry(self, model: Network) -> nn.Module:
        """See `Feed`."""
        return model

    def inputs(
        self, indices: Indices, generator: torch.Generator | None, device: torch.device, rows: slice = ALL
    ) -> Inputs:
        """See `Feed`."""
        frames = self.ahead.take(indices[rows], device)
        if generator is not None:
            fill = 255 * self.recipe.model.grey_mean
            frames = augment(frames, self.recipe.augment, fill, generator, part=(len(indices), rows))
        batch = normalise(frames, self.recipe.model)
        if self.recipe.compute.channels_last:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return Inputs(batch, None if self.teacher is None else _said_by(self.teacher, batch))

    def expect(self, indices: Indices, device: torch.device) -> None:
        """See `Feed`."""
        self.ahead.ask(indices, device)


@torch.no_grad()
def _said_by(teacher: Network, batch: Tensor) -> Tensor:
    answer: Tensor = teacher(batch)
    return answer


@dataclass(frozen=True, slots=True)
class FeatureFeed:
    """Every step begins behind the frozen trunk.

    Attributes:
        features: see `Features`.
        teacher_logits: (V, N, ΣC) what a teacher says to the same variants; None without one.
    """

    features: Features
    teacher_logits: npt.NDArray[np.float32] | None = None

    def entry(self, model: Network) -> nn.Module:
        """See `Feed`."""
        assert isinstance(model, TrunkNetwork), "features are those of a trunk"
        return AfterTrunk(model)

    def inputs(
        self, indices: Indices, generator: torch.Generator | None, device: torch.device, rows: slice = ALL
    ) -> Inputs:
        """See `Feed`."""
        views: Indices = np.zeros(len(indices), dtype=np.int64)
        if generator is not None:
            drawn = torch.randint(len(self.features), (len(indices),), generator=generator, device=generator.device)
            views = drawn.cpu().numpy()
        place = views[rows], indices[rows]
        batch = torch.from_numpy(self.features[place]).to(device).float()
        if self.teacher_logits is None:
            return Inputs(batch)
        return Inputs(batch, torch.from_numpy(self.teacher_logits[place]).to(device))

    def expect(self, indices: Indices, device: torch.device) -> None:
        """See `Feed`; kept features are taken when they are needed."""


def labels_of(frames: Sequence[LabelledFrame], taxonomy: Taxonomy) -> Tensor:
    """(N, depth) int64 class indices."""
    return torch.tensor([taxonomy.indices_of_path(frame.classes) for frame in frames], dtype=torch.int64)


@torch.inference_mode()
def all_logits(model: Network, feed: Feed, num_frames: int, batch_size: int = 32) -> npt.NDArray[np.float32]:
    """Logits of all frames of a feed as they are, (N, ΣC), with the model in evaluation mode."""
    model.eval()
    entry, indices = feed.entry(model), np.arange(num_frames)
    parts = [
        entry(feed.inputs(indices[start : start + batch_size], None, model.device).batch).float().cpu().numpy()
        for start in range(0, num_frames, batch_size)
    ]
    return np.concatenate(parts)
