"""How good a network is on labelled frames, counted by the code that ships: runtime's decode and metrics."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from hffnet.runtime.dataset import Dataset, LabelledFrame
from hffnet.runtime.decode import Decision, DecodeSpec, decode
from hffnet.runtime.errors import DatasetError
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.checkpoint import Checkpoint, model_from_checkpoint
from hffnet.train.feed import PixelFeed, all_logits
from hffnet.train.pixels import open_pixels

_TEMPERATURES = np.geomspace(0.2, 5.0, 161)


def evaluate_checkpoint(
    checkpoint: Checkpoint, dataset: Dataset, *, device: str = "cpu", threads: int = 2
) -> tuple[Metrics, tuple[Decision, ...]]:
    """Score a checkpoint's training form on every frame of a data set; arguments as of ``logits_from_checkpoint``.

    Returns:
        Scores, and one decision per frame in the data set's order.
    """
    logits = logits_from_checkpoint(checkpoint, dataset, device=device, threads=threads)
    return score(logits, dataset.frames, checkpoint.taxonomy, checkpoint.config.decode)


def logits_from_checkpoint(
    checkpoint: Checkpoint, dataset: Dataset, *, device: str = "cpu", threads: int = 2
) -> npt.NDArray[np.float32]:
    """What a checkpoint's training form says of every frame of a data set, (N, ΣC) in the data set's order.

    Args:
        checkpoint: as opened.
        dataset: only the frames to score; its classes must be the checkpoint's.
        device: torch device.
        threads: decoders side by side.

    Raises:
        DatasetError: no frame, an unreadable one, or another class tree.
    """
    if dataset.taxonomy != checkpoint.taxonomy:
        raise DatasetError(
            f"the frames have the classes {dataset.taxonomy.num_classes} per level, {checkpoint.folder} was trained "
            f"for {checkpoint.taxonomy.num_classes} of its own; open the data set with the checkpoint's taxonomy"
        )
    model = model_from_checkpoint(checkpoint).to(device)
    with TemporaryDirectory(prefix="hffnet-") as folder:
        pixels = open_pixels(dataset.frames, checkpoint.config.preprocess, Path(folder), threads=threads)
        return all_logits(model, PixelFeed(pixels, checkpoint.config.recipe), len(pixels))


def score(
    logits_NC: npt.NDArray[np.float32], frames: Sequence[LabelledFrame], taxonomy: Taxonomy, spec: DecodeSpec
) -> tuple[Metrics, tuple[Decision, ...]]:
    """Decide for each frame and count; abstention counts as the shorter answer it is."""
    decisions = decode(logits_NC, taxonomy, spec)
    metrics = metrics_from_paths([f.classes for f in frames], [d.answer for d in decisions], taxonomy)
    return metrics, decisions


def temperatures_from_logits(
    logits_NC: npt.NDArray[np.float32], labels_ND: npt.NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[float, ...]:
    """The temperature of each level with the least negative log likelihood (Guo et al., arXiv:1706.04599).

    The likelihood has one minimum in 1/T; a grid of 2 % steps between 0.2 and 5 finds it closely enough. Where every
    frame is right the likelihood has its minimum at T = 0, and the first wrong answer on a new frame would be given
    as certain: such a level is never made surer than its logits are (docs/decisions/0012 has the figures).
    """
    logits = torch.from_numpy(logits_NC).double()
    labels = torch.from_numpy(labels_ND)
    fitted = list[float]()
    for i, columns in enumerate(taxonomy.slices()):
        losses = [
            torch.nn.functional.cross_entropy(logits[:, columns] / float(t), labels[:, i]).item() for t in _TEMPERATURES
        ]
        best = round(float(_TEMPERATURES[int(np.argmin(losses))]), 4)
        faultless = bool((logits[:, columns].argmax(dim=1) == labels[:, i]).all())
        fitted.append(max(best, 1.0) if faultless else best)
    return tuple(fitted)
