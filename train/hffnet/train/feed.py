"""Where a step's inputs come from: pixels, varied anew each time, or the kept features of a frozen trunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hffnet.runtime.dataset import LabelledFrame
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.augment import augment
from hffnet.train.features import Features
from hffnet.train.network import Network, TrunkNetwork, normalise
from hffnet.train.pixels import Pixels
from hffnet.train.recipes import Recipe

Indices = npt.NDArray[np.int64]


class Feed(Protocol):
    """Logits of frames by their index; with a generator, of random variants of them."""

    def logits(self, model: Network, indices: Indices, generator: torch.Generator | None) -> Tensor:
        """(len(indices), ΣC) on the model's device."""
        ...


@dataclass(frozen=True, slots=True)
class PixelFeed:
    """Every step goes through the whole network."""

    pixels: Pixels
    recipe: Recipe

    def logits(self, model: Network, indices: Indices, generator: torch.Generator | None) -> Tensor:
        """See `Feed`."""
        frames = torch.from_numpy(self.pixels[indices]).to(model.device)
        if generator is not None:
            frames = augment(frames, self.recipe.augment, 255 * self.recipe.model.grey_mean, generator)
        batch = normalise(frames, self.recipe.model)
        logits: Tensor = model(batch.contiguous(memory_format=torch.channels_last))
        return logits


@dataclass(frozen=True, slots=True)
class FeatureFeed:
    """Every step begins behind the frozen trunk."""

    features: Features

    def logits(self, model: Network, indices: Indices, generator: torch.Generator | None) -> Tensor:
        """See `Feed`."""
        views: Indices = np.zeros(len(indices), dtype=np.int64)
        if generator is not None:
            drawn = torch.randint(len(self.features), (len(indices),), generator=generator, device=generator.device)
            views = drawn.cpu().numpy()
        batch = torch.from_numpy(self.features[views, indices]).to(model.device)
        assert isinstance(model, TrunkNetwork), "features are those of a trunk"
        return model.logits_from_features(batch.float())


def labels_of(frames: Sequence[LabelledFrame], taxonomy: Taxonomy) -> Tensor:
    """(N, depth) int64 class indices."""
    return torch.tensor([taxonomy.indices_of_path(frame.classes) for frame in frames], dtype=torch.int64)


@torch.inference_mode()
def all_logits(model: Network, feed: Feed, num_frames: int, batch_size: int = 32) -> npt.NDArray[np.float32]:
    """Logits of all frames of a feed as they are, (N, ΣC), with the model in evaluation mode."""
    model.eval()
    indices = np.arange(num_frames)
    parts = [
        feed.logits(model, indices[start : start + batch_size], None).float().cpu().numpy()
        for start in range(0, num_frames, batch_size)
    ]
    return np.concatenate(parts)
