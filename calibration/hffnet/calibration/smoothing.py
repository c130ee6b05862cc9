"""SmoothQuant: outliers of a LayerNorm's channels are divided out there and multiplied into the next weights.

The function stays the same; the activation loses its outliers and the weights, quantized per output channel, take
them (Xiao et al., 2023, equation 4: factor = amax_x ** alpha / amax_w ** (1 - alpha)). ``alpha`` is searched for each
LayerNorm: the expected squared rounding error of activation and weights follows from each channel's largest magnitude
and mean square, so the search runs no network. Where no alpha is better than doing nothing, nothing is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from hffnet.calibration.graph import GraphIndex, attribute
from hffnet.calibration.observers import NUM_LEVELS, Observer, State, Values
from hffnet.calibration.placement import Placement
from hffnet.runtime.errors import GraphError

Vector = npt.NDArray[np.float64]
Weight = npt.NDArray[np.float32]

_ROWS = 32
ALPHAS = tuple(round(0.05 * step, 2) for step in range(2, 19))


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """What was found for one LayerNorm.

    Attributes:
        alpha: see above; gain: expected squared error without smoothing over that with it.
        factors: what each channel is divided by.
    """

    alpha: float
    gain: float
    factors: Vector


class ChannelMoments:
    """Largest magnitude and mean square of each channel (last axis).

    Attributes:
        amax: per channel.
        values: what was seen, for an observer that wants it smoothed; meant for few frames.
    """

    def __init__(self) -> None:
        self.values: list[Values] = []
        self.amax: Vector = np.zeros(1)
        self._squares: Vector = np.zeros(1)
        self._count = 0

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        self.values.append(values)
        flat = values.reshape(-1, values.shape[-1])
        self.amax = np.maximum(self.amax, np.abs(flat).max(axis=0))
        self._squares = self._squares + np.einsum("tc,tc->c", flat, flat, dtype=np.float64)
        self._count += len(flat)

    def range(self, num_levels: int = NUM_LEVELS) -> float:  # noqa: ARG002
        """See ``Observer``."""
        return float(self.amax.max())

    def state(self) -> State:
        """See ``Observer``."""
        return {"amax": self.amax, "squares": self._squares, "count": np.array(self._count)}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        self.amax, self._squares = state["amax"].astype(np.float64), state["squares"].astype(np.float64)
        self._count = int(state["count"])

    @property
    def mean_square(self) -> Vector:
        """Per channel."""
        return self._squares / max(self._count, 1)


class SmoothedValues:
    """Shows ``observer`` a LayerNorm's output as it will be once the factors are folded in.

    So the pass over the frames runs the float graph as it is, and no second one has to be written for it.

    Args:
        observer: sees the smoothed values.
        smoothing: of this LayerNorm.
        plain: sees the values as they are, to tell what smoothing brought.
    """

    def __init__(self, observer: Observer, smoothing: Smoothing, plain: Observer) -> None:
        self.observer, self.plain = observer, plain
        self._inverse = (1 / smoothing.factors).astype(np.float32)

    def update(self, values: Values) -> None:
        """See ``Observer``."""
        self.plain.update(values)
        self.observer.update(values * self._inverse)

    def range(self, num_levels: int = NUM_LEVELS) -> float:
        """See ``Observer``."""
        return self.observer.range(num_levels)

    def state(self) -> State:
        """See ``Observer``."""
        plain = {f"plain_{key}": value for key, value in self.plain.state().items()}
        return {**plain, **{f"smoothed_{key}": value for key, value in self.observer.state().items()}}

    def restore(self, state: State) -> None:
        """See ``Observer``."""
        for prefix, observer in (("plain_", self.plain), ("smoothed_", self.observer)):
            observer.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def smoothable(index: GraphIndex, placement: Placement) -> dict[str, tuple[str, ...]]:
    """LayerNorm outputs that can be smoothed, each with the weights that take the factors."""
    weights = {(p.output, 0): p.weight for p in placement.weighted if p.op_type == "MatMul"}
    found = {}
    for node in (n for n in index.nodes if n.op_type == "LayerNormalization"):
        output, uses = node.output[0], index.uses[node.output[0]]
        readers = [weights.get((use.node.output[0], use.input_index)) for use in uses]
        parameters = [*node.input[1:], *(name for name in readers if name)]
        own = all(index.is_constant(name) and len(index.uses[name]) == 1 for name in parameters)
        if uses and None not in readers and own and attribute(node, "axis", -1) == -1 and output not in index.outputs:
            found[output] = tuple(name for name in readers if name)
    return found


def smoothing_from_moments(
    model: ModelProto, moments: Mapping[str, ChannelMoments], placement: Placement
) -> dict[str, Smoothing]:
    """The best smoothing of each LayerNorm that gains by one, by its output."""
    index = GraphIndex(model)
    found = {}
    for output, names in smoothable(index, placement).items():
        weights = [numpy_helper.to_array(index.constants[name]).astype(np.float32) for name in names]
        best = _best(moments[output], np.concatenate(weights, axis=1))
        if best is not None:
            found[output] = best
    return found


def _best(moments: ChannelMoments, weight: Weight) -> Smoothing | None:
    magnitudes = np.abs(weight)
    squares = np.einsum("kn,kn->k", weight, weight, dtype=np.float64)
    amax_x, amax_w = moments.amax, magnitudes.max(axis=1).astype(np.float64)
    if not (amax_x > 0).all() or not (amax_w > 0).all() or not np.isfinite(amax_x).all():
        return None  # a dead or broken channel: factors would be zero or infinite
    plain = _expected_error(moments, magnitudes, squares, np.ones_like(amax_x))
    tried = []
    for alpha in ALPHAS:
        factors = amax_x**alpha / amax_w ** (1 - alpha)
        # Only ratios matter: with a geometric mean of one, LayerNorm's numbers keep their size.
        factors /= np.exp(np.log(factors).mean())
        tried.append((_expected_error(moments, magnitudes, squares, factors), alpha, factors))
    error, alpha, factors = min(tried, key=lambda entry: entry[0])
    return Smoothing(alpha=alpha, gain=plain / error, factors=factors) if error < plain else None


def _expected_error(moments: ChannelMoments, magnitudes: Weight, squares: Vector, factors: Vector) -> float:
    """Squared error of all outputs together, rounding errors taken as uniform and independent (step squared / 12).

    Args:
        moments: of the activation.
        magnitudes: (K, N) of the weight.
        squares: (K,) sums of its squares over the outputs.
        factors: (K,) that the weight's rows are multiplied by.
    """
    step_x = (moments.amax / factors).max() / NUM_LEVELS
    largest = np.zeros(magnitudes.shape[1], np.float32)
    small = factors.astype(np.float32)
    for start in range(0, len(small), _ROWS):  # a few rows at a time stay in a core's cache
        rows = slice(start, start + _ROWS)
        np.maximum(largest, (magnitudes[rows] * small[rows, None]).max(axis=0), out=largest)
    steps_w = largest.astype(np.float64) / NUM_LEVELS
    of_activation = step_x**2 * float(factors**2 @ squares)
    of_weights = (moments.mean_square / factors**2).sum() * (steps_w**2).sum()
    return float(of_activation + of_weights) / 12


def smoothed_from_onnx(model: ModelProto, smoothing: Mapping[str, Smoothing]) -> ModelProto:
    """``model`` itself with the factors folded in; any float type.

    Raises:
        GraphError: a LayerNorm is not in this graph.
    """
    index = GraphIndex(model)
    for output, found in smoothing.items():
        norm = index.producers.get(output)
        if norm is None or norm.op_type != "LayerNormalization":
            raise GraphError(f"there is no LayerNormalization {output!r} in this graph; smooth the one it was found in")
        for name in norm.input[1:]:
            _scale(index.constants[name], 1 / found.factors)
        for name in _weights_behind(index, norm):
            _scale(index.constants[name], found.factors[:, None])
    return model


def _weights_behind(index: GraphIndex, norm: NodeProto) -> list[str]:
    """Also behind the casts at the border of what stays float32 in a half-precision graph."""
    uses = index.uses[norm.output[0]]
    behind = [use.node for cast in uses if cast.node.op_type == "Cast" for use in index.uses[cast.node.output[0]]]
    return [node.input[1] for node in (*(use.node for use in uses if use.node.op_type != "Cast"), *behind)]


def _scale(tensor: TensorProto, factors: npt.NDArray[np.float64]) -> None:
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factors).astype(values.dtype), tensor.name))
