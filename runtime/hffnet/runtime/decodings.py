"""Four ways to read the same logits, to be compared. What ships is ``decode`` (joint); docs/decisions/0012 says why."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

Decoding = Literal["independent", "top-down", "joint", "hf1-optimal"]
"""How logits become one class per level.

- independent: the best class of each level on its own; may be no path of the tree.
- top-down: the best class of the first level, then the best of its children, and so on.
- joint: the path with the largest product of probabilities (HiE, arXiv:2302.00368).
- hf1-optimal: the path with the largest sum of its nodes' probabilities under the joint distribution. With one class
  per level HP, HR and HF1 are the share of levels that are right, whose expectation is that sum.
"""

DECODINGS: tuple[Decoding, ...] = get_args(Decoding)


def paths_from_logits(
    logits_NC: npt.NDArray[np.float32], taxonomy: Taxonomy, spec: DecodeSpec, decoding: Decoding
) -> tuple[ClassPath, ...]:
    """One class name per level for each frame, nothing held back.

    Args:
        logits_NC: (N, ΣC), columns as ``Taxonomy.slices`` tells.
        taxonomy: the class tree.
        spec: its temperatures are used.
        decoding: which of the four ways.

    >>> tree = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    >>> logits = np.array([[0.6, 0.5, 0.0, 0.1, 2.0]], dtype=np.float32)
    >>> spec = DecodeSpec.plain(tree)
    >>> [paths_from_logits(logits, tree, spec, way)[0] for way in ("independent", "top-down", "joint")]
    [('a', 'z'), ('a', 'y'), ('b', 'z')]
    """
    if decoding == "joint":
        return tuple(one.path for one in decode(logits_NC, taxonomy, spec))
    if decoding == "hf1-optimal":
        return _most_hits(logits_NC, taxonomy, spec)
    columns = [logits_NC[:, part] for part in taxonomy.slices()]
    if decoding == "independent":
        best = [level.argmax(axis=1) for level in columns]
    else:
        best = [columns[0].argmax(axis=1)]
        for level, logits in zip(taxonomy.levels[1:], columns[1:], strict=True):
            child = np.asarray(level.parents)[None, :] == best[-1][:, None]
            best.append(np.where(child, logits, -np.inf).argmax(axis=1))
    names = [[level.classes[k] for k in chosen] for level, chosen in zip(taxonomy.levels, best, strict=True)]
    return tuple(zip(*names, strict=True))


def _most_hits(logits_NC: npt.NDArray[np.float32], taxonomy: Taxonomy, spec: DecodeSpec) -> tuple[ClassPath, ...]:
    paths = list[ClassPath]()
    for decision in decode(logits_NC, taxonomy, spec):
        hits_L = sum(p[taxonomy.leaf_paths[:, i]] for i, p in enumerate(decision.probabilities))
        paths.append(taxonomy.path_of_leaf(int(np.argmax(hits_L))))
    return tuple(paths)
