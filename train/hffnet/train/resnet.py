"""ResNet trunk of the bottleneck family, with torchvision's parameter names, and how public weights are put into it.

Stride sits in the 3×3 convolution (the "v1.5" form). There is no classifier: the trunk ends at the feature map of
stride 32. Microscopes give one channel, so the stem has one; an RGB stem is summed over its channels on loading.
The module knows neither classes nor transformers.
"""

import logging
import pickle
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hffnet.runtime.errors import CheckpointError

_LOG = logging.getLogger(__name__)

EXPANSION = 4
"""Output channels of a bottleneck, as a multiple of its inner width."""

_MAX_HEADER_BYTES = 8 << 20
_STEM = "conv1.weight"


class Bottleneck(nn.Module):
    """1×1 reduce, 3×3 (carries the stride), 1×1 expand, and the residual sum."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 · width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        total: Tensor = self.relu(self.bn3(self.conv3(out)) + identity)
        return total


class ResNetTrunk(nn.Module):
    """Stem and four stages; ``blocks=(3, 4, 6, 3), width=64`` is ResNet50 without its classifier.

    Args:
        blocks: bottlenecks per stage.
        width: channels after the stem; stage i has an inner width of ``width · 2^i``.
        in_channels: channels of the picture; 1 for an electron microscope.

    Attributes:
        out_channels: channels of the feature map, ``width · 32``.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 4, 6, 3), width: int = 64, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(width, width, blocks[0], 1)
        self.layer2 = _stage(width * EXPANSION, width * 2, blocks[1], 2)
        self.layer3 = _stage(width * 2 * EXPANSION, width * 4, blocks[2], 2)
        self.layer4 = _stage(width * 4 * EXPANSION, width * 8, blocks[3], 2)
        self.out_channels = width * 8 * EXPANSION
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / 32, W / 32); H and W are multiples of 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


def _stage(in_channels: int, width: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width, 1) for _ in range(num_blocks - 1)))


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What was taken from a weights file.

    Attributes:
        path: the file.
        num_loaded: tensors copied into the trunk.
        ignored: names in the file that no trunk has (``fc.*``), sorted.
        stem_summed: whether an RGB stem was summed into one grey channel.
        saturated: variances that had overflowed float16 and were taken as its largest number.
    """

    path: Path
    num_loaded: int
    ignored: tuple[str, ...]
    stem_summed: bool
    saturated: tuple[str, ...]


def load_trunk_weights(trunk: ResNetTrunk, path: Path) -> WeightsReport:
    """Copy public weights with torchvision's names into a trunk: all of it or nothing.

    An RGB stem (width, 3, 7, 7) is summed over its channels, which is what it computes on a picture whose three
    channels are equal. ImageNet's three means and deviations become one (``ModelConfig.grey_mean``, ``grey_std``):
    that moves a filter's response by a constant that the next BatchNorm removes as soon as it sees data.

    Args:
        trunk: receives the weights; untouched when anything does not fit.
        path: ``.safetensors``, or ``.pth`` / ``.pt`` holding tensors only (no other pickled object is ever built).

    Raises:
        CheckpointError: unreadable, or names are missing, unexpected or of the wrong shape; the message lists them.
    """
    with _open_weights(path) as weights:
        wanted = trunk.state_dict()
        ignored = tuple(sorted(name for name in weights.shapes if name.startswith("fc.")))
        stem_summed = _is_rgb_stem(weights.shapes.get(_STEM, ()), wanted[_STEM])
        _check_fit(path, wanted, weights.shapes, stem_summed=stem_summed)
        loaded, saturated = dict[str, Tensor](), list[str]()
        for name in wanted.keys() & weights.shapes.keys():
            tensor = weights.read(name)
            if not bool(torch.isfinite(tensor).all()):
                tensor = _without_overflow(path, name, tensor)
                saturated.append(name)
            stem = stem_summed and name == _STEM
            loaded[name] = tensor.float().sum(dim=1, keepdim=True) if stem else tensor
    trunk.load_state_dict(wanted | loaded)
    _LOG.info("%s: %d tensors loaded, %d of the classifier ignored", path, len(loaded), len(ignored))
    return WeightsReport(path, len(loaded), ignored, stem_summed, tuple(sorted(saturated)))


def _without_overflow(path: Path, name: str, tensor: Tensor) -> Tensor:
    """A float16 file's variances above 65504, which were stored as +inf, at 65504: a lower bound of what they were.

    Left at infinity, such a channel is constant in inference, alive in training, and no running average brings it back.
    """
    overflowed = tensor == torch.inf
    limit = torch.finfo(torch.float16).max
    is_variance = name.endswith("running_var") and tensor.dtype == torch.float16
    if not is_variance or not bool((tensor.isfinite() | overflowed).all()):
        raise CheckpointError(
            f"{path}: {name} ({tensor.dtype}) holds infinities or NaN; finite numbers are expected: download it again,"
            " or take another file"
        )
    channels = overflowed.flatten().nonzero().flatten().tolist()
    _LOG.warning("%s: %s overflowed float16 in channel %s; taken as %g", path, name, channels, limit)
    return tensor.clamp(max=limit)


@dataclass(frozen=True, slots=True)
class _Weights:
    """An open weights file: shapes are known before any tensor is read."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


@contextmanager
def _open_weights(path: Path) -> Iterator[_Weights]:
    match path.suffix:
        case ".safetensors":
            _check_safetensors_header(path)
            try:
                with safe_open(path, framework="pt") as file:
                    yield _Weights({k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}, file.get_tensor)  # noqa: SIM118 (not a dict)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
        case ".pth" | ".pt":
            tensors = _tensors_from_pth(path)
            yield _Weights({name: tuple(t.shape) for name, t in tensors.items()}, tensors.__getitem__)
        case suffix:
            raise CheckpointError(f"{path} ends in {suffix!r}; weights are read from .safetensors, .pth or .pt")


def _check_safetensors_header(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; a weights file is expected") from error
    header = struct.unpack("<Q", start)[0] if len(start) == 8 else None
    if header is None or not 2 <= header <= min(_MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{path} ({size} bytes) states a header of {header} bytes; a safetensors file has one of at most"
            f" {_MAX_HEADER_BYTES} that lies within the file: download it again"
        )


def _tensors_from_pth(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickle protocols: it loads, or it is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors only: {str(error).splitlines()[0] if str(error) else error!r};"
            " convert it to .safetensors where it was made"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not a table of tensors by name")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _is_rgb_stem(found: tuple[int, ...], grey: Tensor) -> bool:
    return grey.shape[1] == 1 and found == (grey.shape[0], 3, *grey.shape[2:])


def _check_fit(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], *, stem_summed: bool
) -> None:
    # torchvision's oldest files have no num_batches_tracked, and nothing here reads it.
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in wanted and not name.startswith("fc.")]
    misshapen = [
        f"{name} (found {found[name]}, expected {tuple(tensor.shape)})"
        for name, tensor in wanted.items()
        if name in found and found[name] != tuple(tensor.shape) and not (stem_summed and name == _STEM)
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit the trunk, {'; '.join(problems)}. Expected torchvision's names for this depth and"
            " width: choose the recipe the weights were made for"
        )
