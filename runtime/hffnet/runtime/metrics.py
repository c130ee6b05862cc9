"""How good decisions are, counted along the class tree. One code for training, export gates and benchmarks.

HP, HR and HF as in the paper (equations 4-7): true and predicted sets of categories per frame. HF1 alone hides
inconsistent answers, so FPA (share of frames with every level right) and TICE (share of answers that are no path of
the tree) stand beside it. How far confidence can be believed is in ``trust``, how far the scores in ``intervals``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import ConfigError, DatasetError
from hffnet.runtime.manifest import Metrics
from hffnet.runtime.taxonomy import ClassPath, Taxonomy


def metrics_from_paths(truths: Sequence[ClassPath], answers: Sequence[ClassPath], taxonomy: Taxonomy) -> Metrics:
    """Score predicted paths against true ones.

    Args:
        truths: complete class path of each frame.
        answers: predicted path of each frame; shorter where the model held back, ``()`` where it said nothing.
        taxonomy: the class tree both are paths of.

    Raises:
        DatasetError: no frame, or lists of different length.

    >>> tree = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    >>> m = metrics_from_paths([("a", "x"), ("b", "z")], [("a", "y"), ("b", "z")], tree)
    >>> m.hf1, m.fpa, m.level_accuracy
    (0.75, 0.5, (1.0, 0.5))
    """
    if not truths or len(truths) != len(answers):
        raise DatasetError(f"{len(truths)} true paths and {len(answers)} answers; expected equally many, at least one")
    pairs = list(zip(truths, answers, strict=True))
    right = np.array([[level < len(a) and a[level] == t[level] for level in range(taxonomy.depth)] for t, a in pairs])
    said = np.array([len(answer) for answer in answers])
    hits = right.sum(axis=1)
    # A frame on which nothing is said has no wrong answer and no right one: precision 0, as scikit-learn's default.
    hp = float(np.mean(np.divide(hits, said, out=np.zeros(len(said)), where=said > 0)))
    hr = float(np.mean(hits / taxonomy.depth))
    valid = {taxonomy.path_of_leaf(leaf)[:n] for leaf in range(taxonomy.num_leaves) for n in range(taxonomy.depth + 1)}
    return Metrics(
        num_frames=len(truths),
        hp=hp,
        hr=hr,
        hf1=hf_beta(hp, hr),
        fpa=float(np.mean(hits == taxonomy.depth)),
        tice=float(np.mean([tuple(answer) not in valid for answer in answers])),
        level_accuracy=tuple(float(share) for share in right.mean(axis=0)),
    )


def hf_beta(hp: float, hr: float, beta: float = 1.0) -> float:
    """Hierarchical F score (equation 6): recall counts ``beta`` times as much as precision; 0 where both are 0.

    Raises:
        ConfigError: ``beta`` is not above 0.

    >>> hf_beta(0.5, 1.0, 2.0)
    0.8333333333333334
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ConfigError(f"beta is {beta}; expected a number above 0, like 1 (both alike) or 2 (recall counts twice)")
    bottom = beta**2 * hp + hr
    return (1 + beta**2) * hp * hr / bottom if bottom else 0.0


def mistake_distance(truths: Sequence[ClassPath], answers: Sequence[ClassPath]) -> float | None:
    """Mean number of edges of the class tree from a wrong answer to the true leaf; None where nothing is wrong.

    Both walk up to where the paths part. An answer that is cut short but right so far is no mistake; one that is no
    path of the tree counts from where it leaves the true path.

    >>> mistake_distance([("a", "x"), ("a", "x"), ("a", "x")], [("a", "y"), ("b", "z"), ("a",)])
    3.0
    """
    edges = list[int]()
    for truth, answer in zip(truths, answers, strict=True):
        shared = _num_shared(truth, answer)
        if shared < len(answer):
            edges.append(len(truth) - shared + len(answer) - shared)
    return float(np.mean(edges)) if edges else None


def confusion_from_paths(
    truths: Sequence[ClassPath], answers: Sequence[ClassPath], taxonomy: Taxonomy
) -> tuple[npt.NDArray[np.int64], ...]:
    """Per level, frames by true class (rows) and said class (columns); the last column is "held back"."""
    tables = list[npt.NDArray[np.int64]]()
    for i, level in enumerate(taxonomy.levels):
        index = {name: k for k, name in enumerate(level.classes)}
        table = np.zeros((len(index), len(index) + 1), dtype=np.int64)
        for truth, answer in zip(truths, answers, strict=True):
            table[index[truth[i]], index[answer[i]] if i < len(answer) else len(index)] += 1
        tables.append(table)
    return tuple(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """One class of one level.

    Attributes:
        num_true: frames that are of this class; num_said: frames that were called it.
        precision: share of the frames called it that are; None where none was called it.
        recall: share of its frames that were called it; None where it has none.
    """

    name: str
    num_true: int
    num_said: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class of a level, from its table of ``confusion_from_paths``."""
    scores = list[ClassScore]()
    for k, name in enumerate(names):
        hits, true, said = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        scores.append(
            ClassScore(
                name=name,
                num_true=true,
                num_said=said,
                precision=hits / said if said else None,
                recall=hits / true if true else None,
                f1=2 * hits / (true + said) if true + said else None,
            )
        )
    return tuple(scores)


def num_right(truths: Sequence[ClassPath], paths: Sequence[ClassPath]) -> npt.NDArray[np.int64]:
    """(N,) how many levels of each path are right before it leaves the true one."""
    return np.array([_num_shared(t, p) for t, p in zip(truths, paths, strict=True)], dtype=np.int64)


def _num_shared(truth: ClassPath, answer: ClassPath) -> int:
    shared = 0
    for one, other in zip(truth, answer, strict=False):
        if one != other:
            break
        shared += 1
    return shared
