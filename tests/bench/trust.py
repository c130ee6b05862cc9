"""Decodings, temperatures and target accuracies of a checkpoint, as Markdown tables.

Run: ``python -m tests.bench.trust CHECKPOINT DATA``. Figures go to docs/results by hand, with machine and date.
"""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hffnet.runtime.assessment import Assessment, Judged, assess
from hffnet.runtime.dataset import Dataset, LabelledFrame, open_dataset
from hffnet.runtime.decode import Decision, DecodeSpec, decode
from hffnet.runtime.errors import HffnetError
from hffnet.runtime.metrics import num_right
from hffnet.runtime.taxonomy import Taxonomy
from hffnet.runtime.trust import risk_coverage_at, threshold_for_target
from hffnet.train.checkpoint import open_checkpoint
from hffnet.train.evaluate import logits_from_checkpoint, temperatures_from_logits

_TARGETS = (0.9, 0.95)
_DRAWS = 200


def main(folder: Path, data: Path) -> Iterable[str]:
    """Lines of Markdown."""
    checkpoint = open_checkpoint(folder)
    tree, spec = checkpoint.taxonomy, checkpoint.config.decode
    split_of = {frame.sha256: frame.split for frame in checkpoint.config.frames}
    whole = open_dataset(data, tree)
    known = tuple(replace(f, split=split_of[f.sha256]) for f in whole.frames if f.sha256 in split_of)
    dataset = replace(whole, frames=tuple(f for f in known if f.split != "train"))
    logits_NC = logits_from_checkpoint(checkpoint, dataset)
    val_N = np.array([frame.split == "val" for frame in dataset.frames])
    labels_ND = np.array([tree.indices_of_path(frame.classes) for frame in dataset.frames])
    spec = spec.model_copy(update={"temperatures": temperatures_from_logits(logits_NC[val_N], labels_ND[val_N], tree)})
    test = [n for n in range(len(val_N)) if not val_N[n]]
    frames = tuple(dataset.frames[n] for n in test)
    found = _assessed(logits_NC[test], frames, dataset, spec)
    yield f"{folder.name}: {int(val_N.sum())} val frames, {len(test)} test frames"
    yield from _decodings(found)
    yield from _temperatures(logits_NC[test], labels_ND[test], tree, spec)
    yield from _targets(decode(logits_NC, tree, spec), [frame.classes for frame in dataset.frames], val_N)


def _assessed(
    logits_NC: np.ndarray, frames: tuple[LabelledFrame, ...], dataset: Dataset, spec: DecodeSpec
) -> Assessment:
    judged = [
        Judged(name=dataset.relative(frame), truth=frame.classes, group=frame.group, logits=row)
        for frame, row in zip(frames, logits_NC, strict=True)
    ]
    return assess(judged, dataset.taxonomy, spec)[0]


def _decodings(found: Assessment) -> Iterable[str]:
    yield "| decoding | HF1 | FPA | TICE | levels | distance |"
    for one in found.decodings:
        m = one.metrics
        levels = ", ".join(f"{a:.4f}" for a in m.level_accuracy)
        distance = "–" if one.mistake_distance is None else f"{one.mistake_distance:.2f}"
        yield f"| {one.decoding} | {m.hf1:.4f} | {m.fpa:.4f} | {m.tice:.4f} | {levels} | {distance} |"
    if i := found.intervals:
        yield f"joint: HF1 {i.hf1.low:.3f} to {i.hf1.high:.3f}, FPA {i.fpa.low:.3f} to {i.fpa.high:.3f} (95 %)"
    yield "ECE " + ", ".join(f"{lv.name} {lv.ece_unscaled:.4f} → {lv.ece:.4f}" for lv in found.levels)


def _temperatures(logits_NC: np.ndarray, labels_ND: np.ndarray, tree: Taxonomy, spec: DecodeSpec) -> Iterable[str]:
    for name, one in (("1", DecodeSpec.plain(tree)), ("fitted", spec)):
        shares = np.stack([decision.probabilities[-1] for decision in decode(logits_NC, tree, one)])
        loss = -np.log(shares[np.arange(len(shares)), labels_ND[:, -1]]).mean()
        yield f"temperatures {name} {one.temperatures}: negative log likelihood of the leaf {loss:.4f}"


def _targets(decided: tuple[Decision, ...], truths: list[tuple[str, ...]], val_N: np.ndarray) -> Iterable[str]:
    confidence_ND = np.array([one.confidence for one in decided])
    right_N = num_right(truths, [one.path for one in decided])
    rng = np.random.default_rng(0)
    yield "| target | threshold | right on test | coverage | to the leaf | right, mean of random halves |"
    for target in _TARGETS:
        try:
            threshold = threshold_for_target(confidence_ND[val_N], right_N[val_N], target) or 0.0
        except HffnetError as error:
            yield f"| {target} | {error} |"
            continue
        here = risk_coverage_at(confidence_ND[~val_N], right_N[~val_N], threshold)
        halves = list[float]()
        for _ in range(_DRAWS):
            one = rng.permutation(len(right_N)) < len(right_N) // 2
            chosen = threshold_for_target(confidence_ND[one], right_N[one], target) or 0.0
            halves.append(1 - risk_coverage_at(confidence_ND[~one], right_N[~one], chosen).risk)
        yield (
            f"| {target} | {threshold:.4f} | {1 - here.risk:.4f} | {here.coverage:.4f} | {here.complete:.4f}"
            f" | {np.mean(halves):.4f} |"
        )


if __name__ == "__main__":
    for line in main(Path(sys.argv[1]), Path(sys.argv[2])):
        print(line)
