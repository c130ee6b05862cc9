"""Scores against hand-worked cases, scikit-learn and known distributions."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.decodings import DECODINGS, paths_from_logits
from hffnet.runtime.errors import ConfigError, DatasetError, GateError
from hffnet.runtime.intervals import intervals_from_paths
from hffnet.runtime.metrics import (
    class_scores,
    confusion_from_paths,
    hf_beta,
    metrics_from_paths,
    mistake_distance,
    num_right,
)
from hffnet.runtime.taxonomy import ClassPath, Taxonomy
from hffnet.runtime.trust import (
    expected_calibration_error,
    reliability_bins,
    risk_coverage_at,
    risk_coverage_curve,
    threshold_for_target,
)

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
FLAT = Taxonomy.from_paths([("p",), ("q",), ("r",)])
DEEP = Taxonomy.from_paths([("a", "x", "1"), ("a", "x", "2"), ("a", "y", "3"), ("b", "z", "4")])

AX: ClassPath = ("a", "x")
AY: ClassPath = ("a", "y")
BZ: ClassPath = ("b", "z")


@pytest.mark.parametrize(
    ("answers", "hp", "hr", "fpa", "tice", "levels"),
    [
        pytest.param([AX, AX, BZ], 1.0, 1.0, 1.0, 0.0, (1.0, 1.0), id="all right"),
        pytest.param([AY, BZ, AX], 1 / 6, 1 / 6, 0.0, 0.0, (1 / 3, 0.0), id="all leaves wrong"),
        pytest.param([("a",), AX, ()], 2 / 3, 0.5, 1 / 3, 0.0, (2 / 3, 1 / 3), id="held back"),
        pytest.param([("b", "x"), AX, BZ], 5 / 6, 5 / 6, 2 / 3, 1 / 3, (2 / 3, 1.0), id="no path of the tree"),
    ],
)
def test_worked_by_hand(
    answers: list[ClassPath], hp: float, hr: float, fpa: float, tice: float, levels: tuple[float, ...]
) -> None:
    m = metrics_from_paths([AX, AX, BZ], answers, TREE)
    assert (m.hp, m.hr, m.fpa, m.tice) == pytest.approx((hp, hr, fpa, tice))
    assert m.level_accuracy == pytest.approx(levels)
    assert m.hf1 == pytest.approx(2 * hp * hr / (hp + hr))


def test_hf_beta_leans_to_recall() -> None:
    assert hf_beta(0.5, 1.0, 1.0) == pytest.approx(2 / 3)
    assert hf_beta(0.5, 1.0, 0.5) == pytest.approx(1.25 * 0.5 / 1.125)
    assert hf_beta(0.0, 0.0) == 0.0
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="above 0"):
            hf_beta(0.5, 0.5, beta)


def test_distance_of_mistakes_in_a_deep_tree() -> None:
    truth = ("a", "x", "1")
    assert mistake_distance([truth] * 3, [("a", "x", "2"), ("a", "y", "3"), ("b", "z", "4")]) == pytest.approx(4.0)
    assert mistake_distance([truth, truth], [("b",), ("a", "x")]) == pytest.approx(4.0)  # 3 up, 1 down; no mistake
    assert mistake_distance([truth], [truth]) is None
    assert num_right([truth] * 3, [truth, ("a", "y", "1"), ()]).tolist() == [3, 1, 0]


def test_flat_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    names = np.array(["p", "q", "r"])
    truth, said = rng.choice(names, 200), rng.choice(names, 200, p=(0.6, 0.3, 0.1))
    (table,) = confusion_from_paths([(str(t),) for t in truth], [(str(s),) for s in said], FLAT)
    assert np.array_equal(table[:, :-1], confusion_matrix(truth, said, labels=names))
    expected = precision_recall_fscore_support(truth, said, labels=names)
    scores = class_scores(table, FLAT.levels[0].classes)
    assert np.allclose(
        np.array([(s.precision, s.recall, s.f1, s.num_true) for s in scores], float), np.transpose(expected)
    )


def test_a_class_that_never_occurs_has_no_score() -> None:
    tables = confusion_from_paths([AX, AX], [AX, ()], TREE)
    x, y, _ = class_scores(tables[1], TREE.levels[1].classes)
    assert (x.precision, x.recall, x.f1) == (1.0, 0.5, 2 / 3)
    assert (y.precision, y.recall, y.f1) == (None, None, None)


def test_calibration_error_by_hand() -> None:
    # Two bins: 0.9 with half right (gap 0.4), 0.5 with all right (gap 0.5).
    bins = reliability_bins(np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, False, True, True]))
    assert expected_calibration_error(bins) == pytest.approx(0.5 * 0.4 + 0.5 * 0.5)
    assert sum(one.num_frames for one in bins) == 4
    assert reliability_bins(np.array([1.0]), np.array([True]))[-1].num_frames == 1
    with pytest.raises(DatasetError):
        reliability_bins(np.zeros(0), np.zeros(0, dtype=bool))


def test_intervals_are_seeded_and_hold_groups_together() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(40) < 0.8
    truths, answers = [AX] * 400, [AX if r else BZ for r in np.repeat(right, 10)]
    by_frame = intervals_from_paths(truths, answers, [str(n) for n in range(400)], TREE, seed=3)
    by_group = intervals_from_paths(truths, answers, [str(n // 10) for n in range(400)], TREE, seed=3)
    assert by_frame is not None
    assert by_group is not None
    assert (by_frame.num_groups, by_group.num_groups) == (400, 40)
    assert by_group.level_accuracy == (by_group.fpa, by_group.fpa)
    score = metrics_from_paths(truths, answers, TREE).hf1
    assert by_group.hf1.low < score < by_group.hf1.high
    # Ten copies of each frame say no more than one: the interval is about √10 wider than frame by frame.
    width = (by_group.fpa.high - by_group.fpa.low) / (by_frame.fpa.high - by_frame.fpa.low)
    assert 2.5 < width < 4.0
    assert intervals_from_paths(truths, answers, [str(n // 10) for n in range(400)], TREE, seed=3) == by_group
    assert intervals_from_paths(truths, answers, ["one"] * 400, TREE) is None


def test_risk_and_coverage_by_hand() -> None:
    confidence, right = np.array([[0.9, 0.8], [0.9, 0.6], [0.7, 0.5]]), np.array([2, 1, 0])
    whole = risk_coverage_at(confidence, right, 0.0)
    assert (whole.coverage, whole.complete, whole.risk) == pytest.approx((1.0, 1.0, 2 / 3))
    careful = risk_coverage_at(confidence, right, 0.75)
    assert (careful.coverage, careful.answered, careful.complete) == pytest.approx((0.5, 2 / 3, 1 / 3))
    assert (careful.risk, careful.selective_risk) == (0.0, 0.0)
    curve = risk_coverage_curve(confidence, right)
    assert curve[0] == whole
    assert all(a.coverage >= b.coverage and a.risk >= b.risk for a, b in itertools.pairwise(curve))


@given(
    seed=st.integers(0, 2**32 - 1), num=st.integers(20, 200), target=st.floats(0.05, 0.95), skill=st.floats(0.1, 0.99)
)
def test_the_threshold_meets_its_target_on_its_own_frames(seed: int, num: int, target: float, skill: float) -> None:
    confidence, right = _frames(np.random.default_rng(seed), num, skill)
    threshold = threshold_for_target(confidence, right, target)
    assert risk_coverage_at(confidence, right, threshold or 0.0).risk <= 1 - target + 1e-9
    if threshold is not None:
        # The next lower confidence that occurs would break the promise of (n + 1) · target frames.
        lower = math.nextafter(threshold, 0.0)
        assert 1 - risk_coverage_at(confidence, right, lower).risk < math.ceil((num + 1) * target - 1e-9) / num


def test_the_threshold_holds_for_new_frames() -> None:
    rng = np.random.default_rng(0)
    realised = list[float]()
    for _ in range(300):
        threshold = threshold_for_target(*_frames(rng, 100, 0.7), 0.9) or 0.0
        realised.append(1 - risk_coverage_at(*_frames(rng, 200, 0.7), threshold).risk)
    # Conformal: at least 0.9 on average, at most 1/(n+1) more; 0.004 is three standard errors of the mean.
    assert 0.9 - 0.006 < np.mean(realised) < 0.9 + 1 / 101 + 0.006


def test_a_target_that_cannot_be_promised() -> None:
    confidence, right = np.full((18, 1), 0.9), np.ones(18, dtype=np.int64)
    with pytest.raises(DatasetError, match=r"18 held-out frames cannot promise .* at least 19 are"):
        threshold_for_target(confidence, right, 0.95)
    assert threshold_for_target(np.full((19, 1), 0.9), np.ones(19, dtype=np.int64), 0.95) is None
    with pytest.raises(GateError, match="wrong at full confidence"):
        threshold_for_target(np.ones((40, 1)), np.zeros(40, dtype=np.int64), 0.9)
    with pytest.raises(ConfigError, match="expected a share"):
        threshold_for_target(confidence, right, 95.0)


def _frames(rng: np.random.Generator, num: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that fall with depth, and right answers that are likelier where they are high."""
    confidence = np.sort(rng.random((num, 2)), axis=1)[:, ::-1]
    right = (rng.random((num, 2)) < np.sqrt(confidence) * skill).cumprod(axis=1).sum(axis=1)
    return confidence, right


@pytest.mark.parametrize("decoding", DECODINGS)
def test_decodings_agree_where_the_logits_do(decoding: str) -> None:
    logits = np.array([[9, 0, 0, 9, 0], [0, 9, 0, 0, 9]], dtype=np.float32)
    paths = paths_from_logits(logits, TREE, DecodeSpec.plain(TREE), decoding)  # type: ignore[arg-type]
    assert paths == (AY, BZ)


@given(seed=st.integers(0, 2**32 - 1), tree=st.sampled_from([TREE, FLAT, DEEP]))
def test_each_decoding_is_best_at_what_it_is_for(seed: int, tree: Taxonomy) -> None:
    logits = np.random.default_rng(seed).normal(scale=2, size=(6, sum(tree.num_classes))).astype(np.float32)
    spec = DecodeSpec.plain(tree)
    decisions = decode(logits, tree, spec)
    paths = {way: paths_from_logits(logits, tree, spec, way) for way in DECODINGS}
    valid = {tree.path_of_leaf(leaf) for leaf in range(tree.num_leaves)}
    assert all(path in valid for way in DECODINGS if way != "independent" for path in paths[way])

    def hits(n: int, path: ClassPath) -> float:
        return sum(
            float(p[level.classes.index(name)])
            for p, level, name in zip(decisions[n].probabilities, tree.levels, path, strict=True)
        )

    for n in range(len(logits)):
        assert hits(n, paths["hf1-optimal"][n]) >= max(hits(n, path) for path in valid) - 1e-9
        assert paths["independent"][n][0] == paths["top-down"][n][0]
        if paths["independent"][n] in valid:
            assert paths["independent"][n] == paths["joint"][n] == paths["top-down"][n]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: intervals_from_paths([], [], [], TREE), id="no frame"),
        pytest.param(lambda: intervals_from_paths([AX], [AX], ["g", "h"], TREE), id="lengths"),
    ],
)
def test_nothing_to_count(call: Callable[[], object]) -> None:
    with pytest.raises(DatasetError):
        call()
