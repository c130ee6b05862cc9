"""Frames at another scale than the train frames are looked at at theirs, where the setting allows it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.classifier import Classifier, Prediction
from hffnet.runtime.engines import Outputs
from hffnet.runtime.frame import Acquisition, Frame
from hffnet.runtime.gates import GateSettings
from hffnet.runtime.read import frame_from_pixels
from hffnet.runtime.resample import outputs_inside, widened
from tests.tiny import tiny_manifest, tiny_taxonomy, write_tiny_bundle

RESAMPLE = GateSettings(pixel_size="resample")


@pytest.fixture(scope="module")
def trained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its train frames had 0.2 to 0.4 µm per pixel."""
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(update={"pixel_size_um": (0.2, 0.4)})
    return write_tiny_bundle(tmp_path_factory.mktemp("trained") / "model.hffnet", manifest=manifest)


def frame_of(pixels: npt.NDArray[np.uint8], um: float | None) -> Frame:
    return frame_from_pixels(pixels, "frame", acquisition=Acquisition(pixel_size_um=um))


def classified(bundle: Path, frame: Frame, settings: GateSettings) -> Prediction:
    with Classifier.open(bundle, engine="onnxruntime", threads=1, gates=settings) as classifier:
        return classifier.classify_frame(frame)


def texture(rows: int, columns: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(20, 230, (rows, columns), dtype=np.uint8)


def test_a_picture_with_larger_pixels_is_cut_into_the_trained_field_of_view(trained_bundle: Path) -> None:
    tile = np.kron(texture(8, 8), np.ones((8, 8), np.uint8))
    alone = classified(trained_bundle, frame_of(tile, 0.4), RESAMPLE)
    coarse = classified(trained_bundle, frame_of(np.tile(tile, (2, 2)), 0.8), RESAMPLE)
    assert coarse.area is not None
    assert coarse.area.tile_px == 64
    assert coarse.path == alone.path
    (gate,) = [gate for gate in coarse.gates if gate.name == "pixel_size"]
    assert (gate.passed, gate.refuses) == (False, False)
    assert "as if one pixel were 0.4 um" in gate.reason


def test_a_picture_with_smaller_pixels_is_widened_and_only_its_own_part_counts(trained_bundle: Path) -> None:
    fine = classified(trained_bundle, frame_of(texture(128, 128), 0.05), RESAMPLE)
    assert fine.area is None
    assert fine.evidence is not None
    assert fine.logits is not None
    assert fine.evidence.shape[1:] == (1, 1)  # a quarter of the side, of two cells
    np.testing.assert_allclose(fine.evidence.mean(axis=(1, 2)), fine.logits, atol=1e-6)


@pytest.mark.parametrize("um", [None, 0.3, 0.19, 4.0], ids=["not said", "trained", "within the margin", "too far"])
def test_other_frames_are_looked_at_as_they_are(trained_bundle: Path, um: float | None) -> None:
    pixels = texture(96, 128)
    plain = classified(trained_bundle, frame_of(pixels, um), GateSettings())
    resampled = classified(trained_bundle, frame_of(pixels, um), RESAMPLE)
    assert resampled.area is None
    assert resampled.logits is not None
    np.testing.assert_array_equal(resampled.logits, plain.logits)


def test_a_widened_picture_keeps_its_texture_in_the_middle() -> None:
    pixels = np.kron(texture(10, 10), np.ones((10, 10), np.uint8))
    wide = widened(pixels, 0.1)
    assert wide.picture.shape == pixels.shape
    assert wide.picture.dtype == np.uint8
    assert (wide.top, wide.left, wide.height, wide.width) == (0.45, 0.45, 0.1, 0.1)
    np.testing.assert_array_equal(wide.picture[45:55, 45:55], pixels[::10, ::10])
    np.testing.assert_array_equal(wide.picture[44, 45:55], wide.picture[46, 45:55])


@pytest.mark.parametrize(("scale", "cells"), [(0.5, 4), (0.26, 2)])
def test_evidence_inside_the_picture_makes_the_logits(scale: float, cells: int) -> None:
    evidence = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    whole = Outputs(logits=evidence.mean(axis=(2, 3)), evidence=evidence)
    inside = outputs_inside(whole, widened(texture(200, 200), scale))
    assert inside.evidence.shape == (1, 3, cells, cells)
    middle = slice(4 - cells // 2, 4 + cells // 2)
    np.testing.assert_array_equal(inside.evidence, evidence[:, :, middle, middle])
    np.testing.assert_allclose(inside.logits, inside.evidence.mean(axis=(2, 3)), atol=1e-6)
