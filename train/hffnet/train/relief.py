"""Building blocks of drawn surfaces: rough noise, grains, cracks. Lengths in pixels, numpy and OpenCV only.

Knows nothing of failure classes (``textures``) or of the microscope (``sem_image``).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
"""One value per pixel, (H, W) float32."""

Labels = npt.NDArray[np.int32]
"""Which cell a pixel belongs to, (H, W) int32, 0 < label <= number of cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What the beam meets.

    Attributes:
        height: relief, (H, W), in pixels, so that its gradient is the tangent of the slope.
        emission: electrons that leave per electron that lands on flat ground, (H, W), 1 = bare metal.
    """

    height: Field
    emission: Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What to draw on: size in pixels and the size of a pixel."""

    height: int
    width: int
    pixel_size_um: float

    def px(self, length_um: float) -> float:
        """A length on the specimen in pixels, never below two: finer texture cannot be resolved."""
        return max(length_um / self.pixel_size_um, 2.0)

    def window(self, cy: float, cx: float, far: float) -> tuple[tuple[slice, slice], Field, Field]:
        """The pixels within ``far`` of a point, in each direction, and their y (n, 1) and x (1, m) from that point."""
        rows = slice(max(int(cy - far), 0), min(max(int(cy + far) + 1, 0), self.height))
        columns = slice(max(int(cx - far), 0), min(max(int(cx + far) + 1, 0), self.width))
        y = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(cy)
        x = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(cx)
        return (rows, columns), y[:, None], x[None, :]

    def grid(self) -> tuple[Field, Field]:
        """Pixel coordinates y, x from the centre, each (H, W)."""
        y, x = np.indices((self.height, self.width), dtype=np.float32)
        return y - np.float32(self.height / 2), x - np.float32(self.width / 2)


def smooth(field: Field, sigma: float) -> Field:
    """Gaussian blur; wide ones work on a reduced copy, which costs a tenth and differs by less than 1 %."""
    if sigma <= 6.0:
        return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), dtype=np.float32)
    step = int(sigma // 3)
    height, width = field.shape
    small = cv2.resize(field, (max(width // step, 2), max(height // step, 2)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def noise(rng: np.random.Generator, canvas: Canvas, largest: float, smallest: float = 2.0, rough: float = 0.5) -> Field:
    """Fractal noise of zero mean and unit deviation: octaves of smooth random grids.

    Args:
        rng: where the numbers come from.
        canvas: size of the result.
        largest: size of the coarsest bumps, pixels.
        smallest: size of the finest bumps, pixels.
        rough: amplitude of each octave over that of the coarser one; 0.5 is like a natural fracture.
    """
    cell, amplitude, power = max(largest, smallest), 1.0, 1.0
    rows, columns = math.ceil(canvas.height / cell) + 1, math.ceil(canvas.width / cell) + 1
    total = rng.standard_normal((rows, columns), dtype=np.float32)
    # Each octave is added on its own grid: only the last enlargement touches as many pixels as the canvas has.
    while cell / 2 >= smallest:
        cell, amplitude, rows, columns = cell / 2, amplitude * rough, rows * 2, columns * 2
        total = np.asarray(cv2.resize(total, (columns, rows), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
        total += np.float32(amplitude) * rng.standard_normal(total.shape, dtype=np.float32)
        power += amplitude**2
    needed_rows, needed_columns = math.ceil(canvas.height / cell), math.ceil(canvas.width / cell)
    top, left = rng.integers(0, rows - needed_rows + 1), rng.integers(0, columns - needed_columns + 1)
    part = total[top : top + needed_rows, left : left + needed_columns]
    size = (math.ceil(needed_columns * cell), math.ceil(needed_rows * cell))
    whole = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)[: canvas.height, : canvas.width]
    return np.asarray(whole * np.float32(1.15 / math.sqrt(power)), dtype=np.float32)


def cells(rng: np.random.Generator, canvas: Canvas, spacing: float, *, wavy: float = 0.0) -> Labels:
    """Voronoi cells of randomly moved grid points, as grains or fragments have.

    Args:
        rng: where the numbers come from.
        canvas: size of the result.
        spacing: mean distance of neighbouring centres, pixels.
        wavy: how far boundaries leave the straight line, in units of ``spacing``.
    """
    margin = math.ceil(spacing * 1.5)
    height, width = canvas.height + 2 * margin, canvas.width + 2 * margin
    rows, columns = math.ceil(height / spacing), math.ceil(width / spacing)
    y, x = np.indices((rows, columns), dtype=np.float64)
    y = (y + 0.5 + rng.uniform(-0.45, 0.45, y.shape)) * (height / rows)
    x = (x + 0.5 * (np.arange(rows)[:, None] % 2) + rng.uniform(-0.45, 0.45, x.shape)) * (width / columns)
    empty = np.full((height, width), 255, dtype=np.uint8)
    empty[np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)] = 0
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    yy, xx = canvas.grid()
    bend = np.float32(wavy * spacing)
    yy += np.float32(canvas.height / 2 + margin) + bend * noise(rng, canvas, spacing * 0.6, spacing * 0.1)
    xx += np.float32(canvas.width / 2 + margin) + bend * noise(rng, canvas, spacing * 0.6, spacing * 0.1)
    moved = cv2.remap(labels.astype(np.float32), xx, yy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.int32)


def per_cell(rng: np.random.Generator, labels: Labels) -> Field:
    """One standard normal number for each cell, spread over its pixels."""
    return rng.standard_normal(int(labels.max()) + 1, dtype=np.float32)[labels]


def mean_per_cell(labels: Labels, field: Field) -> Field:
    """The mean of ``field`` over each cell, one value per label (index 0 stands for no cell)."""
    counts = np.maximum(np.bincount(labels.ravel()), 1)
    return np.asarray(np.bincount(labels.ravel(), field.ravel()) / counts, dtype=np.float32)


def facets(rng: np.random.Generator, canvas: Canvas, labels: Labels, slope: float, step: float) -> Field:
    """Height of cells that are planes: each tilted by about ``slope`` and raised by about ``step`` pixels."""
    y, x = canvas.grid()
    y -= mean_per_cell(labels, y)[labels]
    x -= mean_per_cell(labels, x)[labels]
    tilt = np.float32(slope)
    return tilt * (per_cell(rng, labels) * y + per_cell(rng, labels) * x) + np.float32(step) * per_cell(rng, labels)


def boundaries(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is in another cell."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def distance_to(mask: npt.NDArray[np.bool_]) -> Field:
    """Distance in pixels of every pixel to the nearest one in ``mask``; far away where the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, 1e4, dtype=np.float32)
    return np.asarray(cv2.distanceTransform(np.where(mask, 0, 255).astype(np.uint8), cv2.DIST_L2, 5), dtype=np.float32)


def distance_in_widths(half_widths: Field) -> Field:
    """Distance to a crack in units of its half width there: below 1 is inside the crack.

    Args:
        half_widths: (H, W), the half width in pixels on the crack's centre line, 0 elsewhere.
    """
    line = half_widths > 0
    if not line.any():
        return np.full(half_widths.shape, 1e4, dtype=np.float32)
    ground = np.where(line, 0, 255).astype(np.uint8)
    distance, nearest = cv2.distanceTransformWithLabels(ground, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    width_of = np.ones(int(nearest.max()) + 1, dtype=np.float32)
    width_of[nearest[line]] = half_widths[line]
    return np.asarray(distance / width_of[nearest], dtype=np.float32)


def inside(distance: Field) -> Field:
    """1 on a crack's centre line, 0 outside, with a soft wall."""
    return np.asarray(np.clip(np.float32(1.25) - distance, 0, 1), dtype=np.float32)
