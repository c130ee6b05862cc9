"""The training loss of the paper: focal, with label smoothing, summed over the levels of the class tree."""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hffnet.runtime.taxonomy import Taxonomy


class LossConfig(BaseModel):
    """What the paper's equations 1-3 leave open; it names α and γ without values, and smoothing without ε.

    Attributes:
        alpha: α, one factor for every class. 1: a softmax has no foreground and background to balance, so any other
            value only rescales the learning rate.
        gamma: γ, how strongly frames that are already right are passed over. 2, as where focal loss was introduced
            (arXiv:1708.02002).
        epsilon: ε, probability taken from the true class and spread evenly over all. 0.1, as where label smoothing
            was introduced (arXiv:1512.00567).
        level_factor: weight of a level relative to the one above: level i (from 0) weighs ``level_factor ** i``. The
            paper's L1 + 2·L2 is 2; a third level then weighs 4.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    alpha: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 2.0
    epsilon: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    level_factor: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0


def hierarchical_loss(logits_NC: Tensor, labels_ND: Tensor, taxonomy: Taxonomy, config: LossConfig) -> Tensor:
    """Mean over frames of Σ_i level_factor^i · L_i (Sci. Rep. 15:19904, equations 1-3).

    L_i = -α · (1 - p_i)^γ · Σ_c q_ic · log ŷ_ic, with p_i the predicted probability of the true class and q_i the
    true distribution after smoothing: 1 - ε + ε/C on the true class, ε/C on the others.

    Args:
        logits_NC: (N, ΣC), levels side by side as ``Taxonomy.slices`` tells.
        labels_ND: (N, depth) int64, class index at each level.
        taxonomy: the class tree.
        config: α, γ, ε and the level weights.

    Returns:
        A scalar with gradient.
    """
    total = logits_NC.new_zeros(())
    for i, columns in enumerate(taxonomy.slices()):
        log_p_NC = torch.log_softmax(logits_NC[:, columns].float(), dim=1)
        log_true_N = log_p_NC.gather(1, labels_ND[:, i : i + 1]).squeeze(1)
        cross_entropy_N = -(1 - config.epsilon) * log_true_N - config.epsilon * log_p_NC.mean(dim=1)
        # 1 - p may round to 0, where a power below 1 has no finite gradient.
        focus_N = (1 - log_true_N.exp()).clamp_min(1e-7) ** config.gamma
        total = total + config.level_factor**i * (config.alpha * focus_N * cross_entropy_N).mean()
    return total


def distillation_loss(
    logits_NC: Tensor, teacher_NC: Tensor, taxonomy: Taxonomy, level_factor: float, temperature: float
) -> Tensor:
    """Mean over frames of Σ_i level_factor^i · T² · KL(softmax(teacher_i / T) ‖ softmax(student_i / T)).

    The factor T² keeps the gradient's size independent of T (arXiv:1503.02531, section 2).

    Args:
        logits_NC: the student's, (N, ΣC).
        teacher_NC: the teacher's on the same variants, (N, ΣC), without gradient.
        taxonomy: the class tree of both.
        level_factor: weight of a level relative to the one above, as in `LossConfig`.
        temperature: T.
    """
    total = logits_NC.new_zeros((), dtype=torch.float32)
    for i, columns in enumerate(taxonomy.slices()):
        student = torch.log_softmax(logits_NC[:, columns].float() / temperature, dim=1)
        teacher = torch.log_softmax(teacher_NC[:, columns].float() / temperature, dim=1)
        divergence = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        total = total + level_factor**i * temperature**2 * divergence
    return total
