"""Frames unlike those the model knows: by scale, and by the energy of their logits."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.classifier import Classifier, Prediction
from hffnet.runtime.errors import GateError
from hffnet.runtime.frame import Acquisition
from hffnet.runtime.gates import GateSettings, Policy
from hffnet.runtime.manifest import Manifest, Novelty
from hffnet.runtime.novelty import energies_from_logits, novelty_from_energies
from hffnet.runtime.read import frame_from_pixels
from tests.tiny import tiny_manifest, tiny_taxonomy, write_tiny_bundle

PIXELS = np.random.default_rng(0).integers(20, 230, (96, 128), dtype=np.uint8)


def bundle(folder: Path, *, max_energy: float | None = None, trained_um: tuple[float, float] | None = None) -> Path:
    novelty = Novelty(max_energy=max_energy, quantile=0.99, num_frames=100) if max_energy is not None else None
    manifest = tiny_manifest(tiny_taxonomy()).model_copy(update={"novelty": novelty, "pixel_size_um": trained_um})
    return write_tiny_bundle(folder / "model.hffnet", manifest=manifest)


def prediction(path: Path, settings: GateSettings, pixel_size_um: float | None = None) -> Prediction:
    frame = frame_from_pixels(PIXELS, "frame", acquisition=Acquisition(pixel_size_um=pixel_size_um))
    with Classifier.open(path, engine="onnxruntime", threads=1, gates=settings) as classifier:
        return classifier.classify_frame(frame)


@pytest.mark.parametrize(
    ("policy", "classified", "flagged"),
    [("refuse", False, True), ("flag", True, True), ("ignore", True, False)],
)
def test_an_unknown_kind_of_frame_is_treated_as_asked(
    tmp_path: Path, policy: Policy, classified: bool, flagged: bool
) -> None:
    said = prediction(bundle(tmp_path, max_energy=-1e6), GateSettings(out_of_distribution=policy))
    assert bool(said.decision) is classified
    assert any(gate.name == "out_of_distribution" and not gate.passed for gate in said.gates) is flagged
    assert ("unlike what the model was trained on" in (said.not_classified or "")) is not classified
    assert (said.evidence is None) is not classified


def test_a_known_kind_of_frame_passes(tmp_path: Path) -> None:
    said = prediction(bundle(tmp_path, max_energy=1e6), GateSettings())
    assert said.decision is not None
    assert all(gate.passed for gate in said.gates)


@pytest.mark.parametrize(
    ("pixel_size_um", "policy", "classified", "passed"),
    [
        pytest.param(0.15, "refuse", True, True, id="inside"),
        pytest.param(0.21, "refuse", True, True, id="within the margin"),
        pytest.param(0.30, "refuse", False, False, id="too coarse, refused"),
        pytest.param(0.05, "refuse", False, False, id="too fine, refused"),
        pytest.param(0.30, "flag", True, False, id="flagged"),
        pytest.param(0.30, "ignore", True, None, id="ignored"),
        pytest.param(None, "refuse", True, None, id="not said"),
    ],
)
def test_the_scale_is_held_against_the_trained_range(
    tmp_path: Path, pixel_size_um: float | None, policy: Policy, classified: bool, passed: bool | None
) -> None:
    path = bundle(tmp_path, trained_um=(0.1, 0.2))
    said = prediction(path, GateSettings(pixel_size=policy), pixel_size_um)
    assert bool(said.decision) is classified
    assert next((gate.passed for gate in said.gates if gate.name == "pixel_size"), None) is passed


def test_old_bundles_stay_readable_and_new_ones_say_nothing_they_do_not_know(tmp_path: Path) -> None:
    document = json.loads(tiny_manifest(tiny_taxonomy()).model_dump_json())
    assert "novelty" not in document
    assert Manifest.model_validate_json(json.dumps(document)).novelty is None
    assert open_bundle(bundle(tmp_path, max_energy=2.0)).manifest.novelty is not None


LOGITS = arrays(np.float64, (3, 5), elements=st.floats(-300, 300))


@given(LOGITS, st.floats(-50, 50))
def test_energy_falls_as_logits_rise_and_is_finite(logits_NC: npt.NDArray[np.float64], shift: float) -> None:
    energies = energies_from_logits(logits_NC, tiny_taxonomy())
    assert np.isfinite(energies).all()
    np.testing.assert_allclose(energies_from_logits(logits_NC + shift, tiny_taxonomy()), energies - shift, atol=1e-9)
    assert (energies <= -logits_NC[:, 2:].max(axis=1) + 1e-9).all()


def test_the_limit_is_kept_by_99_of_100_frames_and_needs_enough_of_them() -> None:
    energies = np.arange(1000.0)
    novelty = novelty_from_energies(energies)
    assert novelty is not None
    assert float((energies <= novelty.max_energy).mean()) == pytest.approx(0.99, abs=2e-3)
    assert novelty_from_energies(energies[:63]) is None
    with pytest.raises(GateError, match="not finite"):
        novelty_from_energies(np.array([np.nan] * 100))
