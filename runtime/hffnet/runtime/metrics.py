"""How good decisions are, counted along the class tree. One code for training, export gates and benchmarks.

HP, HR and HF as in the paper (equations 4-7): true and predicted sets of categories per frame. HF1 alone hides
inconsistent answers, so FPA (share of frames with every level right) and TICE (share of answers that are no path of
the tree) stand beside it.
"""

from collections.abc import Sequence

import numpy as np

from hffnet.runtime.errors import DatasetError
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
        hf1=2 * hp * hr / (hp + hr) if hp + hr else 0.0,
        fpa=float(np.mean(hits == taxonomy.depth)),
        tice=float(np.mean([tuple(answer) not in valid for answer in answers])),
        level_accuracy=tuple(float(share) for share in right.mean(axis=0)),
    )
