"""Live frames of one field of view are decided on together; a new field starts anew, and the raw answer stays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import pytest

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.decode import Decision, decision_from_leaves
from hffnet.runtime.frame import Acquisition
from hffnet.runtime.pipeline import run_pipeline
from hffnet.runtime.read import frame_from_pixels
from hffnet.runtime.records import RecordStore
from hffnet.runtime.smoothing import Smoother, SmoothingSettings
from hffnet.runtime.sources import FrameItem
from hffnet.runtime.sources.array_source import ArraySource
from tests.tiny import tiny_manifest, tiny_taxonomy

TAXONOMY = tiny_taxonomy()
SPEC = tiny_manifest(TAXONOMY).decode
FIELD = np.kron(np.random.default_rng(0).integers(40, 200, (8, 8)), np.ones((16, 16), int))


def scan(seed: int, field: npt.NDArray[np.int_] = FIELD, contrast: float = 1.0) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 20, field.shape)
    return np.clip(field * contrast + noise, 0, 255).astype(np.uint8)


def said(*leaves: float) -> Decision:
    return decision_from_leaves(np.array(leaves), TAXONOMY, SPEC)


def add(smoother: Smoother, pixels: npt.NDArray[np.uint8], decision: Decision, um: float | None = None) -> int:
    frame = frame_from_pixels(pixels, "live", acquisition=Acquisition(pixel_size_um=um))
    return smoother.add(frame, decision)[1]


def test_probabilities_of_one_field_are_averaged_first_plainly_then_exponentially() -> None:
    smoother = Smoother(SmoothingSettings(weight=0.25), TAXONOMY, SPEC)
    values = [0.9, 0.5, 0.4, 0.6, 0.1, 0.2]
    expected, decision = 0.0, None
    for n, value in enumerate(values):
        weight = max(0.25, 1 / (n + 1))
        expected = (1 - weight) * expected + weight * value
        frame = frame_from_pixels(scan(n), "live")
        decision, num = smoother.add(frame, said(value, 1 - value, 0.0))
        assert num == n + 1
        assert decision.probabilities[-1][0] == pytest.approx(expected)
        assert sum(decision.probabilities[-1]) == pytest.approx(1.0)
    assert decision is not None
    assert decision.path == ("mechanical", "fatigue")


def test_brightness_and_contrast_are_the_same_field_another_place_or_scale_is_not() -> None:
    smoother = Smoother(SmoothingSettings(), TAXONOMY, SPEC)
    assert add(smoother, scan(0), said(1, 0, 0)) == 1
    assert add(smoother, scan(1, contrast=0.6), said(1, 0, 0)) == 2
    assert add(smoother, scan(2, np.roll(FIELD, 40, axis=1)), said(1, 0, 0)) == 1
    assert add(smoother, scan(3, np.roll(FIELD, 40, axis=1)), said(1, 0, 0)) == 2
    assert add(smoother, scan(4, np.roll(FIELD, 40, axis=1)), said(1, 0, 0), um=0.2) == 1
    assert add(smoother, np.full((128, 128), 90, np.uint8), said(1, 0, 0), um=0.2) == 1


def test_the_record_keeps_raw_and_smoothed(bundle_path: Path, tmp_path: Path) -> None:
    fields = [FIELD, FIELD, np.roll(FIELD, 40, axis=1)]
    source = ArraySource([scan(n, field) for n, field in enumerate(fields)], name="scan")
    live = _Live(source)
    with (
        Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier,
        RecordStore.open(tmp_path / "records.sqlite") as store,
    ):
        run_pipeline(
            live, classifier, store, [], settings_sha256="0" * 64, stop=Event(), smoothing=SmoothingSettings(weight=0.5)
        )
        first, second, third = ((record, (record.details or {})["smoothed"]) for record in store.iterate())
    assert isinstance(second[1], dict)
    assert isinstance(third[1], dict)
    leaf = TAXONOMY.levels[-1]
    raw = [record.probabilities[leaf.name][leaf.classes[0]] for record in (first[0], second[0])]
    assert second[1]["probabilities"][leaf.name][leaf.classes[0]] == pytest.approx(np.mean(raw))
    assert (second[1]["num_frames"], third[1]["num_frames"]) == (2, 1)
    assert third[1]["probabilities"] == third[0].probabilities


class _Live:
    """Items of an array source, as a live one offers them."""

    is_live = True

    def __init__(self, inner: ArraySource) -> None:
        self.inner = inner

    def items(self, stop: Event) -> Iterator[FrameItem]:
        for item in self.inner.items(stop):
            yield replace(item, is_live=True)

    def retry(self, item: object) -> bool:
        del item
        return False
