"""A bundle with a target accuracy holds back where val says so, and tells what that gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hffnet.export import trust
from hffnet.export.trust import card_section, trust_from_logits, with_target
from hffnet.runtime.dataset import Dataset, LabelledFrame
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import DatasetError
from hffnet.runtime.metrics import metrics_from_paths
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.train.checkpoint import Checkpoint, CheckpointConfig, Seeds, SplitFrame, TrainingMetrics
from hffnet.train.recipes import recipe_by_name

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])


def _dataset(num: int) -> Dataset:
    frames = tuple(
        LabelledFrame(path=Path(f"/d/{n}.png"), classes=TREE.path_of_leaf(n % 3), group=str(n), sha256=f"{n:064x}")
        for n in range(num)
    )
    return Dataset(root=Path("/d"), taxonomy=TREE, frames=frames)


def _logits(num: int, seed: int = 0) -> np.ndarray:
    """Right for most frames, less sure where wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(num, 5)).astype(np.float32)
    paths = TREE.leaf_paths[np.arange(num) % 3]
    logits[np.arange(num), paths[:, 0]] += 2
    logits[np.arange(num), 2 + paths[:, 1]] += 2
    return logits


def test_the_promise_is_measured_for_each_precision() -> None:
    spec = DecodeSpec(temperatures=(1.0, 1.0), min_confidence=0.8)
    report = trust_from_logits({"fp32": _logits(90), "int8": _logits(90, 1)}, _dataset(90), spec, 0.95)
    whole = trust_from_logits({"fp32": _logits(90)}, _dataset(90), DecodeSpec.plain(TREE), None)
    held, free = report.precisions["fp32"].realised, whole.precisions["fp32"].realised
    assert held.risk < free.risk
    assert held.coverage < free.coverage == 1.0
    assert report.precisions["int8"].realised != held
    assert report.precisions["fp32"].decodings == whole.precisions["fp32"].decodings
    text = card_section(report)
    assert "confidence of 0.8000 or more, chosen on val frames for 0.95 right" in text
    assert f"| fp32 | {1 - held.risk:.4f} |" in text
    assert "Every frame is answered down to the leaf" in card_section(whole)
    assert trust.TrustReport.model_validate_json(report.model_dump_json()) == report


def test_the_threshold_rests_on_val_frames_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The network is played by its logits; a real one is in tests/journeys."""
    data = _dataset(120)
    asked = list[Dataset]()

    def said(_: Checkpoint, dataset: Dataset) -> np.ndarray:
        asked.append(dataset)
        return _logits(120)[[int(frame.group) for frame in dataset.frames]]

    monkeypatch.setattr(trust, "logits_from_checkpoint", said)
    checkpoint, held_out = _checkpoint(data, num_val=90), replace(data, frames=data.frames[90:])
    spec = with_target(checkpoint, data, held_out, 0.9).config.decode
    assert asked[0].frames == data.frames[:90]
    assert spec.temperatures == checkpoint.config.decode.temperatures
    assert spec.min_confidence is not None
    assert not caplog.records
    val = replace(data, frames=data.frames[:90])
    with_target(checkpoint, data, val, 0.9)
    assert "90 of 90 held-out frames are val frames" in caplog.text
    assert trust_from_logits({"fp32": _logits(120)[:90]}, val, spec, 0.9).precisions["fp32"].realised.risk <= 0.1
    with pytest.raises(DatasetError, match="none of the 30 frames of /d stands in the val split of ckpt"):
        with_target(checkpoint, held_out, held_out, 0.9)


def _checkpoint(data: Dataset, num_val: int) -> Checkpoint:
    frames = tuple(
        SplitFrame(path=str(n), sha256=f.sha256, classes=f.classes, split="val" if n < num_val else "train")
        for n, f in enumerate(data.frames)
    )
    config = CheckpointConfig(
        recipe=recipe_by_name("nano", TREE.num_classes),
        preprocess=PreprocessSpec(),
        decode=DecodeSpec.plain(TREE),
        seeds=Seeds(training=0, split=0),
        data_sha256="0" * 64,
        weights_sha256=None,
        frames=frames,
        created_utc="2026-11-23T00:00:00Z",
        tools={},
    )
    val = metrics_from_paths([("a", "x")], [("a", "x")], TREE)
    metrics = TrainingMetrics(best_epoch=0, val=val, test=None, history=())
    return Checkpoint(folder=Path("ckpt"), config=config, taxonomy=TREE, metrics=metrics)
