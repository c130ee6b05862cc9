"""Six surfaces of failed metal as relief and material contrast, after the mechanisms that make them.

All six are drawn at one range of feature sizes (about 1 to 10 µm), so that neither scale nor grey level, only texture,
tells them apart; real heat checks, for one, are often larger. Sources for what each looks like: ASM Handbook vol. 12
(Fractography) for the mechanical classes; for the thermal ones ASM Handbook vol. 11 (Failure Analysis and Prevention).
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

from hffnet.train.relief import (
    Canvas,
    Field,
    Labels,
    Surface,
    boundaries,
    cells,
    distance_in_widths,
    distance_to,
    facets,
    inside,
    mean_per_cell,
    noise,
    per_cell,
    smooth,
)

Draw = Callable[[Canvas, np.random.Generator], Surface]


def fatigue(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """Striations: one ridge per load cycle, across the direction of growth, in patches divided by tear ridges.

    Their spacing grows with the crack; secondary cracks open along single striations.
    """
    spacing = canvas.px(rng.uniform(1.1, 2.2))
    labels = cells(rng, canvas, canvas.px(rng.uniform(12.0, 25.0)), wavy=0.12)
    y, x = canvas.grid()
    angle = np.float32(rng.uniform(0, 2 * math.pi)) + np.float32(0.18) * per_cell(rng, labels)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    reach = canvas.height + canvas.width
    front = along + across**2 * np.float32(rng.uniform(-0.4, 0.4) / reach)
    front += np.float32(spacing * 0.5) * noise(rng, canvas, spacing * 8, spacing)
    local = np.float32(spacing) * np.exp(np.float32(0.12) * per_cell(rng, labels))
    cycle = front / local * (1 - np.float32(rng.uniform(0.0, 0.5)) * front / reach) + 10 * per_cell(rng, labels)
    part = cycle - np.floor(cycle)
    ridge = np.abs(np.sin(np.float32(math.pi) * part)) ** np.float32(rng.uniform(0.6, 1.2))
    strength = np.clip(1 + np.float32(0.35) * noise(rng, canvas, spacing * 10, spacing * 2), 0.3, 2)
    height = np.float32(spacing * rng.uniform(0.35, 0.6)) * ridge * strength
    height += smooth(facets(rng, canvas, labels, rng.uniform(0.03, 0.12), spacing * 0.5), 1.5)
    height += np.float32(spacing * 0.3) * noise(rng, canvas, spacing * 8, 2.0)
    opened = noise(rng, canvas, spacing * 5, spacing) > np.float32(rng.uniform(1.0, 1.8))
    crack = smooth(((np.abs(part - 0.5) > 0.36) & opened).astype(np.float32), 0.8)
    return Surface(height=height - np.float32(spacing * 0.5) * crack, emission=1 - np.float32(0.7) * crack)


def ductile_dimples(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """Microvoids that grew until they met: cups of mixed size with sharp tear ridges, inclusions in some.

    Cups are paraboloids and the surface is their lower envelope, so that ridges lie where two voids of different size
    met (a power diagram). Under shear all are drawn out in one direction.
    """
    radius, depth = canvas.px(rng.uniform(1.0, 2.2)), rng.uniform(0.5, 0.9)
    stretch, angle = rng.uniform(1.0, 1.8), rng.uniform(0, math.pi)
    num_cups = int(canvas.height * canvas.width / (radius**2 * 1.7)) + 8
    radii = radius * np.exp(rng.normal(0.0, 0.42, num_cups)).clip(0.4, 2.6)
    centres = rng.uniform(-radius, [canvas.height + radius, canvas.width + radius], (num_cups, 2))
    cups = [(float(y), float(x), float(r)) for (y, x), r in zip(centres, radii, strict=True)]
    height = np.full((canvas.height, canvas.width), 0.2 * radius, dtype=np.float32)
    emission = np.ones_like(height)
    cosine, sine = math.cos(angle), math.sin(angle)
    for cy, cx, r in cups:
        window, y, x = canvas.window(cy, cx, r * stretch * 1.8)
        square = ((x * cosine + y * sine) / (r * stretch)) ** 2 + ((y * cosine - x * sine) / r) ** 2
        np.minimum(height[window], (depth * r) * (square - 1), out=height[window])
    shade = np.float32(rng.choice([-0.25, 0.0, 0.3]))
    for cy, cx, r in cups[: int(num_cups * rng.uniform(0.0, 0.2))]:
        window, y, x = canvas.window(cy, cx, 0.4 * r)
        if height[window].size == 0 or height[window].min() < -1.1 * depth * r:
            continue  # a deeper void has swallowed the bottom of this one
        ball = 1 - (x**2 + y**2) / (rng.uniform(0.2, 0.38) * r) ** 2
        height[window] += (0.5 * r) * np.sqrt(np.maximum(ball, 0))
        emission[window] += shade * (ball > 0)
    height += np.float32(radius * 0.05) * noise(rng, canvas, radius, 2.0)
    height += np.float32(radius * 0.6) * noise(rng, canvas, radius * 12, radius * 4)
    return Surface(height=height, emission=emission)


def stress_corrosion(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """Intergranular cracks that branch, each following grain boundaries, among facets of grains that came apart.

    A crack is where two neighbouring grains lie on different sides of a wandering line; a branch does so only on one
    side of its parent and gets narrower away from it.
    """
    grain = canvas.px(rng.uniform(4.0, 7.5))
    labels = cells(rng, canvas, grain, wavy=0.035)
    edge = boundaries(labels)
    crack = inside(distance_in_widths(_branching_line(rng, canvas, labels, grain)))
    height = smooth(facets(rng, canvas, labels, rng.uniform(0.05, 0.3), grain * 0.05), 0.8)
    height -= np.float32(rng.uniform(0.5, 2.0)) * inside(distance_to(edge) / np.float32(1.5))
    height += np.float32(0.25) * noise(rng, canvas, grain * 0.3, 2.0, 0.7)
    emission = 1 + np.float32(rng.uniform(0.02, 0.08)) * per_cell(rng, labels)
    product = noise(rng, canvas, grain * 0.15, 2.0, 0.7) > np.float32(rng.uniform(2.0, 2.8))
    height += smooth(product.astype(np.float32) * 3, 1.0)
    return Surface(height=height - np.float32(grain * 0.12) * crack, emission=emission * (1 - np.float32(0.8) * crack))


def _branching_line(rng: np.random.Generator, canvas: Canvas, labels: Labels, grain: float) -> Field:
    """Half width of a branching crack along grain boundaries on its centre line, 0 elsewhere, (H, W)."""
    y, x = canvas.grid()
    angle = rng.uniform(0, math.pi)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    grain_along, grain_across = mean_per_cell(labels, along), mean_per_cell(labels, across)
    bend = grain * 1.2 * noise(rng, canvas, grain * 5, grain * 1.5)
    side = (grain_across + mean_per_cell(labels, bend) + np.float32(rng.normal(0, grain * 0.5)) > 0)[labels]
    wide = np.float32(grain * rng.uniform(0.06, 0.11))
    half_widths = np.where(boundaries(side.astype(np.int32)), wide, 0).astype(np.float32)
    for _ in range(int(rng.integers(4, 11))):
        turn, offset = rng.uniform(0.4, 1.3) * rng.choice([-1.0, 1.0]), rng.uniform(-0.55, 0.55) * canvas.width
        wander = rng.normal(0, grain * 0.35, grain_along.shape)
        branch = (grain_along - offset) * math.sin(turn) - grain_across * math.cos(turn) + wander
        line = boundaries((branch > 0).astype(np.int32)[labels]) & (side == (rng.random() < 0.5))
        taper = np.clip(1 - np.abs(across) / np.float32(rng.uniform(2.0, 6.0) * grain), 0, 1)
        np.maximum(half_widths, np.where(line, wide * np.float32(0.8) * taper, 0), out=half_widths)
    return np.where(half_widths > 0.3, np.maximum(half_widths, 0.8), 0).astype(np.float32)


def thermal_cycling(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """Heat checks: a mosaic of cracks that divide tiles into smaller tiles, meet at right angles and fill with oxide.

    The first crack runs through; each later one ends at the cracks that stand (Bohn et al., Phys. Rev. E 71, 046214,
    2005, on hierarchical crack patterns).
    """
    tile = canvas.px(rng.uniform(5.0, 9.0))
    half_widths = np.zeros((canvas.height, canvas.width), dtype=np.float32)
    reach = math.hypot(canvas.height, canvas.width)
    angle, thick = rng.uniform(0, math.pi / 2), tile * rng.uniform(0.03, 0.055)
    bend_y, bend_x = (tile * 0.16 * noise(rng, canvas, tile * 1.5, tile * 0.15, 0.6) for _ in range(2))
    for (y0, x0), (y1, x1), order in _divide(rng, reach, tile):
        t = np.linspace(0, 1, max(int(math.hypot(y1 - y0, x1 - x0) / 4), 2), dtype=np.float32)
        y, x = y0 + t * (y1 - y0) - reach / 2, x0 + t * (x1 - x0) - reach / 2
        row = y * math.cos(angle) + x * math.sin(angle) + canvas.height / 2
        column = x * math.cos(angle) - y * math.sin(angle) + canvas.width / 2
        at = (np.clip(row, 0, canvas.height - 1).astype(int), np.clip(column, 0, canvas.width - 1).astype(int))
        points = np.stack([column + bend_x[at], row + bend_y[at]], axis=1)
        width = max(thick * 0.82**order * rng.uniform(0.7, 1.3), 0.9)
        cv2.polylines(half_widths, [np.round(points).astype(np.int32)], isClosed=False, color=width)
    half_widths *= np.clip(1 + np.float32(0.4) * noise(rng, canvas, tile, tile * 0.2), 0.4, 2)
    distance = distance_in_widths(half_widths)
    crack, lip = inside(distance), np.exp(-(((distance - 1.9) / 0.8) ** 2)).astype(np.float32)
    height = np.float32(rng.uniform(0.25, 0.6)) * noise(rng, canvas, tile * 0.12, 2.0, 0.8)
    height += np.float32(tile * 0.05) * noise(rng, canvas, tile * 2, tile * 0.5)
    height += np.float32(thick * rng.uniform(0.2, 1.0)) * lip - np.float32(thick * 1.5) * crack
    filled = np.float32(rng.uniform(0.3, 0.75)) * crack * (1 + np.float32(0.3) * noise(rng, canvas, tile * 0.15, 2.0))
    return Surface(height=height, emission=1 - filled + np.float32(rng.uniform(0.0, 0.15)) * lip)


def _divide(
    rng: np.random.Generator, reach: float, tile: float
) -> list[tuple[tuple[float, float], tuple[float, float], int]]:
    """Cracks (start, end, order) that divide a square of side ``reach`` until tiles are about ``tile`` wide."""
    cracks = list[tuple[tuple[float, float], tuple[float, float], int]]()
    open_tiles = [(0.0, 0.0, reach, reach, 0)]
    while open_tiles:
        top, left, bottom, right, order = open_tiles.pop()
        tall, wide = bottom - top, right - left
        if max(tall, wide) < tile * rng.uniform(0.9, 1.9):
            continue
        cut, skew = rng.uniform(0.35, 0.65), rng.normal(0, 0.06) * min(tall, wide)
        if tall > wide:
            row = top + cut * tall
            cracks.append(((row - skew, left), (row + skew, right), order))
            open_tiles += [(top, left, row, right, order + 1), (row, left, bottom, right, order + 1)]
        else:
            column = left + cut * wide
            cracks.append(((top, column - skew), (bottom, column + skew), order))
            open_tiles += [(top, left, bottom, column, order + 1), (top, column, bottom, right, order + 1)]
    return cracks


def oxide_spalling(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """A brittle oxide scale that has flaked off in places: angular plates with bright edges above bare metal.

    The scale breaks along fragment boundaries; whole fragments are gone where a slow field (bonding) is low. It is
    made of small crystals; the metal shows fine grooves of its old finish.
    """
    fragment = canvas.px(rng.uniform(2.5, 4.5))
    labels = cells(rng, canvas, fragment, wavy=0.06)
    bonding = mean_per_cell(labels, noise(rng, canvas, fragment * rng.uniform(2.5, 5.0), fragment))[labels]
    on = bonding > np.quantile(bonding, rng.uniform(0.3, 0.65))
    thick = fragment * rng.uniform(0.12, 0.25)
    layer = smooth(on.astype(np.float32), 0.9)
    crystal = canvas.px(rng.uniform(0.25, 0.45))
    scale = np.float32(crystal * 0.15) * noise(rng, canvas, crystal, 2.0, 0.7)
    y, x = canvas.grid()
    angle = rng.uniform(0, math.pi)
    groove = (x * math.cos(angle) + y * math.sin(angle)) / np.float32(canvas.px(0.5))
    metal = np.float32(rng.uniform(0.1, 0.3)) * np.sin(groove * 2 + noise(rng, canvas, fragment * 3, fragment))
    metal += np.float32(0.3) * noise(rng, canvas, fragment * 0.5, 2.0)
    lifted = np.maximum(facets(rng, canvas, labels, 0.1, thick * 0.2), -thick * 0.4)
    height = layer * (np.float32(thick) + scale + smooth(lifted, 0.8)) + (1 - layer) * metal
    broken = boundaries(labels) & on & (noise(rng, canvas, fragment * 3, fragment) > np.float32(rng.uniform(0.0, 1.0)))
    crack = inside(distance_to(broken) / np.float32(1.3))
    contrast = np.float32(rng.choice([-1, 1]) * rng.uniform(0.08, 0.3))
    emission = (1 + contrast * layer) * (1 - np.float32(0.55) * crack)
    return Surface(height=height - np.float32(thick * 0.4) * crack, emission=emission)


def hot_corrosion(canvas: Canvas, rng: np.random.Generator) -> Surface:
    """Molten salt attack: rounded pits, nodules of deposit in clusters, and a spongy porous ground."""
    size = canvas.px(rng.uniform(0.9, 1.8))
    height = np.float32(size * 0.12) * noise(rng, canvas, size, 2.0, 0.7)
    height += np.float32(size * 0.5) * noise(rng, canvas, size * 8, size * 2)
    emission = np.ones_like(height)
    where_pits, where_nodules = (noise(rng, canvas, size * 10, size * 3) for _ in range(2))
    area = canvas.height * canvas.width / size**2
    for cy, cx, radius in _spots(rng, where_pits, int(area * rng.uniform(0.1, 0.3)), size * 0.9):
        window, y, x = canvas.window(cy, cx, radius)
        bowl = np.sqrt(np.maximum(1 - (x**2 + y**2) / radius**2, 0))
        height[window] -= 0.8 * radius * bowl
        emission[window] *= 1 - np.float32(0.45) * bowl
    deposit = np.float32(rng.choice([0.85, 1.1, 1.25]))
    for cy, cx, radius in _spots(rng, where_nodules, int(area * rng.uniform(0.1, 0.4)), size * 0.6):
        window, y, x = canvas.window(cy, cx, radius)
        square = (x**2 + y**2) / radius**2
        ball = height[window].mean() * 0.5 + 0.9 * radius * np.sqrt(np.maximum(1 - square, 0))
        np.maximum(height[window], ball, out=height[window], where=square < 1)
        emission[window] = np.where(square < 1, deposit, emission[window])
    pores = noise(rng, canvas, size * 0.5, 2.0, 0.6) - np.float32(0.4) * where_pits
    pore = smooth(np.clip((-pores - np.float32(rng.uniform(1.0, 1.7))) * 2, 0, 1), 0.6)
    return Surface(height=height - np.float32(size * 0.2) * pore, emission=emission * (1 - np.float32(0.5) * pore))


def _spots(rng: np.random.Generator, likely: Field, count: int, size: float) -> list[tuple[float, float, float]]:
    """Centres and radii (y, x, radius) of about ``count`` round things that gather where ``likely`` is high."""
    tried = rng.uniform([0, 0], likely.shape, (count * 3, 2))
    chance = 1 / (1 + np.exp(-2.5 * likely[tried[:, 0].astype(int), tried[:, 1].astype(int)]))
    kept = tried[rng.random(len(tried)) < chance][:count]
    radii = size * np.exp(rng.normal(0.0, 0.45, len(kept))).clip(0.35, 2.8)
    return [(float(y), float(x), float(r)) for (y, x), r in zip(kept, radii, strict=True)]


SURFACES: dict[str, tuple[str, Draw]] = {
    "ductile_dimples": ("mechanical", ductile_dimples),
    "fatigue": ("mechanical", fatigue),
    "stress_corrosion": ("mechanical", stress_corrosion),
    "hot_corrosion": ("thermal", hot_corrosion),
    "oxide_spalling": ("thermal", oxide_spalling),
    "thermal_cycling": ("thermal", thermal_cycling),
}
"""Level-1 class and drawing function of every leaf."""
