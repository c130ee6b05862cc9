"""A frame that is not fit is told by a gate's sentence; a fit one passes all."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from hffnet.runtime.frame import Crop, Frame
from hffnet.runtime.gates import GateSettings, check_gates, fingerprint_from_frame
from hffnet.runtime.read import read_frame

RNG = np.random.default_rng(5)
ROW = np.arange(300)[:, None]
SCALES: dict[str, tuple[type[np.uint8 | np.uint16 | np.float32], float]] = {
    "uint8": (np.uint8, 255),
    "12 of 16 bit": (np.uint16, 4095),
    "uint16": (np.uint16, 65535),
    "float32": (np.float32, 1.0),
}


def frame_of(pixels: npt.NDArray[Any], rows: int | None = None, sha256: str = "0") -> Frame:
    height, width = pixels.shape
    crop = Crop(top=0, left=0, height=rows or height, width=width, reason="setting" if rows else "whole")
    return Frame(pixels=pixels, crop=crop, name="a", sha256=sha256)


def texture(scale: str) -> npt.NDArray[np.float64]:
    smooth = cv2.GaussianBlur(RNG.random((300, 400)), (0, 0), 1.5)
    return np.asarray(np.clip((smooth - 0.3) / 0.4, 0.01, 0.99) * SCALES[scale][1], np.float64)


def failed(frame: Frame, **settings: float) -> list[str]:
    return [gate.name for gate in check_gates(frame, None, GateSettings(**settings)) if not gate.passed]  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALES)
def test_a_fit_frame_passes(scale: str) -> None:
    results = check_gates(frame_of(texture(scale).astype(SCALES[scale][0])))
    assert [gate.name for gate in results] == ["incomplete", "blank", "black", "saturated"]
    assert all(gate.passed for gate in results)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p, _: np.where(ROW < 299, p, 0), ["incomplete"]),
        (lambda p, top: np.where(ROW > 1, p, top), ["incomplete"]),
        (lambda p, _: np.where(ROW < 20, p, 0), ["incomplete", "black"]),
        (lambda p, top: np.full_like(p, top / 2), ["incomplete", "blank"]),
        (lambda p, top: p * 0.01 + top / 2, ["blank"]),
        (lambda p, top: np.where(np.random.default_rng(0).random(p.shape) < 0.6, top, p), ["saturated"]),
        (lambda p, _: np.where(np.random.default_rng(0).random(p.shape) < 0.95, 0, p), ["black"]),
    ],
    ids=["last row zero", "first rows white", "zero tail", "blank", "low contrast", "white", "black"],
)
def test_an_unfit_frame_is_told(scale: str, spoil: object, expected: list[str]) -> None:
    dtype, top = SCALES[scale]
    assert callable(spoil)
    pixels = spoil(texture(scale), top).astype(dtype)
    assert failed(frame_of(pixels)) == expected


def test_gates_look_at_the_picture_only() -> None:
    pixels = texture("uint8").astype(np.uint8)
    pixels[250:] = 0
    assert failed(frame_of(pixels)) == ["incomplete"]
    assert failed(frame_of(pixels, rows=250)) == []


def test_a_reason_says_value_limit_and_cause() -> None:
    pixels = texture("uint8").astype(np.uint8)
    pixels[280:] = 0
    incomplete = check_gates(frame_of(pixels))[0]
    assert (incomplete.value, incomplete.limit) == (20, 0)
    assert "20 of 300 rows at the bottom" in incomplete.reason
    assert "file is not complete" in incomplete.reason


def test_frozen_by_hash_and_by_statistics() -> None:
    pixels = texture("uint8").astype(np.uint8)
    first, again = frame_of(pixels, sha256="1"), frame_of(pixels.copy(), sha256="2")
    other = frame_of(texture("uint8").astype(np.uint8), sha256="3")
    last = fingerprint_from_frame(first)
    assert [check_gates(frame, last)[-1].passed for frame in (first, again, other)] == [False, False, True]
    assert all(gate.name != "frozen" for gate in check_gates(first))


def test_blur_is_judged_by_the_sharpest_tiles() -> None:
    pixels = texture("uint8").astype(np.uint8)
    blurred: npt.NDArray[Any] = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 8))
    half = np.hstack([pixels[:, :200], blurred[:, 200:]])
    assert failed(frame_of(pixels), min_sharpness=0.2) == []
    assert failed(frame_of(half), min_sharpness=0.2) == []
    assert failed(frame_of(blurred), min_sharpness=0.2) == ["blurred"]


def test_a_preallocated_file_does_not_pass(tmp_path: Path) -> None:
    """Every TIFF reader decodes it without complaint."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, texture("uint16").astype(np.uint16))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert failed(read_frame(path)) == ["incomplete"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["x_sdd", "sem_thermal"])
def test_real_frames_pass(folder: str, shared: Path) -> None:
    for path in sorted((shared / "data" / folder).rglob("*.[jp][pn]g")):
        assert failed(read_frame(path)) == [], path
