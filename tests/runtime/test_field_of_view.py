"""Large frames: every place is covered, areas add up, mixed fields are called mixed."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hffnet.runtime.classifier import Classifier, Prediction
from hffnet.runtime.errors import FrameError
from hffnet.runtime.field_of_view import FieldOfView, TileSettings, map_for_record, origins
from hffnet.runtime.frame import Acquisition, Frame
from hffnet.runtime.gates import DEFAULT_SETTINGS, GateSettings
from hffnet.runtime.manifest import Novelty
from hffnet.runtime.read import frame_from_pixels
from tests.tiny import tiny_manifest, tiny_taxonomy, write_tiny_bundle


def texture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(20, 230, (height, width), dtype=np.uint8)


def frame_of(pixels: npt.NDArray[np.uint8], pixel_size_um: float | None = None) -> Frame:
    return frame_from_pixels(pixels, "large", acquisition=Acquisition(pixel_size_um=pixel_size_um))


def classified(
    bundle: Path, frame: Frame, settings: TileSettings | None, gates: GateSettings = DEFAULT_SETTINGS
) -> Prediction:
    with Classifier.open(bundle, engine="onnxruntime", threads=1, tiles=settings, gates=gates) as classifier:
        return classifier.classify_frame(frame)


@given(st.integers(32, 5000), st.integers(32, 1000), st.floats(0.0, 0.75))
def test_tiles_cover_everything_and_overlap_as_asked(length: int, side: int, overlap: float) -> None:
    side = min(side, length)
    starts = origins(length, side, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - side
    steps = np.diff(starts)
    assert (steps <= side * (1 - overlap) + 1).all()
    assert (steps >= 0).all()


@pytest.mark.parametrize(
    ("settings", "pixel_size_um", "side"),
    [
        pytest.param({"side_um": 10.0}, 0.1, 100, id="by scale"),
        pytest.param({"side_um": 10.0}, None, None, id="scale not said"),
        pytest.param({"side_um": 10.0, "side_px": 64}, None, 64, id="pixels where the scale is not said"),
        pytest.param({"side_px": 250}, 0.1, None, id="hardly larger than a tile"),
    ],
)
def test_a_tile_has_the_trained_field_of_view(
    settings: dict[str, float], pixel_size_um: float | None, side: int | None
) -> None:
    assert TileSettings.model_validate(settings).side_of(frame_of(texture(300, 400), pixel_size_um)) == side


def test_absurd_tiles_are_refused() -> None:
    with pytest.raises(FrameError, match="check the frame's scale"):
        TileSettings(side_um=1.0).side_of(frame_of(texture(300, 400), 0.1))
    with pytest.raises(ValidationError, match="give side_um"):
        TileSettings()


def test_a_frame_of_equal_tiles_is_decided_as_one_tile(bundle_path: Path) -> None:
    tile = np.kron(texture(8, 8), np.ones((8, 8), np.uint8))
    alone = classified(bundle_path, frame_of(tile), None)
    field = classified(bundle_path, frame_of(np.tile(tile, (3, 4))), TileSettings(side_px=64, overlap=0.0))
    assert field.path == alone.path
    assert field.decision is not None
    assert alone.decision is not None
    assert field.decision.confidence == pytest.approx(alone.decision.confidence, abs=1e-6)
    assert field.area is not None
    assert (field.area.num_tiles, field.area.num_classified, field.area.is_mixed) == (12, 12, False)
    assert field.area.modes == (alone.path,)
    assert field.evidence is not None
    assert alone.evidence is not None
    assert field.evidence.shape == (5, 6, 8)
    np.testing.assert_allclose(field.evidence, np.tile(alone.evidence, (1, 3, 4)), atol=1e-5)


class Said:
    """Outputs in which tile n speaks for a leaf."""

    def __init__(self, leaves: list[int], strength: float = 9.0) -> None:
        taxonomy = tiny_taxonomy()
        self.logits = np.zeros((len(leaves), 5), np.float32)
        for n, leaf in enumerate(leaves):
            for level, node in enumerate(taxonomy.leaf_paths[leaf]):
                self.logits[n, taxonomy.slices()[level].start + int(node)] = strength
        self.evidence = np.repeat(np.repeat(self.logits[:, :, None, None], 2, axis=2), 2, axis=3)


@pytest.mark.parametrize(
    ("leaves", "modes", "answer"),
    [
        pytest.param([0, 0, 0, 0], 1, ("mechanical", "dimples"), id="one class"),
        pytest.param([0, 0, 1, 1], 2, ("mechanical",), id="two classes of one parent"),
        pytest.param([0, 0, 0, 2], 2, (), id="two classes of two parents"),
    ],
)
def test_a_field_answers_as_far_as_its_modes_agree(leaves: list[int], modes: int, answer: tuple[str, ...]) -> None:
    taxonomy, spec = tiny_taxonomy(), tiny_manifest(tiny_taxonomy()).decode
    field = FieldOfView(frame_of(texture(128, 128)), 64, TileSettings(side_px=64, overlap=0.0), taxonomy)
    field.add(field.tiles, Said(leaves), spec)  # type: ignore[arg-type]
    result = field.result(spec)
    assert result is not None
    decision, area, _, evidence = result
    assert len(area.modes) == modes
    assert area.is_mixed is (modes > 1)
    assert decision.answer == answer
    for shares in area.shares.values():
        assert sum(shares.values()) == pytest.approx(1.0)
    names = [taxonomy.path_of_leaf(leaf)[-1] for leaf in leaves]
    assert area.shares[taxonomy.levels[-1].name][names[0]] == pytest.approx(names.count(names[0]) / 4)
    assert evidence.shape == (5, 4, 4)


def test_blank_tiles_leave_their_place_open_and_a_blank_field_is_refused(bundle_path: Path) -> None:
    pixels = texture(256, 256)
    pixels[:, 128:] = 128
    pixels[0, 128:], pixels[-1, 128:] = 20, 230
    settings = TileSettings(side_px=64, overlap=0.0)
    half = classified(bundle_path, frame_of(pixels), settings)
    assert half.area is not None
    assert half.area.num_classified < half.area.num_tiles == 16


def test_a_field_of_unknown_tiles_is_refused(tmp_path: Path) -> None:
    novelty = Novelty(max_energy=-1e6, quantile=0.99, num_frames=100)
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(update={"novelty": novelty})
    bundle = write_tiny_bundle(tmp_path / "model.hffnet", manifest=manifest)
    refusing = GateSettings(out_of_distribution="refuse")
    said = classified(bundle, frame_of(texture(256, 256)), TileSettings(side_px=64), refusing)
    assert said.decision is None
    assert "none of 25 tiles" in str(said.not_classified)


def test_a_map_for_a_record_is_small_and_keeps_its_mean() -> None:
    values = np.random.default_rng(0).normal(size=(96, 192)).astype(np.float32)
    small = map_for_record(values)
    assert small.shape == (24, 48)
    assert float(small.mean()) == pytest.approx(float(values.mean()), abs=1e-4)
