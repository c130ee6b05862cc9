"""From a drawn surface to the picture a scanning electron microscope would record of it.

Two steps: ``signal`` (what leaves the surface and reaches the detector) and ``record`` (what beam, scan, charging,
amplifier and shot noise make of it). After L. Reimer, Scanning Electron Microscopy, 2nd ed. 1998: the secondary yield
grows with the secant of the slope (ch. 4.2), edges and tips are brighter, recesses darker and the side that faces the
detector brighter (ch. 6.1).
"""

import math

import cv2
import numpy as np

from hffnet.train.relief import Canvas, Field, Surface, noise, smooth


def signal(surface: Surface, rng: np.random.Generator) -> Field:
    """Electrons that reach the detector per pixel, (H, W), relative.

    Detector side, its weight against topography, and depth darkening differ from frame to frame.
    """
    height = smooth(surface.height, 0.7)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
    secant = np.sqrt(1 + slope_x**2 + slope_y**2)
    tilt = 2.0 * np.tanh((secant - 1) / 2.0)
    towards = rng.uniform(0, 2 * math.pi)
    facing = (slope_x * np.float32(math.cos(towards)) + slope_y * np.float32(math.sin(towards))) / secant
    yielded = 1 + np.float32(rng.uniform(0.4, 0.9)) * tilt + np.float32(rng.uniform(0.1, 0.6)) * facing
    for sigma, weight in ((1.5, 0.35), (5.0, 0.3), (18.0, 0.25)):
        above = (height - smooth(height, sigma)) / np.float32(sigma)
        yielded += np.float32(weight * rng.uniform(0.5, 1.2)) * np.tanh(2 * above)
    return np.asarray(np.maximum(surface.emission * yielded, 0), dtype=np.float32)


def record(seen: Field, canvas: Canvas, rng: np.random.Generator) -> Field:
    """The recorded picture, (H, W) float32 in 0..1.

    Brightness and contrast are set by an operator who looks at the picture, so the mean grey says nothing of the
    class: the signal is first brought to zero mean and unit deviation, then to drawn ones, with a drawn gamma.
    """
    seen = _jitter(_blur(seen, rng), rng)
    low, high = np.quantile(seen[::3, ::3], [0.005, 0.995]).astype(np.float32)
    seen = np.clip(seen, low, high)
    seen = (seen - seen.mean()) / np.float32(max(float(seen.std()), 1e-6))
    seen += _charging(seen, canvas, rng) + _drift(canvas, rng)
    grey = np.float32(rng.uniform(0.3, 0.6)) + np.float32(rng.uniform(0.08, 0.17)) * seen
    electrons, gamma = math.exp(rng.uniform(math.log(25), math.log(400))), math.exp(rng.uniform(-0.45, 0.45))
    counts = rng.poisson(np.clip(grey, 0.01, 1.2) ** np.float32(gamma) * electrons)
    return np.asarray(np.clip(counts / electrons, 0, 1), dtype=np.float32)


def _blur(seen: Field, rng: np.random.Generator) -> Field:
    """Finite probe with some astigmatism: a Gaussian, longer in one direction."""
    long_, ratio, angle = rng.uniform(0.5, 1.4), rng.uniform(0.55, 1.0), rng.uniform(0, math.pi)
    y, x = np.mgrid[-4:5, -4:5]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = np.exp(-0.5 * ((along / long_) ** 2 + (across / (long_ * ratio)) ** 2))
    return np.asarray(cv2.filter2D(seen, cv2.CV_32F, kernel / kernel.sum()), dtype=np.float32)


def _jitter(seen: Field, rng: np.random.Generator) -> Field:
    """Scan lines displaced by vibration and stray fields: a slow wave and an independent part per line."""
    rows, columns = seen.shape
    line = np.arange(rows, dtype=np.float32)
    wave = rng.uniform(0, 0.6) * np.sin(2 * math.pi * line / rng.uniform(6, 60) + rng.uniform(0, 2 * math.pi))
    moved = (wave + rng.normal(0, rng.uniform(0.02, 0.3), rows)).astype(np.float32)
    x = np.arange(columns, dtype=np.float32)[None, :] + moved[:, None]
    y = np.repeat(line[:, None], columns, axis=1)
    return np.asarray(cv2.remap(seen, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), dtype=np.float32)


def _charging(seen: Field, canvas: Canvas, rng: np.random.Generator) -> Field:
    """Streaks that trail bright edges along the scan, whole lines that flash, and in some frames a broad flare."""
    tail = int(rng.integers(20, 120))
    kernel = np.exp(-np.arange(2 * tail + 1, dtype=np.float32) / np.float32(tail / 2))[None, ::-1] / (tail / 2)
    bright = np.maximum(seen - np.float32(1.2), 0)
    trail = cv2.filter2D(bright, cv2.CV_32F, kernel, anchor=(2 * tail, 0), borderType=cv2.BORDER_REPLICATE)
    charge = np.float32(rng.choice([-1.5, 0.0, 1.5]) * rng.uniform(0, 1)) * trail
    flashes = (rng.random(canvas.height) < rng.uniform(0, 0.02)) * rng.normal(0, 0.6, canvas.height)
    flashes = np.convolve(flashes, [0.5, 1.0, 0.5], mode="same")
    charge[:, rng.integers(0, canvas.width) :] += flashes.astype(np.float32)[:, None]
    if rng.random() < 0.3:
        y, x = canvas.grid()
        cy, cx = rng.uniform(-0.5, 0.5, 2) * (canvas.height, canvas.width)
        reach = rng.uniform(0.1, 0.3) * canvas.width
        charge += np.float32(rng.uniform(0.5, 1.8)) * np.exp(-((y - cy) ** 2 + ((x - cx) / 1.7) ** 2) / reach**2)
    return np.asarray(charge, dtype=np.float32)


def _drift(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Brightness that changes over the field (detector side) and from line to line (amplifier, contamination)."""
    y, x = canvas.grid()
    slope_y, slope_x = rng.normal(0, 0.35, 2)
    shade = np.float32(slope_y * 2 / canvas.height) * y + np.float32(slope_x * 2 / canvas.width) * x
    walk = np.cumsum(rng.normal(0, rng.uniform(0, 0.02), canvas.height)).astype(np.float32)
    spots = np.float32(0.08) * noise(rng, canvas, canvas.width / 3, canvas.width / 9)
    return np.asarray(shade + (walk - walk.mean())[:, None] + spots, dtype=np.float32)
