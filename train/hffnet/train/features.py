"""What a frozen trunk makes of a few variants of every frame, computed once and kept on disk.

A frozen trunk in evaluation mode maps the same pixels to the same features in every epoch. Taking V variants of a
frame through it once, and letting the rest of the network see one of them at random in each epoch, costs V passes
instead of one per epoch. What is lost is that there are V variants and not a new one every time.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hffnet.runtime.durable import whole_file
from hffnet.train.augment import augment
from hffnet.train.network import Network, TrunkNetwork, normalise
from hffnet.train.pixels import Pixels
from hffnet.train.recipes import Recipe
from hffnet.train.seeds import seed_from

Features = npt.NDArray[np.float16]
"""(V, N, channels, grid, grid); variant 0 is the frame as it is. Half precision halves the file."""

_BATCH = 32
_log = logging.getLogger(__name__)


def open_features(
    model: TrunkNetwork,
    pixels_NHW: Pixels,
    recipe: Recipe,
    seed: int,
    path: Path,
    *,
    num_views: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Features:
    """Trunk features of ``num_views`` variants of every frame, read-only.

    Args:
        model: with the frozen trunk's weights, on its device.
        pixels_NHW: network inputs.
        recipe: for augmentation and normalisation.
        seed: of the variants.
        path: where the file is kept; used again when it is of the same trunk, pixels, variants and seed.
        num_views: V; 1 is the frame as it is.
        advance: called with the number of frames done so far, over all variants.
    """
    path = path.with_name(f"{path.name}-{_key(model, pixels_NHW, recipe, seed, num_views)}.npy")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        grid, channels = recipe.model.grid, model.trunk.out_channels
        shape = (num_views, len(pixels_NHW), channels, grid, grid)
        _log.info("features of %d variants of %d frames: %.1f GB", *shape[:2], 2e-9 * float(np.prod(shape)))
        with whole_file(path) as temporary:
            features = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
            _compute_into(features, model, pixels_NHW, recipe, seed, advance)
            features.flush()
    kept: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def _key(model: TrunkNetwork, pixels_NHW: Pixels, recipe: Recipe, seed: int, num_views: int) -> str:
    key = hashlib.sha256(f"{recipe.augment.model_dump_json()} {seed} {num_views} {recipe.model.grey_mean}".encode())
    key.update(np.ascontiguousarray(pixels_NHW).data)
    for name, tensor in sorted(model.trunk.state_dict().items()):
        key.update(name.encode() + tensor.cpu().numpy().tobytes())
    return key.hexdigest()[:32]


def _compute_into(
    features: Features,
    model: TrunkNetwork,
    pixels_NHW: Pixels,
    recipe: Recipe,
    seed: int,
    advance: Callable[[int], None],
) -> None:
    trunk = model.trunk.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    done = 0
    for view, rows, batch in _variants(pixels_NHW, recipe, seed, features.shape[0], model.device):
        with torch.inference_mode():
            features[view, rows] = trunk(batch).half().cpu().numpy()
        done += len(batch)
        advance(done)


def teacher_logits(
    teacher: Network,
    pixels_NHW: Pixels,
    recipe: Recipe,
    seed: int,
    *,
    num_views: int,
    advance: Callable[[int], None] = lambda _: None,
) -> npt.NDArray[np.float32]:
    """(V, N, ΣC) what a teacher in evaluation mode says to the very variants that `open_features` takes.

    Args:
        teacher: on its device.
        pixels_NHW: as for `open_features`, like all that follows.
        recipe: of the student.
        seed: of the variants.
        num_views: V.
        advance: called with the number of frames done so far, over all variants.
    """
    said = np.empty((num_views, len(pixels_NHW), sum(recipe.model.num_classes)), dtype=np.float32)
    done = 0
    for view, rows, batch in _variants(pixels_NHW, recipe, seed, num_views, teacher.device):
        with torch.inference_mode():
            said[view, rows] = teacher(batch).float().cpu().numpy()
        done += len(batch)
        advance(done)
    return said


def _variants(
    pixels_NHW: Pixels, recipe: Recipe, seed: int, num_views: int, device: torch.device
) -> Iterator[tuple[int, slice, Tensor]]:
    """Number of the variant, rows, and their network input, batch by batch; the same at every call."""
    for view in range(num_views):
        for start in range(0, len(pixels_NHW), _BATCH):
            rows = slice(start, start + _BATCH)
            frames = torch.from_numpy(pixels_NHW[rows].copy()).to(device)
            if view:
                generator = torch.Generator(device).manual_seed(seed_from(seed, "view", view, start))
                frames = augment(frames, recipe.augment, 255 * recipe.model.grey_mean, generator)
            yield view, rows, normalise(frames, recipe.model).contiguous(memory_format=torch.channels_last)
