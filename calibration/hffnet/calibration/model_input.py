"""What a classifier's graph takes, and how frames become it: the one place where uint8 frames meet a graph.

This project's graphs take the frames as they are and normalise inside. Graphs that others exported from torch take
float32 (N, C, S, S), normalised before, with one or three equal channels; by how much, the file does not say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto, TensorProto

from hffnet.runtime.errors import ConfigError, GraphError

SMALLEST, LARGEST = 32, 4096
"""Sides of frames that ``preprocess`` makes."""

_TYPES = {TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
_SESSION_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_CHANNELS = (1, 3)
_EXPECTED = f"expected one of uint8 (N, S, S) or float32 (N, C, S, S), C 1 or 3, S {SMALLEST} to {LARGEST}"
_HOW = "one number or one per channel, in units of pixel / 255"
_EXAMPLE = "torchvision's ImageNet networks: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"

Batch = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """What a float graph expects of pixel / 255, as torchvision states it: minus ``mean``, divided by ``std``.

    Attributes:
        mean, std: one number for all channels, or one for each.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no picture survives."""
        for name, values in (("--mean", self.mean), ("--std", self.std)):
            if not values or not all(math.isfinite(value) for value in values):
                raise ConfigError(f"{name} is {_listed(values) or 'empty'}; expected finite numbers, {_HOW}")
        if min(self.std) <= 0:
            raise ConfigError(f"--std is {_listed(self.std)}; expected numbers above 0, {_HOW}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInput:
    """The only input of a graph.

    Attributes:
        channels: of float32 (N, channels, size, size); None for uint8 (N, size, size).
        size: side in pixels; None where the graph leaves it open.
        batch: 1 where the graph takes no more frames at once; None where any number will do.
    """

    name: str
    channels: int | None
    size: int | None
    batch: int | None

    def check(self, normalisation: Normalisation | None) -> None:
        """Whether it is known how frames become this input.

        Raises:
            ConfigError: a float graph without normalisation, a uint8 graph with one, or another number of channels.
        """
        if self.channels is None:
            if normalisation is not None:
                raise ConfigError(f"{self.name!r} takes uint8 frames and normalises inside; leave out --mean and --std")
            return
        if normalisation is None:
            raise ConfigError(
                f"{self.name!r} takes float32 with {self.channels} channels, and the file does not say how pixels"
                f" become it: give --mean and --std, {_HOW} ({_EXAMPLE})"
            )
        for name, values in (("--mean", normalisation.mean), ("--std", normalisation.std)):
            if len(values) not in {1, self.channels}:
                raise ConfigError(
                    f"{name} has {len(values)} numbers for the {self.channels} channels of {self.name!r};"
                    f" expected {_HOW}"
                )

    def feed(self, frames_NHW: npt.NDArray[np.uint8], normalisation: Normalisation | None) -> Mapping[str, Batch]:
        """What a session runs on.

        >>> grey = ModelInput(name="x", channels=1, size=None, batch=1)
        >>> plain = Normalisation(mean=(0.5,), std=(0.5,))
        >>> grey.feed(np.array([[[0, 255]]], np.uint8), plain)["x"].tolist()
        [[[[-1.0, 1.0]]]]
        """
        if self.channels is None or normalisation is None:
            self.check(normalisation)
            return {self.name: frames_NHW}
        mean, std = (
            np.broadcast_to(np.asarray(values, np.float32), (self.channels,))[:, None, None]
            for values in (normalisation.mean, normalisation.std)
        )
        picture_NCHW = ((frames_NHW[:, None].astype(np.float32) / 255 - mean) / std).astype(np.float32, copy=False)
        return {self.name: picture_NCHW}


def normalisation_from_text(mean: str | None, std: str | None) -> Normalisation | None:
    """Of the options ``--mean`` and ``--std``: numbers with commas between them; None where neither is given.

    Raises:
        ConfigError: only one of them is given, or what is given are no such numbers.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigError(f"--mean and --std belong together, {_HOW} ({_EXAMPLE})")
    return Normalisation(mean=_numbers("--mean", mean), std=_numbers("--std", std))


def input_from_onnx(model: ModelProto) -> ModelInput:
    """The input of a graph that is to be calibrated, with a side that frames can be made for.

    Raises:
        GraphError: it has not one input of such a type and shape.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    entries = []
    for entry in (entry for entry in model.graph.input if entry.name not in constants):
        tensor = entry.type.tensor_type
        kind = _TYPES.get(tensor.elem_type, f"type {tensor.elem_type}")
        axes = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
        entries.append((entry.name, kind, axes))
    found = _input_from(entries)
    if found.size is None or not SMALLEST <= found.size <= LARGEST:
        side = "an open side" if found.size is None else f"a side of {found.size} pixels"
        raise GraphError(f"the graph's input {found.name!r} has {side}; expected {SMALLEST} to {LARGEST}, export it so")
    return found


def input_from_session(session: ort.InferenceSession) -> ModelInput:
    """The input of an opened graph; errors as of ``input_from_onnx``, but the side may be open or of any length."""
    return _input_from(
        [
            (entry.name, _SESSION_TYPES.get(entry.type, entry.type), [_number(axis) for axis in entry.shape])
            for entry in session.get_inputs()
        ]
    )


def _input_from(entries: Sequence[tuple[str, str, Sequence[int | None]]]) -> ModelInput:
    told = "; ".join(f"{name!r}, {kind} ({_listed(axes)})" for name, kind, axes in entries) or "none"
    if len(entries) != 1:
        raise GraphError(f"the graph has {len(entries)} inputs: {told}; {_EXPECTED}")
    ((name, kind, axes),) = entries
    channels = axes[1] if (kind, len(axes)) == ("float32", 4) else None
    is_known = (kind, len(axes)) == ("uint8", 3) or channels in _CHANNELS
    if not is_known or axes[-1] != axes[-2] or axes[-1] == 0:
        raise GraphError(f"the graph's input is {told}; {_EXPECTED}")
    if axes[0] not in {1, None}:
        raise GraphError(
            f"the graph's input {name!r} takes {axes[0]} frames at once; expected 1 or any number: export it with a"
            " batch of one, or with an open batch axis"
        )
    return ModelInput(name=name, channels=channels, size=axes[-1], batch=axes[0])


def _number(axis: object) -> int | None:
    return axis if isinstance(axis, int) else None


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}; expected numbers with commas between them, {_HOW}") from error


def _listed(values: Sequence[float | int | None]) -> str:
    return ", ".join("?" if value is None else f"{value:g}" for value in values)
