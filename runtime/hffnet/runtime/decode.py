"""From logits to a decision: the most probable path through the class tree, its confidence, and when to hold back.

Decoding by joint path (argmax of the product of level probabilities along a path) always answers with a valid path
and beats independent argmax per level on full-path accuracy (HiE, arXiv:2302.00368).
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from hffnet.runtime import native
from hffnet.runtime.taxonomy import ClassPath, Taxonomy


class DecodeSpec(BaseModel):
    """How logits become decisions; travels in the bundle's manifest.

    Attributes:
        temperatures: one per level, dividing its logits; fitted on held-out frames, 1.0 where not fitted.
        min_confidence: the answer is the deepest node of the path whose probability reaches this; None never holds
            back. (Hierarchical selective classification, arXiv:2405.11533.)
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    temperatures: tuple[Annotated[float, Field(gt=0.0, le=100.0)], ...]
    min_confidence: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None

    @classmethod
    def plain(cls, taxonomy: Taxonomy) -> "DecodeSpec":
        """Temperatures of one, no abstention."""
        return cls(temperatures=(1.0,) * taxonomy.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the model says of one frame.

    Attributes:
        path: the most probable complete path.
        confidence: probability of each node of ``path``; never rises with depth.
        answer: ``path``, cut where confidence falls below the specification's; ``()`` is "unsure".
        probabilities: per level, every class's probability; children add up to their parent.
    """

    path: ClassPath
    confidence: tuple[float, ...]
    answer: ClassPath
    probabilities: tuple[npt.NDArray[np.float64], ...]


def decode(logits_NC: npt.NDArray[np.float32], taxonomy: Taxonomy, spec: DecodeSpec) -> tuple[Decision, ...]:
    """Decide for each frame.

    Args:
        logits_NC: (N, ΣC) float, columns level by level as ``Taxonomy.slices`` tells.
        taxonomy: the class tree.
        spec: temperatures and abstention.

    >>> tree = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    >>> logits = np.array([[2.0, 0.0, 3.0, 1.0, 0.0]], dtype=np.float32)
    >>> decision, = decode(logits, tree, DecodeSpec.plain(tree))
    >>> decision.path, [round(c, 3) for c in decision.confidence]
    (('a', 'x'), [0.994, 0.876])
    """
    if native.MODULE is not None and logits_NC.size and np.isfinite(logits_NC).all():
        return _compiled(logits_NC, taxonomy, spec)
    # Log joint of every leaf, then softmax over leaves: what is left of the product once impossible
    # combinations (a child under another parent) are ruled out.
    joint_NL = np.zeros((len(logits_NC), taxonomy.num_leaves))
    for i, columns in enumerate(taxonomy.slices()):
        scaled_NC = logits_NC[:, columns].astype(np.float64) / spec.temperatures[i]
        scaled_NC -= scaled_NC.max(axis=1, keepdims=True)
        log_p_NC = scaled_NC - np.log(np.exp(scaled_NC).sum(axis=1, keepdims=True))
        joint_NL += log_p_NC[:, taxonomy.leaf_paths[:, i]]
    leaf_NL = np.exp(joint_NL - joint_NL.max(axis=1, keepdims=True))
    leaf_NL /= leaf_NL.sum(axis=1, keepdims=True)
    return tuple(_decision(row, leaf_L, taxonomy, spec) for row, leaf_L in zip(joint_NL, leaf_NL, strict=True))


def _compiled(logits_NC: npt.NDArray[np.float32], taxonomy: Taxonomy, spec: DecodeSpec) -> tuple[Decision, ...]:
    answers = native.decoder(taxonomy, spec.temperatures, spec.min_confidence).decide(
        np.ascontiguousarray(logits_NC, np.float32)
    )
    return tuple(
        Decision(path=path, confidence=confidence, answer=answer, probabilities=probabilities)
        for path, confidence, answer, probabilities in answers
    )


def decision_from_leaves(leaf_L: npt.NDArray[np.float64], taxonomy: Taxonomy, spec: DecodeSpec) -> Decision:
    """Decide on probabilities of the leaves, as averaging over several views gives them.

    Args:
        leaf_L: one probability per leaf, adding up to 1.
        taxonomy: the class tree.
        spec: abstention; temperatures were applied already.
    """
    return _decision(leaf_L, leaf_L, taxonomy, spec)


def _decision(
    joint_L: npt.NDArray[np.float64],
    leaf_L: npt.NDArray[np.float64],
    taxonomy: Taxonomy,
    spec: DecodeSpec,
) -> Decision:
    probabilities = [
        leaf_L @ np.equal(taxonomy.leaf_paths[:, i, None], np.arange(n)) for i, n in enumerate(taxonomy.num_classes)
    ]
    leaf = int(joint_L.argmax())
    path = taxonomy.path_of_leaf(leaf)
    confidence = tuple(float(p[k]) for p, k in zip(probabilities, taxonomy.leaf_paths[leaf], strict=True))
    sure = sum(c >= (spec.min_confidence or 0.0) for c in confidence)
    return Decision(path=path, confidence=confidence, answer=path[:sure], probabilities=tuple(probabilities))
