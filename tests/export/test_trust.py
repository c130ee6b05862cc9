"""A bundle with a target accuracy holds back where val says so, and tells what that gives."""

from pathlib import Path

import numpy as np

from hffnet.export import trust
from hffnet.export.trust import card_section, trust_from_logits
from hffnet.runtime.dataset import Dataset, LabelledFrame
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.taxonomy import Taxonomy

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
