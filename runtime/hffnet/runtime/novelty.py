"""How far a frame is from what the model knows: the energy of its logits (Liu et al. 2020, arXiv:2010.03759).

Softmax hides it, because it only compares classes with one another; energy is low where some class speaks up at all.
"""

import numpy as np
import numpy.typing as npt

from hffnet.runtime.errors import GateError
from hffnet.runtime.gates import GateResult, Policy
from hffnet.runtime.manifest import Novelty
from hffnet.runtime.taxonomy import Taxonomy

FEWEST_FRAMES = 64
"""Below this a quantile of 0.99 means nothing."""

QUANTILE = 0.99


def energies_from_logits(logits_NC: npt.NDArray[np.floating], taxonomy: Taxonomy) -> npt.NDArray[np.float64]:
    """``-log Σ exp(logit)`` over the classes of the last level, temperature 1.

    Args:
        logits_NC: (N, ΣC), columns level by level.
        taxonomy: the class tree.

    >>> tree = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
    >>> energies_from_logits(np.array([[9.0, 9.0, 8.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0, 0.0]]), tree).round(2).tolist()
    [-8.0, -1.1]
    """
    last_NC = np.asarray(logits_NC, np.float64)[:, taxonomy.slices()[-1]]
    top_N1 = last_NC.max(axis=1, keepdims=True)
    energies: npt.NDArray[np.float64] = -(top_N1[:, 0] + np.log(np.exp(last_NC - top_N1).sum(axis=1)))
    return energies


def novelty_from_energies(energies_N: npt.NDArray[np.float64]) -> Novelty | None:
    """The limit that 99 % of held-out frames keep; None where there are too few frames to say.

    Raises:
        GateError: an energy is not finite.
    """
    if not np.isfinite(energies_N).all():
        raise GateError("a held-out frame has logits that are not finite; the network cannot be used")
    if len(energies_N) < FEWEST_FRAMES:
        return None
    limit = float(np.quantile(energies_N, QUANTILE, method="higher"))
    return Novelty(max_energy=limit, quantile=QUANTILE, num_frames=len(energies_N))


def novelty_gate(
    logits_NC: npt.NDArray[np.floating], taxonomy: Taxonomy, novelty: Novelty, policy: Policy
) -> GateResult:
    """Whether one frame is like those the model was measured on.

    Args:
        logits_NC: (1, ΣC).
        taxonomy: the class tree.
        novelty: the bundle's limit.
        policy: what follows where it is not.
    """
    energy = float(energies_from_logits(logits_NC, taxonomy)[0])
    return GateResult(
        "out_of_distribution",
        energy <= novelty.max_energy,
        energy,
        novelty.max_energy,
        f"the energy of the logits is {energy:.3f}, {novelty.quantile:.0%} of {novelty.num_frames} held-out frames "
        f"have at most {novelty.max_energy:.3f}: the frame is unlike what the model was trained on.",
        refuses=policy == "refuse",
    )
